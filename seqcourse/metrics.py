"""Figures that say how good a model is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from seqcourse.records import t_coverage


def perplexity(loss: float) -> float:
    """Turn a mean cross-entropy in nats per token into perplexity: the number of equal choices as unsure."""
    return math.exp(loss)


def bits_per_character(loss: float, characters_per_token: float = 1.0) -> float:
    """Turn a mean cross-entropy in nats per token into bits per character.

    Args:
        loss: nats per token.
        characters_per_token: mean length of a token; 1 for a character model.
    """
    return loss / math.log(2) / characters_per_token


def accuracy(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> float:
    """Return the share of correct classes, over the real steps if a mask is given.

    Shapes:
        logits (..., K), labels (...), mask (...) bool.

    Raises:
        ValueError: if the shapes do not agree, or nothing is left to count.
    """
    if logits.shape[:-1] != labels.shape or (mask is not None and mask.shape != labels.shape):
        given = [tuple(tensor.shape) for tensor in (logits, labels, mask) if tensor is not None]
        raise ValueError(f"expected logits (..., K), labels (...) and mask (...), got shapes {given}")
    correct = logits.argmax(dim=-1) == labels
    correct = correct if mask is None else correct[mask]
    if correct.numel() == 0:
        raise ValueError("expected at least one label, got none")
    return correct.float().mean().item()


class DieboldMariano(NamedTuple):
    """Whether two forecasters differ: the statistic (negative if the first is better) and its p-value."""

    statistic: float
    p_value: float


def diebold_mariano(errors: Tensor, other_errors: Tensor) -> DieboldMariano:
    """Test whether two one-step forecasts have the same mean squared error.

    Diebold & Mariano (1995), Comparing Predictive Accuracy, with the small-sample correction of Harvey,
    Leybourne & Newbold (1997) for a horizon of one step, at which loss differences are taken as uncorrelated.

    Shapes:
        both (n,): the errors of the same steps.

    Raises:
        ValueError: if the shapes differ, there are fewer than two steps, or the forecasts have equal losses
            at every step.
    """
    if errors.shape != other_errors.shape or errors.ndim != 1 or len(errors) < 2:
        shapes = [tuple(e.shape) for e in (errors, other_errors)]
        raise ValueError(f"expected the errors of the same steps, (n,) with n of at least 2, got {shapes}")
    difference = errors.double() ** 2 - other_errors.double() ** 2
    n, deviation = len(difference), difference.std(correction=0)
    if deviation == 0:
        raise ValueError("the losses differ by the same amount at every step: there is nothing to test")
    statistic = (difference.mean() / deviation * math.sqrt(n) * math.sqrt((n - 1) / n)).item()
    p_value = max(0.0, 1 - t_coverage(abs(statistic), n - 1))  # rounding may give a coverage above 1
    return DieboldMariano(statistic, p_value)


class EntityScore(NamedTuple):
    """Precision, recall and F1 over whole entities, and how many there are in truth."""

    precision: float
    recall: float
    f1: float
    support: int


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Find the entities in a sequence of IOB2 tags, as (type, first token, token after the last).

    Like the CoNLL-2000 evaluation script, a stray I- tag starts an entity too.
    """
    found = set()
    start, kind = 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, this_kind = tag.partition("-")
        continues = prefix == "I" and this_kind == kind
        if kind and not continues:
            found.add((kind, start, position))
        if not continues:
            start, kind = position, this_kind  # "" after O
    return found


def entity_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> EntityScore:
    """Score predicted tags by whole entities: type and both ends have to be right.

    Tjong Kim Sang & De Meulder (2003), CoNLL-2003, micro-averaged over all types.

    Raises:
        ValueError: if there are not as many predicted tags as true ones.
    """
    if [len(tags) for tags in predicted] != [len(tags) for tags in true]:
        raise ValueError("expected as many predicted as true tags in every sentence; was padding cut off?")
    pairs = [(entities(guess), entities(truth)) for guess, truth in zip(predicted, true, strict=True)]
    hits = sum(len(guess & truth) for guess, truth in pairs)
    guessed, support = (sum(len(pair[side]) for pair in pairs) for side in (0, 1))
    precision = hits / guessed if guessed else 0.0
    recall = hits / support if support else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return EntityScore(precision, recall, f1, support)
