"""Every model learns: on generated data, in seconds on one core, it reaches what guessing does not."""

from __future__ import annotations

import pytest
import torch

from seqcourse.data.batching import BucketedBatches, TensorBatches, language_model_batches, pad, windows
from seqcourse.data.generated import moving_shapes, reviews, tagged_sentences, verse
from seqcourse.data.tokenisation import CharTokeniser, WordTokeniser
from seqcourse.metrics import accuracy, entity_f1
from seqcourse.models import (
    Forecaster,
    LanguageModel,
    NextFramePredictor,
    SequenceTagger,
    StreamLoss,
    TextClassifier,
)
from seqcourse.training import evaluate, fit


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def train(model, batches, **options):
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    return fit(model, batches, optimiser=optimiser, clip=1.0, device="cpu", **options)


@pytest.mark.parametrize(
    ("pooling", "recurrent", "target"),
    [("last", "lstm", 0.95), ("mean", "lstm", 0.9), ("max", "rnn", 0.95), ("attention", "gru", 0.95)],
)
def test_classifier_finds_the_judgement_in_a_review(pooling, recurrent, target):
    """Half of the reviews are positive; without negations at least 90 or 95 % are told apart."""
    data = reviews(1200, seed=0, negation=0.0)
    tokeniser = WordTokeniser.train([text for text, _ in data.train], max_vocabulary=400)

    def encode(pairs):
        return [(tokeniser.encode(text), label) for text, label in pairs]

    model = TextClassifier(len(tokeniser), 16, 24, 2, recurrent, pooling, pad_id=tokeniser.pad_id)
    train(model, BucketedBatches(encode(data.train), 16, pad_id=tokeniser.pad_id), epochs=8)
    test = pad([ids for ids, _ in encode(data.test)], tokeniser.pad_id)
    labels = torch.tensor([label for _, label in data.test])
    assert 0.4 < labels.float().mean() < 0.6
    assert accuracy(model(test.tokens, test.lengths), labels) >= target


def test_tagger_finds_names():
    """Entity F1 of at least 0.75 on unseen sentences; tagging everything O scores 0."""
    data = tagged_sentences(400, seed=0)
    tokeniser = WordTokeniser.train([" ".join(words) for words, _ in data.train], max_vocabulary=600)
    names = sorted({tag for _, tags in data.train for tag in tags})

    def ids(words):
        return [tokeniser.encode(word)[0] for word in words]

    examples = [(ids(words), [names.index(tag) for tag in tags]) for words, tags in data.train]
    model = SequenceTagger(len(tokeniser), 16, 24, len(names), pad_id=tokeniser.pad_id)
    train(model, BucketedBatches(examples, 16, pad_id=tokeniser.pad_id), epochs=6)
    test = pad([ids(words) for words, _ in data.test], tokeniser.pad_id)
    predicted = [[names[i] for i in row] for row in model.predict(test.tokens, test.lengths)]
    assert entity_f1(predicted, [tags for _, tags in data.test]).f1 >= 0.75


def test_language_model_learns_verse():
    """At most 1.6 nats per character on unseen verse, where letter frequencies alone need more than 2.5."""
    data = verse(400, seed=0)
    tokeniser = CharTokeniser.train([data.train])
    ids = torch.tensor(tokeniser.encode(data.validation))
    frequencies = torch.bincount(torch.tensor(tokeniser.encode(data.train)), minlength=len(tokeniser)) + 1.0
    unigram = -(frequencies / frequencies.sum()).log()[ids].mean().item()
    assert unigram > 2.5
    model = LanguageModel(len(tokeniser), 16, 64, "gru")
    train(
        model, language_model_batches(tokeniser.encode(data.train), 8, 32), loss=StreamLoss(), max_steps=200
    )
    held_out = language_model_batches(ids, 8, 32)
    assert evaluate(model, held_out, loss=StreamLoss())["loss"] <= 1.6


@pytest.mark.parametrize(("strategy", "horizon"), [("direct", 1), ("direct", 4), ("recursive", 4)])
def test_forecaster_beats_persistence(strategy, horizon):
    """A tenth of persistence's squared error on the later part of a sum of two waves."""
    time = 0.3 * torch.arange(600)
    series = time.sin() + 0.5 * (0.37 * time).cos()
    cut = windows(series, length=20, horizon=horizon)
    model = Forecaster(1, 16, "gru", horizon, strategy=strategy, residual=True)
    train(model, TensorBatches(cut.inputs[:400], cut.targets[:400], batch_size=32), epochs=10)
    later, truth = cut.inputs[440:], cut.targets[440:]  # no window of these overlaps one of training
    with torch.no_grad():
        error = (model(later) - truth).square().mean()
    persistence = (later[:, -1] - truth).square().mean()
    assert error <= 0.1 * persistence


def test_next_frame_beats_copying_the_last():
    """At most 0.85 of the squared error of showing the last frame again, on unseen films."""
    films = moving_shapes(48, frames=8, size=16, seed=0, shapes=1).frames
    model = NextFramePredictor(1, 8, 5)
    train(model, TensorBatches(films[:40], batch_size=4), epochs=8)
    shown, following = films[40:, :-1], films[40:, 1:]
    with torch.no_grad():
        predicted = model(shown)[0].sigmoid()
    assert (predicted - following).square().mean() <= 0.85 * (shown - following).square().mean()
