"""Sentence pairs: sides stay together, padding is told apart, each pair once an epoch, epochs resume."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqcourse.data.pairs import PairBatch, PairBatches, encode_pairs, pair_batch
from seqcourse.data.tokenisation import BEGIN, END, WordTokeniser
from seqcourse.engine import map_tensors
from seqcourse.training import fit

quick = settings(max_examples=50, deadline=None)
PAD = 0


def pairs(n: int = 61, longest: int = 9) -> list[tuple[list[int], list[int]]]:
    """Pairs that can be told apart: pair i repeats i + 4 on both sides, with begin 2 and end 3."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest + 1, (n, 2), generator=generator).tolist()
    return [([i + 4] * s, [2, *[i + 4] * t, 3]) for i, (s, t) in enumerate(lengths)]


def rows(batch: PairBatch) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The pairs of a batch without padding, as the lengths tell it."""
    sides = zip(batch.source, batch.source_lengths, batch.target, batch.target_lengths, strict=True)
    return [(tuple(s[:n].tolist()), tuple(t[:m].tolist())) for s, n, t, m in sides]


def frozen(some):
    return [(tuple(source), tuple(target)) for source, target in some]


# --- one batch


def test_a_batch_pads_each_side_to_its_own_longest():
    batch = pair_batch([([5, 6, 7], [2, 8, 3]), ([9], [2, 10, 11, 12, 3])], pad_id=1)
    assert batch.source.tolist() == [[5, 6, 7], [9, 1, 1]]
    assert batch.target.tolist() == [[2, 8, 3, 1, 1], [2, 10, 11, 12, 3]]
    assert batch.source_lengths.tolist() == [3, 1] and batch.target_lengths.tolist() == [3, 5]
    assert len(batch) == 2 and batch.target_tokens == 6  # 8 and end; 10, 11, 12 and end


def test_to_and_map_tensors_reach_every_tensor():
    batch = pair_batch(pairs(3))
    for moved in (batch.to("meta"), map_tensors(lambda tensor: tensor.to("meta"), batch)):
        assert isinstance(moved, PairBatch)
        assert {t.device.type for t in vars(moved).values()} == {"meta"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "at least one sequence"),
        ([([], [2, 3])], "sequence 0 of 1 is empty"),
        ([([4], [2, 3]), ([4], [2])], r"pair 1: expected a target from its begin token.*got \[2\]"),
    ],
)
def test_what_is_wrong_with_a_pair_is_said_at_once(wrong, message):
    with pytest.raises(ValueError, match=message):
        pair_batch(wrong)
    with pytest.raises(ValueError, match=message):
        PairBatches(wrong, batch_size=2)


def test_encoding_gives_the_target_its_begin_and_end():
    german, english = WordTokeniser.train(["der hund"]), WordTokeniser.train(["the dog"])
    [(source, target)] = encode_pairs([("der hund", "the dog")], german, english)
    assert [german.token_of(i) for i in source] == ["der", "hund"]
    assert [english.token_of(i) for i in target] == [BEGIN, "the", "dog", END]


# --- epochs


@quick
@given(st.integers(1, 70), st.integers(0, 5), st.integers(0, 3), st.sampled_from([(7, None), (None, 40)]))
def test_every_pair_comes_once_with_its_own_translation(n, seed, epoch, size):
    batches = PairBatches(pairs(n), size[0], seed, max_tokens=size[1])
    found = [row for batch in batches.epoch(epoch) for row in rows(batch)]
    assert Counter(found) == Counter(frozen(pairs(n)))
    assert len(list(batches.epoch(epoch))) == len(batches)


@pytest.mark.parametrize("size", [{"batch_size": 8}, {"max_tokens": 60}])
def test_padding_is_only_beyond_the_lengths(size):
    for batch in PairBatches(pairs(), **size):
        for ids, lengths in ((batch.source, batch.source_lengths), (batch.target, batch.target_lengths)):
            assert ((ids != PAD).sum(dim=1) == lengths).all() and ids.shape[1] == lengths.max()


def test_no_batch_exceeds_its_tokens_and_each_is_filled():
    batches = PairBatches(pairs(300), max_tokens=60)
    sizes = [max(batch.source.numel(), batch.target.numel()) for batch in batches]
    assert max(sizes) <= 60
    assert sum(sizes) / len(sizes) > 45  # else it cuts too early
    assert len({len(batch) for batch in batches}) > 2  # short sentences come in larger batches


def test_sorting_saves_most_of_the_padding():
    def padding(batches):
        padded = sum(batch.target.numel() for batch in batches)
        return 1 - sum(int(batch.target_lengths.sum()) for batch in batches) / padded

    some = pairs(400, 30)
    unsorted = [pair_batch(some[i : i + 16]) for i in range(0, 400, 16)]
    assert padding(list(PairBatches(some, 16))) < 0.1 * padding(unsorted)


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed, epoch):
        batches = PairBatches(pairs(), 8, seed)
        list(batches)  # what was read before does not matter
        return [rows(batch) for batch in batches.epoch(epoch)]

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 0) and order(0, 1) != order(1, 1)
    batches = PairBatches(pairs(), 8)
    batches.set_epoch(1)
    assert [rows(batch) for batch in batches] == order(0, 1)


def test_equally_long_pairs_meet_others_in_the_next_epoch():
    alike = [([4 + i], [2, 4 + i, 3]) for i in range(40)]
    first, second = ({frozenset(rows(b)) for b in PairBatches(alike, 5).epoch(e)} for e in (0, 1))
    assert len(first & second) < 2


def test_an_epoch_goes_on_from_any_batch():
    batches = PairBatches(pairs(), max_tokens=50)
    whole = [rows(batch) for batch in batches.epoch(2)]
    for start in (0, 1, len(whole) - 1, len(whole)):
        assert [rows(batch) for batch in batches.epoch(2, start)] == whole[start:]


def test_tokens_to_predict_are_counted():
    batches = PairBatches(pairs(), max_tokens=50)
    assert batches.target_tokens == sum(batch.target_tokens for batch in batches)
    assert batches.target_tokens == sum(len(target) - 1 for _, target in pairs())


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({}, "either batch_size"),
        ({"batch_size": 4, "max_tokens": 40}, "either batch_size"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"max_tokens": -1}, "at least 1, got -1"),
        ({"max_tokens": 5}, "max_tokens 5 has no room for a pair of 11 tokens"),
    ],
)
def test_impossible_sizes_are_refused(size, message):
    with pytest.raises(ValueError, match=message):
        PairBatches(pairs(), **size)


def test_training_takes_the_batches_and_resumes(tmp_path):
    """A run stopped in an epoch's middle ends with the same weights: the batches fit what `fit` needs."""

    class Counts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def loss(self, batch):
            features = torch.stack([batch.source.float().mean(), batch.target.float().mean()])
            return (self.weight * features).sum() ** 2 / 1e4

    def run(steps, path):
        model = Counts()
        fit(model, PairBatches(pairs(), 8), max_steps=steps, checkpoint=path, device="cpu", progress=False)
        return model.weight.detach()

    run(11, tmp_path / "stopped.pt")
    assert torch.equal(run(20, tmp_path / "stopped.pt"), run(20, tmp_path / "whole.pt"))
