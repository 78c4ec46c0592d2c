"""Counting instead of training: n-gram language models with Kneser-Ney smoothing.

The yardstick for a network on words. A table says how often each word followed each context of up to n - 1
words; smoothing gives some of that probability to what was never seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from seqcourse.data.tokenisation import Tokeniser

FALLBACK_DISCOUNT = 0.75  # where a text is too small to estimate one; Church & Gale (1991) found about this


class KneserNey:
    """An n-gram model: interpolated modified Kneser-Ney.

    The probability of a word w after a context c of n - 1 words is what its count leaves after a discount D,
    and, for the part that was taken off, the probability after the context without its oldest word, c':

        P_n(w | c) = (C_n(c w) - D) / C_n(c) + backoff(c) * P_{n-1}(w | c')

    C counts occurrences for the longest n-grams. For shorter ones it counts in how many different contexts,
    one word longer, the n-gram occurs: "Francisco" is frequent, but only after "San", so it is a bad guess
    elsewhere. Below the single words lies the uniform distribution, so no word has probability 0.

    Kneser & Ney (1995), Improved Backing-off for M-gram Language Modeling; interpolated, and with three
    discounts, as in Chen & Goodman (1999), An Empirical Study of Smoothing Techniques for Language Modeling,
    section 3.

    Args:
        texts: training texts as ids, 0 .. V - 1. Every token of each is predicted, also the first.
        vocabulary_size: V.
        order: n, at least 1; contexts have n - 1 words.
        begin_id: what stands before a text, as often as a context needs it; it is a context, not counted.
        discount: one D for all counts; by default three are estimated for each order, see :func:`discounts`.

    Raises:
        ValueError: if an argument is out of range, an id is outside the vocabulary, or there is no token.
    """

    def __init__(
        self,
        texts: Sequence[Sequence[int]],
        vocabulary_size: int,
        order: int = 5,
        begin_id: int = Tokeniser.begin_id,
        discount: float | None = None,
    ) -> None:
        if order < 1 or not 0 <= begin_id < vocabulary_size:
            raise ValueError(
                f"expected order of at least 1 and begin_id in 0 .. V - 1, got {order=}, {begin_id=}"
            )
        if discount is not None and not 0 < discount < 1:
            raise ValueError(f"expected a discount between 0 and 1, got {discount}")
        self.vocabulary_size, self.order, self.begin_id = vocabulary_size, order, begin_id
        places = [self._read(text) for text in texts]
        if not sum(len(words) for words, _ in places):
            raise ValueError("expected at least one token to count, got none")
        words, history = (np.concatenate(parts) for parts in zip(*places, strict=True))
        self._contexts, context = self._number_contexts(history)
        self._orders = self._count(words, context, discount)

    def _read(self, text: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The words of a text (T,), and for each the words before it, newest first (T, n - 1)."""
        words = np.asarray(text, dtype=np.int64)
        if words.ndim != 1 or (words.size and not 0 <= words.min() <= words.max() < self.vocabulary_size):
            raise ValueError(f"expected flat texts of ids in 0 .. {self.vocabulary_size - 1}")
        padded = np.concatenate([np.full(self.order - 1, self.begin_id), words])
        back = [padded[self.order - 2 - k :][: len(words)] for k in range(self.order - 1)]
        return words, np.stack(back, axis=1) if back else np.empty((len(words), 0), dtype=np.int64)

    def _number_contexts(self, history: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """Number the different contexts of each length; return their keys, and the longest one of each place.

        The key of a context is the number of the context without its oldest word, times V, plus that word.
        """
        keys, context = [], np.zeros(len(history), dtype=np.int64)  # number 0: the empty context
        for older in history.T:
            known, context = np.unique(context * self.vocabulary_size + older, return_inverse=True)
            keys.append(known)
        return keys, context

    def _count(self, words: np.ndarray, context: np.ndarray, discount: float | None) -> list[_Order]:
        """The tables from order 1 to n: occurrences of the longest n-grams, left neighbours of all others."""
        V = self.vocabulary_size
        grams, counts = np.unique(context * V + words, return_counts=True)
        orders = [_Order(grams, counts, V, discount)]
        for contexts in reversed(self._contexts):
            shorter = contexts[grams // V] // V
            grams, counts = np.unique(shorter * V + grams % V, return_counts=True)  # each left neighbour once
            orders.append(_Order(grams, counts, V, discount))
        return orders[::-1]

    def _probabilities(self, words: np.ndarray, history: np.ndarray) -> np.ndarray:
        """The formula of the class, from the shortest context to the longest. Shapes: as of `_read`; (T,)."""
        V, context = self.vocabulary_size, np.zeros(len(words), dtype=np.int64)
        p = np.full(len(words), 1 / V)
        for n, order in enumerate(self._orders):
            if n > 0:
                context = _find(self._contexts[n - 1], context * V + history[:, n - 1])  # -1 stays unknown
            gram = _find(order.grams, context * V + words)
            kept = np.where(gram >= 0, order.kept[gram], 0.0)
            p = np.where(context >= 0, kept + order.backoff[context] * p, p)
        return p

    def log_probabilities(self, text: Sequence[int]) -> np.ndarray:
        """Return the natural logarithm of the probability of each token of a text, after those before it.

        Shapes:
            text (T,); returns (T,), float64.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        return np.log(self._probabilities(*self._read(text)))

    def distribution(self, context: Sequence[int] = ()) -> np.ndarray:
        """Return the probability of each word after a text; it adds up to one.

        Shapes:
            context (any length); returns (V,), float64.

        Raises:
            ValueError: if an id is outside the vocabulary.
        """
        _, history = self._read([*context, 0])
        every_word = np.arange(self.vocabulary_size)
        return self._probabilities(every_word, np.repeat(history[-1:], len(every_word), axis=0))

    def perplexity(self, texts: Sequence[Sequence[int]]) -> float:
        """Return exp of all nats of all texts, divided by the number of all their tokens.

        Raises:
            ValueError: if there is no token, or an id is outside the vocabulary.
        """
        nats = [-self.log_probabilities(text) for text in texts]
        if not (tokens := sum(map(len, nats))):
            raise ValueError("expected at least one token to measure, got none")
        return math.exp(sum(each.sum() for each in nats) / tokens)

    def generate(self, prompt: Sequence[int], max_new: int, rng: np.random.Generator) -> Iterator[int]:
        """Continue a text, one token at a time, each drawn from :meth:`distribution`."""
        text = list(prompt)
        for _ in range(max_new):
            p = self.distribution(text[-self.order :])
            text.append(int(rng.choice(len(p), p=p / p.sum())))
            yield text[-1]


class _Order:
    """One order's table: the keys of its n-grams, sorted, what each keeps, and what each context gives away.

    The key of an n-gram is the number of its context times V plus its last word.
    """

    def __init__(self, grams: np.ndarray, counts: np.ndarray, V: int, discount: float | None) -> None:
        D = discounts(counts) if discount is None else np.array([0, discount, discount, discount])
        taken = D[np.minimum(counts, 3)]
        contexts = grams // V
        totals = np.bincount(contexts, counts)
        self.grams = grams
        self.kept = (counts - taken) / totals[contexts]
        self.backoff = np.bincount(contexts, taken) / totals


def discounts(counts: np.ndarray) -> np.ndarray:
    """Estimate what to take off a count of 1, of 2, and of 3 or more, from how many n-grams have each count.

    Chen & Goodman (1999), section 3, modified Kneser-Ney: with n_k n-grams of count k and
    Y = n_1 / (n_1 + 2 n_2), D_k = k - (k + 1) Y n_{k+1} / n_k. If a small text makes one of them senseless,
    Y for all three (Ney, Essen & Kneser 1994); if even Y is, 0.75.

    Returns:
        (4,): what is taken off counts of 0 (nothing), 1, 2, and 3 or more.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    Y = n[1] / (n[1] + 2 * n[2]) if n[1] and n[2] else FALLBACK_DISCOUNT
    D = [0.0] + [k - (k + 1) * Y * n[k + 1] / n[k] if n[k] else 0.0 for k in (1, 2, 3)]
    sensible = all(0 < D[k] < k for k in (1, 2, 3))
    return np.array(D if sensible else [0.0, Y, Y, Y])


def _find(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where each wanted key stands in the sorted keys, -1 if it does not."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)
