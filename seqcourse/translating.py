"""From sentence pairs to a trained translator, and from a translator to sentences and BLEU.

What the translation benchmark and the checkpoints of the package share, so that both train the same way.
Texts are put into lower case and begin with a blank, so that byte-pair encoding spells a word at the start
as it does elsewhere; whatever comes out is lower case, and is compared so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seqcourse.data.batching import pad
from seqcourse.data.pairs import PairBatches, encode_pairs
from seqcourse.data.tokenisation import SubwordTokeniser, Tokeniser
from seqcourse.data.types import ParallelText
from seqcourse.history import History
from seqcourse.models.decoding import Hypothesis, greedy
from seqcourse.models.translation import RecurrentTranslator, TransformerTranslator, Translator
from seqcourse.schedules import WarmupCosine
from seqcourse.training import fit

GRU, GRU_ATTENTION, TRANSFORMER = "GRU", "GRU with attention", "Transformer"
MODELS = (GRU, GRU_ATTENTION, TRANSFORMER)
TEXT = "lower case; byte-level BPE, one vocabulary per language, learnt on the training sentences"


# --- text -----------------------------------------------------------------------------------------


def prepare(text: str) -> str:
    """Lower case, with a blank in front."""
    return " " + text.lower()


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs as text and as ids, with the tokenisers of both languages.

    ``train`` and ``validation`` hold ids; ``text`` holds the sentences as they were published.
    """

    text: ParallelText
    source_tokeniser: Tokeniser
    target_tokeniser: Tokeniser
    train: list[tuple[list[int], list[int]]]
    validation: list[tuple[list[int], list[int]]]


def make_corpus(
    text: ParallelText, vocabulary_size: int, pairs: int | None = None, longest: int | None = None
) -> Corpus:
    """Learn both vocabularies on the training sentences, and encode.

    Args:
        text: the sentence pairs.
        vocabulary_size: of each language, at most.
        pairs: use only so many training pairs, and a tenth of it for validation; None uses all.
        longest: use only pairs with at most so many words on each side.

    Raises:
        ValueError: if no pair is left for training or for validation.
    """
    validation_pairs = None if pairs is None else max(1, pairs // 10)
    train = _chosen(text.train, pairs, longest)
    validation = _chosen(text.validation, validation_pairs, longest)
    if not (train and validation):
        raise ValueError(f"expected pairs of at most {longest} words; got {len(train)} and {len(validation)}")
    tokenisers = [SubwordTokeniser.train(side, vocabulary_size) for side in zip(*train, strict=True)]
    return Corpus(text, *tokenisers, *(encode_pairs(part, *tokenisers) for part in (train, validation)))


def _chosen(pairs: list[tuple[str, str]], number: int | None, longest: int | None) -> list[tuple[str, str]]:
    short = [pair for pair in pairs if longest is None or max(len(s.split()) for s in pair) <= longest]
    return [(prepare(source), prepare(target)) for source, target in short[:number]]


# --- training -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """All that decides about a translator's training but data and seed.

    Args:
        model: one of ``MODELS``.
        size: D of a Transformer; H of a recurrent translator.
        layers: of encoder and decoder.
        embedding_size: of a recurrent translator; a Transformer embeds in D.
        heads: N, of a Transformer.
        inner_size: between the feed-forward layers of a Transformer.
        dropout: see the models.
        epochs: passes over the data; the learning rate falls to zero over all of them.
        max_tokens: size of a batch, see :class:`~seqcourse.data.pairs.PairBatches`.
        learning_rate: at the end of the warm-up.
        warmup: steps, or a tenth of all where that is less.
        label_smoothing: see the models.
        clip: largest norm of the gradients.
    """

    model: str
    size: int
    layers: int = 1
    embedding_size: int = 256
    heads: int = 4
    inner_size: int = 512
    dropout: float = 0.1
    epochs: int = 10
    max_tokens: int = 2000
    learning_rate: float = 1e-3
    warmup: int = 400
    label_smoothing: float = 0.1
    clip: float = 1.0


def make_translator(recipe: Recipe, source_vocabulary: int, target_vocabulary: int, seed: int) -> Translator:
    """An untrained translator; the same seed gives the same weights.

    Raises:
        ValueError: if the recipe names no model of ``MODELS``.
    """
    if recipe.model not in MODELS:
        raise ValueError(f"expected a model out of {', '.join(MODELS)}, got {recipe.model!r}")
    sizes = (source_vocabulary, target_vocabulary)
    ids = {"pad_id": Tokeniser.pad_id, "begin_id": Tokeniser.begin_id, "end_id": Tokeniser.end_id}
    options = {"dropout": recipe.dropout, "label_smoothing": recipe.label_smoothing, **ids}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if recipe.model == TRANSFORMER:
            shape = (recipe.size, recipe.heads, recipe.layers, recipe.inner_size)
            return TransformerTranslator(*sizes, *shape, **options)
        options |= {"attention": "additive" if recipe.model == GRU_ATTENTION else None}
        shape = (recipe.embedding_size, recipe.size, "gru")
        return RecurrentTranslator(*sizes, *shape, num_layers=recipe.layers, **options)


def train_translator(
    recipe: Recipe, corpus: Corpus, seed: int = 0, device: str = "cpu", checkpoint: Path | None = None
) -> tuple[Translator, History]:
    """Train as the recipe says, keep the weights of the best validation.

    Args:
        recipe: model and training.
        corpus: the data.
        seed: of weights, dropout, and order.
        device: where to train.
        checkpoint: file to resume from, see :func:`seqcourse.training.fit`.
    """
    sizes = len(corpus.source_tokeniser), len(corpus.target_tokeniser)
    model = make_translator(recipe, *sizes, seed).to(device)
    batches = PairBatches(corpus.train, seed=seed, max_tokens=recipe.max_tokens)
    steps = recipe.epochs * len(batches)
    history = fit(
        model,
        batches,
        epochs=recipe.epochs,
        optimiser=torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98)),
        schedule=WarmupCosine(steps, min(recipe.warmup, steps // 10)),
        clip=recipe.clip,
        validate=lambda trained: {"loss": token_loss(trained, corpus.validation)},
        patience=recipe.epochs,  # never stops early, but goes back to the best weights
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=200 if checkpoint else None,
        seed=seed,
    )
    return model, history


def token_loss(model: Translator, pairs: Sequence[tuple[list[int], list[int]]]) -> float:
    """Mean cross-entropy in nats per target token, without label smoothing; the model in evaluation mode."""
    device = next(model.parameters()).device
    batches = PairBatches(pairs, max_tokens=4000)
    with torch.no_grad():
        total = sum(model.loss(batch.to(device)).item() * batch.target_tokens for batch in batches)
    return total / batches.target_tokens


def parameter_count(model: nn.Module) -> int:
    """Numbers that training changes; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


# --- translating ----------------------------------------------------------------------------------


def translate(
    model: Translator,
    sentences: Iterable[str],
    source_tokeniser: Tokeniser,
    target_tokeniser: Tokeniser,
    decode: Callable[..., list[Hypothesis]] = greedy,
    batch_size: int = 100,
) -> list[str]:
    """Translate sentences, about equally long ones together.

    Args:
        model: a trained translator.
        sentences: in the source language, as they are written.
        source_tokeniser: of the source language.
        target_tokeniser: of the target language.
        decode: :func:`~seqcourse.models.decoding.greedy` or another of its kind, called with model, source
            and lengths.
        batch_size: sentences that are translated together.
    """
    device = next(model.parameters()).device
    sources = [source_tokeniser.encode(prepare(sentence)) for sentence in sentences]
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations: dict[int, str] = {}
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        batch = pad([sources[i] for i in members], model.pad_id).to(device)
        found = decode(model, batch.tokens, batch.lengths)
        texts = (target_tokeniser.decode(hypothesis.tokens).strip() for hypothesis in found)
        translations.update(zip(members, texts, strict=True))
    return [translations[i] for i in range(len(sources))]


# --- BLEU -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bleu:
    """BLEU in points (0 to 100), and the signature that says how it was computed."""

    score: float
    signature: str


def bleu(translations: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of a corpus, letter case ignored, by SacreBLEU.

    Papineni et al. (2002), BLEU: a Method for Automatic Evaluation of Machine Translation; Post (2018), A Call
    for Clarity in Reporting BLEU Scores.

    Args:
        translations: what a model wrote, as running text: SacreBLEU splits it into words itself.
        references: one right translation for each, as published.

    Raises:
        ValueError: if there are none, or not as many of the one as of the other.
        ModuleNotFoundError: if sacrebleu is not installed.
    """
    if len(translations) != len(references) or not references:
        raise ValueError(
            f"expected one reference per translation and at least one, got {len(translations)} translations "
            f"and {len(references)} references"
        )
    metric = _sacrebleu()
    score = metric.corpus_score(list(translations), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def paired_bootstrap(
    translations: Sequence[str], others: Sequence[str], references: Sequence[str], resamples: int = 1000
) -> float:
    """p-value of the difference in BLEU between two translations of the same sentences.

    Koehn (2004), Statistical Significance Tests for Machine Translation Evaluation: how often a difference as
    large as this arises by the choice of the sentences. It says nothing about other runs of the training.

    Args:
        translations: of one model.
        others: of another.
        references: one for each.
        resamples: how many test sets are drawn from this one.
    """
    metric = _sacrebleu()
    from sacrebleu.significance import PairedTest

    systems = [("others", list(others)), ("own", list(translations))]
    test = PairedTest(systems, {"BLEU": metric}, [list(references)], "bs", n_samples=resamples)
    return float(test()[1]["BLEU"][1].p_value)


def _sacrebleu() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("BLEU needs sacrebleu: pip install 'seqcourse[book]'") from error
    return BLEU(lowercase=True)
