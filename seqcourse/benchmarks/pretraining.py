"""Does pre-training pay for an LSTM? First a language model, then a classifier of reviews (claim C05, first half).

As in ULMFiT (Howard & Ruder, 2018), without its outside text: an LSTM learns to predict the next word of all
training reviews, whose labels it does not see. Classifiers that start from its weights, from its word vectors
only, or from nothing then learn from a few labelled reviews. Everything else is the sentiment benchmark's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.language import RestartedStreams, nats_in_one_go
from seqcourse.benchmarks.sentiment import (
    Corpus,
    Part,
    Prepared,
    Recipe,
    draw,
    frequent_words,
    make_network,
    predict,
    read_reviews,
    read_with,
    train,
)
from seqcourse.benchmarks.workers import finish
from seqcourse.data.batching import BucketedBatches
from seqcourse.data.tokenisation import WordTokeniser
from seqcourse.models.classifier import Classifier
from seqcourse.models.language_model import LanguageModel, StreamLoss
from seqcourse.records import Record
from seqcourse.runtime import setup_cpu
from seqcourse.schedules import WarmupCosine
from seqcourse.training import fit

STARTS: dict[str, tuple[str, ...]] = {  # what is taken from the language model
    "from scratch": (),
    "pre-trained vectors": ("embedding",),
    "pre-trained": ("embedding", "recurrent"),
    "pre-trained and frozen": ("embedding", "recurrent"),
}
CHOSEN = (
    "sizes by what the machine can train; recipe as the sentiment benchmark's LSTM without pairs; the rate of what was"
    " taken by trials of 1e-3, 5e-3 and 2e-2 with 1,000 training reviews, one seed, on 5,000 others set aside, after a"
    " whole run with 1e-3 had shown a classifier far from done (62 % in the test with 1,000 labelled reviews)"
)
Weights = dict[str, np.ndarray]  # of a language model; arrays travel between processes


@dataclass(frozen=True)
class Plan:
    """What a profile runs.

    Args:
        seeds: runs of each classifier; a seed decides which reviews, the start and the order. The language
            model is the same for all.
        sizes: numbers of labelled reviews.
        recipe: of the classifiers; ``learning_rate`` is that of what starts from nothing.
        taken_rate: the highest learning rate of what was taken from the language model.
        steps: of the language model.
        batch_size: B, streams that the language model reads side by side.
        length: T, words until its gradient is cut off.
        rate: the highest of its learning rates.
        tested: so many test reviews, evenly over the test part; None for all.
        generated: as for :func:`~seqcourse.data.load_imdb`.
        workers: classifiers trained side by side, on a CPU.
    """

    seeds: int
    sizes: tuple[int, ...]
    recipe: Recipe
    taken_rate: float = 5e-3
    steps: int = 3_000
    batch_size: int = 32
    length: int = 50
    rate: float = 5e-3
    tested: int | None = None
    generated: bool | None = None
    workers: int = 1


_RECIPE = Recipe(vocabulary_size=5_000, pairs=0, length=200, beginning=50, epochs=2, learning_rate=5e-3)
_TINY = replace(
    _RECIPE, vocabulary_size=200, min_count=1, embedding_size=8, hidden_size=8, epochs=1, min_steps=4
)
PLANS = {
    "smoke": Plan(3, (40, 80), _TINY, steps=5, batch_size=4, length=10, tested=60, generated=True),
    "laptop": Plan(
        5,
        (100, 1_000, 10_000),
        replace(_RECIPE, embedding_size=96, hidden_size=96),
        steps=2_000,
        tested=5_000,
        workers=2,
    ),
    "full": Plan(
        5,
        (100, 1_000, 10_000),
        replace(_RECIPE, vocabulary_size=30_000, embedding_size=400, hidden_size=400, length=400),
        steps=30_000,
    ),
}


# --- the language model -----------------------------------------------------------------------------------


def vocabulary(corpus: Corpus, plan: Plan) -> Tensor:
    """From the ids of all words to those that every model reads: the words of all training reviews."""
    return frequent_words(corpus.train, corpus.words, plan.recipe)


def stream(part: Part, new_ids: Tensor) -> Tensor:
    """All reviews one after the other, each with ``<eos>`` before it: (n,)."""
    return torch.cat([_after_an_end(new_ids[ids.long()]) for ids in part.ids])


def _after_an_end(ids: Tensor) -> Tensor:
    return torch.cat([torch.tensor([WordTokeniser.end_id]), ids])


def pretrain(corpus: Corpus, plan: Plan, device: str, resume: bool, checkpoint: Path) -> LanguageModel:
    """An LSTM that has learned to predict the next word of the training reviews; a stopped run goes on."""
    new_ids, size = vocabulary(corpus, plan), plan.recipe.hidden_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LanguageModel(int(new_ids.max()) + 1, size, size, "lstm", dropout=0.1, tie_weights=True)
    fit(
        model.to(device),
        RestartedStreams(stream(corpus.train, new_ids), plan.batch_size, plan.length, restart=20, seed=0),
        loss=StreamLoss(),
        max_steps=plan.steps,
        optimiser=torch.optim.AdamW(model.parameters(), lr=plan.rate),
        schedule=WarmupCosine(plan.steps, warmup=plan.steps // 20),
        clip=1.0,
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=250,
        resume=resume,
    )
    return model


def nats_per_word(model: LanguageModel, corpus: Corpus, plan: Plan, reviews: int = 500) -> float:
    """Mean over the words of some test reviews, each read from its beginning."""
    some = corpus.test.take(range(0, len(corpus.test), max(1, len(corpus.test) // reviews)))
    texts = [_after_an_end(ids) for ids in read_with(some, vocabulary(corpus, plan), plan.recipe)]
    return torch.cat(nats_in_one_go(model, texts)).mean().item()


# --- classifiers that start from it -----------------------------------------------------------------------


def make_classifier(start: str, weights: Weights, recipe: Recipe, seed: int) -> Classifier:
    """A classifier before its training.

    Args:
        start: one of ``STARTS``.
        weights: of the language model, of which it takes its parts.
        recipe: gives the sizes.
        seed: of what starts from nothing.
    """
    no_pairs = torch.empty(0, dtype=torch.long)
    model = make_network("LSTM", recipe, len(weights["embedding.weight"]), no_pairs, seed)
    for name in STARTS[start]:
        part = part_of(model, name)
        part.load_state_dict({key: torch.from_numpy(weights[f"{name}.{key}"]) for key in part.state_dict()})
        part.requires_grad_(not start.endswith("frozen"))
    return model


def part_of(model: Classifier, name: str) -> nn.Module:
    """What has the same weights in a language model, by its name there."""
    return {"embedding": model.embedding.words, "recurrent": model.recurrent}[name]


def learning_rates(model: Classifier, start: str, plan: Plan) -> list[dict[str, Any]]:
    """Groups of parameters for an optimiser: what starts from nothing, and what was taken over."""
    taken = [p for name in STARTS[start] for p in part_of(model, name).parameters() if p.requires_grad]
    known = {id(parameter) for parameter in taken}
    fresh = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": fresh}, {"params": taken, "lr": plan.taken_rate}]
    return [group for group in groups if group["params"]]


def classifier_predictions(corpus: Corpus, piece: Piece, weights: Weights, plan: Plan, device: str) -> Tensor:
    """Train a classifier on labelled reviews and let it read the test reviews."""
    learned, held_out = draw(corpus.train, piece.size, piece.seed)
    new_ids = vocabulary(corpus, plan)
    model = make_classifier(piece.start, weights, plan.recipe, piece.seed)
    examples, choosing = (
        list(zip(read_with(part, new_ids, plan.recipe), part.labels, strict=True))
        for part in (learned, held_out)
    )
    prepared = Prepared(
        model,
        BucketedBatches(examples, plan.recipe.batch_size, piece.seed),
        list(BucketedBatches(choosing, 256)),
        new_ids,
    )
    train(prepared, plan.recipe, piece.seed, device, learning_rates(model, piece.start, plan))
    return predict(model, read_with(corpus.test, new_ids, plan.recipe))


# --- running ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One classifier."""

    start: str
    size: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file of finished work."""
        return f"{self.start}/{self.size}/{self.seed}"


def measure_language_model(
    corpus: Corpus, device: str, resume: bool, checkpoint: Path, plan: Plan
) -> dict[str, float]:
    """Train the language model into a checkpoint, and let it read test reviews."""
    started = time.perf_counter()
    nats = nats_per_word(pretrain(corpus, plan, device, resume, checkpoint), corpus, plan)
    return {"nats": nats, "seconds": time.perf_counter() - started}


def measure(piece: Piece, weights: Weights, plan: Plan, device: str) -> dict[str, float]:
    """Train one classifier and count its right answers."""
    started = time.perf_counter()
    _, corpus, _ = read_reviews(plan.generated, plan.tested)
    predicted = classifier_predictions(corpus, piece, weights, plan, device)
    accuracy = (predicted == corpus.test.labels).double().mean().item()
    return {"accuracy": accuracy, "seconds": time.perf_counter() - started}


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; each finished classifier is stored at once, and the language model now and then."""
    plan = PLANS[profile]
    setup_cpu(1 if plan.workers > 1 else None)
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "pretraining", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    read_reviews.cache_clear()  # the place where data are looked for may have changed
    reviews, corpus, _ = read_reviews(plan.generated, plan.tested)
    plan = replace(plan, sizes=tuple(size for size in plan.sizes if size <= len(corpus.train)))
    stated = {k: v for k, v in asdict(plan).items() if k not in ("seeds", "sizes", "workers")}
    protocol = {"plan": stated, "device": device, "data": reviews.source.sha256}
    finished = FinishedWork(path, protocol, resume)
    checkpoint = path.with_suffix(".checkpoint")
    first = partial(measure_language_model, corpus, device, resume, checkpoint)
    finish(finished, {"language model": plan}, first, "pretraining: language model")
    model = pretrain(corpus, plan, device, True, checkpoint)  # now every process has it, from the checkpoint
    weights = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    pieces = [Piece(*choice) for choice in product(STARTS, plan.sizes, range(seeds))]
    work = partial(measure, weights=weights, plan=plan, device=device)
    finish(finished, {piece.key: piece for piece in pieces}, work, "pretraining", plan.workers, device)
    common = {"source": reviews.source, "commit": finished.commit}
    groups = [[p for p in pieces if (p.start, p.size) == pair] for pair in product(STARTS, plan.sizes)]
    return [
        language_model_record(finished["language model"], plan, device, common),
        *(accuracy_record(group, finished, plan, device, common) for group in groups),
    ]


# --- records ----------------------------------------------------------------------------------------------


def language_model_record(
    result: dict[str, float], plan: Plan, device: str, common: dict[str, Any]
) -> Record:
    """How well the language model predicts the next word."""
    about = {name: getattr(plan, name) for name in ("steps", "batch_size", "length", "rate")}
    return Record.measured(
        "pretraining/language model",
        metric="nats per word",
        unit="nats",
        values=[result["nats"]],
        protocol={"model": "LSTM", "seeds": [0], "device": device, **about, "recipe": asdict(plan.recipe)},
        duration_s=result["seconds"],
        **common,
    )


def accuracy_record(
    group: Sequence[Piece], finished: FinishedWork, plan: Plan, device: str, common: dict[str, Any]
) -> Record:
    """The accuracy of one start with so many labelled reviews, one value per seed."""
    piece, results = group[0], [finished[piece.key] for piece in group]
    return Record.measured(
        f"pretraining/{piece.start}/{piece.size}",
        claim="C05",
        metric="test accuracy by start",
        unit="1",
        values=[result["accuracy"] for result in results],
        protocol={
            "model": "LSTM",
            "task": "sentiment",
            "start": piece.start,
            "labelled reviews": piece.size,
            "seeds": [piece.seed for piece in group],
            "language model": "one for all runs, of all training reviews without their labels",
            "recipe": asdict(plan.recipe),
            "rate of what was taken": plan.taken_rate,
            "chosen": CHOSEN,
            "device": device,
        },
        duration_s=sum(result["seconds"] for result in results),
        **common,
    )


BENCHMARK = Benchmark(
    name="pretraining",
    about="Film reviews: what an LSTM gains from having been a language model first (C05).",
    cost={
        "smoke": "under 30 seconds on one core",
        "laptop": "an estimated half an hour on two cores; 5 seeds",
        "full": "an estimated day on one core, or an hour or two on a GPU; 5 seeds, a larger model",
    },
    run=run,
    shared=True,
)
