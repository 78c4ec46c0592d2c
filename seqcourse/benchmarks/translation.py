"""Translation on Multi30k: a fixed code, attention, and a Transformer of about equal size (S09, S10, S15, C11).

All three are trained by the same loop on the same batches, lower-cased, and translate test_2016_flickr by
greedy decoding and by beam search. BLEU is SacreBLEU's on running text, letter case ignored; its signature is
in each record. The weights that count are those of the lowest validation loss. Speed is measured apart from
the training, which may share the machine with other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.data import load_multi30k
from seqcourse.data.pairs import PairBatch, PairBatches
from seqcourse.data.types import ParallelText
from seqcourse.models.decoding import beam_search, greedy
from seqcourse.models.translation import Translator
from seqcourse.records import Record
from seqcourse.translating import (
    GRU,
    GRU_ATTENTION,
    MODELS,
    TEXT,
    TRANSFORMER,
    Corpus,
    Recipe,
    bleu,
    make_corpus,
    make_translator,
    paired_bootstrap,
    parameter_count,
    train_translator,
    translate,
)

CLAIMS = "S09 S10 S15 C11"
COMPARED = {GRU_ATTENTION: GRU, TRANSFORMER: GRU_ATTENTION}  # each with the one it has to beat
DECODERS: dict[str, Callable] = {
    "greedy": partial(greedy, with_alignment=False),
    "beam 4": partial(beam_search, beam=4, with_alignment=False),
}


@dataclass(frozen=True)
class Plan:
    """What a profile trains.

    Args:
        recipes: one per model.
        directions: such as "de-en": of all models.
        back: such as "en-de": of the last recipe's model alone.
        seeds: how many runs of each.
        vocabulary_size: of each language.
        bounds: where source lengths in words are cut into groups.
        pairs: so many training pairs; None for all.
        test_pairs: so many test pairs; None for all.
        rounds: batches that each model is timed on.
        generated: as for :func:`~seqcourse.data.load_multi30k`.
    """

    recipes: tuple[Recipe, ...]
    directions: tuple[str, ...] = ("de-en",)
    back: tuple[str, ...] = ()
    seeds: int = 1
    vocabulary_size: int = 4000
    bounds: tuple[int, ...] = (8, 12, 15)
    pairs: int | None = None
    test_pairs: int | None = None
    rounds: int = 20
    generated: bool | None = None

    def trained(self, direction: str) -> tuple[Recipe, ...]:
        """The recipes of the models that are trained in a direction."""
        return self.recipes[-1:] if direction in self.back else self.recipes


def _recurrent(model: str, size: int, **options: Any) -> Recipe:
    return Recipe(model, size=size, embedding_size=size, dropout=0.2, learning_rate=2e-3, **options)


_TINY = {"epochs": 1, "max_tokens": 400}
PLANS = {
    "smoke": Plan(
        (
            _recurrent(GRU, 16, **_TINY),
            _recurrent(GRU_ATTENTION, 16, **_TINY),
            Recipe(TRANSFORMER, size=16, layers=1, inner_size=32, learning_rate=3e-3, **_TINY),
        ),
        vocabulary_size=320,
        bounds=(8, 10),
        back=("en-de",),
        pairs=200,
        test_pairs=24,
        rounds=2,
        generated=True,
    ),
    "laptop": Plan(
        (
            _recurrent(GRU, 128, epochs=10),
            _recurrent(GRU_ATTENTION, 128, epochs=12),
            Recipe(TRANSFORMER, size=128, layers=3, inner_size=256, epochs=14, learning_rate=3e-3),
        ),
        back=("en-de",),
    ),
    "full": Plan(
        (
            _recurrent(GRU, 336, epochs=20),
            _recurrent(GRU_ATTENTION, 336, epochs=20),
            Recipe(TRANSFORMER, size=256, layers=3, inner_size=1024, epochs=30, warmup=1000),
        ),
        directions=("de-en", "en-de"),
        seeds=3,
    ),
}


@dataclass(frozen=True)
class Piece:
    """One training run."""

    direction: str
    model: str
    seed: int

    @property
    def key(self) -> str:
        """Its name in the file of finished work."""
        return f"{self.direction} {self.model} {self.seed}"


# --- measuring ------------------------------------------------------------------------------------


def measure(piece: Piece, plan: Plan, corpus: Corpus, device: str, weights: Path) -> dict[str, Any]:
    """Train one piece and translate the test set; plain values, so that they can be stored."""
    model, history = train_translator(_recipe(plan, piece.model), corpus, piece.seed, device, weights)
    test = corpus.text.test[: plan.test_pairs]
    found = {name: _translations(model, corpus, test, decode) for name, decode in DECODERS.items()}
    return {
        "seconds": history.seconds[-1],
        "parameters": parameter_count(model),
        "validation": history.metric("loss"),
        "loss": history.best["loss"],
        "signature": bleu(["a"], ["a"]).signature,
        "BLEU": {name: bleu(texts, [target for _, target in test]).score for name, texts in found.items()},
        "by length": bleu_by_length(test, found["beam 4"], plan.bounds),
        "translations": found["beam 4"],
    }


def _translations(
    model: Translator, corpus: Corpus, test: Sequence[tuple[str, str]], decode: Callable
) -> list[str]:
    sources = [source for source, _ in test]
    return translate(model, sources, corpus.source_tokeniser, corpus.target_tokeniser, decode)


def bleu_by_length(
    test: Sequence[tuple[str, str]], translations: Sequence[str], bounds: Sequence[int]
) -> dict[str, dict[str, float]]:
    """BLEU of the sentences whose source has so many words: ``{"over 15": {"BLEU": ..., "sentences": ...}}``.

    Words are what white space separates.
    """
    groups = members_by_length(test, bounds)
    return {
        name: {
            "BLEU": bleu([translations[i] for i in members], [test[i][1] for i in members]).score,
            "sentences": len(members),
        }
        for name, members in groups.items()
    }


def members_by_length(test: Sequence[tuple[str, str]], bounds: Sequence[int]) -> dict[str, list[int]]:
    """Which sentences are in which group, short ones first; groups without a sentence are left out."""
    groups: dict[str, list[int]] = {length_group(bound, bounds): [] for bound in (*bounds, bounds[-1] + 1)}
    for i, (source, _) in enumerate(test):
        groups[length_group(len(source.split()), bounds)].append(i)
    return {name: members for name, members in groups.items() if members}


def length_group(words: int, bounds: Sequence[int]) -> str:
    """The group of a length: "1 to 8", "9 to 12", ..., "over 15" for the bounds 8, 12, 15."""
    low = 1
    for bound in bounds:
        if words <= bound:
            return f"{low} to {bound}"
        low = bound + 1
    return f"over {bounds[-1]}"


def training_speed(plan: Plan, corpus: Corpus, device: str) -> dict[str, list[float]]:
    """Target tokens per second of training, by model, one value per round; rounds are interleaved.

    On a CPU the clock is the process's own time on one thread, which other work on the machine hardly
    disturbs; elsewhere the wall's.
    """
    sizes = len(corpus.source_tokeniser), len(corpus.target_tokeniser)
    models = {recipe.model: make_translator(recipe, *sizes, 0).to(device) for recipe in plan.recipes}
    batches = list(PairBatches(corpus.train, max_tokens=plan.recipes[0].max_tokens))[: plan.rounds + 2]
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for number, batch in enumerate(batches):
        for name, model in models.items():
            seconds = _seconds_for_step(model, batch.to(device))
            if number >= 2:  # the first two warm up caches and allocator
                speeds[name].append(batch.target_tokens / seconds)
    return speeds


def _seconds_for_step(model: Translator, batch: PairBatch) -> float:
    on_cpu = batch.source.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    started = clock()
    model.loss(batch).backward()
    if batch.source.is_cuda:
        torch.cuda.synchronize(batch.source.device)
    seconds = clock() - started
    model.zero_grad()
    return seconds


# --- running --------------------------------------------------------------------------------------


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; a stopped run goes on from its last checkpoint, in ``out/runs``."""
    plan = PLANS[profile]
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "translation", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    protocol = {**stated(plan), "recipes": [asdict(recipe) for recipe in plan.recipes], "device": device}
    finished, folder = FinishedWork(path, protocol, resume), path.with_suffix("")
    records = []
    for direction in (*plan.directions, *plan.back):
        text = load_multi30k(tuple(direction.split("-")), generated=plan.generated)
        corpus = make_corpus(text, plan.vocabulary_size, plan.pairs)
        models = [recipe.model for recipe in plan.trained(direction)]
        pieces = [Piece(direction, *choice) for choice in product(models, range(seeds))]
        work = partial(train_anew, resume=resume, plan=plan, corpus=corpus, device=device, folder=folder)
        finish(finished, {piece.key: piece for piece in pieces}, work, f"translation: {direction}")
        speed = partial(training_speed, corpus=corpus, device=device)
        finish(finished, {f"{direction} speed": plan}, speed, f"translation: {direction}, speed")
        records += _records(direction, seeds, plan, finished, text, device)
    return records


def train_anew(
    piece: Piece, resume: bool, plan: Plan, corpus: Corpus, device: str, folder: Path
) -> dict[str, Any]:
    """Train a model from its checkpoint, or from nothing."""
    weights = folder / f"{piece.key}.pt"
    if not resume:
        weights.unlink(missing_ok=True)
    return measure(piece, plan, corpus, device, weights)


def stated(plan: Plan) -> dict[str, Any]:
    """What a record says about a plan, beside the recipe."""
    return {
        "text": TEXT,
        "vocabulary_size": plan.vocabulary_size,
        "training pairs": plan.pairs or "all",
        "test pairs": plan.test_pairs or "all",
        "precision": "float32",
        "weights": "of the lowest validation loss",
    }


def _recipe(plan: Plan, model: str) -> Recipe:
    return next(recipe for recipe in plan.recipes if recipe.model == model)


# --- records --------------------------------------------------------------------------------------


def _records(
    direction: str, seeds: int, plan: Plan, finished: FinishedWork, text: ParallelText, device: str
) -> list[Record]:
    records, trained = [], plan.trained(direction)
    for recipe in trained:
        other = next((each.model for each in trained if each.model == COMPARED.get(recipe.model)), None)
        results = _results(direction, recipe.model, seeds, finished)
        others = _results(direction, other, seeds, finished)
        speeds = finished[f"{direction} speed"][recipe.model]
        common = {"direction": direction, "model": recipe.model, **stated(plan), "device": device}
        common |= {
            "seeds": list(range(seeds)),
            "recipe": asdict(recipe),
            "signature": results[0]["signature"],
        }
        records += [
            Record.measured(
                f"translation/{direction}/{recipe.model}/{quantity.name}",
                claim=quantity.claim,
                metric=quantity.metric,
                unit=quantity.unit,
                values=quantity.values,
                protocol={**common, **quantity.protocol},
                source=text.source,
                duration_s=sum(result["seconds"] for result in results),
                commit=finished.commit,
            )
            for quantity in [
                *_qualities(results),
                *_comparisons(results, others, other, text.test[: plan.test_pairs], plan),
                *_costs(results, speeds, device),
            ]
        ]
    return records


def _results(direction: str, model: str | None, seeds: int, finished: FinishedWork) -> list[dict[str, Any]]:
    return [] if model is None else [finished[Piece(direction, model, seed).key] for seed in range(seeds)]


@dataclass(frozen=True)
class _Quantity:
    """What is particular about one record of a model."""

    name: str
    metric: str
    unit: str
    values: list[float]
    protocol: dict[str, Any]
    claim: str = CLAIMS


def _qualities(results: list[dict[str, Any]]) -> Iterator[_Quantity]:
    """BLEU by decoder, and by source length."""
    for decoder in DECODERS:
        values = [result["BLEU"][decoder] for result in results]
        yield _Quantity(f"BLEU {decoder}", "BLEU", "BLEU", values, {"decoding": decoder})
    for words, group in results[0]["by length"].items():
        protocol = {"decoding": "beam 4", "words": words, "sentences": group["sentences"]}
        values = [result["by length"][words]["BLEU"] for result in results]
        yield _Quantity(f"BLEU {words} words", "BLEU by source length", "BLEU", values, protocol)


def _comparisons(
    results: list[dict[str, Any]],
    others: list[dict[str, Any]],
    other: str | None,
    test: Sequence[tuple[str, str]],
    plan: Plan,
) -> Iterator[_Quantity]:
    """Whether the sentences of the test set can tell a model from another, over all and over the longest."""
    longest = list(members_by_length(test, plan.bounds).items())[-1]
    for words, members in {"all": range(len(test)), longest[0]: longest[1]}.items() if other else ():
        references = [test[i][1] for i in members]
        values = [
            paired_bootstrap(*([r["translations"][i] for i in members] for r in pair), references)
            for pair in zip(results, others, strict=True)
        ]
        protocol = {"against": other, "words": words, "decoding": "beam 4", "test": "paired bootstrap, 1000"}
        yield _Quantity(
            f"p against {other}, {words}", "p-value of the difference in BLEU", "1", values, protocol
        )


def _costs(results: list[dict[str, Any]], speeds: list[float], device: str) -> Iterator[_Quantity]:
    """Parameters, the loss that decided about the weights, and the speed of training."""
    yield _Quantity("parameters", "parameters", "1", [result["parameters"] for result in results], {})
    losses = {"by_epoch": [result["validation"] for result in results]}
    best = [result["loss"] for result in results]
    yield _Quantity("validation loss", "validation loss", "nats per token", best, losses, claim="")
    clock = {"clock": "CPU time of one thread" if device == "cpu" else "wall"}
    yield _Quantity("training speed", "training speed", "target tokens/s", speeds, clock, claim="")


BENCHMARK = Benchmark(
    name="translation",
    about=f"BLEU on Multi30k of {', '.join(MODELS)} at about equal size (S09, S10, S15, C11).",
    cost={
        "smoke": "under 30 seconds on one core, on generated sentences; says nothing about translation",
        "laptop": "about two hours on one idle core; 2 million parameters, one seed; the Transformer both ways",
        "full": "hours on a GPU; about 7 million parameters, both directions, three seeds",
    },
    run=run,
    shared=True,
)
