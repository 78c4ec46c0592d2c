"""Shakespeare word by word and character by character: who is surprised least? (claims N03, C12; S11)

Words: the complete works, one work in ten for testing and another for choices, whole works, never shuffled
lines. Characters: the usual 90/10 split of "tiny Shakespeare". Within a level every model, the counted n-gram
too, predicts the same tokens of the same vocabulary; an unknown word is a token like any other. Perplexity is
exp(all nats / all tokens): it is never averaged over batches or texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.data import load_shakespeare, load_tinyshakespeare
from seqcourse.data.batching import EpochBatches, LanguageModelBatches, StreamBatch, pad
from seqcourse.data.source import Source
from seqcourse.data.tokenisation import CharTokeniser, Tokeniser, WordTokeniser
from seqcourse.metrics import bits_per_character, perplexity
from seqcourse.models.language_model import LanguageModel, NextTokenModel, StreamLoss
from seqcourse.models.transformer_models import TransformerLanguageModel
from seqcourse.ngrams import KneserNey
from seqcourse.records import Record
from seqcourse.runtime import setup_cpu
from seqcourse.schedules import WarmupCosine
from seqcourse.training import fit

RECURRENT = ("RNN", "LSTM", "GRU")
MODELS = (*RECURRENT, "Transformer")
RESET = ("RNN", "LSTM")  # those that C12 compares
TEST_WORK, CHOICE_WORK = 4, 3  # of each ten, counted from 0 in the order of the contents
REACH = 128  # tokens after a reset that are looked at
BANDS = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128))
NANOGPT = {"nats": 1.4697, "of": "nanoGPT's README: 6 layers of 384 features, context 256, best step"}


# --- sizes ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How large a model is, and how it is trained."""

    size: int
    steps: int
    layers: int = 1
    batch_size: int = 32
    length: int = 64
    rate: float = 3e-3
    dropout: float = 0.0
    restart: int = 8  # a recurrent model's state is carried on for so many batches


@dataclass(frozen=True)
class Plan:
    """What a profile runs: a setting for each level and model, and the sizes of the corpora."""

    seeds: int
    settings: dict[str, Setting]  # by "level/model"
    orders: dict[str, int]  # of the n-gram, by level
    vocabulary: int  # words
    most_tokens: int | None = None  # of each work; None: all


def same_setting(words: Setting, characters: Setting) -> dict[str, Setting]:
    """One setting for all models of a level."""
    return {f"words/{name}": words for name in MODELS} | {f"characters/{name}": characters for name in MODELS}


ORDERS = {"words": 5, "characters": 8}
LAPTOP_SETTINGS = same_setting(
    Setting(128, 3_000, batch_size=16, length=32, rate=1e-2), Setting(128, 2_000, rate=1e-2)
)
LAPTOP_SETTINGS |= {  # on a CPU a step of the Transformer on characters takes several times an LSTM's
    "words/Transformer": replace(LAPTOP_SETTINGS["words/Transformer"], layers=2, rate=5e-3),
    "characters/Transformer": Setting(128, 800, layers=2, rate=2e-3),
}
FULL_SETTINGS = same_setting(
    Setting(650, 20_000, layers=2, rate=1e-3, dropout=0.5),
    Setting(512, 10_000, layers=2, batch_size=64, length=128, rate=2e-3, dropout=0.3),
)
FULL_SETTINGS |= {
    "words/Transformer": Setting(512, 20_000, layers=4, length=128, rate=5e-4, dropout=0.3),
    "characters/Transformer": Setting(
        384, 10_000, layers=6, batch_size=64, length=256, rate=1e-3, dropout=0.2
    ),
}
PLANS = {
    "smoke": Plan(1, same_setting(Setting(16, 3), Setting(16, 3)), ORDERS, 200, most_tokens=1_000),
    "laptop": Plan(3, LAPTOP_SETTINGS, ORDERS, 3_000),
    "full": Plan(5, FULL_SETTINGS, ORDERS, 10_000),
}


# --- what is read -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Texts as ids for training, choices and testing; each begins with ``<bos>``, which is never predicted."""

    level: str
    tokeniser: Tokeniser
    train: list[Tensor]
    choices: list[Tensor]
    test: list[Tensor]
    source: Source
    split: str  # in words

    @property
    def unknown_rate(self) -> float:
        """Share of the test's tokens that the vocabulary lacks."""
        targets = torch.cat([text[1:] for text in self.test])
        return (targets == self.tokeniser.unknown_id).double().mean().item()


def word_corpus(plan: Plan) -> Corpus:
    """Shakespeare's works, split by whole works; the vocabulary is that of the training works."""
    loaded = load_shakespeare()
    works = list(loaded.plays.items())
    parts = [
        [works[i] for i in range(len(works)) if i % 10 in rest]
        for rest in ({*range(10)} - {TEST_WORK, CHOICE_WORK}, {CHOICE_WORK}, {TEST_WORK})
    ]
    tokeniser = WordTokeniser.train([text for _, text in parts[0]], plan.vocabulary)
    encoded = [[_ids(tokeniser, text, plan, end=True) for _, text in part] for part in parts]
    held_out = "; ".join(title for title, _ in parts[2])
    split = f"test: {held_out}; {len(parts[1])} other works for choices, {len(parts[0])} for training"
    return Corpus("words", tokeniser, *encoded, loaded.source, split)


def character_corpus(plan: Plan) -> Corpus:
    """Tiny Shakespeare: the last tenth is the test; the last tenth of the rest is for choices too."""
    loaded = load_tinyshakespeare()
    tokeniser = CharTokeniser.train([loaded.train])
    train, test = (_ids(tokeniser, text, plan) for text in (loaded.train, loaded.validation))
    choices = train[len(train) * 9 // 10 :]
    return Corpus(
        "characters", tokeniser, [train], [choices], [test], loaded.source, "test: the last tenth of the text"
    )


def set_aside(corpus: Corpus) -> Corpus:
    """For comparing settings: the texts for choices in the test's place, and none of them learned from."""
    train = corpus.train
    if corpus.level == "characters":  # there they are the end of the training text
        train = [train[0][: -len(corpus.choices[0])]]
    return replace(corpus, train=train, test=corpus.choices)


def _ids(tokeniser: Tokeniser, text: str, plan: Plan, end: bool = False) -> Tensor:
    return torch.tensor(tokeniser.encode(text, begin=True, end=end)[: plan.most_tokens])


CORPORA: dict[str, Callable[[Plan], Corpus]] = {"words": word_corpus, "characters": character_corpus}


class RestartedStreams(EpochBatches):
    """A long text as parallel streams, whose state restarts now and then, so that a reset is nothing new.

    Each epoch cuts the text, seen as a ring, at another place.

    Args:
        ids: the whole text, (n,).
        batch_size: B, the number of streams.
        length: T, tokens per batch and stream.
        restart: after so many batches the next one begins from the initial state.
        seed: decides with the epoch where the text is cut.
    """

    def __init__(self, ids: Tensor, batch_size: int, length: int, restart: int, seed: int) -> None:
        self.ids, self.sizes = ids, (batch_size, length)
        self.restart, self.seed = restart, seed

    def __len__(self) -> int:
        return len(LanguageModelBatches(self.ids, *self.sizes))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[StreamBatch]:
        """Yield the batches of one epoch, from number ``start`` on."""
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        cut = int(torch.randint(len(self.ids), (1,), generator=generator))
        streams = LanguageModelBatches(self.ids.roll(-cut), *self.sizes)
        for i, batch in enumerate(streams.epoch(epoch, start), start):
            yield batch._replace(begins=i % self.restart == 0)


# --- training ---------------------------------------------------------------------------------------------


def make_model(name: str, vocabulary_size: int, setting: Setting) -> NextTokenModel:
    """A language model by its name in ``MODELS``; output weights are those of the embedding."""
    size, layers, dropout = setting.size, setting.layers, setting.dropout
    if name == "Transformer":
        return TransformerLanguageModel(
            vocabulary_size, size, heads=4, layers=layers, dropout=dropout, positions="rotary"
        )
    return LanguageModel(vocabulary_size, size, size, name.lower(), layers, dropout, tie_weights=True)


def train(
    name: str, vocabulary_size: int, texts: Sequence[Tensor], setting: Setting, seed: int, device: str
) -> NextTokenModel:
    """Train a model on texts, one after the other. The Transformer sees each batch's windows alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(name, vocabulary_size, setting).to(device)
    batches = RestartedStreams(
        torch.cat(list(texts)), setting.batch_size, setting.length, setting.restart, seed
    )
    fit(
        model,
        batches,
        loss=StreamLoss() if name in RECURRENT else None,
        max_steps=setting.steps,
        optimiser=torch.optim.AdamW(model.parameters(), lr=setting.rate),
        schedule=WarmupCosine(setting.steps, warmup=setting.steps // 20),
        clip=1.0,
        device=device,
        progress=False,
        seed=seed,
    )
    return model


# --- measuring --------------------------------------------------------------------------------------------


def token_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of each target's probability. Shapes: logits (B, T, V), targets (B, T); (B, T)."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)


@torch.no_grad()
def nats_in_one_go(model: NextTokenModel, texts: Sequence[Tensor], chunk: int = 128) -> list[Tensor]:
    """Nats of each token after the first, the state carried from a text's beginning to its end.

    Shapes:
        texts of (n,); for each (n - 1,), float64.
    """
    batch, device, state, nats = pad(texts), next(model.parameters()).device, None, []
    pieces = (part.split(chunk, dim=1) for part in (batch.tokens[:, :-1], batch.tokens[:, 1:]))
    for tokens, targets in zip(*pieces, strict=True):
        logits, state = model(tokens.to(device), state)
        nats.append(token_nats(logits, targets.to(device)).double().cpu())
    together = torch.cat(nats, dim=1)  # (B, longest - 1)
    return [row[: len(text) - 1] for row, text in zip(together, texts, strict=True)]


@torch.no_grad()
def nats_in_windows(model: NextTokenModel, texts: Sequence[Tensor], length: int) -> list[Tensor]:
    """As :func:`nats_in_one_go` for a model that reads windows: each token has at least half of one before it.

    Windows overlap by half; of all but the first only the second half counts. A text's first tokens have
    less before them, as they must.
    """
    found, half = [], length // 2
    for text in texts:
        tokens, targets = text[:-1], text[1:]
        missing = -max(len(tokens) - length, 0) % half + max(length - len(tokens), 0)
        # What fills up the last window comes after all that counts; a causal model does not see it.
        windows = (F.pad(part, (0, missing)).unfold(0, length, half) for part in (tokens, targets))
        nats = _nats_of_rows(model, *windows)
        found.append(torch.cat([nats[0, :-half], nats[:, -half:].flatten()])[: len(tokens)])
    return found


@torch.no_grad()
def _nats_of_rows(model: NextTokenModel, tokens: Tensor, targets: Tensor, rows: int = 16) -> Tensor:
    """Nats of rows that are read from the initial state, a few at a time. Shapes: all (n, T)."""
    device = next(model.parameters()).device
    pairs = zip(tokens.split(rows), targets.split(rows), strict=True)
    return torch.cat([token_nats(model(x.to(device))[0], y.to(device)).double().cpu() for x, y in pairs])


def after_reset(model: NextTokenModel, texts: Sequence[Tensor], kept: Sequence[Tensor]) -> dict[str, Any]:
    """What a reset of the state costs, by the number of tokens read since.

    Each text is cut into windows of ``REACH`` tokens, and each but the first read from the initial state.
    ``added`` compares the same tokens with the state kept, so that it does not depend on how hard they are.

    Args:
        model: a recurrent one.
        texts: of (n,).
        kept: nats of their tokens with the state kept, see :func:`nats_in_one_go`.

    Returns:
        ``"loss"`` and ``"added"``: nats by band of ``BANDS``.

    Raises:
        ValueError: no text has two windows.
    """
    fresh, before = [], []
    for text, nats in zip(texts, kept, strict=True):
        end = len(nats) // REACH * REACH
        tokens, targets, nats = (part[REACH:end].view(-1, REACH) for part in (text, text[1:], nats))
        if len(tokens):
            fresh.append(_nats_of_rows(model, tokens, targets))
            before.append(nats)
    if not fresh:
        raise ValueError(f"expected a text of at least {2 * REACH + 1} tokens to reset the state in")
    loss, kept_loss = torch.cat(fresh).mean(dim=0), torch.cat(before).mean(dim=0)  # (REACH,)
    return {"loss": by_band(loss), "added": by_band(loss - kept_loss)}


def by_band(values: Tensor) -> dict[str, float]:
    """Means over the bands of distance. Shapes: values (REACH,)."""
    return {band_name(*band): values[band[0] - 1 : band[1]].mean().item() for band in BANDS}


def band_name(first: int, last: int) -> str:
    """A band of distances in words."""
    return str(first) if first == last else f"{first} to {last}"


def measure(name: str, corpus: Corpus, setting: Setting, seed: int, device: str) -> dict[str, Any]:
    """Train a model and measure it on the test, as plain values."""
    started = time.perf_counter()
    model = train(name, len(corpus.tokeniser), corpus.train, setting, seed, device)
    if name in RECURRENT:
        nats = nats_in_one_go(model, corpus.test)
    else:
        nats = nats_in_windows(model, corpus.test, setting.length)
    result = surprise(nats, corpus)
    if name in RESET:
        result["reset"] = after_reset(model, corpus.test, nats)
    result["parameters"] = sum(p.numel() for p in model.parameters())
    return result | {"seconds": time.perf_counter() - started}


def measure_ngram(corpus: Corpus, order: int) -> dict[str, Any]:
    """Count n-grams of the training texts and measure the model on the test, as plain values."""
    started = time.perf_counter()
    model = KneserNey([text[1:].tolist() for text in corpus.train], len(corpus.tokeniser), order)
    nats = [torch.from_numpy(-model.log_probabilities(text[1:].tolist())) for text in corpus.test]
    return surprise(nats, corpus) | {"seconds": time.perf_counter() - started}


def surprise(nats: Sequence[Tensor], corpus: Corpus) -> dict[str, Any]:
    """Total nats over total tokens, of all tokens of the test and of those that are known words.

    Shapes:
        nats: (n - 1,) for each text of the test.
    """
    together, targets = torch.cat(list(nats)), torch.cat([text[1:] for text in corpus.test])
    known = together[targets != corpus.tokeniser.unknown_id]
    return {
        "nats": together.sum().item() / len(together),
        "nats of known": known.sum().item() / len(known),
        "tokens": len(together),
    }


# --- records ----------------------------------------------------------------------------------------------

UNKNOWN = {
    "words": "a word outside the vocabulary is one token, <unk>, predicted and counted like any other",
    "characters": "none occurs, or <unk> like a word",
}
TOKENS = {
    "words": "words with inner apostrophes and punctuation marks, lower case; no line breaks",
    "characters": "characters as they are",
}
READ = {
    True: "state carried from the beginning of a text to its end",
    False: "windows of the trained length, overlapping by half: at least half a window before each token",
}
CHOSEN = (
    "sizes and steps by the time they take; rates on the texts for choices, not learned from then, one seed, a "
    "third to half of the steps: 1e-2 was better than 4e-3 for each recurrent model (for the GRU 4e-3 was tried "
    "after its runs), for the LSTM on words 2e-2 was better still and the common 1e-2 was kept; the Transformer "
    "took the better of 2e-3 and 5e-3 at each level; nothing by the test"
)


def stated(corpus: Corpus, plan: Plan) -> dict[str, Any]:
    """What every record of a level says."""
    published = {"published elsewhere": NANOGPT} if corpus.level == "characters" else {}
    return published | {
        "level": corpus.level,
        "tokens": TOKENS[corpus.level],
        "vocabulary": len(corpus.tokeniser),
        "unknown": UNKNOWN[corpus.level],
        "unknown_rate": corpus.unknown_rate,
        "split": corpus.split,
        "training_tokens": sum(len(text) - 1 for text in corpus.train),
        "test_tokens": sum(len(text) - 1 for text in corpus.test),
        "most_tokens_of_a_text": plan.most_tokens,
    }


def metrics_of(level: str, nats: float, known: float) -> dict[str, tuple[str, float]]:
    """The figures of a level: unit and value by name."""
    if level == "words":
        return {"perplexity": ("1", perplexity(nats)), "perplexity of known words": ("1", perplexity(known))}
    return {"loss per character": ("nats", nats), "bits per character": ("bits", bits_per_character(nats))}


def surprise_records(
    model: str, pieces: Sequence[dict[str, Any]], corpus: Corpus, protocol: dict[str, Any], commit: str | None
) -> list[Record]:
    """How surprised a model is: two figures for each level, one value per seed."""
    figures = [metrics_of(corpus.level, piece["nats"], piece["nats of known"]) for piece in pieces]
    return [
        Record.measured(
            f"language/{corpus.level}/{model}/{metric}",
            claim="N03",
            metric=metric,
            unit=unit,
            values=[figure[metric][1] for figure in figures],
            protocol=protocol | {"model": model},
            source=corpus.source,
            commit=commit,
            duration_s=sum(piece["seconds"] for piece in pieces),
        )
        for metric, (unit, _) in figures[0].items()
    ]


def reset_records(
    model: str, pieces: Sequence[dict[str, Any]], corpus: Corpus, protocol: dict[str, Any], commit: str
) -> list[Record]:
    """Loss after a reset, and what the reset adds to it, by band of distance: one value per seed."""
    metrics = {"loss": "loss after a reset", "added": "loss a reset adds"}
    return [
        Record.measured(
            f"language/{corpus.level}/{model}/{metrics[kind]}/{band}",
            claim="C12",
            metric=metrics[kind],
            unit="nats",
            values=[piece["reset"][kind][band] for piece in pieces],
            protocol=protocol | {"model": model, "tokens since the reset": band, "from": _first(band)},
            source=corpus.source,
            commit=commit,
            duration_s=sum(piece["seconds"] for piece in pieces),
        )
        for kind in metrics
        for band in pieces[0]["reset"][kind]
    ]


def _first(band: str) -> int:
    return int(band.split()[0])


def network_records(
    model: str, pieces: Sequence[dict[str, Any]], corpus: Corpus, plan: Plan, commit: str
) -> list[Record]:
    """All records of one network at one level, from its pieces, one for each seed from 0 on."""
    protocol = stated(corpus, plan) | {
        "seeds": list(range(len(pieces))),
        "parameters": pieces[0]["parameters"],
        "setting": asdict(plan.settings[f"{corpus.level}/{model}"]),
        "optimiser": "AdamW, warm-up then cosine to zero, gradients clipped at 1",
        "read": READ[model in RECURRENT],
        "chosen": CHOSEN,
    }
    records = surprise_records(model, pieces, corpus, protocol, commit)
    if model in RESET:
        records += reset_records(model, pieces, corpus, protocol, commit)
    return records


def counted_records(corpus: Corpus, plan: Plan) -> list[Record]:
    """The share of unknown tokens, and the n-gram model."""
    order = plan.orders[corpus.level]
    protocol = stated(corpus, plan)
    rate = Record.measured(
        f"language/{corpus.level}/out-of-vocabulary rate",
        claim="N03",
        metric="out-of-vocabulary rate",
        unit="1",
        values=[corpus.unknown_rate],
        protocol=protocol,
        source=corpus.source,
        duration_s=0,
    )
    about = protocol | {"order": order, "smoothing": "interpolated modified Kneser-Ney"}
    piece = measure_ngram(corpus, order)
    return [rate, *surprise_records(f"{order}-gram", [piece], corpus, about, None)]


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; each trained model is stored at once, and a resumed run trains only the others."""
    plan = PLANS[profile]
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "language", profile))


def finished_work(plan: Plan, device: str, resume: bool, path: Path) -> FinishedWork:
    """The trained models of a plan so far; another number of seeds changes nothing about them."""
    return FinishedWork(path, asdict(replace(plan, seeds=0)) | {"device": device}, resume)


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    setup_cpu()
    finished, records = finished_work(plan, device, resume, path), []
    for level, load in CORPORA.items():
        corpus = load(plan)
        records += counted_records(corpus, plan)
        pieces = {f"{level}/{model}/{seed}": (model, seed) for model, seed in product(MODELS, range(seeds))}
        work = partial(one_run, corpus=corpus, plan=plan, device=device)
        finish(finished, pieces, work, f"language: {level}")
        for model in MODELS:
            results = [finished[f"{level}/{model}/{seed}"] for seed in range(seeds)]
            records += network_records(model, results, corpus, plan, finished.commit)
    return records


def one_run(piece: tuple[str, int], corpus: Corpus, plan: Plan, device: str) -> dict[str, Any]:
    """Train a model with a seed."""
    model, seed = piece
    return measure(model, corpus, plan.settings[f"{corpus.level}/{model}"], seed, device)


BENCHMARK = Benchmark(
    name="language",
    about="Shakespeare by words and by characters: recurrent models, Transformer, n-grams (N03, C12).",
    cost={
        "smoke": "about 20 seconds on one core",
        "laptop": "about an hour on one core; 3 seeds",
        "full": "hours on one GPU; 5 seeds, larger models",
    },
    run=run,
    shared=True,
)
