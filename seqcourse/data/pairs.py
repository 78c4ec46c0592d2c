"""Sentence pairs for translation: encoded, padded side by side, in batches of about equal length.

A target is written from its begin token to its end token. A model reads ``target[:, :-1]`` and is asked for
``target[:, 1:]``: teacher forcing, one position shifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from seqcourse.data.batching import EpochBatches, pad
from seqcourse.data.tokenisation import Tokeniser

__all__ = ["PairBatch", "PairBatches", "encode_pairs", "pair_batch"]

Pair = tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True)
class PairBatch:
    """Sentences and their translations, each side padded to its own longest.

    Shapes:
        source (B, S) ids; source_lengths (B,); target (B, T + 1) ids, from the begin token to the end token;
        target_lengths (B,), both of these tokens counted.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def to(self, device: torch.device | str) -> PairBatch:
        """Return the batch with every tensor on ``device``."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    @property
    def target_tokens(self) -> int:
        """How many tokens a model has to predict: all of the target but the begin tokens and padding."""
        return int(self.target_lengths.sum()) - len(self)


def pair_batch(pairs: Sequence[Pair], pad_id: int = 0) -> PairBatch:
    """Put pairs of id sequences into one batch.

    Args:
        pairs: B pairs (source ids, target ids); a target begins with its begin token and ends with its end
            token, as :func:`encode_pairs` writes it.
        pad_id: what fills up short sequences, on both sides.

    Raises:
        ValueError: if there is no pair, a source is empty, or a target has fewer than two tokens.
    """
    for number, (_, target) in enumerate(pairs):
        if len(target) < 2:
            raise ValueError(
                f"pair {number}: expected a target from its begin token to its end token, at least these two;"
                f" got {list(target)}"
            )
    source, target = pad([one for one, _ in pairs], pad_id), pad([other for _, other in pairs], pad_id)
    return PairBatch(source.tokens, source.lengths, target.tokens, target.lengths)


def encode_pairs(
    pairs: Iterable[tuple[str, str]], source_tokeniser: Tokeniser, target_tokeniser: Tokeniser
) -> list[tuple[list[int], list[int]]]:
    """Turn sentence pairs into ids, the target with its begin and end token.

    Args:
        pairs: (source sentence, target sentence).
        source_tokeniser: for the first of each pair.
        target_tokeniser: for the second.
    """
    return [
        (source_tokeniser.encode(source), target_tokeniser.encode(target, begin=True, end=True))
        for source, target in pairs
    ]


class PairBatches(EpochBatches):
    """Shuffled batches of sentence pairs that are about equally long on both sides.

    Each epoch shuffles the pairs, sorts them by length (so that only equally long ones remain in random
    order), cuts the row into batches, and shuffles these. The lengths in the row are the same in every epoch,
    and so is the number of batches.

    Args:
        pairs: (source ids, target ids), see :func:`encode_pairs`.
        batch_size: pairs per batch (some may be smaller); or leave it out and give ``max_tokens``.
        seed: decides the order, together with the epoch.
        max_tokens: as many pairs per batch as fit, padding counted, into this many tokens of the longer side.
            Long sentences then come in small batches: a step costs about the same time, and weighs words
            more evenly.
        pad_id: what fills up short sequences.

    Raises:
        ValueError: if there is no pair, a source is empty, a target has fewer than two tokens, not exactly
            one of ``batch_size`` and ``max_tokens`` is given, or a pair alone exceeds ``max_tokens``.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        batch_size: int | None = None,
        seed: int = 0,
        *,
        max_tokens: int | None = None,
        pad_id: int = 0,
    ) -> None:
        if (batch_size is None) == (max_tokens is None):
            raise ValueError(
                f"expected either batch_size (pairs) or max_tokens; got {batch_size=} and {max_tokens=}"
            )
        if (limit := batch_size or max_tokens or 0) < 1:
            raise ValueError(f"batch_size and max_tokens must be at least 1, got {limit}")
        pair_batch(
            pairs, pad_id
        )  # all that can be wrong with a pair is said now, not in the middle of an epoch
        self.pairs, self.seed, self.pad_id = list(pairs), seed, pad_id
        self.lengths = np.array([(len(target), len(source)) for source, target in pairs])  # (n, 2)
        self.batch_size, self.max_tokens = batch_size, max_tokens
        self._ends = self._cuts()

    def __len__(self) -> int:
        return len(self._ends)

    def _sorted(self, members: np.ndarray) -> np.ndarray:
        """By target length, then source length; members equal in both keep their order."""
        target, source = self.lengths[members].T
        return members[np.lexsort((source, target))]

    def _cuts(self) -> list[int]:
        """Where the batches end in the row of sorted pairs."""
        longer = self.lengths[self._sorted(np.arange(len(self.pairs)))].max(axis=1)
        if self.max_tokens is not None and longer.max() > self.max_tokens:
            raise ValueError(f"max_tokens {self.max_tokens} has no room for a pair of {longer.max()} tokens")
        ends, start, widest = [], 0, 0
        for position, length in enumerate(longer):
            widest = max(widest, length)
            if position > start and not self._fits(position + 1 - start, widest):
                ends.append(position)
                start, widest = position, length
        return [*ends, len(longer)]

    def _fits(self, rows: int, widest: int) -> bool:
        return rows <= self.batch_size if self.batch_size else rows * widest <= self.max_tokens

    def order(self, epoch: int) -> list[np.ndarray]:
        """Return which pairs form which batch in an epoch: each pair exactly once."""
        generator = np.random.default_rng([self.seed, epoch])
        row = self._sorted(generator.permutation(len(self.pairs)))
        batches = np.split(row, self._ends[:-1])
        return [batches[i] for i in generator.permutation(len(batches))]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[PairBatch]:
        """Yield the batches of one epoch, from number ``start`` on (to resume in its middle)."""
        for members in self.order(epoch)[start:]:
            yield pair_batch([self.pairs[i] for i in members], self.pad_id)

    @property
    def target_tokens(self) -> int:
        """Tokens to predict in an epoch."""
        return int(self.lengths[:, 0].sum()) - len(self.pairs)
