"""The sentiment benchmark: nothing of the test is seen before the test, runs resume, rules are driven by records."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from seqcourse import records
from seqcourse.benchmarks import memory, sentiment
from seqcourse.benchmarks.sentiment import (
    FLOORS,
    NETWORKS,
    PAD,
    PLANS,
    UNKNOWN,
    Corpus,
    PairEmbedding,
    Part,
    Piece,
    draw,
    frequent_pairs,
    frequent_words,
    make_corpus,
    make_network,
    prepare,
    run_plan,
    set_aside,
    shorten,
)
from seqcourse.claims import verdict
from seqcourse.data.generated import reviews
from seqcourse.data.source import Source
from seqcourse.data.types import Reviews
from seqcourse.records import Record

TINY = PLANS["smoke"].recipes["LSTM"]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(reviews(400))


# --- reviews as numbers


def test_both_parts_are_encoded_with_the_words_of_training(corpus):
    train = [("A fine film.<br />Fine!", 1), ("dull", 0)]
    source = Source("toy", True, "", "", "")
    small = make_corpus(Reviews(train, [("an odd film", 0), ("...", 1), ("", 0)], source))
    fine = small.train.ids[0][1]
    assert small.train.ids[0].tolist().count(fine) == 2 and len(small.train.ids[0]) == 6
    assert small.test.ids[0].tolist()[:2] == [UNKNOWN, UNKNOWN] and small.test.ids[2].tolist() == [UNKNOWN]
    assert small.test.labels.tolist() == [0, 1, 0]
    assert corpus.words > max(int(ids.max()) for part in (corpus.train, corpus.test) for ids in part.ids)


def test_reviews_set_aside_come_from_training_and_are_taken_out_of_it(corpus):
    aside = set_aside(corpus, 50)
    assert (len(aside.train), len(aside.test)) == (150, 50)
    assert sorted(aside.train.texts + aside.test.texts) == sorted(corpus.train.texts)


@pytest.mark.parametrize(("size", "held_out"), [(30, 10), (150, 50), (200, 50)])
def test_a_draw_splits_in_two_and_depends_on_the_seed(corpus, size, held_out):
    numbered = replace(corpus.train, texts=[str(i) for i in range(len(corpus.train))])
    learned, choosing = draw(numbered, size, seed=1)
    assert (len(learned), len(choosing)) == (size - held_out, held_out)
    drawn = set(learned.texts) | set(choosing.texts)
    assert len(drawn) == size
    assert draw(numbered, size, 1)[0].texts == learned.texts != draw(numbered, size, 2)[0].texts


def part(*ids: list[int]) -> Part:
    return Part(
        ["x"] * len(ids), [torch.tensor(each, dtype=torch.int32) for each in ids], torch.zeros(len(ids))
    )


def test_a_vocabulary_keeps_frequent_words_only():
    recipe = replace(TINY, vocabulary_size=6, min_count=2)
    new_ids = frequent_words(part([7, 7, 7, 8, 8, 9], [9, 9, 9, 6, UNKNOWN, UNKNOWN]), 11, recipe)
    assert new_ids.tolist() == [1, 1, 1, 1, 1, 1, 1, 5, 1, 4, 1]
    fewer = frequent_words(part([7, 7, 8]), 11, replace(recipe, vocabulary_size=9))
    assert fewer.tolist() == [1] * 7 + [4] + [1] * 3


def test_long_reviews_keep_their_two_ends():
    assert shorten(torch.arange(9), 5, 2).tolist() == [0, 1, 6, 7, 8]
    assert shorten(torch.arange(9), 5, 5).tolist() == [0, 1, 2, 3, 4]
    assert shorten(torch.arange(9), 5, 0).tolist() == [4, 5, 6, 7, 8]
    assert shorten(torch.arange(4), 5, 2).tolist() == [0, 1, 2, 3]


def test_nothing_of_the_test_is_seen_in_preparing(corpus):
    """With another test part and other held-out texts, words, pairs, weights and batches are the same."""
    strange = Part(
        ["x"] * 9, [torch.tensor([9, 8, 7], dtype=torch.int32)] * 9, torch.zeros(9, dtype=torch.long)
    )
    one, other = (prepare(each, "LSTM", 90, 0, TINY) for each in (corpus, replace(corpus, test=strange)))
    assert torch.equal(one.new_ids, other.new_ids)
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(one.batches, other.batches, strict=True):
        assert torch.equal(a.tokens, b.tokens) and torch.equal(a.labels, b.labels)
    learned, _ = draw(corpus.train, 90, 0)
    held_out = set(range(corpus.words)) - set(torch.cat(learned.ids).tolist())
    assert held_out and all(one.new_ids[i] == UNKNOWN for i in held_out)


# --- words and pairs


def test_pairs_are_found_and_counted():
    sequences = [torch.tensor([4, 5, 4, 5]), torch.tensor([5, 4]), torch.tensor([6, 6])]
    assert frequent_pairs(sequences, 10, 9, 2).tolist() == [45, 54]
    assert frequent_pairs(sequences, 10, 9, 1).tolist() == [45, 54, 66]
    assert len(frequent_pairs(sequences, 10, 0, 1)) == 0
    assert len(frequent_pairs(sequences, 10, 2, 1)) == 2


def test_a_word_is_embedded_with_the_pair_before_it():
    embedding = PairEmbedding(10, 3, torch.tensor([45, 66]), 0.0)
    tokens = torch.tensor([[4, 5, 4, 6, 6], [5, 5, 6, PAD, PAD]])
    assert embedding.pair_ids(tokens).tolist() == [[0, 1, 0, 0, 2], [0, 0, 0, 0, 0]]
    words, pairs = embedding.words.weight, embedding.pairs.weight
    found = embedding(tokens)
    torch.testing.assert_close(found[0, 1], words[5] + pairs[1])
    torch.testing.assert_close(found[0, 2], words[4])
    assert not found[1, 3:].any()
    assert torch.equal(
        PairEmbedding(10, 3, torch.tensor([]), 0.0)(tokens) == 0, (tokens == PAD)[..., None].expand(-1, -1, 3)
    )


def test_words_are_dropped_in_training_only():
    embedding = PairEmbedding(10, 3, torch.empty(0, dtype=torch.long), 0.5)
    tokens = torch.tensor([[4] * 400 + [PAD] * 50])
    torch.manual_seed(0)
    unknown = (embedding(tokens) == embedding.words.weight[UNKNOWN]).all(dim=2)
    assert 140 < unknown[0, :400].sum() < 260 and not unknown[0, 400:].any()
    assert not (embedding.eval()(tokens) == embedding.words.weight[UNKNOWN]).all(dim=2).any()


def test_a_feature_is_dropped_for_a_whole_review_and_in_training_only():
    embedding = PairEmbedding(10, 400, torch.tensor([45]), 0.0, dropout=0.5)
    tokens = torch.tensor([[4, 5, 6], [4, 5, 6]])
    torch.manual_seed(0)
    dropped = embedding(tokens) == 0  # (B, T, D)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert 140 < dropped[0, 0].sum() < 260 and not torch.equal(dropped[0], dropped[1])
    assert not (embedding.eval()(tokens) == 0).any()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_reads_pairs_and_ignores_padding(name):
    recipe = replace(PLANS["smoke"].recipes[name], dropout=0.0)
    model = make_network(name, recipe, 20, torch.tensor([4 * 20 + 5]), seed=0).eval()
    other = make_network(name, recipe, 20, torch.tensor([4 * 20 + 5]), seed=0).eval()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    tokens = torch.tensor([[4, 5, 6]])
    padded = torch.cat([tokens, torch.tensor([[PAD, PAD]])], dim=1)
    torch.testing.assert_close(model(tokens), model(padded, torch.tensor([3])))
    embedding = next(module for module in model.modules() if isinstance(module, PairEmbedding))
    before = model(tokens)
    nn.init.constant_(embedding.pairs.weight, 1.0)
    assert not torch.allclose(model(tokens), before)


def test_reviews_are_predicted_in_their_order():
    class Odd(nn.Module):
        """Says 1 for a text of an odd first word, read without its padding."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def predict(self, tokens, lengths):
            assert torch.equal(lengths, (tokens != PAD).sum(dim=1))
            return tokens[:, 0] % 2

    sequences = [torch.full((length,), 4 + length % 3) for length in (5, 1, 9, 3, 2, 8, 7, 4)]
    expected = [length % 3 % 2 for length in (5, 1, 9, 3, 2, 8, 7, 4)]
    assert sentiment.predict(Odd(), sequences, batch_size=3).tolist() == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize(
    ("name", "right", "counted"), [("bag of words", 0.5, 4), ("bag of words and pairs", 1.0, 9)]
)
def test_only_pairs_tell_reviews_of_the_same_words_apart(name, right, counted):
    kinds = ("bad, not good", "good, not bad")
    written = [(f"{kinds[i % 2]} {i}", i % 2) for i in range(80)]
    corpus = make_corpus(Reviews(written[:40], written[40:], Source("toy", True, "")))
    predicted, parameters = sentiment.floor_predictions(corpus, name, 40, 0)
    assert (predicted == corpus.test.labels).double().mean() == right
    assert parameters == counted + 1  # one weight each, and a bias; numbers occur once and are left out


# --- the benchmark


def test_pieces_hold_each_run_once_and_only_what_the_data_allow():
    plan = PLANS["laptop"]
    chosen = sentiment.pieces(plan, 25_000, 5)
    assert len({piece.key for piece in chosen}) == len(chosen)
    count = lambda **wanted: sum(all(getattr(p, k) == v for k, v in wanted.items()) for p in chosen)  # noqa: E731
    assert count(model="LSTM", change="") == 20
    assert count(model="bag of words", size=25_000) == 1 and count(model="bag of words", size=250) == 5
    assert count(model="GRU", size=25_000) == 5 and count(model="GRU", size=250) == 0  # no curve
    assert {piece.size for piece in chosen if piece.change} == {20_000}
    assert {piece.size for piece in sentiment.pieces(plan, 2_000, 1) if not piece.change} == {250, 1_000}


def tiny_plan(**changes) -> sentiment.Plan:
    return replace(PLANS["smoke"], sizes=(60,), tested=24, **changes)


def test_an_interrupted_run_resumes_and_measures_everything_once(tmp_path, monkeypatch):
    path, measure, measured = tmp_path / "sentiment.jsonl", sentiment.measure, []

    def interrupted(piece, *rest):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(piece.key)
        return measure(piece, *rest)

    monkeypatch.setattr(sentiment, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_plan(tiny_plan(), 2, "cpu", True, path)
    monkeypatch.setattr(
        sentiment, "measure", lambda piece, *rest: (measured.append(piece.key), measure(piece, *rest))[1]
    )
    found = run_plan(tiny_plan(), 2, "cpu", True, path)
    assert len(measured) == len(set(measured))
    curves = records.find(found, metric="test accuracy")
    assert {r.protocol["model"] for r in curves} == {*FLOORS, *NETWORKS}
    assert all(r.n == 2 and r.generated and min(r.values) >= 0 for r in curves)
    assert len(records.find(found, metric="test accuracy on new texts")) == len(curves)
    ablation = records.find(found, metric="development accuracy")
    assert {r.protocol["change"] for r in ablation} == {"as it is", "maximum over time"}
    assert all(not r.claims and "set aside" in r.protocol["measured on"] for r in ablation)
    (time,) = records.find(found, metric="time of a training step, LSTM over RNN")
    assert time.n == 3 and min(time.values) > 0
    if memory.method("cpu"):
        (peak,) = records.find(found, metric="peak memory of training, LSTM over RNN")
        assert peak.values[0] == peak.protocol["peak bytes"]["LSTM"] / peak.protocol["peak bytes"]["RNN"]


def test_worker_processes_give_the_same_results(tmp_path):
    one, two = (
        run_plan(tiny_plan(curves=(), workers=workers), 1, "cpu", False, tmp_path / f"{workers}.jsonl")
        for workers in (1, 2)
    )
    compared = [(a.name, a.values, b.values) for a, b in zip(one, two, strict=True) if "accuracy" in a.metric]
    assert {name.split("/")[1] for name, *_ in compared} == {*FLOORS, *NETWORKS, "ablation"}
    assert all(values == others for _, values, others in compared)


def test_texts_of_both_parts_are_counted_and_left_out():
    ids = [torch.tensor([4], dtype=torch.int32)] * 4
    labels = torch.tensor([0, 1, 0, 1])
    both = Corpus(Part(list("abcd"), ids, labels), Part(list("axbb"), ids, labels), 9)
    assert sentiment.is_known(both).tolist() == [True, False, True, True]


def test_accuracy_on_new_texts_leaves_out_known_ones(monkeypatch):
    ids, labels = [torch.tensor([4], dtype=torch.int32)] * 4, torch.tensor([0, 1, 0, 1])
    both = Corpus(Part(list("abcd"), ids, labels), Part(list("axby"), ids, labels), 9)
    monkeypatch.setattr(sentiment, "floor_predictions", lambda *_: (torch.tensor([0, 1, 0, 0]), 1))
    result = sentiment.measure(Piece("bag of words", 4, 0), tiny_plan(), both, "cpu")
    assert (result["accuracy"], result["accuracy on new texts"]) == (0.75, 0.5)


# --- rules


def scored(model: str, values, size: int = 25_000, claim: str = "N01 N09 C04") -> Record:
    about = {"model": model, "training reviews": size, "task": "sentiment"}
    source = {"name": "toy", "generated": False}
    name = f"{model}/{size}"
    return Record(name, claim, "test accuracy", "1", tuple(values), about, source, {}, 1, {}, "c", 1.0, "d")


@pytest.mark.parametrize(
    ("rnn", "lstm", "expected"),
    [
        ((0.871, 0.872, 0.873), (0.917, 0.918, 0.919), "confirmed"),
        ((0.885, 0.886, 0.887), (0.917, 0.918, 0.919), "qualified"),  # a better RNN
        ((0.885, 0.886, 0.887), (0.885, 0.886, 0.887), "refuted"),
        ((0.871, 0.872), (0.917, 0.918), "not testable"),  # two runs are not enough
    ],
)
def test_n01(rnn, lstm, expected):
    assert verdict("N01", [scored("RNN", rnn), scored("LSTM", lstm)]).status == expected


def test_n01_is_about_all_training_reviews():
    smaller = [scored(model, (0.8, 0.81, 0.82), size=5_000) for model in ("RNN", "LSTM")]
    assert verdict("N01", smaller).status == "not testable"


@pytest.mark.parametrize(
    ("time", "peak", "expected"),
    [
        ((3.3, 3.4, 3.2), (4.1,), "confirmed"),
        ((1.4, 1.4, 1.5), (1.2,), "qualified"),  # more, but far from as much
        ((1.0, 1.0, 0.9), (1.0,), "refuted"),
    ],
)
def test_n02(time, peak, expected):
    made = [
        replace(scored("LSTM", values, claim="N02"), name=what, metric=f"{what}, LSTM over RNN")
        for what, values in (("time of a training step", time), ("peak memory of training", peak))
    ]
    assert verdict("N02", made).status == expected
    assert verdict("N02", made[:1]).status == "not testable"


@pytest.mark.parametrize(
    ("rnn", "lstm", "expected"),
    [
        ((0.80, 0.81, 0.82), (0.70, 0.71, 0.72), "confirmed"),
        ((0.75, 0.81, 0.82), (0.70, 0.79, 0.80), "qualified"),
        ((0.70, 0.71, 0.72), (0.70, 0.72, 0.73), "refuted"),
        ((0.80, 0.81), (0.70, 0.71), "not testable"),
    ],
)
def test_n09(rnn, lstm, expected):
    assert verdict("N09", [scored("RNN", rnn, 1_000), scored("LSTM", lstm, 1_000)]).status == expected
    assert verdict("N09", [scored("RNN", rnn, 250), scored("LSTM", lstm, 250)]).status == "not testable"


@pytest.mark.parametrize(
    ("transformer", "expected", "crossover"),
    [
        (((0.70, 0.71, 0.72), (0.93, 0.94, 0.95)), "confirmed", "from 25,000 on"),
        (((0.91, 0.92, 0.93), (0.93, 0.94, 0.95)), "qualified", "at every size"),  # ahead, but ever less
        (((0.60, 0.61, 0.62), (0.85, 0.86, 0.87)), "qualified", "at no size"),  # behind, but ever less
        (((0.75, 0.76, 0.77), (0.70, 0.71, 0.72)), "refuted", "at no size"),
    ],
)
def test_c04(transformer, expected, crossover):
    lstm = [scored("LSTM", (0.75, 0.76, 0.77), 250), scored("LSTM", (0.88, 0.89, 0.90))]
    curve = [
        scored("Transformer", values, size) for values, size in zip(transformer, (250, 25_000), strict=True)
    ]
    found = verdict("C04", lstm + curve)
    assert found.status == expected and crossover in found.reason
    assert verdict("C04", lstm + curve[:1]).status == "not testable"
