"""The speed benchmark on a tiny plan: that it compares like with like, and says what it measured."""

from __future__ import annotations

import json

import pytest
import torch

from seqcourse.benchmarks import FinishedWork, speed
from seqcourse.benchmarks.speed import GOALS, LAYERS, PLANS, ReviewClassifier, contenders, review_batches

PLAN = PLANS["smoke"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("speed")


@pytest.fixture(scope="module")
def records(out):
    before = torch.get_num_threads()
    yield speed.run("smoke", None, "cpu", True, out)
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", LAYERS)
def test_all_contenders_compute_the_same(kind):
    layers = contenders(kind, 6, "cpu")
    assert {"torch", "portable", "fused", "loop", "bptt"} <= set(layers)
    x = torch.randn(3, 5, 6)
    expected = layers["torch"](x)[0]
    for layer in layers.values():
        torch.testing.assert_close(layer(x)[0], expected, atol=1e-6, rtol=0)


def test_each_round_times_every_work_once_and_turns_the_order():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = speed.interleaved(works, rounds=3)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = ["".join(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert rounds[-3:] == ["abc", "bca", "cab"]
    assert len(rounds) == 3 + speed.WARM_UP


def test_ways_of_batching_hold_the_same_reviews_and_give_the_same_logits():
    lengths = {way: torch.cat([part for _, part in review_batches(PLAN, way)]) for way in (False, True)}
    assert torch.equal(lengths[False].sort().values, lengths[True])
    widths = {way: sum(tokens.numel() for tokens, _ in review_batches(PLAN, way)) for way in (False, True)}
    assert widths[True] < widths[False]
    padded, packed = ReviewClassifier(100, 8), ReviewClassifier(100, 8, packed=True)
    packed.embedding, packed.classify = padded.embedding, padded.classify
    packed.recurrent = padded.recurrent.to_torch()
    tokens, lengths = torch.randint(100, (4, 9)), torch.tensor([3, 9, 1, 5])
    torch.testing.assert_close(padded(tokens, lengths), packed(tokens, lengths))


def test_records_cover_every_goal_in_both_passes(records):
    names = [record.name for record in records]
    assert len(names) == len(set(names))
    for goal in GOALS:
        both = [record for record in records if record.name.startswith(f"speed/{goal.name}/")]
        assert [record.protocol.get("goal") for record in both] == [None, f"at most {goal.bound}"]
        assert all(record.n == PLAN.rounds for record in both)
    assert {
        "speed/padded over bucketed",
        "speed/packed over bucketed",
        "speed/CPU without set-up over with",
    } <= {*names}
    assert all(record.generated for record in records)


def test_a_ratio_is_ours_over_the_peer_round_by_round(tmp_path):
    finished = FinishedWork(tmp_path / "work.jsonl", {"threads": 1})
    finished.add(
        "LSTM/H 1 T 1/forward", {"seconds": {"loop": [2.0, 4.0], "peer": [1.0, 8.0]}, "duration_s": 3.0}
    )
    record = speed._ratio("name", "loop", "peer", {"length": 1}, finished, "LSTM/H 1 T 1/forward")
    assert record.values == (2.0, 0.5)
    assert record.protocol == {"threads": 1, "length": 1, "median_ms": {"loop": 3000.0, "peer": 4500.0}}


def test_gradients_of_the_fused_path_are_identical(records):
    differences = {
        record.name.split("/")[1]: record.values for record in records if "gradients" in record.name
    }
    for kind in LAYERS:
        assert differences[f"{kind} fused gradients"] == (0.0,)
        assert differences[f"{kind} bptt gradients"][0] < 1e-5


def test_a_resumed_run_measures_nothing_twice(records, out, monkeypatch):
    kept = (out / "runs" / "speed-smoke.jsonl").read_text()
    assert len(kept.splitlines()) == len(speed.pieces(PLAN, "cpu"))
    monkeypatch.setattr(speed, "time_layer", None)  # calling it would raise
    again = speed.run("smoke", None, "cpu", True, out)
    assert [record.values for record in again] == [record.values for record in records]
    assert json.loads(kept.splitlines()[0])["key"].startswith("RNN/")
