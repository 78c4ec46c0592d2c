"""From single sequences to batches: padding, masks, buckets, streams and forecasting windows.

Whatever is shuffled here is a pure function of ``(seed, epoch)``: no hidden state moves on between
epochs, so a run that was killed can resume at any batch of any epoch and see exactly what it would have seen.
"""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "IGNORED_LABEL",
    "Batch",
    "BucketedBatches",
    "EpochBatches",
    "ForecastingData",
    "LanguageModelBatches",
    "Scaler",
    "StreamBatch",
    "TensorBatches",
    "Windows",
    "forecasting_data",
    "language_model_batches",
    "mask_from_lengths",
    "pad",
    "pad_series",
    "split_in_time",
    "windows",
]

IGNORED_LABEL = -100  # what torch's cross_entropy leaves out by default: the tag of a padded step


# --- padding and masks ---------------------------------------------------------------------------


def mask_from_lengths(lengths: Tensor, steps: int | None = None) -> Tensor:
    """Mark the real steps of padded sequences.

    Shapes:
        lengths (B,); returns (B, T) bool, True where a step is real, False where it is padding.

    Args:
        lengths: how many real steps each sequence has.
        steps: T; by default the longest length.
    """
    steps = int(lengths.max()) if steps is None else steps
    return torch.arange(steps, device=lengths.device) < lengths[:, None]  # (T,) < (B, 1) -> (B, T)


@dataclass(frozen=True)
class Batch:
    """Sequences of different lengths in one rectangle, and what is needed to tell real steps from padding.

    Shapes:
        tokens (B, T) integer, or (B, T, D) for series; lengths (B,); mask (B, T) bool, True = real;
        labels (B,) for one label per sequence, (B, T) for one per step, or None.
    """

    tokens: Tensor
    lengths: Tensor
    mask: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: t.to(device) for name, t in tensors.items() if t is not None})

    @property
    def padding_fraction(self) -> float:
        """The share of the rectangle that is padding, which is work done for nothing."""
        return 1 - self.mask.sum().item() / self.mask.numel()


def pad(sequences: Sequence[Sequence[int] | Tensor], pad_id: int = 0) -> Batch:
    """Put sequences of ids into one tensor, filling up the short ones at the end.

    Shapes:
        sequences: B sequences of ids, the longest of length T; returns a Batch of tokens (B, T),
        lengths (B,) and mask (B, T).

    Raises:
        ValueError: if there is no sequence, one is empty, or an id is negative.
        TypeError: if an id is not an integer.
    """
    rows = [_as_ids(sequence, position) for position, sequence in enumerate(sequences)]
    lengths = _lengths(rows)
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad_id)  # (B, T)
    return Batch(tokens, lengths, mask_from_lengths(lengths))


def pad_series(sequences: Sequence[Tensor]) -> Batch:
    """Put series of feature vectors into one tensor, filling up the short ones with zeros.

    Shapes:
        sequences: B tensors (T_b, D); returns a Batch of tokens (B, T, D), lengths (B,), mask (B, T).

    Raises:
        ValueError: if there is no series, one is empty, or the feature sizes D differ.
    """
    rows = [torch.as_tensor(sequence) for sequence in sequences]
    lengths = _lengths(rows)
    shapes = {tuple(row.shape[1:]) for row in rows}
    if len(shapes) > 1 or any(row.ndim != 2 for row in rows):
        raise ValueError(
            f"pad_series expects series (T, D) with one D for all, got {[tuple(r.shape) for r in rows]}"
        )
    values = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, T, D)
    return Batch(values, lengths, mask_from_lengths(lengths))


def _as_ids(sequence: Sequence[int] | Tensor, position: int) -> Tensor:
    ids = torch.as_tensor(sequence)
    if len(ids) and (ids.is_floating_point() or ids.ndim != 1):
        raise TypeError(
            f"sequence {position} must be a flat list of integer ids, got {ids.dtype} {tuple(ids.shape)}"
        )
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids must not be negative; sequence {position} holds {int(ids.min())}")
    return ids.long()


def _lengths(rows: Sequence[Tensor]) -> Tensor:
    if not rows:
        raise ValueError("a batch needs at least one sequence, got none")
    lengths = torch.tensor([len(row) for row in rows])
    if (lengths == 0).any():
        empty = int((lengths == 0).nonzero()[0])
        raise ValueError(f"every sequence needs at least one step; sequence {empty} of {len(rows)} is empty")
    return lengths


# --- epochs --------------------------------------------------------------------------------------


class EpochBatches(metaclass=ABCMeta):
    """Batches for several epochs. ``epoch(e, start)`` is a pure function of the seed, e and start.

    ``for batch in batches`` runs through the epoch named by ``set_epoch`` (0 at first).
    """

    current_epoch = 0

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches in an epoch."""

    @abstractmethod
    def epoch(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """Yield the batches of one epoch, from number ``start`` on (to resume in its middle)."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that a plain ``for`` loop runs through, as torch's DistributedSampler does."""
        self.current_epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        return self.epoch(self.current_epoch)


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return np.random.default_rng([seed, epoch])  # mixes the two: (0, 1) and (1, 0) are unrelated


class BucketedBatches(EpochBatches):
    """Shuffled batches of sequences that are about equally long, so that little is padded.

    Each epoch shuffles the examples, cuts the order into pools of ``pool`` batches, sorts each pool by
    length, cuts it into batches, and shuffles these. With ``pool=1`` nothing is sorted: plain shuffling.

    Args:
        examples: sequences (lists or tensors), or pairs ``(sequence, label)`` as tuples; a label is one
            integer for the sequence, or a list with one per step. Sequences are ids (T,) or series (T, D).
        batch_size: examples per batch (the last one may be smaller).
        seed: decides the order, together with the epoch.
        pool: how many batches are sorted by length together: more means less padding, and less chance.
        pad_id: what fills up short sequences of ids.

    Raises:
        ValueError: if there is no example, one is empty, or only some have labels.
    """

    def __init__(
        self, examples: Sequence[Any], batch_size: int, seed: int = 0, *, pool: int = 50, pad_id: int = 0
    ) -> None:
        _check_positive(batch_size=batch_size, pool=pool)
        self.sequences, self.labels = _split_pairs(examples)
        self.lengths = _lengths(self.sequences).numpy()
        self.batch_size, self.seed, self.pool, self.pad_id = batch_size, seed, pool, pad_id

    def __len__(self) -> int:
        return -(-len(self.sequences) // self.batch_size)  # rounded up

    def order(self, epoch: int) -> list[np.ndarray]:
        """Return which examples form which batch in an epoch: each example exactly once."""
        generator = _generator(self.seed, epoch)
        shuffled = generator.permutation(len(self.sequences))
        pools = _cut(shuffled, self.pool * self.batch_size)
        if self.pool > 1:
            pools = [pool[np.argsort(self.lengths[pool], kind="stable")] for pool in pools]
        batches = [batch for pool in pools for batch in _cut(pool, self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch, from number ``start`` on (to resume in its middle)."""
        for members in self.order(epoch)[start:]:
            yield self._batch(members)

    def padding_fraction(self, epoch: int = 0) -> float:
        """Return the share of padding in all batches of an epoch."""
        padded = sum(len(members) * self.lengths[members].max() for members in self.order(epoch))
        return 1 - float(self.lengths.sum() / padded)

    def _batch(self, members: np.ndarray) -> Batch:
        rows = [self.sequences[i] for i in members]
        batch = pad_series(rows) if rows[0].ndim == 2 else pad(rows, self.pad_id)
        if self.labels is None:
            return batch
        return replace(batch, labels=_stack_labels([self.labels[i] for i in members]))


def _split_pairs(examples: Sequence[Any]) -> tuple[list[Tensor], list[Tensor] | None]:
    paired = [isinstance(example, tuple) for example in examples]
    if any(paired) and not all(paired):
        raise ValueError(
            f"either all examples are (sequence, label) pairs or none; {sum(paired)} of {len(paired)} are"
        )
    if not any(paired):
        return [torch.as_tensor(sequence) for sequence in examples], None
    sequences = [torch.as_tensor(sequence) for sequence, _ in examples]
    labels = [torch.as_tensor(label) for _, label in examples]
    for i, (sequence, label) in enumerate(zip(sequences, labels, strict=True)):
        if sequence.ndim == 0 or (label.ndim == 1 and len(label) != len(sequence)):
            raise ValueError(
                f"example {i}: expected (sequence, label) with one label, or one per step; "
                f"got shapes {tuple(sequence.shape)} and {tuple(label.shape)}"
            )
    return sequences, labels


def _stack_labels(labels: list[Tensor]) -> Tensor:
    """Labels (B,), or tags (B, T) in which padding carries IGNORED_LABEL."""
    if labels[0].ndim == 0:
        return torch.stack(labels)
    return torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED_LABEL)


class TensorBatches(EpochBatches):
    """Shuffled mini-batches of tensors that share their first dimension, such as windows and targets.

    Args:
        tensors: each of shape (n, ...); every batch is a tuple with the same rows of each.
        batch_size: rows per batch (the last one may be smaller).
        seed: decides the order, together with the epoch.
        shuffle: False keeps the rows in order (for evaluation).

    Raises:
        ValueError: if there are no rows, or the tensors disagree on how many there are.
    """

    def __init__(self, *tensors: Tensor, batch_size: int, seed: int = 0, shuffle: bool = True) -> None:
        _check_positive(batch_size=batch_size)
        rows = {len(tensor) for tensor in tensors}
        if len(rows) != 1 or 0 in rows:
            raise ValueError(f"expected tensors with one number of rows, at least 1; got {sorted(rows)}")
        self.tensors, self.batch_size, self.seed, self.shuffle = tensors, batch_size, seed, shuffle

    def __len__(self) -> int:
        return -(-len(self.tensors[0]) // self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of one epoch, from number ``start`` on (to resume in its middle)."""
        n = len(self.tensors[0])
        order = _generator(self.seed, epoch).permutation(n) if self.shuffle else np.arange(n)
        for members in _cut(torch.from_numpy(order), self.batch_size)[start:]:
            yield tuple(tensor[members] for tensor in self.tensors)


def _cut(items: Any, size: int) -> list[Any]:
    return [items[i : i + size] for i in range(0, len(items), size)]


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


# --- streams for language models -------------------------------------------------------------------


class StreamBatch(NamedTuple):
    """One step of truncated back-propagation through a text: tokens, and the tokens that follow them.

    Shapes:
        tokens (B, T), targets (B, T): ``targets[:, t]`` is the token after ``tokens[:, t]``.

    ``begins`` is True in the first batch of an epoch: start from the initial state, not from the carried one.
    """

    tokens: torch.Tensor
    targets: torch.Tensor
    begins: bool


class LanguageModelBatches(EpochBatches):
    """A long text as B parallel streams, read T tokens at a time.

    Row b of one batch goes on where row b of the batch before stopped, so the state at the end of one batch
    is the right initial state for the next. Text order is fixed: every epoch reads the same batches.

    Args:
        ids: the whole text as ids, (n,).
        batch_size: B, the number of streams.
        length: T, the tokens per batch and stream (the last batch of an epoch may be shorter).

    Raises:
        ValueError: if the text is too short for ``batch_size`` streams of one step, or an id is negative.
    """

    def __init__(self, ids: Sequence[int] | Tensor, batch_size: int, length: int) -> None:
        _check_positive(batch_size=batch_size, length=length)
        ids = _as_ids(ids, 0)
        steps = (len(ids) - 1) // batch_size  # the last token is only ever a target
        if steps < 1:
            raise ValueError(f"{batch_size} streams need at least {batch_size + 1} tokens, got {len(ids)}")
        self.tokens = ids[: batch_size * steps].view(batch_size, steps)  # (B, steps)
        self.targets = ids[1 : batch_size * steps + 1].view(batch_size, steps)  # (B, steps)
        self.length = length

    def __len__(self) -> int:
        return -(-self.tokens.shape[1] // self.length)

    def epoch(self, epoch: int = 0, start: int = 0) -> Iterator[StreamBatch]:
        """Yield the batches in text order, from number ``start`` on; the epoch changes nothing."""
        for i in range(start, len(self)):
            now = slice(i * self.length, (i + 1) * self.length)
            yield StreamBatch(self.tokens[:, now], self.targets[:, now], begins=i == 0)  # (B, T) each


def language_model_batches(ids: Sequence[int] | Tensor, batch_size: int, length: int) -> LanguageModelBatches:
    """Cut a text into ``batch_size`` contiguous streams, read ``length`` tokens at a time.

    Shapes:
        ids (n,); yields StreamBatch(tokens (B, T), targets (B, T), begins).

    Raises:
        ValueError: if the text is too short for ``batch_size`` streams, or an id is negative.
    """
    return LanguageModelBatches(ids, batch_size, length)


# --- windows for forecasting -----------------------------------------------------------------------


class Windows(NamedTuple):
    """Sliding windows over a series, and what followed each of them.

    Shapes:
        inputs (n, T, D), targets (n, horizon), starts (n,): the step at which each window starts.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    starts: torch.Tensor


def windows(series: Tensor, length: int, horizon: int = 1, *, stride: int = 1, target: int = 0) -> Windows:
    """Slide a window over a series; the target is what comes strictly after it.

    Shapes:
        series (steps,) or (steps, D); returns inputs (n, length, D), targets (n, horizon), starts (n,):
        window i is ``series[s : s + length]`` and its target ``series[s + length : s + length + horizon]``
        with ``s = starts[i]``.

    Args:
        series: the whole series, in the order of time.
        length: T, how many steps the model sees.
        horizon: how many steps it has to forecast.
        stride: steps between the starts of two windows.
        target: the column to forecast, if the series has several.

    Raises:
        ValueError: if a size is not positive, or the series is shorter than one window and its target.
    """
    _check_positive(length=length, horizon=horizon, stride=stride)
    series = series[:, None] if series.ndim == 1 else series  # (steps, D)
    if len(series) < length + horizon:
        raise ValueError(
            f"a window of {length} and a horizon of {horizon} need "
            f"{length + horizon} steps, got {len(series)}"
        )
    whole = series.unfold(0, length + horizon, stride).transpose(1, 2)  # (n, length + horizon, D)
    starts = torch.arange(len(whole)) * stride
    return Windows(whole[:, :length], whole[:, length:, target], starts)


def split_in_time(series: Tensor, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> list[Tensor]:
    """Cut a series into consecutive parts: the past to learn from, the future to be tested on.

    Shapes:
        series (steps, ...); returns one part per fraction, together the whole series.

    Raises:
        ValueError: if the fractions are not positive or do not add up to 1, or a part would be empty.
    """
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be positive and add up to 1, got {tuple(fractions)}")
    ends = np.round(np.cumsum(fractions) * len(series)).astype(int)
    parts = list(torch.tensor_split(series, ends[:-1].tolist()))
    if any(len(part) == 0 for part in parts):
        raise ValueError(f"{len(series)} steps are too few for fractions {tuple(fractions)}: a part is empty")
    return parts


@dataclass(frozen=True)
class Scaler:
    """Standardise to mean 0 and deviation 1, with figures taken from the training part alone.

    Shapes:
        mean, scale (D,), or () for a series (steps,).
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, train: Tensor) -> Self:
        """Measure mean and deviation of each column; a constant column keeps scale 1.

        Raises:
            ValueError: if ``train`` is empty, not floating-point, or holds a value that is not finite.
        """
        if len(train) == 0 or not train.is_floating_point() or not torch.isfinite(train).all():
            raise ValueError(
                f"Scaler.fit expects at least one step of finite floating-point values, "
                f"got {train.dtype} {tuple(train.shape)}"
            )
        deviation = train.std(0, correction=0)
        constant = deviation <= torch.finfo(train.dtype).eps * train.abs().amax(0)
        return cls(train.mean(0), torch.where(constant, 1.0, deviation))

    def transform(self, values: Tensor) -> Tensor:
        """Return ``(values - mean) / scale``."""
        return (values - self.mean) / self.scale

    def inverse(self, values: Tensor, column: int | None = None) -> Tensor:
        """Undo ``transform``: of all columns, or of forecasts for one ``column``."""
        if column is None:
            return values * self.scale + self.mean
        return values * self.scale[column] + self.mean[column]


class ForecastingData(NamedTuple):
    """Windows of the past, of later, and of last, with the scaler that saw only the past."""

    train: Windows
    validation: Windows
    test: Windows
    scaler: Scaler


def forecasting_data(
    series: Tensor,
    length: int,
    horizon: int = 1,
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    stride: int = 1,
    target: int = 0,
) -> ForecastingData:
    """Split a series in time, scale it by its training part, and cut each part into windows.

    Splitting comes first, so no window straddles two parts, and no training target is a test input.

    Shapes:
        series (steps,) or (steps, D); each part: inputs (n, length, D), targets (n, horizon), starts (n,),
        where ``starts`` counts from the start of the whole series.

    Raises:
        ValueError: if a part is shorter than ``length + horizon`` steps.
    """
    series = series[:, None] if series.ndim == 1 else series  # (steps, D)
    parts = split_in_time(series, fractions)
    scaler = Scaler.fit(parts[0])
    made, begin = [], 0
    for part in parts:
        cut = windows(scaler.transform(part), length, horizon, stride=stride, target=target)
        made.append(cut._replace(starts=cut.starts + begin))
        begin += len(part)
    return ForecastingData(*made, scaler=scaler)
