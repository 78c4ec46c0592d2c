"""The Kneser-Ney model: a true distribution after any context, a hand-worked case, and a slow twin."""

from __future__ import annotations

import math
import time
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from seqcourse.ngrams import KneserNey, discounts

V = 7


@pytest.fixture
def texts() -> list[list[int]]:
    """Random texts with some order in them: a word tends to follow the one before it by 1 or 2."""
    rng = np.random.default_rng(3)
    return [(np.cumsum(rng.choice([1, 1, 2, 5], size=length)) % V).tolist() for length in (90, 40, 1, 0)]


class SlowTwin:
    """The formula with dictionaries of tuples, straight from Chen & Goodman: recursion, and no numbering."""

    def __init__(self, texts, order, begin, discount=None):
        self.order, self.begin = order, begin
        counts = Counter()
        for text in texts:
            padded = [begin] * (order - 1) + list(text)
            counts.update(tuple(padded[i : i + order]) for i in range(len(text)))
        self.counts = {order: counts}
        for n in range(order - 1, 0, -1):  # different words before the n-gram
            self.counts[n] = Counter(gram[1:] for gram in self.counts[n + 1])
        self.D = {n: self.estimate(c.values(), discount) for n, c in self.counts.items()}

    @staticmethod
    def estimate(counts, discount):
        if discount is not None:
            return [0, discount, discount, discount]
        n1, n2, n3, n4 = (sum(c == k for c in counts) for k in (1, 2, 3, 4))
        Y = n1 / (n1 + 2 * n2) if n1 and n2 else 0.75
        if not (n1 and n2 and n3):
            return [0, Y, Y, Y]
        D = [0, 1 - 2 * Y * n2 / n1, 2 - 3 * Y * n3 / n2, 3 - 4 * Y * n4 / n3]
        return D if all(0 < D[k] < k for k in (1, 2, 3)) else [0, Y, Y, Y]

    def probability(self, word, context):
        n = len(context) + 1
        shorter = self.probability(word, context[1:]) if n > 1 else 1 / V
        following = {gram[-1]: c for gram, c in self.counts[n].items() if gram[:-1] == context}
        if not following:
            return shorter
        taken = {w: self.D[n][min(c, 3)] for w, c in following.items()}
        kept = following.get(word, 0) - taken.get(word, 0)
        return (kept + sum(taken.values()) * shorter) / sum(following.values())


def contexts(length: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(length)
    return [tuple(rng.integers(0, V, size=length).tolist()) for _ in range(20)] + [(2,) * length]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("discount", [None, 0.4])
def test_after_any_context_it_is_a_distribution_without_zeros(texts, order, discount):
    model = KneserNey(texts, V, order, discount=discount)
    for context in contexts(order + 1):  # seen and unseen ones
        p = model.distribution(context)
        assert p.shape == (V,) and p.dtype == np.float64 and p.min() > 0
        assert abs(p.sum() - 1) < 1e-12


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("discount", [None, 0.4])
def test_equals_the_slow_formula(texts, order, discount):
    model, slow = KneserNey(texts, V, order, discount=discount), SlowTwin(texts, order, 2, discount)
    for context in contexts(order - 1):
        expected = [slow.probability(word, context) for word in range(V)]
        np.testing.assert_allclose(model.distribution(context), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_log_probabilities_of_a_text_are_those_of_its_words_after_each_beginning(texts, order):
    model, text = KneserNey(texts, V, order), [3, 4, 6, 0, 2, 2, 5]
    expected = [math.log(model.distribution(text[:i])[word]) for i, word in enumerate(text)]
    np.testing.assert_allclose(model.log_probabilities(text), expected, rtol=0, atol=1e-12)


def test_a_bigram_model_worked_by_hand():
    """Text: 0 1 0 1 2 (begin = 3), D = 1/2, V = 4.

    Bigrams: 30 once, 01 twice, 10 once, 12 once. Left neighbours: of 0 two (3 and 1), of 1 one, of 2 one.
    Single words: P(1) = (1 - 1/2) / 4 + (3/2) / 4 * 1/4, as 3 discounts were taken from a total of 4.
    """
    model = KneserNey([[0, 1, 0, 1, 2]], 4, order=2, begin_id=3, discount=0.5)
    half, quarter = Fraction(1, 2), Fraction(1, 4)
    given_away = Fraction(3, 2) / 4
    single = [
        (neighbours - half) / 4 + given_away * quarter if neighbours else given_away * quarter
        for neighbours in (2, 1, 1, 0)
    ]
    after_0 = [quarter * p for p in single]  # one kind of bigram, seen twice: it gives away 1/2 of 2
    after_0[1] += (2 - half) / 2
    after_1 = [half * p for p in single]  # two kinds, seen once each: they give away 2 * 1/2 of 2
    after_1[0] += quarter
    after_1[2] += quarter
    for context, expected in {0: after_0, 1: after_1, 2: single}.items():
        assert sum(expected) == 1
        np.testing.assert_allclose(
            model.distribution([context]), [float(p) for p in expected], rtol=0, atol=1e-15
        )


def test_san_francisco():
    """A word that is frequent but follows one word only is a bad guess after an unseen context."""
    san, francisco, other, begin = 0, 1, 2, 3
    text = [san, francisco] * 20 + [other, san, other, other, begin, other]
    model = KneserNey([text], 5, order=2, begin_id=begin)
    unseen = model.distribution([4])
    assert text.count(francisco) > text.count(other) and unseen[francisco] < unseen[other]


def test_where_everything_is_equally_likely_perplexity_is_the_size_of_the_vocabulary():
    every_pair_once = [0, 1, 1, 2, 1, 3, 2, 2, 3, 3, 1, 0, 2, 0, 3, 0]  # after the begin_id 0: all 16 pairs
    pairs = set(zip([0, *every_pair_once], every_pair_once, strict=False))
    assert len(pairs) == 16
    for discount in (None, 0.3):
        model = KneserNey([every_pair_once], 4, order=2, begin_id=0, discount=discount)
        assert model.perplexity([every_pair_once, [2, 2]]) == pytest.approx(4, abs=1e-12)


def test_perplexity_counts_tokens_and_not_texts(texts):
    model, long, short = KneserNey(texts, V), [1, 2, 3, 4, 5, 6, 0, 1, 2], [6]
    nats = [-model.log_probabilities(text).sum() for text in (long, short)]
    assert model.perplexity([long, short]) == pytest.approx(math.exp(sum(nats) / 10))
    assert model.perplexity([long, short]) != pytest.approx(math.exp((nats[0] / 9 + nats[1]) / 2), rel=0.01)


def test_the_discounts_of_a_known_table():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 10, 4, 2, 5])
    Y = 40 / 60
    expected = [0, 1 - 2 * Y * 10 / 40, 2 - 3 * Y * 4 / 10, 3 - 4 * Y * 2 / 4]
    np.testing.assert_allclose(discounts(counts), expected)
    np.testing.assert_allclose(discounts(np.array([1, 1, 2])), [0, 0.5, 0.5, 0.5])  # no count of 3
    np.testing.assert_allclose(discounts(np.array([2, 2, 3])), [0, 0.75, 0.75, 0.75])


def test_a_longer_context_helps_where_the_text_has_long_memory():
    """Period 6 with one word in three the same: two words do not say where one is, three do."""
    text = [0, 1, 2, 0, 1, 3] * 30
    perplexities = [KneserNey([text], V, order).perplexity([text]) for order in (1, 2, 3, 4)]
    assert perplexities == sorted(perplexities, reverse=True) and perplexities[-1] < 1.1


def test_it_writes_what_it_has_read():
    text = [0, 1, 2, 3] * 50
    model = KneserNey([text], V, order=3)
    written = list(model.generate([0, 1], 40, np.random.default_rng(0)))
    assert len(written) == 40 and written[:2] == [2, 3]
    assert written == list(model.generate([0, 1], 40, np.random.default_rng(0)))
    first = list(KneserNey([[5] * 9], V, order=3).generate([], 1, np.random.default_rng(0)))
    assert len(first) == 1


def test_errors_say_what_was_expected(texts):
    with pytest.raises(ValueError, match="order of at least 1"):
        KneserNey(texts, V, order=0)
    with pytest.raises(ValueError, match="begin_id"):
        KneserNey(texts, V, begin_id=V)
    with pytest.raises(ValueError, match="between 0 and 1"):
        KneserNey(texts, V, discount=1.0)
    with pytest.raises(ValueError, match=r"ids in 0 \.\. 6"):
        KneserNey([[0, V]], V)
    with pytest.raises(ValueError, match=r"ids in 0 \.\. 6"):
        KneserNey(texts, V).log_probabilities([-1])
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="at least one token"):
            KneserNey(nothing, V)
        with pytest.raises(ValueError, match="at least one token"):
            KneserNey(texts, V).perplexity(nothing)


def test_a_million_tokens_take_seconds():
    rng = np.random.default_rng(0)
    ranks = np.minimum(rng.zipf(1.3, size=1_000_000), 5_000) - 1
    started = time.perf_counter()
    model = KneserNey([ranks.tolist()], 5_000)
    assert len(model.log_probabilities(ranks[:100_000].tolist())) == 100_000
    assert time.perf_counter() - started < 30  # a laptop's core needs about a tenth of that
