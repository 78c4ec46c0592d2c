"""Order and reach of attention, measured: what a Transformer without positions can tell (claim C09), and how
far a position lies from every other (claim M06).

Two tasks whose answer is in the order alone. Each example has a twin with the same tokens in another order
and the opposite label, so whoever is blind to order is right on exactly half of the pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from seqcourse.attention import (
    LearnedPositions,
    MultiHeadAttention,
    RotaryPositions,
    SinusoidalPositions,
    causal_mask,
    padding_mask,
)
from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.horizon import make_recurrent
from seqcourse.benchmarks.workers import finish
from seqcourse.data.batching import pad
from seqcourse.data.tokenisation import WordTokeniser, split_words
from seqcourse.data.types import ParallelText
from seqcourse.models.pooling import mean_over_time
from seqcourse.probes import gradient_map, path_lengths
from seqcourse.records import Record, generated_source
from seqcourse.recurrent import Recurrent
from seqcourse.transformer import Encoder

# Model -> (positions, whether a position sees only what came before).
MODELS = {
    "no positions": ("none", False),
    "no positions, causal mask": ("none", True),
    "sinusoidal": ("sinusoidal", False),
    "learned": ("learned", False),
    "rotary": ("rotary", False),
}
REACHING = (
    "attention",
    "attention, causal mask",
    "LSTM (forget bias 0)",
    "LSTM (forget bias 1)",
    "LSTM (chrono)",
)
MAX_LENGTH = 512  # of the table of learned positions
MARKS, NOISE_TOKENS = 2, 16


# ------------------------------------------------------------------------------------------------- the model


class OrderClassifier(nn.Module):
    """A small Transformer encoder with a label per sequence; how it learns of positions can be chosen.

    Shapes:
        tokens (B, T), lengths (B,); logits (B, 2).

    Args:
        vocabulary_size: V.
        positions: ``"none"``, ``"sinusoidal"``, ``"learned"`` or ``"rotary"``.
        causal: let each position look at itself and at what came before only.
        size: D.
        heads: N.
        layers: number of blocks.

    Raises:
        ValueError: if ``positions`` is none of the four.
    """

    def __init__(
        self,
        vocabulary_size: int,
        positions: str = "none",
        causal: bool = False,
        size: int = 32,
        heads: int = 4,
        layers: int = 2,
    ) -> None:
        super().__init__()
        self.causal = causal
        self.embedding = nn.Embedding(vocabulary_size, size)
        self.positions = added_positions(positions, size)
        rotary = RotaryPositions() if positions == "rotary" else None
        self.encoder = Encoder(size, heads, layers, dropout=0.0, rotary=rotary)
        self.readout = nn.Linear(size, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Score the two labels from the mean over the real positions."""
        real = padding_mask(lengths, tokens.shape[1])  # (B, 1, T)
        mask = real & causal_mask(tokens.shape[1], device=tokens.device) if self.causal else real
        x = self.encoder(self.positions(self.embedding(tokens)), mask)  # (B, T, D)
        return self.readout(mean_over_time(x, real[:, 0]))


def added_positions(positions: str, size: int) -> nn.Module:
    """What is added to the embeddings: nothing if there are no positions, or if attention turns them in.

    Raises:
        ValueError: if ``positions`` is unknown.
    """
    kinds: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "rotary": nn.Identity,
        "sinusoidal": lambda: SinusoidalPositions(size),
        "learned": lambda: LearnedPositions(size, MAX_LENGTH),
    }
    if positions not in kinds:
        raise ValueError(f"positions must be one of {', '.join(kinds)}, got {positions!r}")
    return kinds[positions]()


# ------------------------------------------------------------------------------------------------- the tasks


class Examples(NamedTuple):
    """Pairs of twins, one after the other: tokens (2n, T), lengths (2n,), labels (2n,)."""

    tokens: Tensor
    lengths: Tensor
    labels: Tensor


def which_comes_first(pairs: int, length: int, generator: torch.Generator) -> Examples:
    """Noise with the marks 0 and 1 somewhere in it; label 1 if mark 0 comes first. Twins swap the marks.

    Shapes:
        tokens (2 * pairs, length).
    """
    noise = torch.randint(MARKS, MARKS + NOISE_TOKENS, (pairs, length), generator=generator)
    places = torch.rand(pairs, length, generator=generator).argsort(dim=1)[:, :2]  # two different places
    marks = torch.tensor([0, 1]).expand(pairs, 2)
    one, other = noise.scatter(1, places, marks), noise.scatter(1, places, 1 - marks)
    first = (places[:, 0] < places[:, 1]).long()
    labels = _interleave(first, 1 - first)
    return Examples(_interleave(one, other), torch.full_like(labels, length), labels)


def sentence_or_shuffled(tokens: Tensor, lengths: Tensor, generator: torch.Generator) -> Examples:
    """Each sentence (label 1) and its twin (label 0): the same words, shuffled; padding stays at the end.

    Shapes:
        tokens (n, T), lengths (n,); tokens of the result (2n, T).
    """
    keys = torch.rand(tokens.shape, generator=generator)
    keys = keys.masked_fill(~padding_mask(lengths, tokens.shape[1])[:, 0], 2.0)  # after all real ones
    shuffled = tokens.gather(1, keys.argsort(dim=1))
    labels = torch.tensor([1, 0]).repeat(len(tokens))
    return Examples(_interleave(tokens, shuffled), lengths.repeat_interleave(2), labels)


def _interleave(one: Tensor, other: Tensor) -> Tensor:
    return torch.stack([one, other], dim=1).flatten(0, 1)


class Sentences(NamedTuple):
    """Encoded sentences for training and testing, and what encoded them."""

    train: list[list[int]]
    test: list[list[int]]
    tokeniser: WordTokeniser


def short_sentences(texts: ParallelText, shortest: int = 6, longest: int = 16) -> Sentences:
    """The target side's sentences of 6 to 16 words, lower case, without the full stop that ends them."""

    def words(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
        split = [[word for word in split_words(target.lower()) if word != "."] for _, target in pairs]
        return [sentence for sentence in split if shortest <= len(sentence) <= longest]

    train, test = words(texts.train), words(texts.validation)
    tokeniser = WordTokeniser.train(train, max_vocabulary=2000)
    encoded = [[tokeniser.encode_words(sentence) for sentence in part] for part in (train, test)]
    return Sentences(*encoded, tokeniser)


# ---------------------------------------------------------------------------------------- training, accuracy

Draw = Callable[[torch.Generator], Examples]


def train_classifier(model: nn.Module, draw: Draw, steps: int, seed: int, rate: float = 3e-3) -> list[float]:
    """Train on fresh examples with Adam, the learning rate falling to zero; return the losses."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    losses = []
    for _ in range(steps):
        tokens, lengths, labels = to_device_of(model, draw(generator))
        loss = cross_entropy(model(tokens, lengths), labels)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: nn.Module, examples: Examples) -> float:
    """Share of the examples that get the right label."""
    tokens, lengths, labels = to_device_of(model, examples)
    return (model(tokens, lengths).argmax(dim=1) == labels).float().mean().item()


def to_device_of(model: nn.Module, examples: Examples) -> Examples:
    """The examples where the model's weights are."""
    device = next(model.parameters()).device
    return Examples(*(tensor.to(device) for tensor in examples))


def draw_marks(pairs: int, lengths: Sequence[int]) -> Draw:
    """Batches of :func:`which_comes_first`, each of one random length from the first to the last given."""

    def draw(generator: torch.Generator) -> Examples:
        length = int(torch.randint(lengths[0], lengths[-1] + 1, (1,), generator=generator))
        return which_comes_first(pairs, length, generator)

    return draw


def draw_sentences(sentences: Sequence[list[int]], pairs: int) -> Draw:
    """Batches of :func:`sentence_or_shuffled`, shuffled anew each time."""

    def draw(generator: torch.Generator) -> Examples:
        chosen = torch.randint(len(sentences), (pairs,), generator=generator).tolist()
        batch = pad([sentences[i] for i in chosen])
        return sentence_or_shuffled(batch.tokens, batch.lengths, generator)

    return draw


# ----------------------------------------------------------------------------------------------- the records


@dataclass(frozen=True)
class Plan:
    """Sizes of a profile."""

    seeds: int
    mark_steps: int
    sentence_steps: int
    pairs: int
    longest: int  # of the marks' training
    tested: tuple[int, ...]  # lengths at which marks are tested
    lag: int
    size: int = 32
    test_pairs: int = 250  # of marks, at each length


PLANS = {
    "smoke": Plan(2, 4, 4, 8, 8, (8, 16), 8),
    "laptop": Plan(3, 250, 300, 32, 16, (16, 24, 32, 64, 128), 60),
    "full": Plan(5, 2000, 4000, 64, 32, (32, 48, 64, 128, 256), 200, size=64),
}
MARKS_SOURCE = generated_source("two marks in noise", "the task is defined by a generator")
CHOSEN = (
    "steps and learning rate after trials with seed 0: all five models on marks, sinusoidal on sentences; the"
    " rule of C09 was written when the trial on marks was known"
)
ABOUT = {
    "which mark comes first": "two marks in random tokens; the twin has them swapped",
    "sentence or shuffled": "a sentence of 6 to 16 words, or the same words in random order",
}


def seeded_model(model: str, vocabulary_size: int, seed: int, device: str, size: int = 32) -> OrderClassifier:
    """A fresh classifier by its name in ``MODELS``; torch's own generator stays as it was."""
    positions, causal = MODELS[model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return OrderClassifier(vocabulary_size, positions, causal, size=size).to(device)


def mark_piece(model: str, plan: Plan, seed: int, device: str) -> dict[str, Any]:
    """One run on marks, as plain values: accuracy by length, at the longest of training and beyond."""
    started = time.perf_counter()
    classifier = seeded_model(model, MARKS + NOISE_TOKENS, seed, device, plan.size)
    train_classifier(classifier, draw_marks(plan.pairs, (4, plan.longest)), plan.mark_steps, seed)
    found = {}
    for length in plan.tested:
        held_out = torch.Generator().manual_seed(10_000 + seed)
        examples = which_comes_first(plan.test_pairs, length, held_out)
        found[str(length)] = accuracy(classifier, examples)
    return {"accuracy": found, "seconds": time.perf_counter() - started}


def sentence_piece(model: str, sentences: Sentences, plan: Plan, seed: int, device: str) -> dict[str, Any]:
    """One run on sentences and their shuffled twins, as plain values."""
    started, held_out = time.perf_counter(), pad(sentences.test)
    classifier = seeded_model(model, len(sentences.tokeniser), seed, device, plan.size)
    train_classifier(classifier, draw_sentences(sentences.train, plan.pairs), plan.sentence_steps, seed)
    draw = torch.Generator().manual_seed(10_000 + seed)
    examples = sentence_or_shuffled(held_out.tokens, held_out.lengths, draw)
    found = {str(plan.longest): accuracy(classifier, examples)}
    return {"accuracy": found, "seconds": time.perf_counter() - started}


def mark_records(model: str, plan: Plan, seeds: list[int], device: str) -> list[Record]:
    """C09 on marks at the longest trained length; beyond it, the same runs as records without a claim."""
    pieces = {seed: mark_piece(model, plan, seed, device) for seed in seeds}
    return order_records("which mark comes first", model, pieces, plan, MARKS_SOURCE)


def order_records(
    task: str,
    model: str,
    pieces: dict[int, dict[str, Any]],
    plan: Plan,
    source: Any,
    commit: str | None = None,
) -> list[Record]:
    """Records from the pieces of one task and one model, keyed by seed: one for each length tested."""
    duration = sum(piece["seconds"] for piece in pieces.values())
    protocol = stated(task, model, plan) | {"seeds": list(pieces)}
    records = []
    for length in next(iter(pieces.values()))["accuracy"]:
        beyond = int(length) > plan.longest
        record = Record.measured(
            f"order/{task}/{model}/T {length}",
            claim="" if beyond else "C09",
            metric="accuracy beyond the trained length" if beyond else "accuracy on order",
            unit="1",
            values=[piece["accuracy"][length] for piece in pieces.values()],
            protocol=protocol | {"length": int(length)},
            source=source,
            commit=commit,
            duration_s=duration,
        )
        records.append(record)
    return records


def stated(task: str, model: str, plan: Plan) -> dict[str, Any]:
    """What a record says of how it was made."""
    positions, causal = MODELS[model]
    on_marks = task == "which mark comes first"
    return {
        "model": model,
        "positions": positions,
        "causal": causal,
        "task": task,
        "rule": ABOUT[task],
        "steps": plan.mark_steps if on_marks else plan.sentence_steps,
        "trained_lengths": [4, plan.longest] if on_marks else [6, 16],
        "pairs_per_step": plan.pairs,
        "size": plan.size,
        "layers": 2,
        "heads": 4,
        "learning_rate": 3e-3,
        "chosen": CHOSEN,
    }


# --------------------------------------------------------------------------------------------- reach: M06


def reach_records(model: str, lag: int, seeds: list[int]) -> list[Record]:
    """M06: path, share of pairs and gradient at a lag, of one untrained layer by its name in ``REACHING``."""
    started, found = time.perf_counter(), []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(measure_reach(model, lag))
    duration = time.perf_counter() - started
    protocol = {"model": model, "lag": lag, "size": 32, "heads": 4, "batch_size": 16, "seeds": seeds}
    units = {"operations on the path, per step of the lag": "operations"}
    return [
        Record.measured(
            f"order/reach/{model}/{metric}",
            claim="M06",
            metric=metric,
            unit=units.get(metric, "1"),
            values=[values[metric] for values in found],
            protocol=protocol,
            source=generated_source("normal noise"),
            duration_s=duration,
        )
        for metric in found[0]
    ]


def measure_reach(model: str, lag: int) -> dict[str, float]:
    """The three quantities of M06 for one layer, drawn from torch's own generator, on noise in float64."""
    x = torch.randn(16, lag + 1, 32, dtype=torch.float64)  # (B, T, D)
    layer, last = layer_to_reach_with(model, lag)
    paths = path_lengths(last, x)
    gradients = gradient_map(layer, x)  # (T, T)
    return {
        "operations on the path, per step of the lag": (paths[lag] - paths[1]) / (lag - 1),
        "share of pairs reached": (gradients > 0).double().mean().item(),
        "gradient at the lag, relative to lag 1": (gradients[-1, 0] / gradients[-1, -2]).item(),
    }


def layer_to_reach_with(
    model: str, lag: int
) -> tuple[Callable[[Tensor], Tensor], Callable[[list[Tensor]], Tensor]]:
    """A layer from (B, T, D) to all outputs, and the same layer from T inputs (B, D) to its last output."""
    if not model.startswith("attention"):
        recurrent = make_recurrent(model, 32, 32, delay=lag).double()
        return (lambda x: recurrent(x)[0]), (lambda inputs: last_of_recurrence(recurrent, inputs))
    attention = MultiHeadAttention(32, heads=4).double()
    mask = (lambda T: causal_mask(T)) if "causal" in model else (lambda T: None)
    return (
        lambda x: attention(x, mask=mask(x.shape[1]))[0],
        # The last position may look everywhere under both masks, so it needs none.
        lambda inputs: attention(inputs[-1][:, None], torch.stack(inputs, dim=1))[0][:, 0],
    )


def last_of_recurrence(recurrent: Recurrent, inputs: list[Tensor]) -> Tensor:
    """The last output of a layer of one cell, step by step."""
    (cell,), state = recurrent.cells, None
    for x_t in inputs:
        output, state = cell(x_t, state)
    return output


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Runs all of it; a finished training run is kept, so an interrupted benchmark continues there."""
    plan = PLANS[profile]
    chosen = list(range(seeds or plan.seeds))
    records = [record for model in REACHING for record in reach_records(model, plan.lag, chosen)]
    path = unfinished_path(out, "order", profile)
    work = FinishedWork(path, {**asdict(plan), "seeds": None, "device": device}, resume)
    return records + trained_records(plan, chosen, device, work)


def trained_records(plan: Plan, seeds: list[int], device: str, work: FinishedWork) -> list[Record]:
    """C09: every model on both tasks, seed by seed."""
    from seqcourse.data import load_multi30k

    texts = load_multi30k(("de", "en"))
    sentences = short_sentences(texts)
    measures = {
        "which mark comes first": (lambda model, seed: mark_piece(model, plan, seed, device), MARKS_SOURCE),
        "sentence or shuffled": (
            lambda model, seed: sentence_piece(model, sentences, plan, seed, device),
            texts.source,
        ),
    }
    records = []
    for task, (measure, source) in measures.items():
        pieces = {f"{task}/{model}/{seed}": (model, seed) for model in MODELS for seed in seeds}
        finish(work, pieces, lambda piece, measure=measure: measure(*piece), f"order: {task}")
        for model in MODELS:
            results = {seed: work[f"{task}/{model}/{seed}"] for seed in seeds}
            records += order_records(task, model, results, plan, source, work.commit)
    return records


BENCHMARK = Benchmark(
    name="order",
    about="What a Transformer can tell of order, with and without positions, and its reach (C09, M06).",
    cost={
        "smoke": "under 30 seconds on one core",
        "laptop": "about 5 minutes on one core; 3 seeds",
        "full": "about 3 hours on one core, or minutes on a GPU; 5 seeds, longer sequences",
    },
    run=run,
    shared=True,
)
