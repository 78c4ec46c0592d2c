"""The pre-training benchmark: what is taken over, what is frozen, what resumes; and the rule of C05."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seqcourse import records
from seqcourse.benchmarks import pretraining
from seqcourse.benchmarks.pretraining import (
    PLANS,
    STARTS,
    Piece,
    learning_rates,
    make_classifier,
    pretrain,
    run_plan,
    stream,
)
from seqcourse.benchmarks.sentiment import Part, make_corpus, train
from seqcourse.claims import verdict
from seqcourse.data.generated import reviews
from seqcourse.data.tokenisation import WordTokeniser
from seqcourse.models.language_model import LanguageModel
from seqcourse.records import Record

V, H = 30, 6
SIZES = replace(PLANS["smoke"].recipe, vocabulary_size=V, embedding_size=H, hidden_size=H, learning_rate=0.05)
PLAN = replace(PLANS["smoke"], recipe=SIZES, taken_rate=0.01)


@pytest.fixture
def language_model() -> LanguageModel:
    torch.manual_seed(3)
    return LanguageModel(V, H, H, "lstm", tie_weights=True)


def taken_from(language_model) -> dict:
    return {name: tensor.numpy() for name, tensor in language_model.state_dict().items()}


@pytest.mark.parametrize("start", STARTS)
def test_a_start_takes_its_parts_and_no_others(start, language_model):
    model, scratch = (
        make_classifier(name, taken_from(language_model), SIZES, seed=0) for name in (start, "from scratch")
    )
    same = {
        "embedding": torch.equal(model.embedding.words.weight, language_model.embedding.weight),
        "recurrent": all(
            torch.equal(a, b)
            for a, b in zip(model.recurrent.parameters(), language_model.recurrent.parameters(), strict=True)
        ),
    }
    assert {name for name, equal in same.items() if equal} == set(STARTS[start])
    assert all(
        torch.equal(a, b) for a, b in zip(model.head.parameters(), scratch.head.parameters(), strict=True)
    )


def test_what_is_taken_has_its_own_learning_rate_and_the_frozen_does_not_learn(language_model):
    weights = taken_from(language_model)
    model = make_classifier("pre-trained", weights, SIZES, seed=0)
    fresh, taken = learning_rates(model, "pre-trained", PLAN)
    everything = [*fresh["params"], *taken["params"]]
    assert taken["lr"] == 0.01 and "lr" not in fresh
    assert len(everything) == len(list(model.parameters())) == len({id(p) for p in everything})
    frozen = make_classifier("pre-trained and frozen", weights, SIZES, seed=0)
    groups = learning_rates(frozen, "pre-trained and frozen", PLAN)
    learning = {id(p) for p in groups[0]["params"]}
    names = {name for name, parameter in frozen.named_parameters() if id(parameter) in learning}
    assert names == {
        "head.1.weight",
        "head.1.bias",
        "embedding.pairs.weight",
    }  # without pairs, that is unused
    assert len(groups) == 1


def test_training_leaves_frozen_weights_as_they_were(language_model, monkeypatch):
    corpus = make_corpus(reviews(200))
    trained = []

    def kept(*args):
        trained.append(train(*args))
        return trained[-1]

    monkeypatch.setattr(pretraining, "train", kept)
    model = LanguageModel(V, H, H, "lstm", tie_weights=True)
    for start in ("pre-trained and frozen", "pre-trained"):
        piece = Piece(start, 60, 0)
        pretraining.classifier_predictions(corpus, piece, taken_from(model), PLAN, "cpu")
    frozen, free = (found.embedding.words.weight for found in trained)
    assert torch.equal(frozen, model.embedding.weight) and not torch.equal(free, model.embedding.weight)


def test_the_language_model_reads_the_training_reviews_and_nothing_else():
    ids = [torch.tensor(row, dtype=torch.int32) for row in ([4, 5, 6], [5], [7, 4])]
    part = Part(["", "", ""], ids, torch.tensor([0, 1, 0]))
    new_ids = torch.tensor([0, 1, 2, 3, 5, 4, 1, 6])
    end = WordTokeniser.end_id
    assert stream(part, new_ids).tolist() == [end, 5, 4, 1, end, 4, end, 6, 5]


def test_pretraining_teaches_the_language(tmp_path):
    corpus = make_corpus(reviews(400))
    longer = replace(PLAN, recipe=replace(SIZES, vocabulary_size=200), rate=0.02, batch_size=8)
    before, after = (
        pretraining.nats_per_word(
            pretrain(corpus, replace(longer, steps=steps), "cpu", False, tmp_path / str(steps)),
            corpus,
            longer,
        )
        for steps in (1, 150)
    )
    assert after < before - 1


def test_an_interrupted_run_resumes_and_measures_everything_once(tmp_path, monkeypatch):
    path, measure, measured = tmp_path / "pretraining.jsonl", pretraining.measure, []

    def interrupted(piece, **rest):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(piece.key)
        return measure(piece, **rest)

    monkeypatch.setattr(pretraining, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(PLANS["smoke"], 2, "cpu", True, path)
    monkeypatch.setattr(
        pretraining,
        "measure",
        lambda piece, **rest: (measured.append(piece.key), measure(piece, **rest))[1],
    )
    found = run_plan(PLANS["smoke"], 2, "cpu", True, path)
    assert len(measured) == len(set(measured)) == len(STARTS) * 2 * 2
    accuracies = records.find(found, metric="test accuracy by start")
    assert {r.protocol["start"] for r in accuracies} == set(STARTS)
    assert all(r.n == 2 and r.generated for r in accuracies)
    (nats,) = records.find(found, metric="nats per word")
    assert 0 < nats.mean < 10


# --- the rule


def accuracy(start: str, size: int, values) -> Record:
    about = {"model": "LSTM", "start": start, "labelled reviews": size}
    source = {"name": "toy", "generated": False}
    values = tuple(values)
    return Record(
        f"{start}/{size}",
        "C05",
        "test accuracy by start",
        "1",
        values,
        about,
        source,
        {},
        1,
        {},
        "c",
        1.0,
        "d",
    )


LOW, HIGH = (0.70, 0.71, 0.72), (0.80, 0.81, 0.82)


@pytest.mark.parametrize(
    ("few", "many", "expected"),
    [
        (HIGH, HIGH, "refuted"),
        (HIGH, LOW, "qualified"),
        (LOW, LOW, "confirmed"),
        ((0.60, 0.61, 0.62), LOW, "confirmed"),
        (HIGH[:2], HIGH, "not testable"),
    ],
)
def test_c05(few, many, expected):
    made = [accuracy("from scratch", size, LOW) for size in (100, 1_000)]
    made += [accuracy("pre-trained", 100, few), accuracy("pre-trained", 1_000, many)]
    assert verdict("C05", made).status == expected
