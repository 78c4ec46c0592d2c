"""Is a film review good or bad? Recurrent classifiers on IMDB (claims N01, N02, N09, C04).

Official split, 25,000 reviews each, no other data. A run gets some of the training reviews: a few of these
choose the epoch; words are counted on the others, which are learned from. The test reviews are read once, with
the weights so chosen. Changes of a recipe are compared on training reviews set aside (:data:`DEVELOPMENT`), so
that the test stays a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain, count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqcourse.benchmarks import Benchmark, FinishedWork, memory, unfinished_path
from seqcourse.benchmarks.cost import parameter_count
from seqcourse.benchmarks.workers import finish
from seqcourse.data import load_imdb
from seqcourse.data.batching import Batch, BucketedBatches, pad
from seqcourse.data.text import duplicates_across
from seqcourse.data.tokenisation import SPECIALS, WordTokeniser
from seqcourse.data.types import Reviews
from seqcourse.models.classifier import Classifier, TextClassifier
from seqcourse.models.transformer_models import TransformerClassifier
from seqcourse.records import Record
from seqcourse.runtime import setup_cpu
from seqcourse.schedules import WarmupCosine
from seqcourse.training import fit

RECURRENT = {  # the layer, and whether it reads backwards too
    "RNN": ("rnn", False),
    "LSTM": ("lstm", False),
    "GRU": ("gru", False),
    "BiLSTM": ("lstm", True),
    "LSTM with attention": ("lstm", False),
}
NETWORKS = (*RECURRENT, "Transformer")
FLOORS = {"bag of words": 1, "bag of words and pairs": 2}  # the longest run of words that is counted
DEVELOPMENT = 5_000  # training reviews on which changes of a recipe are compared
CHOSEN = (
    "sizes and epochs by what the machine can train; pooling, dropout and rate of the LSTM, pooling of the RNN and "
    "dropout of the Transformer by twenty trials with 5,000 or 20,000 training reviews, one seed, on the 5,000 set "
    "aside; GRU and BiLSTM take the LSTM's, rates of RNN and Transformer were not varied; nothing by the test part"
)
PAD, UNKNOWN = WordTokeniser.pad_id, WordTokeniser.unknown_id


# --- recipes and plans ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a network reads and learns.

    Args:
        vocabulary_size: most frequent words of the training reviews, special tokens included.
        min_count: a word or pair seen less often has no vector of its own.
        pairs: so many of the most frequent pairs of neighbours have one; 0 for none.
        length: words of a review that are read.
        beginning: how many of them come from its beginning; the others are its last ones.
        embedding_size: features per word.
        hidden_size: H of a recurrent layer.
        pooling: what stands for the whole review.
        dropout: of embeddings, whole features of a review, and of pooled features.
        word_dropout: share of words that become unknown, in training only.
        label_smoothing: as in ``torch.nn.functional.cross_entropy``.
        epochs: passes over the reviews; more where that would be fewer than ``min_steps``.
        min_steps: at least so many steps, for few reviews.
        batch_size: B.
        learning_rate: the highest, of Adam; it falls along half a cosine.
        layers: of a Transformer.
        heads: N of a Transformer.
    """

    vocabulary_size: int = 30_000
    min_count: int = 2
    pairs: int = 30_000
    length: int = 400
    beginning: int = 100
    embedding_size: int = 128
    hidden_size: int = 128
    pooling: str = "mean"
    dropout: float = 0.5
    word_dropout: float = 0.1
    label_smoothing: float = 0.0
    epochs: int = 4
    min_steps: int = 200
    batch_size: int = 64
    learning_rate: float = 2e-3
    layers: int = 1
    heads: int = 4


@dataclass(frozen=True)
class Plan:
    """What a profile runs.

    Args:
        seeds: how many runs of each; a seed decides which reviews, the start and the order.
        sizes: numbers of training reviews.
        curves: networks that learn from each of them; the others from the largest only.
        recipes: one per network.
        changes: what the ablation changes, by network: name -> entries of the recipe.
        ablation_seeds: how many runs of each change.
        tested: so many test reviews, evenly over the test part; None for all.
        rounds: steps that are timed.
        generated: as for :func:`~seqcourse.data.load_imdb`.
        workers: runs side by side, on a CPU; each process holds all reviews, about 1 GB.
    """

    seeds: int
    sizes: tuple[int, ...]
    recipes: dict[str, Recipe]
    changes: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    ablation_seeds: int = 1
    curves: tuple[str, ...] = NETWORKS
    tested: int | None = None
    rounds: int = 10
    generated: bool | None = None
    workers: int = 1


def recipes_for(base: Recipe, **others: dict[str, Any]) -> dict[str, Recipe]:
    """The same recipe for every network, but for what is given by its name (blanks as underscores)."""
    changes = {name.replace("_", " "): change for name, change in others.items()}
    changes = {"LSTM with attention": {"pooling": "attention"}, **changes}
    return {name: replace(base, **changes.get(name, {})) for name in NETWORKS}


CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "LSTM": {
        "as it is": {},
        "maximum over time": {"pooling": "max"},
        "last state": {"pooling": "last"},
        "attention over time": {"pooling": "attention"},
        "no vectors for pairs": {"pairs": 0},
        "no dropout": {"dropout": 0.0, "word_dropout": 0.0},
        "the first 200 words": {"length": 200, "beginning": 200},
        "the last 100 words": {"length": 100, "beginning": 0},
        "400 words": {"length": 400, "beginning": 100},
        "vocabulary of 5,000": {"vocabulary_size": 5_000},
    },
    "RNN": {
        "as it is": {},
        "maximum over time": {"pooling": "max"},
        "last state": {"pooling": "last"},
        "no vectors for pairs": {"pairs": 0},
    },
}
_TINY = Recipe(200, 1, 50, 40, 10, embedding_size=8, hidden_size=8, epochs=1, min_steps=4, heads=2)
PLANS = {
    "smoke": Plan(
        2,
        (60, 120),
        recipes_for(_TINY),
        {"LSTM": {"as it is": {}, "maximum over time": {"pooling": "max"}}},
        tested=60,
        rounds=3,
        generated=True,
    ),
    "laptop": Plan(
        5,
        (250, 1_000, 5_000, 25_000),
        recipes_for(
            Recipe(embedding_size=64, hidden_size=64, length=200, beginning=50, epochs=2, learning_rate=5e-3),
            RNN={"learning_rate": 4e-3},
            LSTM_with_attention={"pooling": "attention", "length": 400, "beginning": 100},
            Transformer={"learning_rate": 3e-3},
        ),
        CHANGES,
        curves=("RNN", "LSTM", "Transformer"),
        workers=2,
    ),
    "full": Plan(
        5,
        (250, 1_000, 5_000, 25_000),
        recipes_for(
            Recipe(embedding_size=256, hidden_size=256, pairs=100_000, epochs=6),
            Transformer={"layers": 2, "learning_rate": 1e-3},
        ),
        CHANGES,
        ablation_seeds=5,
    ),
}


# --- reviews as numbers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Reviews as ids of all words that training reviews hold, and their labels."""

    texts: list[str]
    ids: list[Tensor]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, chosen: Sequence[int] | Tensor) -> Part:
        """Some of the reviews."""
        chosen = torch.as_tensor(chosen).tolist()
        texts, ids = [self.texts[i] for i in chosen], [self.ids[i] for i in chosen]
        return Part(texts, ids, self.labels[chosen])


@dataclass(frozen=True)
class Corpus:
    """Both parts of the split, and the number of words behind the ids."""

    train: Part
    test: Part
    words: int


def clean(text: str) -> str:
    """A review without the line breaks of its web page."""
    return text.replace("<br />", " ")


def make_corpus(reviews: Reviews, tested: int | None = None) -> Corpus:
    """Encode both parts once, with every word of the training part; a run keeps the words it has seen."""
    train, test = reviews.train, reviews.test[:: max(1, len(reviews.test) // tested) if tested else 1]
    tokeniser = WordTokeniser.train((clean(text) for text, _ in train), max_vocabulary=10_000_000)
    return Corpus(_encode(train, tokeniser), _encode(test, tokeniser), len(tokeniser))


def _encode(reviews: Sequence[tuple[str, int]], tokeniser: WordTokeniser) -> Part:
    # A review without any word would have no step to read.
    ids = [torch.tensor(tokeniser.encode(clean(text)) or [UNKNOWN], dtype=torch.int32) for text, _ in reviews]
    return Part([text for text, _ in reviews], ids, torch.tensor([label for _, label in reviews]))


def set_aside(corpus: Corpus, reviews: int) -> Corpus:
    """The training part alone, with some of it in the place of the test: for comparing recipes."""
    order = torch.randperm(len(corpus.train), generator=torch.Generator().manual_seed(0))
    train, test = corpus.train.take(order[reviews:]), corpus.train.take(order[:reviews])
    return Corpus(train, test, corpus.words)


def draw(part: Part, size: int, seed: int) -> tuple[Part, Part]:
    """So many reviews: those to learn from, and a twentieth (at least 50, or a third) to choose the epoch."""
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[:size]
    held_out = max(min(50, size // 3), size // 20)
    return part.take(order[held_out:]), part.take(order[:held_out])


def frequent_words(part: Part, words: int, recipe: Recipe) -> Tensor:
    """From the ids of all words to those of a recipe's vocabulary: (words,); rare ones become unknown."""
    counts = torch.bincount(torch.cat(part.ids), minlength=words)
    counts[: len(SPECIALS)] = 0
    order = counts.argsort(descending=True, stable=True)[: recipe.vocabulary_size - len(SPECIALS)]
    kept = order[counts[order] >= recipe.min_count]
    new_ids = torch.full((words,), UNKNOWN)
    new_ids[kept] = torch.arange(len(kept)) + len(SPECIALS)
    return new_ids


def shorten(ids: Tensor, length: int, beginning: int) -> Tensor:
    """The first ids and the last ones, (T,) with T at most ``length``: reviews sum up at their end."""
    if len(ids) <= length:
        return ids
    return torch.cat([ids[:beginning], ids[len(ids) - (length - beginning) :]])


def read_with(part: Part, new_ids: Tensor, recipe: Recipe) -> list[Tensor]:
    """The reviews as a network gets them."""
    return [shorten(new_ids[ids.long()], recipe.length, recipe.beginning) for ids in part.ids]


# --- words and pairs --------------------------------------------------------------------------------------


def frequent_pairs(sequences: Sequence[Tensor], V: int, pairs: int, min_count: int) -> Tensor:
    """The most frequent pairs of neighbours, each as the number ``first * V + second``, in ascending order."""
    if not pairs:
        return torch.empty(0, dtype=torch.long)
    found = torch.cat([ids[:-1] * V + ids[1:] for ids in sequences])
    numbers, counts = found.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:pairs]
    return numbers[order[counts[order] >= min_count]].sort().values


class PairEmbedding(nn.Module):
    """The vector of each word, plus that of the pair it forms with the word before, if the pair has one.

    "not good" then means something before any recurrent layer reads it. Bags of such pairs are a strong
    baseline: Wang & Manning (2012), Baselines and Bigrams; Joulin et al. (2017) add them up in fastText.

    Shapes:
        tokens (B, T); returns (B, T, D).

    Args:
        vocabulary_size: V.
        size: D.
        pairs: numbers as of :func:`frequent_pairs`, (P,); may be empty.
        word_dropout: share of words that become unknown in training.
        dropout: share of a review's features that are zero in training, each for all its words: one random
            number a feature is much less work than one for each word of it (Gal & Ghahramani, 2016).
    """

    def __init__(
        self, vocabulary_size: int, size: int, pairs: Tensor, word_dropout: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.word_dropout = vocabulary_size, word_dropout
        self.dropout = nn.Dropout1d(dropout)
        self.words = nn.Embedding(vocabulary_size, size, padding_idx=PAD)
        self.pairs = nn.Embedding(len(pairs) + 1, size, padding_idx=0)  # 0 for all other pairs
        self.register_buffer("numbers", pairs)
        for embedding in (self.words, self.pairs):  # small: a word hardly ever seen should say little
            nn.init.normal_(embedding.weight, std=0.1)
            nn.init.zeros_(embedding.weight[embedding.padding_idx])

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed tokens."""
        if self.training and self.word_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            tokens = tokens.masked_fill(dropped & (tokens != PAD), UNKNOWN)
        embedded = self.words(tokens)  # (B, T) -> (B, T, D)
        if len(self.numbers):
            embedded = embedded + self.pairs(self.pair_ids(tokens))
        return self.dropout(embedded.mT).mT  # drops whole rows of (B, D, T)

    def pair_ids(self, tokens: Tensor) -> Tensor:
        """Where each word's pair with the one before stands in the list, from 1; 0 if it is not there."""
        before = F.pad(tokens[:, :-1], (1, 0), value=PAD)
        number = before * self.vocabulary_size + tokens  # (B, T)
        place = torch.searchsorted(self.numbers, number).clamp(max=len(self.numbers) - 1)
        return torch.where(self.numbers[place] == number, place + 1, 0)


def make_network(name: str, recipe: Recipe, V: int, pairs: Tensor, seed: int) -> Classifier:
    """A fresh classifier by its name in ``NETWORKS``; torch's own generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        embedding = PairEmbedding(V, recipe.embedding_size, pairs, recipe.word_dropout, recipe.dropout)
        if name == "Transformer":
            return _transformer(recipe, V, embedding)
        layer, bidirectional = RECURRENT[name]
        model = TextClassifier(
            V,
            recipe.embedding_size,
            recipe.hidden_size,
            recurrent=layer,
            pooling=recipe.pooling,
            bidirectional=bidirectional,
        )
        model.embedding, model.head = embedding, nn.Sequential(nn.Dropout(recipe.dropout), model.head)
    return model


def _transformer(recipe: Recipe, V: int, embedding: PairEmbedding) -> TransformerClassifier:
    size = recipe.embedding_size
    # Dropout at both ends, as for the recurrent networks; in the sublayers it took half of a step on a CPU.
    model = TransformerClassifier(
        V, size, recipe.heads, recipe.layers, inner_size=2 * size, pooling=recipe.pooling, dropout=0.0
    )
    model.embedding.embedding, model.head = embedding, nn.Sequential(nn.Dropout(recipe.dropout), model.head)
    return model


# --- training and testing ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A network before training, the batches it learns from, and those that choose the epoch."""

    model: Classifier
    batches: BucketedBatches
    validation: list[Batch]
    new_ids: Tensor


def prepare(corpus: Corpus, name: str, size: int, seed: int, recipe: Recipe) -> Prepared:
    """Draw reviews, count words and pairs on those to learn from, and make the network."""
    learned, held_out = draw(corpus.train, size, seed)
    new_ids = frequent_words(learned, corpus.words, recipe)
    V, sequences = int(new_ids.max()) + 1, read_with(learned, new_ids, recipe)
    pairs = frequent_pairs(sequences, V, recipe.pairs, recipe.min_count)
    examples = list(zip(sequences, learned.labels, strict=True))
    choosing = list(zip(read_with(held_out, new_ids, recipe), held_out.labels, strict=True))
    return Prepared(
        make_network(name, recipe, V, pairs, seed),
        BucketedBatches(examples, recipe.batch_size, seed),
        list(BucketedBatches(choosing, 256)),
        new_ids,
    )


def train(
    prepared: Prepared, recipe: Recipe, seed: int, device: str, groups: list[dict[str, Any]] | None = None
) -> Classifier:
    """Train, and go back to the weights of the lowest loss on the reviews held out.

    Args:
        prepared: network and reviews.
        recipe: how it learns.
        seed: of the dropout.
        device: where it learns.
        groups: parameters with learning rates of their own, as for a ``torch.optim.Optimizer``; by default all.
    """
    model, steps = prepared.model.to(device), len(prepared.batches)
    epochs = max(recipe.epochs, -(-recipe.min_steps // steps))
    fit(
        model,
        prepared.batches,
        loss=lambda model, batch: F.cross_entropy(
            model(batch.tokens, batch.lengths), batch.labels, label_smoothing=recipe.label_smoothing
        ),
        epochs=epochs,
        # The step of the large embeddings is in one kernel much faster than parameter by parameter.
        optimiser=torch.optim.Adam(groups or model.parameters(), lr=recipe.learning_rate, fused=True),
        schedule=WarmupCosine(epochs * steps, warmup=min(50, epochs * steps // 4)),
        clip=1.0,
        validate=prepared.validation,
        patience=epochs,
        device=device,
        progress=False,
        seed=seed,
    )
    return model


@torch.no_grad()
def predict(model: Classifier, sequences: Sequence[Tensor], batch_size: int = 256) -> Tensor:
    """The more probable label of each review, (n,); reviews of about equal length are read together."""
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    predicted = torch.empty(len(sequences), dtype=torch.long)
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        batch = pad([sequences[i] for i in members]).to(device)
        predicted[members] = model.predict(batch.tokens, batch.lengths).cpu()
    return predicted


def network_predictions(
    corpus: Corpus, name: str, size: int, seed: int, recipe: Recipe, device: str
) -> tuple[Tensor, int]:
    """Train a network and let it read the test reviews; also the number of its parameters."""
    prepared = prepare(corpus, name, size, seed, recipe)
    model = train(prepared, recipe, seed, device)
    return predict(model, read_with(corpus.test, prepared.new_ids, recipe)), parameter_count(model)


def floor_predictions(corpus: Corpus, name: str, size: int, seed: int) -> tuple[Tensor, int]:
    """Logistic regression on counted words, weighted by rarity; also the number of its parameters."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    drawn = draw(corpus.train, size, seed)  # there is no epoch to choose, so it learns from both parts
    labels = torch.cat([part.labels for part in drawn])
    counter = TfidfVectorizer(
        preprocessor=lambda text: clean(text).lower(),
        token_pattern=r"\w+(?:['’]\w+)*|[^\w\s]",
        ngram_range=(1, FLOORS[name]),
        min_df=2,
        sublinear_tf=True,
    )
    counted = counter.fit_transform([text for part in drawn for text in part.texts])
    model = LogisticRegression(C=10.0, max_iter=1000).fit(counted, labels.numpy())
    found = model.predict(counter.transform(corpus.test.texts))
    return torch.from_numpy(np.asarray(found)), int(model.coef_.size + 1)


# --- what training costs: N02 -----------------------------------------------------------------------------


def seconds_per_step(plan: Plan, corpus: Corpus, device: str) -> dict[str, list[float]]:
    """Seconds of a training step, by network, one value per round; the networks take turns on equal batches.

    On a CPU the clock is the process's own time on one thread, which other work on the machine hardly
    disturbs; elsewhere the wall's.
    """
    size = max(plan.sizes)
    prepared = {name: prepare(corpus, name, size, 0, plan.recipes[name]) for name in ("RNN", "LSTM")}
    batches = {name: list(_first(each.batches, plan.rounds + 2)) for name, each in prepared.items()}
    steps = {
        name: training_step(each.model.to(device), plan.recipes[name]) for name, each in prepared.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(len(batches["RNN"])):
        for name, step in steps.items():
            spent = _seconds(step, batches[name][number].to(device))
            if number >= 2:  # the first two warm up caches and allocator
                seconds[name].append(spent)
    return seconds


def _first(batches: BucketedBatches, number: int) -> Iterator[Batch]:
    """So many batches, from as many epochs as it takes."""
    return islice(chain.from_iterable(map(batches.epoch, count())), number)


def training_step(model: Classifier, recipe: Recipe) -> Callable[[Batch], None]:
    """One step of training, as a call."""
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate, fused=True)

    def step(batch: Batch) -> None:
        model.loss(batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return step


def _seconds(step: Callable[[Batch], None], batch: Batch) -> float:
    on_cpu = batch.tokens.device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    started = clock()
    step(batch)
    if not on_cpu:
        torch.cuda.synchronize(batch.tokens.device)
    return clock() - started


def training_cost(plan: Plan, corpus: Corpus, device: str) -> dict[str, Any]:
    """Seconds per step and peak bytes, by network."""
    return {"seconds": seconds_per_step(plan, corpus, device), "peak": peak_memory(plan, device)}


def steps_to_measure(name: str, recipe: dict[str, Any], length: int, device: str) -> Callable[[], None]:
    """Making a network and training it for two steps on random words, for the peak of its memory."""
    recipe = Recipe(**recipe)
    V = recipe.vocabulary_size
    tokens = torch.randint(len(SPECIALS), V, (recipe.batch_size, length))

    def work() -> None:
        model = make_network(name, recipe, V, torch.arange(recipe.pairs), seed=0).to(device)
        step, lengths = training_step(model, recipe), torch.full((recipe.batch_size,), length)
        for _ in range(2):
            batch = Batch(tokens, lengths, torch.ones_like(tokens, dtype=torch.bool), tokens[:, 0] % 2)
            step(batch.to(device))

    return work


def peak_memory(plan: Plan, device: str) -> dict[str, int]:
    """Peak bytes of training, by network: parameters, gradients, the optimiser's moments, and what a step keeps."""
    peaks: dict[str, dict] = {}
    for name in ("RNN", "LSTM") if memory.method(device) else ():
        recipe = asdict(plan.recipes[name])
        small = {"name": name, "recipe": asdict(_TINY), "length": 8}
        full = {"name": name, "recipe": recipe, "length": recipe["length"]}
        peaks |= {name: memory.peak_in_a_process(steps_to_measure, full, small, device, 8 * 10**9)}
    return {name: found["peak"] for name, found in peaks.items() if "peak" in found}


# --- running ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """One run of one model; with a ``change`` it belongs to the ablation, on reviews set aside."""

    model: str
    size: int
    seed: int
    change: str = ""

    @property
    def key(self) -> str:
        """Its name in the file of finished work."""
        return f"{self.model}/{self.size}/{self.change}/{self.seed}"


def pieces(plan: Plan, available: int, seeds: int) -> list[Piece]:
    """All runs, seed after seed; with all reviews a floor has nothing left to chance, and runs once."""
    sizes = [size for size in plan.sizes if size <= available]

    def is_wanted(seed: int, size: int, model: str) -> bool:
        if model in FLOORS:
            return size < available or seed == 0
        return model in plan.curves or size == max(sizes)

    choices = product(range(seeds), sizes, (*FLOORS, *plan.recipes))
    found = [Piece(model, size, seed) for seed, size, model in choices if is_wanted(seed, size, model)]
    size = min(max(sizes), available - development_size(available))
    for model, changes in plan.changes.items():
        found += [Piece(model, size, *choice) for choice in product(range(plan.ablation_seeds), changes)]
    return found


def development_size(available: int) -> int:
    """Training reviews set aside for choices: a fifth, as in the full split."""
    return min(DEVELOPMENT, available // 5)


def measure(piece: Piece, plan: Plan, corpus: Corpus, device: str) -> dict[str, Any]:
    """Train one piece and count its right answers, also without texts that are in the training part."""
    started = time.perf_counter()
    if piece.model in FLOORS:
        predicted, parameters = floor_predictions(corpus, piece.model, piece.size, piece.seed)
    else:
        changes = plan.changes[piece.model][piece.change] if piece.change else {}
        recipe = replace(plan.recipes[piece.model], **changes)
        predicted, parameters = network_predictions(
            corpus, piece.model, piece.size, piece.seed, recipe, device
        )
    right, new = (predicted == corpus.test.labels).double(), ~is_known(corpus)
    return {
        "accuracy": right.mean().item(),
        "accuracy on new texts": right[new].mean().item(),
        "parameters": parameters,
        "seconds": time.perf_counter() - started,
    }


@lru_cache(maxsize=1)
def read_reviews(generated: bool | None, tested: int | None) -> tuple[Reviews, Corpus, Corpus]:
    """The reviews, once per process; encoded as they are split, and as recipes are compared on them."""
    reviews = load_imdb(generated=generated)
    corpus = make_corpus(reviews, tested)
    return reviews, corpus, set_aside(corpus, development_size(len(corpus.train)))


def measure_alone(piece: Piece, plan: Plan, device: str) -> dict[str, Any]:
    """As :func:`measure`, with the reviews of this process."""
    _, corpus, aside = read_reviews(plan.generated, plan.tested)
    return measure(piece, plan, aside if piece.change else corpus, device)


def is_known(corpus: Corpus) -> Tensor:
    """Which test reviews have a text that is in the training part, (n,) bool."""
    known = set(corpus.train.texts)
    return torch.tensor([text in known for text in corpus.test.texts])


def run(profile: str, seeds: int | None, device: str, resume: bool, out: Path) -> list[Record]:
    """Run a profile; each finished piece is stored at once, and a resumed run does only the others."""
    plan = PLANS[profile]
    # Keep freed memory: steps on reviews of all lengths would ask for new pages each time.
    setup_cpu(1 if plan.workers > 1 else None)
    return run_plan(plan, seeds or plan.seeds, device, resume, unfinished_path(out, "sentiment", profile))


def run_plan(plan: Plan, seeds: int, device: str, resume: bool, path: Path) -> list[Record]:
    """As :func:`run`, for any plan and any file of finished work."""
    read_reviews.cache_clear()  # the place where data are looked for may have changed
    reviews, corpus, _ = read_reviews(plan.generated, plan.tested)
    chosen = pieces(plan, len(corpus.train), seeds)
    finished = open_work(plan, reviews, device, resume, path)
    work = partial(measure_alone, plan=plan, device=device)
    finish(finished, {piece.key: piece for piece in chosen}, work, "sentiment", plan.workers, device)
    finish(finished, {"cost": plan}, lambda plan: training_cost(plan, corpus, device), "sentiment: cost")
    return make_records(chosen, finished, plan, corpus, reviews, device)


def open_work(plan: Plan, reviews: Reviews, device: str, resume: bool, path: Path) -> FinishedWork:
    """The file of finished work; which seeds and sizes are run decides no result, so it may change."""
    stated = {
        name: value
        for name, value in asdict(plan).items()
        if name not in ("seeds", "sizes", "curves", "rounds", "workers")
    }
    stated = {**stated, "changes": None, "ablation_seeds": None}
    return FinishedWork(path, {"plan": stated, "device": device, "data": reviews.source.sha256}, resume)


# --- records ----------------------------------------------------------------------------------------------


def make_records(
    chosen: Sequence[Piece],
    finished: FinishedWork,
    plan: Plan,
    corpus: Corpus,
    reviews: Reviews,
    device: str,
) -> list[Record]:
    """Records of all finished pieces: accuracy by model and size, the ablation, duplicates, and cost."""
    groups: dict[tuple[str, int, str], list[Piece]] = {}
    for piece in chosen:
        groups.setdefault((piece.model, piece.size, piece.change), []).append(piece)
    largest = max(piece.size for piece in chosen if not piece.change)
    common = {"source": reviews.source, "commit": finished.commit}
    records = []
    for (_, size, change), group in groups.items():
        records.append(accuracy_record(group, finished, plan, device, common))
        if size == largest and not change:
            records.append(new_texts_record(group, finished, plan, device, common))
    return [
        *records,
        duplicates_record(reviews, corpus, common),
        *cost_records(finished["cost"], plan, device, common),
    ]


def stated(group: Sequence[Piece], results: Sequence[dict], plan: Plan, device: str) -> dict[str, Any]:
    """What a record says of how it was made."""
    piece = group[0]
    about: dict[str, Any] = {"model": piece.model, "training reviews": piece.size, "task": "sentiment"}
    if piece.model in FLOORS:
        about["recipe"] = f"tf-idf of runs of up to {FLOORS[piece.model]} words, logistic regression, C = 10"
    else:
        changes = plan.changes[piece.model][piece.change] if piece.change else {}
        about["recipe"] = asdict(replace(plan.recipes[piece.model], **changes))
        about["chosen"] = CHOSEN
        about["weights"] = "of the lowest loss on a twentieth of the training reviews, held out"
    tested = "training reviews set aside" if piece.change else "official test part"
    return about | {
        "measured on": tested,
        "seeds": [piece.seed for piece in group],
        "parameters": [result["parameters"] for result in results],
        "device": device,
        **({"change": piece.change} if piece.change else {}),
    }


def accuracy_record(
    group: Sequence[Piece], finished: FinishedWork, plan: Plan, device: str, common: dict[str, Any]
) -> Record:
    """The accuracy of one model with so many training reviews, one value per seed."""
    results, piece = [finished[piece.key] for piece in group], group[0]
    ablation = f"ablation/{piece.model}/{piece.change}"
    return Record.measured(
        f"sentiment/{ablation if piece.change else f'{piece.model}/{piece.size}'}",
        claim="" if piece.change else "N01 N09 C04",
        metric="development accuracy" if piece.change else "test accuracy",
        unit="1",
        values=[result["accuracy"] for result in results],
        protocol=stated(group, results, plan, device),
        duration_s=sum(result["seconds"] for result in results),
        **common,
    )


def new_texts_record(
    group: Sequence[Piece], finished: FinishedWork, plan: Plan, device: str, common: dict[str, Any]
) -> Record:
    """The same runs, tested without the reviews whose text is in the training part."""
    results, piece = [finished[piece.key] for piece in group], group[0]
    return Record.measured(
        f"sentiment/{piece.model}/{piece.size}/new texts",
        metric="test accuracy on new texts",
        unit="1",
        values=[result["accuracy on new texts"] for result in results],
        protocol=stated(group, results, plan, device),
        duration_s=sum(result["seconds"] for result in results),
        **common,
    )


def duplicates_record(reviews: Reviews, corpus: Corpus, common: dict[str, Any]) -> Record:
    """How many distinct texts are in both parts, and how many test reviews have one of them."""
    return Record.measured(
        "sentiment/duplicates",
        metric="texts in both parts",
        unit="texts",
        values=[len(duplicates_across(reviews))],
        protocol={"test reviews with such a text": int(is_known(corpus).sum())},
        duration_s=0.0,
        **common,
    )


def cost_records(cost: dict[str, Any], plan: Plan, device: str, common: dict[str, Any]) -> list[Record]:
    """N02: time and peak memory of training, the LSTM's over the RNN's."""
    seconds, peak = cost["seconds"], cost["peak"]
    about = {"model": "LSTM", "task": "sentiment", "recipe": asdict(plan.recipes["LSTM"])}
    ratios = [lstm / rnn for lstm, rnn in zip(seconds["LSTM"], seconds["RNN"], strict=True)]
    found = [("time of a training step", ratios, {"clock": "process time on a CPU", "seconds": seconds})]
    if len(peak) == 2:  # both could be measured on this machine
        about_memory = {"peak bytes": peak, "method": memory.method(device)}
        found.append(("peak memory of training", [peak["LSTM"] / peak["RNN"]], about_memory))
    return [
        Record.measured(
            f"sentiment/cost/{what}",
            claim="N02",
            metric=f"{what}, LSTM over RNN",
            unit="1",
            values=values,
            protocol=about | more,
            duration_s=sum(map(sum, seconds.values())),
            **common,
        )
        for what, values, more in found
    ]


BENCHMARK = Benchmark(
    name="sentiment",
    about="Film reviews: RNN, LSTM, GRU, Transformer and bags of words by data size (N01, N02, N09, C04).",
    cost={
        "smoke": "under 30 seconds on one core",
        "laptop": "an estimated hour on two cores, in runs of a minute or two; 5 seeds",
        "full": "an estimated day on one core, or an hour or two on a GPU; 5 seeds, larger networks",
    },
    run=run,
    shared=True,
)
