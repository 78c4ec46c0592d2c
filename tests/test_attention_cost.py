"""The benchmark of attention's cost on a tiny plan: like with like, peaks that are peaks, and the claims' rules."""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import pytest
import torch

from seqcourse.benchmarks import FinishedWork, attention_cost, memory
from seqcourse.benchmarks.attention_cost import (
    LAYERS,
    PASSES,
    PLANS,
    WRITERS,
    equal_hidden_size,
    kept_bytes,
    layer_study,
    make_model,
    read,
    studies,
)
from seqcourse.benchmarks.cost import parameter_count
from seqcourse.claims import verdict
from seqcourse.records import Record, find
from seqcourse.transformer import Cache

PLAN = PLANS["smoke"]
MEASURABLE = pytest.mark.skipif(memory.method("cpu") is None, reason="no peak of memory on this system")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("attention")


@pytest.fixture(scope="module")
def found(out):
    before = torch.get_num_threads()
    yield attention_cost.run("smoke", None, "cpu", True, out)
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------ what is compared


def test_readable_and_fused_attention_compute_the_same():
    torch.manual_seed(0)
    readable, fused = (LAYERS[name](6, 3) for name in ("attention, readable", "attention, fused"))
    readable.load_state_dict(fused.state_dict())
    x = torch.randn(2, 5, 6)
    output, weights = readable(x)
    torch.testing.assert_close(output, fused(x)[0])
    assert weights.shape == (2, 3, 5, 5)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("direction", PASSES)
def test_every_layer_maps_the_same_noise_and_backward_reaches_all(layer, direction):
    result = attention_cost.layer_work(layer, 6, 3, 2, 5, direction, "cpu")()
    if direction == "forward":
        assert result[0].shape == (2, 5, 6) and not result[0].requires_grad
    else:
        assert result[0].shape == (2, 5, 6)  # the gradient of the input, then of all parameters
        assert all(gradient.abs().sum() > 0 for gradient in result[:2])


@pytest.mark.parametrize("profile", PLANS)
def test_both_language_models_have_as_many_parameters(profile):
    plan = PLANS[profile]
    transformer, lstm = (parameter_count(make_model(kind, plan)) for kind in ("Transformer", "LSTM"))
    assert lstm == pytest.approx(transformer, rel=0.05 if profile == "smoke" else 0.01)


def test_the_hidden_size_is_the_closest_there_is():
    def parameters(H):
        return parameter_count(attention_cost.LanguageModel(11, H, H, "lstm", 2))

    assert equal_hidden_size(parameters(7), 11) == 7
    assert equal_hidden_size(parameters(7) + 1, 11) == 7


@pytest.mark.parametrize("kind", attention_cost.READERS)
def test_writing_after_a_state_is_writing_all_over_and_leaves_the_state(kind):
    model = make_model(kind, PLAN).double().eval()
    tokens = torch.randint(PLAN.vocabulary_size, (1, 7))
    _, state = read(model, tokens[:, :-1])
    kept = kept_bytes(state)
    for _ in range(2):  # a call that filled the cache would change the second result
        logits, _ = read(model, tokens[:, -1:], state)
        torch.testing.assert_close(logits[:, -1], read(model, tokens)[0][:, -1], atol=1e-10, rtol=0)
    assert kept_bytes(state) == kept


def test_what_is_kept_grows_with_the_context_in_a_cache_only():
    counts = {S: attention_cost.count_kept(S, PLAN, "cpu") for S in (8, 16)}
    keys_and_values = 2 * PLAN.layers * 8 * PLAN.size * 4  # float32
    assert counts[8]["Transformer"] == keys_and_values and counts[16]["Transformer"] == 2 * keys_and_values
    assert counts[8]["LSTM"] == counts[16]["LSTM"] > 0
    assert kept_bytes(Cache()) == 0


def test_a_training_step_changes_the_model_and_takes_all_tokens(monkeypatch):
    seen = []
    loss = attention_cost.next_token_loss
    monkeypatch.setattr(
        attention_cost,
        "next_token_loss",
        lambda logits, targets: (seen.append(targets), loss(logits, targets))[1],
    )
    for length in PLAN.training_lengths:
        step = attention_cost.training_work("LSTM", length, asdict(PLAN), "cpu")
        step(), step()
    assert [tuple(targets.shape) for targets in seen[::2]] == [(4, 8), (2, 16)]
    assert all(targets.numel() == PLAN.tokens for targets in seen)


# ------------------------------------------------------------------------------------------ peaks of memory


def take(megabytes, device):
    """A call that takes so many megabytes and gives half of them back before it ends."""

    def work():
        tensor = torch.ones(megabytes, 250_000, device=device)
        return tensor[: megabytes // 2].clone().sum()

    return work


def fail(message, device):
    def work():
        raise RuntimeError(message)

    return work


def peak_of(build, arguments, limit=10**9):
    warm_up = {"megabytes": 1} if build is take else {"message": ""}
    if build is fail:
        return memory.measure(build, arguments, warm_up, "cpu", limit, 1)
    return memory.peak_in_a_process(build, arguments, warm_up, "cpu", limit)


@MEASURABLE
def test_the_peak_counts_what_was_given_back_too():
    assert peak_of(take, {"megabytes": 60})["peak"] / 1e6 == pytest.approx(90, abs=6)


@MEASURABLE
def test_a_larger_parent_does_not_make_the_child_look_larger():
    ballast = torch.ones(100, 250_000)
    assert peak_of(take, {"megabytes": 20})["peak"] / 1e6 == pytest.approx(30, abs=6)
    del ballast


@pytest.mark.skipif(not memory.STATUS.exists(), reason="only Linux keeps the limit")
def test_where_memory_ends_the_message_comes_back():
    assert "allocate memory" in peak_of(take, {"megabytes": 400}, limit=200 * 10**6)["ended"]


def test_another_error_is_no_end_of_memory(monkeypatch):
    monkeypatch.setattr(memory, "limit_memory", lambda limit: None)  # it would hold for all later tests
    assert memory.out_of_memory(MemoryError()) and memory.out_of_memory(RuntimeError("CUDA out of memory."))
    with pytest.raises(RuntimeError, match="shapes"):
        memory.measure(
            lambda message, device: fail(message, device) if message else print,
            {"message": "shapes"},
            {"message": ""},
            "cpu",
            1,
            1,
        )


def test_after_memory_ended_longer_sequences_are_not_tried(tmp_path, monkeypatch):
    plan = replace(PLAN, lengths=(4, 8, 16, 32))
    study, finished = (
        layer_study(plan, PASSES[1]),
        FinishedWork(tmp_path / "work.jsonl", {"plan": asdict(plan), "device": "cpu"}),
    )
    tried = []

    def peak(build, arguments, warm_up, device, limit):
        tried.append(arguments["length"])
        return {"peak": 7} if arguments["length"] < 16 else {"ended": "can't allocate memory"}

    monkeypatch.setattr(attention_cost, "peak_in_a_process", peak)
    party = "attention, readable"
    for T in plan.lengths:
        result = attention_cost.measure_memory(study, party, T, plan, "cpu", finished)
        finished.add(f"memory/{study.name}/{party}/{T}", {**result, "duration_s": 1.0})
    assert tried == [4, 8, 16]
    times = attention_cost.measure_time(study, 32, plan, "cpu", finished)["seconds"]
    assert party not in times and "LSTM" in times
    records = [
        r
        for T in plan.lengths
        for r in attention_cost.memory_record(study, party, T, {"device": "cpu"}, finished)
    ]
    assert [(r.metric, r.values) for r in records[:2]] == [("peak memory of a layer", (7e-6,))] * 2
    assert len(records) == 3 and records[2].values == (8.0,) and records[2].unit == "positions"
    assert records[2].protocol["memory ended"] == "can't allocate memory"


# ---------------------------------------------------------------------------------------------- the records


def test_records_cover_every_party_and_length(found):
    assert len({record.name for record in found}) == len(found)
    for study in studies(PLAN):
        of_study = [record for record in found if record.name.startswith(f"attention/{study.name}/")]
        times = find(of_study, metric=study.metrics[0])
        assert len(times) == len(study.parties) * len(study.lengths)
        assert all(record.n == PLAN.rounds and min(record.values) > 0 for record in times)
    assert all("load before" in record.protocol for record in found if record.unit in ("ms", "tokens/s"))
    assert {record.protocol["writer"] for record in find(found, metric="time to write a token")} == set(
        WRITERS
    )


@MEASURABLE
def test_peaks_are_measured_of_layers_and_of_reading(found):
    peaks = [record for record in found if record.metric.startswith("peak memory")]
    parties = 2 * len(LAYERS) * len(PLAN.lengths) + 2 * len(PLAN.contexts)
    assert len(peaks) == parties and all(record.n == PLAN.memory_rounds for record in peaks)
    assert all("fresh process" in record.protocol["method"] for record in peaks)


def test_a_resumed_run_measures_nothing_twice(found, out, monkeypatch):
    monkeypatch.setattr(attention_cost, "interleaved", None)  # calling one of these would raise
    monkeypatch.setattr(attention_cost, "peak_in_a_process", None)
    again = attention_cost.run("smoke", None, "cpu", True, out)
    assert [record.values for record in again] == [record.values for record in found]


@pytest.mark.parametrize("claim", ["C01", "C02"])
def test_the_smoke_profile_gives_the_rules_what_they_need(found, claim):
    assert "No record" not in verdict(claim, found).reason


# ------------------------------------------------------------------------------------------------ the rules


def record(claim, metric, values, **protocol):
    name = f"{metric}/{sorted(protocol.items())}"
    return Record(
        name,
        claim,
        metric,
        "1",
        tuple(values),
        protocol,
        {"name": "toy", "generated": False},
        {},
        1,
        {},
        "c",
        1.0,
        "d",
    )


def speeds(transformer, lstm, device):
    return [
        record("C01", "training speed", [value, value], model=model, length=length, device=device)
        for model, values in (("Transformer", transformer), ("LSTM", lstm))
        for length, value in zip((8, 64), values, strict=True)
    ]


@pytest.mark.parametrize(
    ("transformer", "lstm", "gpu", "cpu"),
    [
        ((200, 150), (100, 50), "confirmed", "qualified"),
        ((200, 150), (100, 99), "qualified", "qualified"),
        ((50, 60), (100, 50), "qualified", "qualified"),
        ((50, 60), (100, 99), "refuted", "refuted"),
        ((101, 102), (100, 99), "refuted", "refuted"),  # within the margin of noise
    ],
)
def test_c01(transformer, lstm, gpu, cpu):
    for device, expected in (("cuda", gpu), ("cpu", cpu)):
        judged = verdict("C01", speeds(transformer, lstm, device))
        assert judged.status == expected and ("No GPU" in judged.reason) == (device == "cpu")


def test_c01_needs_both_models_and_two_lengths():
    assert verdict("C01", speeds((2, 2), (1, 1), "cpu")[:2]).status == "not testable"
    assert verdict("C01", speeds((2, 2), (1, 1), "cpu")[::2]).status == "not testable"


def latencies(reading, writing, device):
    """Times of the Transformer at two contexts; the LSTM's are 1."""
    found = []
    for metric, key, name, values in (
        ("time to read a context", "model", "Transformer", reading),
        ("time to write a token", "writer", "Transformer with cache", writing),
    ):
        for party, times in ((name, values), ("LSTM", (1, 1))):
            for context, value in zip((8, 64), times, strict=True):
                found.append(
                    record("C02", metric, [value, value], context=context, device=device, **{key: party})
                )
    return found


@pytest.mark.parametrize(
    ("reading", "writing", "gpu", "cpu"),
    [
        ((0.5, 0.5), (0.5, 0.5), "confirmed", "qualified"),
        ((0.5, 0.5), (2, 3), "qualified", "qualified"),
        ((2, 2), (2, 0.5), "qualified", "qualified"),
        ((2, 2), (2, 3), "refuted", "not testable"),
        ((0.99, 2), (2, 3), "refuted", "not testable"),
    ],
)
def test_c02(reading, writing, gpu, cpu):
    assert verdict("C02", latencies(reading, writing, "cuda")).status == gpu
    assert verdict("C02", latencies(reading, writing, "cpu")).status == cpu
    without_cache = [
        r for r in latencies(reading, writing, "cpu") if r.protocol.get("writer") != "Transformer with cache"
    ]
    assert verdict("C02", without_cache).reason.startswith("No record")


def peaks(**by_layer):
    return [
        record("C07 C13", "peak memory of a layer", [value], layer=layer, length=length, direction=PASSES[1])
        for layer, values in by_layer.items()
        for length, value in zip((512, 1024), values, strict=False)
    ]


@pytest.mark.parametrize(
    ("readable", "fused", "expected"),
    [
        ((100, 400), (100, 400), "confirmed"),
        ((100, 400), (100, 200), "qualified"),
        ((100, 200), (100, 200), "refuted"),
        ((1, 4), (1, 4), "not testable"),  # pages of libraries decide
        ((100,), (100, 200), "not testable"),
    ],
)
def test_c07(readable, fused, expected):
    found = peaks(**{"attention, readable": readable, "attention, fused": fused})
    assert verdict("C07", found).status == expected
    other_pass = [replace(r, protocol={**r.protocol, "direction": "forward"}) for r in found]
    assert verdict("C07", other_pass).status == "not testable"


@pytest.mark.parametrize(
    ("rnn", "lstm", "expected"),
    [
        ((10, 20), (40, 80), "refuted"),
        ((100, 200), (40, 80), "confirmed"),
        ((100, 20), (40, 80), "qualified"),
        ((1, 20), (4, 80), "refuted"),  # the shorter one is too small to count
        ((1, 2), (4, 8), "not testable"),
    ],
)
def test_c13(rnn, lstm, expected):
    assert verdict("C13", peaks(RNN=rnn, LSTM=lstm)).status == expected


def test_one_thread_on_a_cpu_is_timed_without_waiting_for_other_programs(monkeypatch):
    clocks = [
        attention_cost.clock_of(device, replace(PLAN, threads=n))[1]
        for device, n in (("cpu", 1), ("cpu", 2), ("cuda", 1))
    ]
    assert clocks == ["processor time of one thread", "time of the clock", "time of the clock"]
    sleeping = replace(
        layer_study(PLAN, PASSES[0]), parties=("sleep",), work=lambda **_: lambda: time.sleep(0.02)
    )
    seconds = attention_cost.measure_time(sleeping, 16, PLAN, "cpu", {})["seconds"]["sleep"]
    assert len(seconds) == PLAN.rounds and max(seconds) < 0.01
