"""Batches: padding is told apart, examples come once, epochs can be resumed, the future does not leak."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seqcourse.data.batching import (
    IGNORED_LABEL,
    Batch,
    BucketedBatches,
    LanguageModelBatches,
    Scaler,
    TensorBatches,
    forecasting_data,
    language_model_batches,
    mask_from_lengths,
    pad,
    pad_series,
    split_in_time,
    windows,
)

quick = settings(max_examples=50, deadline=None)
ids = st.lists(st.integers(0, 9), min_size=1, max_size=7)


def examples(n: int = 103, longest: int = 40) -> list[list[int]]:
    """Sequences that can be told apart: example i repeats its own number."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator).tolist()
    return [[i] * length for i, length in enumerate(lengths)]


def same(first: Batch, second: Batch) -> bool:
    return first.tokens.equal(second.tokens) and first.lengths.equal(second.lengths)


# --- padding and masks


def test_pad_puts_sequences_into_one_rectangle():
    batch = pad([[5, 6, 7], [8]], pad_id=2)
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 2, 2]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.mask.tolist() == [[True, True, True], [True, False, False]]
    assert batch.tokens.dtype == batch.lengths.dtype == torch.long and batch.mask.dtype == torch.bool


@quick
@given(st.lists(ids, min_size=1, max_size=6), st.integers(0, 9))
def test_the_mask_gives_back_exactly_the_sequences(sequences, pad_id):
    batch = pad(sequences, pad_id)
    assert [row[keep].tolist() for row, keep in zip(batch.tokens, batch.mask, strict=True)] == sequences
    assert (batch.tokens[~batch.mask] == pad_id).all()
    assert batch.tokens.shape == batch.mask.shape == (len(sequences), max(map(len, sequences)))
    assert batch.padding_fraction == pytest.approx((~batch.mask).float().mean().item())


def test_pad_takes_tensors_too():
    assert pad([torch.tensor([1, 2], dtype=torch.int32)]).tokens.tolist() == [[1, 2]]


def test_pad_series_fills_with_zeros():
    batch = pad_series([torch.ones(2, 3), torch.ones(4, 3)])
    assert batch.tokens.shape == (2, 4, 3) and batch.mask.shape == (2, 4)
    assert (batch.tokens[batch.mask] == 1).all() and (batch.tokens[~batch.mask] == 0).all()


def test_mask_can_be_wider_than_the_longest():
    assert mask_from_lengths(torch.tensor([1, 2]), 3).tolist() == [[True, False, False], [True, True, False]]


def test_to_moves_every_tensor():
    batch = BucketedBatches([([1], 0), ([1, 2], 1)], batch_size=2)
    moved = next(iter(batch)).to("meta")
    assert {t.device.type for t in (moved.tokens, moved.lengths, moved.mask, moved.labels)} == {"meta"}
    assert pad([[1]]).to("meta").labels is None


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([], ValueError, "at least one sequence"),
        ([[1], []], ValueError, "sequence 1 of 2 is empty"),
        ([[1], [2, -3]], ValueError, "sequence 1 holds -3"),
        ([[1.5]], TypeError, "integer ids"),
        ([torch.zeros(2, 3, dtype=torch.long)], TypeError, "flat list"),
    ],
)
def test_pad_names_what_is_wrong(sequences, error, message):
    with pytest.raises(error, match=message):
        pad(sequences)


def test_pad_series_names_what_is_wrong():
    with pytest.raises(ValueError, match=r"\(2, 3\), \(2, 4\)"):
        pad_series([torch.ones(2, 3), torch.ones(2, 4)])
    with pytest.raises(ValueError, match="is empty"):
        pad_series([torch.ones(0, 3)])


# --- bucketed batches


@quick
@given(
    st.integers(1, 60), st.integers(1, 9), st.integers(0, 3), st.integers(0, 5), st.sampled_from([1, 2, 50])
)
def test_every_example_comes_exactly_once_per_epoch(n, batch_size, seed, epoch, pool):
    batches = BucketedBatches(examples(n), batch_size, seed, pool=pool)
    seen = list(batches.epoch(epoch))
    assert sorted(i for batch in seen for i in batch.tokens[:, 0].tolist()) == list(range(n))
    assert len(seen) == len(batches)
    sizes = sorted(len(batch) for batch in seen)
    assert all(size == batch_size for size in sizes[1:]) and 0 < sizes[0] <= batch_size


def test_an_epoch_is_a_pure_function_of_seed_and_epoch():
    first, second = (BucketedBatches(examples(), 8, seed=3) for _ in range(2))
    list(first.epoch(0))
    torch.manual_seed(99)  # no global state matters
    assert all(map(same, first.epoch(5), second.epoch(5)))
    assert all(map(same, first.epoch(5), first.epoch(5)))


def test_epochs_and_seeds_give_different_orders():
    orders = [
        tuple(
            i
            for batch in BucketedBatches(examples(), 8, seed).epoch(epoch)
            for i in batch.tokens[:, 0].tolist()
        )
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    assert len(set(orders)) == 4


def test_epochs_form_different_batches_not_only_another_order_of_them():
    batches = BucketedBatches(examples(), 8, pool=4)
    groups = [{frozenset(members.tolist()) for members in batches.order(epoch)} for epoch in (0, 1)]
    assert len(groups[0] & groups[1]) < len(groups[0]) / 2


@pytest.mark.parametrize("start", [0, 1, 7, 13])
def test_an_epoch_can_be_resumed_at_any_batch(start):
    batches = BucketedBatches(examples(), 8, seed=3)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start))
    assert len(rest) == len(whole) - start
    assert all(map(same, rest, whole[start:]))


def test_a_plain_loop_runs_through_the_epoch_that_was_set():
    batches = BucketedBatches(examples(), 8)
    assert all(map(same, batches, batches.epoch(0)))
    batches.set_epoch(4)
    assert all(map(same, batches, batches.epoch(4)))
    assert not all(map(same, batches, batches.epoch(0)))


def test_buckets_pad_less_and_report_it_truly():
    bucketed, plain = (BucketedBatches(examples(400), 10, pool=pool) for pool in (20, 1))
    for batches in (bucketed, plain):
        seen = list(batches.epoch(3))
        padded = sum((~batch.mask).sum().item() for batch in seen) / sum(batch.mask.numel() for batch in seen)
        assert batches.padding_fraction(3) == pytest.approx(padded)
    assert bucketed.padding_fraction(3) < plain.padding_fraction(3) / 3


def test_short_and_long_batches_are_mixed_over_the_epoch():
    lengths = [int(batch.lengths.max()) for batch in BucketedBatches(examples(400), 10).epoch(0)]
    assert lengths != sorted(lengths)
    half = len(lengths) // 2
    assert abs(sum(lengths[:half]) - sum(lengths[half:])) < 0.4 * sum(lengths)


def test_labels_stay_with_their_sequences():
    batches = BucketedBatches([(sequence, sequence[0] % 3) for sequence in examples()], 8)
    for batch in batches:
        assert batch.labels.equal(batch.tokens[:, 0] % 3)


def test_tags_are_padded_with_the_label_that_losses_ignore():
    batches = BucketedBatches([(s, [i % 5 for i in range(len(s))]) for s in examples()], 8)
    for batch in batches:
        steps = torch.arange(batch.tokens.shape[1]).expand_as(batch.tokens)
        assert batch.labels[batch.mask].equal(steps[batch.mask] % 5)
        assert (batch.labels[~batch.mask] == IGNORED_LABEL).all()
    assert torch.nn.CrossEntropyLoss().ignore_index == IGNORED_LABEL


def test_series_are_bucketed_as_well():
    series = [(torch.full((length, 2), float(length)), length) for length in (5, 3, 4, 7, 1)]
    batch = next(BucketedBatches(series, 5).epoch(0))
    assert batch.tokens.shape == (5, 7, 2)
    assert batch.labels.equal(batch.lengths) and batch.tokens[:, 0, 0].equal(batch.lengths.float())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one sequence"),
        ([[1], []], "sequence 1 of 2 is empty"),
        ([([1], 0), [2]], "1 of 2 are"),
        ([([1, 2], [0])], "one per step"),
        ([(1, 2)], "one per step"),
    ],
)
def test_examples_are_checked_when_given(bad, message):
    with pytest.raises(ValueError, match=message):
        BucketedBatches(bad, 2)


def test_negative_ids_and_sizes_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        list(BucketedBatches([[1, -1]], 2))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        BucketedBatches([[1]], 0)


# --- batches of tensors


@pytest.mark.parametrize("shuffle", [True, False])
def test_rows_of_tensors_stay_together_and_come_once(shuffle):
    inputs, targets = torch.arange(17.0)[:, None], torch.arange(17)
    batches = TensorBatches(inputs, targets, batch_size=5, seed=2, shuffle=shuffle)
    seen = list(batches.epoch(1))
    assert [len(y) for _, y in seen] == [5, 5, 5, 2] and len(batches) == 4
    assert all(x[:, 0].long().equal(y) for x, y in seen)
    order = torch.cat([y for _, y in seen]).tolist()
    assert sorted(order) == list(range(17)) and (order == sorted(order)) is not shuffle


def test_tensor_batches_resume_and_vary_with_the_epoch():
    batches = TensorBatches(torch.arange(40), batch_size=6, seed=2)
    whole = [x.tolist() for (x,) in batches.epoch(3)]
    assert [x.tolist() for (x,) in batches.epoch(3, 4)] == whole[4:]
    assert [x.tolist() for (x,) in batches.epoch(2)] != whole


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 4\]"):
        TensorBatches(torch.zeros(3), torch.zeros(4), batch_size=2)
    with pytest.raises(ValueError, match="at least 1"):
        TensorBatches(torch.zeros(0), batch_size=2)


# --- streams


@quick
@given(st.integers(2, 120), st.integers(1, 6), st.integers(1, 9))
def test_streams_are_contiguous_and_targets_are_the_next_tokens(n, batch_size, length):
    if n <= batch_size:
        return
    batches = language_model_batches(torch.arange(n), batch_size, length)
    seen = list(batches)
    assert len(seen) == len(batches)
    tokens = torch.cat([batch.tokens for batch in seen], 1)  # (B, steps)
    assert (torch.cat([batch.targets for batch in seen], 1) == tokens + 1).all()
    assert tokens.flatten().equal(torch.arange(tokens.numel()))  # stream b + 1 goes on where b ends
    assert n - 1 - tokens.numel() < batch_size  # next to nothing is dropped
    assert all(batch.tokens.shape[1] == length for batch in seen[:-1])
    assert [batch.begins for batch in seen] == [True] + [False] * (len(seen) - 1)


def test_streams_resume_and_repeat():
    batches = LanguageModelBatches(list(range(50)), batch_size=3, length=4)
    whole = list(batches.epoch(0))
    for other in (list(batches.epoch(1)), [*whole[:2], *batches.epoch(0, 2)]):
        assert all(
            a.tokens.equal(b.tokens) and a.begins == b.begins for a, b in zip(whole, other, strict=True)
        )


def test_carrying_the_state_over_batches_is_reading_the_whole_stream():
    torch.manual_seed(0)
    text = torch.randint(0, 6, (61,))
    embedding, gru = torch.nn.Embedding(6, 4), torch.nn.GRU(4, 5, batch_first=True)
    batches = language_model_batches(text, batch_size=3, length=7)
    state, outputs = torch.full((1, 3, 5), 7.0), []
    for batch in itertools.chain(batches, batches):  # two epochs: `begins` must forget the first
        state = None if batch.begins else state
        output, state = gru(embedding(batch.tokens), state)
        outputs.append(output)
    whole, _ = gru(embedding(text[:60].view(3, 20)))
    half = len(batches)
    torch.testing.assert_close(torch.cat(outputs[:half], 1), whole)
    torch.testing.assert_close(torch.cat(outputs[half:], 1), whole)


def test_texts_too_short_for_the_streams_are_refused():
    assert len(language_model_batches([1, 2, 3, 4], 3, 5)) == 1
    with pytest.raises(ValueError, match="3 streams need at least 4 tokens, got 3"):
        language_model_batches([1, 2, 3], 3, 5)
    with pytest.raises(ValueError, match="need at least 3 tokens, got 0"):
        language_model_batches([], 2, 5)
    with pytest.raises(ValueError, match="must not be negative"):
        language_model_batches([1, 2, -1, 4], 2, 5)


# --- forecasting


@quick
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 5), st.integers(0, 30))
def test_targets_come_strictly_after_their_window(length, horizon, stride, extra):
    series = torch.arange(length + horizon + extra)
    inputs, targets, starts = windows(series, length, horizon, stride=stride)
    assert inputs.shape[1:] == (length, 1) and targets.shape[1:] == (horizon,)
    for x, y, start in zip(inputs[..., 0].tolist(), targets.tolist(), starts.tolist(), strict=True):
        assert x == list(range(start, start + length))
        assert y == list(range(start + length, start + length + horizon))
    assert starts.tolist() == list(range(0, extra + 1, stride))  # as many as fit


def test_the_target_is_one_column():
    series = torch.stack([torch.arange(9), torch.arange(9) * 10], 1)
    inputs, targets, _ = windows(series, 3, 2, target=1)
    assert inputs[0].tolist() == [[0, 0], [1, 10], [2, 20]] and targets[0].tolist() == [30, 40]


def test_split_in_time_keeps_order_and_loses_nothing():
    parts = split_in_time(torch.arange(101), (0.5, 0.2, 0.3))
    assert [len(part) for part in parts] == [50, 21, 30]
    assert torch.cat(parts).equal(torch.arange(101))


@quick
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 60))
def test_no_window_straddles_two_parts(length, horizon, extra):
    steps = 10 * (length + horizon) + extra
    data = forecasting_data(torch.arange(float(steps)), length, horizon)
    first, last = [], []
    for part in data[:3]:
        raw = data.scaler.inverse(torch.cat([part.inputs, part.targets[..., None]], 1))[..., 0].round().long()
        assert (
            raw == part.starts[:, None] + torch.arange(length + horizon)
        ).all()  # starts name the real place
        first.append(int(raw.min()))
        last.append(int(raw.max()))
    assert last[0] < first[1] <= last[1] < first[2]  # no step belongs to two parts
    assert first[0] == 0 and last[2] == steps - 1
    assert [b - a for a, b in zip(last, first[1:], strict=False)] == [1, 1]  # and none belongs to none


def test_the_future_cannot_change_how_the_past_is_scaled():
    series = torch.randn(100, 2, dtype=torch.float64)
    tampered = series.clone()
    tampered[70:] = 1e6
    data, other = forecasting_data(series, 5, 2), forecasting_data(tampered, 5, 2)
    assert data.scaler.mean.equal(other.scaler.mean) and data.scaler.scale.equal(other.scaler.scale)
    assert data.train.inputs.equal(other.train.inputs) and data.train.targets.equal(other.train.targets)
    assert not data.test.inputs.equal(other.test.inputs)


def test_scaler_standardises_the_training_part_and_undoes_it():
    train = torch.randn(50, 3, dtype=torch.float64) * torch.tensor([1, 10, 0.1]) + torch.tensor([5, -7, 0])
    scaler = Scaler.fit(train)
    scaled = scaler.transform(train)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(scaled.std(0, correction=0), torch.ones(3).double())
    torch.testing.assert_close(scaler.inverse(scaled), train)
    torch.testing.assert_close(scaler.inverse(scaled[:, 1], column=1), train[:, 1])


def test_a_constant_column_is_not_blown_up():
    train = torch.cat([torch.full((7, 1), 0.1), torch.arange(7.0)[:, None]], 1)
    scaled = Scaler.fit(train).transform(train)
    assert scaled[:, 0].abs().max() < 1e-6 and scaled.isfinite().all()


def test_forecasting_errors_name_the_sizes():
    with pytest.raises(ValueError, match="need 7 steps, got 6"):
        windows(torch.arange(6), 4, 3)
    with pytest.raises(ValueError, match="horizon must be at least 1, got 0"):
        windows(torch.arange(6), 4, 0)
    with pytest.raises(ValueError, match="add up to 1"):
        split_in_time(torch.arange(6), (0.5, 0.4))
    with pytest.raises(ValueError, match="a part is empty"):
        split_in_time(torch.arange(2), (0.9, 0.05, 0.05))
    with pytest.raises(ValueError, match="finite"):
        Scaler.fit(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match=r"floating-point values, got torch.int64 \(3,\)"):
        Scaler.fit(torch.arange(3))
    with pytest.raises(ValueError, match="at least one step"):
        Scaler.fit(torch.empty(0, 2))
