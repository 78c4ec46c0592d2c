"""Metrics against computations that share no code with them."""

from __future__ import annotations

import math
import random
import re

import pytest
import torch

from seqcourse.metrics import accuracy, bits_per_character, diebold_mariano, entities, entity_f1, perplexity


def test_perplexity_of_a_uniform_guess_is_the_number_of_choices():
    loss = torch.nn.functional.cross_entropy(torch.zeros(4, 27), torch.tensor([0, 5, 9, 26])).item()
    assert perplexity(loss) == pytest.approx(27, rel=1e-5)


def test_bits_per_character():
    assert bits_per_character(math.log(8)) == pytest.approx(3)
    assert bits_per_character(math.log(8), characters_per_token=1.5) == pytest.approx(2)


def test_accuracy_counts_real_steps():
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[0.0, 3.0, 1.0], [9.0, 0.0, 0.0]]])
    labels = torch.tensor([[0, 2], [0, 1]])
    mask = torch.tensor([[True, True], [True, False]])
    assert accuracy(logits, labels) == 0.5
    assert accuracy(logits, labels, mask) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"\(2, 2, 3\), \(2,\)"):
        accuracy(logits, labels[0])
    with pytest.raises(ValueError, match="at least one"):
        accuracy(logits, labels, torch.zeros_like(mask))


def test_entities_of_iob2():
    tags = ["B-PER", "I-PER", "O", "B-LOC", "B-LOC", "I-LOC", "I-ORG", "O", "I-PER"]
    assert entities(tags) == {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 6), ("ORG", 6, 7), ("PER", 8, 9)}
    assert entities([]) == entities(["O", "O"]) == set()


def entities_by_pattern(tags):
    """The same by a regular expression over the written-out tags: one letter and one digit per token."""
    kinds = {"PER": "p", "LOC": "l"}
    text = "".join("O." if tag == "O" else tag[0] + kinds[tag[2:]] for tag in tags)
    names = {letter: kind for kind, letter in kinds.items()}
    pattern = r"(?:B|I)p(?:Ip)*|(?:B|I)l(?:Il)*"
    return [(names[m.group()[1]], m.start() // 2, m.end() // 2) for m in re.finditer(pattern, text)]


def test_entity_f1_against_an_independent_count():
    rng = random.Random(3)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    true = [[rng.choice(tags) for _ in range(rng.randint(0, 9))] for _ in range(60)]
    guess = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in sentence] for sentence in true]
    found = [entities_by_pattern(s) for s in guess]
    wanted = [entities_by_pattern(s) for s in true]
    hits = sum(entity in w for f, w in zip(found, wanted, strict=True) for entity in f)
    missed, invented = sum(map(len, wanted)) - hits, sum(map(len, found)) - hits
    score = entity_f1(guess, true)
    assert hits > 0 and missed > 0 and invented > 0
    assert score.f1 == pytest.approx(2 * hits / (2 * hits + missed + invented))
    assert score.precision == pytest.approx(hits / (hits + invented))
    assert score.recall == pytest.approx(hits / (hits + missed))
    assert score.support == hits + missed


def test_entity_f1_of_nothing_is_zero_and_lengths_must_agree():
    assert entity_f1([["O"]], [["O"]]) == (0.0, 0.0, 0.0, 0)
    assert entity_f1([["B-A", "I-A"]], [["B-A", "O"]]).f1 == 0.0, "half an entity is none"
    with pytest.raises(ValueError, match="as many predicted"):
        entity_f1([["O"]], [["O", "O"]])


def test_diebold_mariano_is_a_t_test_of_the_loss_difference():
    generator = torch.Generator().manual_seed(0)
    errors, others = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    difference = (errors**2 - others**2).numpy()
    expected = difference.mean() / (difference.std(ddof=1) / math.sqrt(40))
    found = diebold_mariano(errors, others)
    assert found.statistic == pytest.approx(expected)
    assert diebold_mariano(others, errors) == pytest.approx((-expected, found.p_value))
    assert diebold_mariano(errors, 10 * errors).p_value < 1e-4 < 0.01 < found.p_value


def test_diebold_mariano_never_has_a_negative_p_value():
    errors, others = torch.randn(2, 260, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for n in range(200, 260):  # at each n the coverage near 1 is rounded in its own way
        assert 0 <= diebold_mariano(errors[:n] + 250, others[:n]).p_value < 1e-9


def test_diebold_mariano_names_what_does_not_fit():
    with pytest.raises(ValueError, match=r"the same steps.*\(3,\), \(4,\)"):
        diebold_mariano(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="nothing to test"):
        diebold_mariano(torch.ones(3), torch.ones(3))
