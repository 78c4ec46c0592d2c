"""One change at a time: what helps a small LSTM, and what does not? (claims M05, A03, A04)

Who of nine men says the vowels? One recipe is trained as it is, and with one thing changed; every seed decides
the start, the order of the series and what dropout leaves out. Nothing is chosen by the test series: learning
rate and number of epochs were set by trials on training series set aside (:func:`trial`), and the last weights
count.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.data import load_japanese_vowels
from seqcourse.data.batching import TensorBatches, mask_from_lengths, pad_series
from seqcourse.data.source import Source
from seqcourse.data.types import SeriesClassification
from seqcourse.models.pooling import mean_over_time
from seqcourse.records import Record
from seqcourse.recurrent import LSTM, RNN, Recurrent
from seqcourse.runtime import setup_cpu
from seqcourse.training import fit

NORMS = ("none", "layer", "batch")
PLACES = ("pooled", "inputs")
BROKEN = 3  # the feature that is in other units
SHORT = 19  # steps: fewer than the 20 that the advice names


# --- recipe and changes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How the classifier is built and trained.

    Args:
        layer: ``"LSTM"`` (forget bias 1) or ``"RNN"`` (tanh).
        hidden_size: H, of the projection before the layer, too.
        layers: recurrent layers.
        between: dropout between them.
        dropout: of the pooled features.
        norm: ``"none"``, ``"layer"`` or ``"batch"``.
        place: where: of the ``"pooled"`` features, or of the ``"inputs"`` of the recurrent layer, step by step.
        standardised: each feature has mean 0 and deviation 1 over the real steps of the training series.
        factor: all inputs are multiplied by it, after that.
        broken: one feature is multiplied by it.
        longest: steps that are read of each series, from its beginning; None for all.
        learning_rate: the first, of AdamW; it falls to zero along a line.
        clip: the largest norm of a gradient; None for no limit.
        batch_size: B.
        epochs: passes over the training series.
    """

    layer: str = "LSTM"
    hidden_size: int = 32
    layers: int = 1
    between: float = 0.0
    dropout: float = 0.2
    norm: str = "layer"
    place: str = "pooled"
    standardised: bool = True
    factor: float = 1.0
    broken: float = 1.0
    longest: int | None = None
    learning_rate: float = 1e-2
    clip: float | None = 1.0
    batch_size: int = 27
    epochs: int = 12


class Change(NamedTuple):
    """A recipe that differs in one thing from another one, and the claims it speaks to.

    ``against`` is the key of the other recipe, such as ``"base/as it is"``; empty for the base.
    """

    claims: str
    recipe: Recipe
    against: str


BASE = "base/as it is"


def changes(base: Recipe) -> dict[str, Change]:
    """Every recipe that is run, by key: ``group/name``; the base first, and each before those against it."""
    found = {BASE: Change("M05 A03 A04", base, "")}

    def add(claims: str, group: str, against: str = BASE, **options: dict[str, Any]) -> None:
        for name, entries in options.items():
            recipe = replace(found[against].recipe, **entries)
            found[f"{group}/{name.replace('_', ' ')}"] = Change(claims, recipe, against)

    add("", "dropout", **{"none": {"dropout": 0.0}, "0.6": {"dropout": 0.6}})
    stack = "two layers/nothing dropped between"
    add("M05", "two layers", nothing_dropped_between={"layers": 2})
    add("M05", "two layers", stack, **{"0.2 between": {"between": 0.2}, "0.5 between": {"between": 0.5}})
    norms = {
        "none": {"norm": "none"},
        "batch, pooled": {"norm": "batch"},
        "layer, inputs": {"place": "inputs"},
    }
    add("M05 A04", "normalisation", **norms)
    add("A04", "normalisation", "normalisation/layer, inputs", **{"batch, inputs": {"norm": "batch"}})
    # A third of the epochs: so three times the steps, each with a ninth of the series.
    few = {"batch_size": base.batch_size // 9, "epochs": max(base.epochs // 3, 1)}
    add("A04", "small batches", layer=few)
    add("A04", "small batches", "small batches/layer", none={"norm": "none"}, batch={"norm": "batch"})
    rates = {"over 10": 1 / 10, "over 3": 1 / 3, "times 3": 3, "times 10": 10}
    rate = base.learning_rate
    add("M05", "learning rate", **{name: {"learning_rate": rate * by} for name, by in rates.items()})
    sizes = {"over 4": 1 / 4, "over 2": 1 / 2, "times 2": 2, "times 4": 4}
    size = base.hidden_size
    add("M05", "hidden size", **{name: {"hidden_size": int(size * by)} for name, by in sizes.items()})
    add("A03", "clipping", no_limit={"clip": None})
    add("", "clipping", **{"limit 0.1": {"clip": 0.1}})
    inputs = {
        "as they come": {"standardised": False},
        "times 10": {"factor": 10.0},
        "times 0.1": {"factor": 0.1},
        "one feature times 1000": {"broken": 1000.0},
    }
    add("A03", "inputs", **inputs)
    add("", "length", LSTM_cut={"longest": SHORT})
    add("A03", "length", RNN_whole={"layer": "RNN"})
    add("A03", "length", "length/RNN whole", RNN_cut={"longest": SHORT})
    add("A03", "clipping", "length/RNN whole", RNN_without_limit={"clip": None})
    return found


# --- data -------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Padded series (n, T, D), their lengths (n,) and labels (n,)."""

    x: Tensor
    lengths: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Corpus:
    """What is learned from, what is tested on, and where both come from."""

    train: Part
    test: Part
    classes: int
    source: Source


def make_corpus(series: SeriesClassification, most: int | None = None) -> Corpus:
    """Series as tensors, of each part ``most`` of them, evenly."""
    parts = []
    for pairs in (series.train, series.test):
        chosen = pairs if most is None else pairs[:: max(len(pairs) // most, 1)][:most]
        batch = pad_series([x for x, _ in chosen])
        parts.append(Part(batch.tokens, batch.lengths, torch.tensor([label for _, label in chosen])))
    return Corpus(*parts, len(series.classes), series.source)


def set_aside(corpus: Corpus) -> Corpus:
    """For choices: of each class every third training series in the test's place, and not learned from."""
    seen: Counter[int] = Counter()
    aside = []
    for label in corpus.train.labels.tolist():
        aside.append(seen[label] % 3 == 2)
        seen[label] += 1
    chosen = torch.tensor(aside)
    train, test = (Part(*(tensor[mask] for tensor in corpus.train)) for mask in (~chosen, chosen))
    return replace(corpus, train=train, test=test)


def inputs_for(recipe: Recipe, corpus: Corpus) -> tuple[Part, Part]:
    """Both parts as the recipe wants them; mean and deviation come from the training series alone."""
    parts = [_cut(part, recipe.longest) for part in (corpus.train, corpus.test)]
    steps = parts[0].x[mask_from_lengths(parts[0].lengths, parts[0].x.shape[1])]  # (real steps, D)
    factors = torch.full(steps.shape[1:], recipe.factor)
    factors[BROKEN] *= recipe.broken
    mean, deviation = steps.mean(0), steps.std(0)
    if not recipe.standardised:
        mean, deviation = torch.zeros_like(mean), torch.ones_like(deviation)
    return tuple(part._replace(x=(part.x - mean) / deviation * factors) for part in parts)


def _cut(part: Part, longest: int | None) -> Part:
    if longest is None:
        return part
    return part._replace(x=part.x[:, :longest], lengths=part.lengths.clamp(max=longest))


# --- the model --------------------------------------------------------------------------------------------


class Speaker(nn.Module):
    """Project, read, take the mean over the real steps, drop out, classify; normalise in one place.

    Shapes:
        x (B, T, D), lengths (B,); logits (B, K).
    """

    def __init__(self, recipe: Recipe, features: int, classes: int) -> None:
        super().__init__()
        size = recipe.hidden_size
        self.place = recipe.place
        self.projection = nn.Linear(features, size)
        self.norm = make_norm(recipe.norm, size)
        self.recurrent = make_layer(recipe)
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(size, classes)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Score the classes; what stands in the padding has no effect."""
        real = mask_from_lengths(lengths, x.shape[1])  # (B, T)
        x = self.projection(x)  # (B, T, H)
        if self.place == "inputs":
            normalised = torch.zeros_like(x)
            normalised[real] = self.norm(x[real])  # statistics of real steps only
            x = normalised
        pooled = mean_over_time(self.recurrent(x, lengths=lengths)[0], real)  # (B, H)
        if self.place == "pooled":
            pooled = self.norm(pooled)
        return self.head(self.dropout(pooled))


def make_norm(norm: str, size: int) -> nn.Module:
    """A normalisation by its name in ``NORMS``.

    Raises:
        ValueError: no such name.
    """
    kinds = {"none": nn.Identity, "layer": nn.LayerNorm, "batch": nn.BatchNorm1d}
    if norm not in kinds:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return kinds[norm](size)


def make_layer(recipe: Recipe) -> Recurrent:
    """The recurrent layers of a recipe."""
    size, options = recipe.hidden_size, {"num_layers": recipe.layers, "dropout": recipe.between}
    if recipe.layer == "RNN":
        return RNN(size, size, **options)
    return LSTM(size, size, forget_bias=1.0, **options)


# --- training and testing ---------------------------------------------------------------------------------


def train(recipe: Recipe, part: Part, classes: int, seed: int, device: str) -> Speaker:
    """A classifier after the recipe's training; torch's own generator stays as it was."""
    batches = TensorBatches(*part, batch_size=recipe.batch_size, seed=seed)
    steps = recipe.epochs * len(batches)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Speaker(recipe, part.x.shape[2], classes).to(device)
        fit(
            model,
            batches,
            loss=lambda model, batch: F.cross_entropy(model(*batch[:2]), batch[2]),
            max_steps=steps,
            optimiser=torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate),
            schedule=lambda step: 1 - step / steps,
            clip=recipe.clip,
            device=device,
            progress=False,
            seed=seed,
            non_finite="skip",
        )
    return model.eval()


@torch.no_grad()
def accuracy(model: Speaker, part: Part) -> float:
    """Share of the series whose class is found."""
    device = next(model.parameters()).device
    x, lengths, labels = (tensor.to(device) for tensor in part)
    return (model(x, lengths).argmax(dim=1) == labels).float().mean().item()


def measure(recipe: Recipe, corpus: Corpus, seed: int, device: str) -> dict[str, float]:
    """One run, as plain values."""
    started = time.perf_counter()
    learned, tested = inputs_for(recipe, corpus)
    model = train(recipe, learned, corpus.classes, seed, device)
    return {"accuracy": accuracy(model, tested), "seconds": time.perf_counter() - started}


def trial(recipe: Recipe, seeds: int = 3, device: str = "cpu") -> list[float]:
    """Accuracies on training series set aside, one per seed: for choices, before the test is looked at."""
    corpus = set_aside(make_corpus(load_japanese_vowels()))
    return [measure(recipe, corpus, seed, device)["accuracy"] for seed in range(seeds)]


# --- records ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a profile runs: the base recipe and how often; ``most`` series of each part, None for all."""

    seeds: int
    base: Recipe
    most: int | None = None


PLANS = {
    "smoke": Plan(3, Recipe(hidden_size=8, epochs=1), most=54),
    "laptop": Plan(10, Recipe()),
    "full": Plan(30, Recipe()),
}
CHOSEN = (
    "on 90 training series set aside, three seeds: of the rates 3e-3, 1e-2 and 3e-2 over 12 epochs the first was"
    " behind and the others level; 24 epochs gained a point and would cost twice the time; nothing by the test"
)


def change_record(
    key: str, change: Change, pieces: list[dict[str, float]], corpus: Corpus, commit: str
) -> Record:
    """Test accuracy of one recipe, one value per seed from 0 on."""
    group, name = key.split("/")
    protocol = {
        "group": group,
        "change": name,
        "against": change.against,
        **asdict(change.recipe),
        "optimiser": "AdamW, the learning rate falls to zero along a line",
        "training_series": len(corpus.train.labels),
        "test_series": len(corpus.test.labels),
        "chosen": CHOSEN,
        "seeds": list(range(len(pieces))),
    }
    return Record.measured(
        f"ablation/{key}",
        claim=change.claims,
        metric="test accuracy",
        unit="1",
        values=[piece["accuracy"] for piece in pieces],
        protocol=protocol,
        source=corpus.source,
        commit=commit,
        duration_s=sum(piece["seconds"] for piece in pieces),
    )


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; each training run is stored at once, and a resumed run does only the others."""
    plan = PLANS[profile]
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "ablation", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    setup_cpu(threads=1)
    corpus, every = make_corpus(load_japanese_vowels(), plan.most), changes(plan.base)
    recipes = {key: asdict(change.recipe) for key, change in every.items()}
    protocol = {"recipes": recipes, "most": plan.most, "device": device, "data": corpus.source.sha256}
    finished = FinishedWork(path, protocol, resume)
    pieces = {f"{key}/{seed}": (key, seed) for key, seed in product(every, range(seeds))}
    finish(
        finished, pieces, lambda piece: measure(every[piece[0]].recipe, corpus, piece[1], device), "ablation"
    )
    return [
        change_record(
            key, change, [finished[f"{key}/{seed}"] for seed in range(seeds)], corpus, finished.commit
        )
        for key, change in every.items()
    ]


BENCHMARK = Benchmark(
    name="ablation",
    about="One change at a time of an LSTM on Japanese vowels: what matters, what helps (M05, A03, A04).",
    cost={
        "smoke": "under 20 seconds on one core",
        "laptop": "about 10 minutes on one core; 10 seeds",
        "full": "about 30 minutes on one core; 30 seeds",
    },
    run=run,
    shared=True,
)
