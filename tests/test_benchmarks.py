"""Benchmarks: the contract, resuming, the command line, and the horizon benchmark on a tiny plan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from seqcourse import benchmarks, records
from seqcourse.benchmarks import (
    Benchmark,
    FinishedWork,
    cost,
    horizon,
    load_records,
    mechanisms,
    run_benchmark,
    workers,
)
from seqcourse.claims import verdict
from seqcourse.cli_bench import bench
from seqcourse.history import LOG_DIR, logged_to
from seqcourse.probes import Budget
from seqcourse.records import Record

COST = {"smoke": "a second", "laptop": "a minute", "full": "a day"}


def toy(asked=None):
    """A benchmark that notes what it was asked for."""
    asked = {} if asked is None else asked

    def run(profile, seeds, device, resume, out):
        asked.update(profile=profile, seeds=seeds, device=device, resume=resume, out=out)
        return [Record.measured("toy", metric="loss", unit="1", values=[1.0] * (seeds or 1), duration_s=0)]

    return Benchmark("toy", "A toy.", COST, run)


# ----------------------------------------------------------------------------------------------- contract


def test_discovery_finds_the_benchmarks_and_their_costs():
    found = benchmarks.discover()
    assert {"horizon", "mechanisms", "cost"} <= found.keys()
    for name, benchmark in found.items():
        assert benchmark.name == name
        assert set(benchmark.cost) == set(benchmarks.PROFILES)


def test_a_benchmark_must_say_what_it_costs():
    with pytest.raises(ValueError, match="does not say what full costs"):
        Benchmark("toy", "A toy.", {"smoke": "a second", "laptop": "a minute"}, lambda: [])


def test_records_are_written_by_profile_and_smoke_is_no_evidence(tmp_path):
    smoke = run_benchmark(toy(), "smoke", out=tmp_path)
    assert smoke == tmp_path / "runs" / "toy-smoke.json" and records.read(smoke)[0].n == 1
    assert load_records(tmp_path) == []
    run_benchmark(toy(), "laptop", seeds=2, out=tmp_path)
    assert [record.n for record in load_records(tmp_path)] == [2]
    run_benchmark(toy(), "full", seeds=3, out=tmp_path)  # the fuller run replaces, it does not mix
    assert [record.n for record in load_records(tmp_path)] == [3]


def test_a_finished_run_leaves_no_unfinished_work(tmp_path):
    def run(profile, seeds, device, resume, out):
        FinishedWork(benchmarks.unfinished_path(out, "toy", profile), {}).add("a", {"value": 1})
        return toy().run(profile, seeds, device, resume, out)

    run_benchmark(Benchmark("toy", "A toy.", COST, run), "laptop", out=tmp_path)
    assert not benchmarks.unfinished_path(tmp_path, "toy", "laptop").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"profile": "huge"}, "smoke, laptop, full"), ({"seeds": 0}, "at least one seed")],
)
def test_wrong_requests_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_benchmark(toy(), out=tmp_path, **options)


# ------------------------------------------------------------------------------------------- finished work


def test_finished_work_comes_back_only_under_its_protocol(tmp_path):
    path = tmp_path / "runs" / "x.jsonl"
    work = FinishedWork(path, {"steps": 5, "delays": (1, 2)})
    work.add("a", {"score": 0.1})
    again = FinishedWork(path, {"steps": 5, "delays": (1, 2)})
    assert "a" in again and again["a"] == {"score": 0.1} and len(again) == 1
    assert again.commit == records.current_commit()
    assert "a" not in FinishedWork(path, {"steps": 6, "delays": (1, 2)})
    assert "a" not in FinishedWork(path, {"steps": 5, "delays": (1, 2)}, resume=False)


def test_a_line_cut_by_a_crash_is_measured_again(tmp_path):
    path = tmp_path / "x.jsonl"
    work = FinishedWork(path, {})
    work.add("a", {"score": 1})
    work.add("b", {"score": 2})
    path.write_text(path.read_text()[:-10])
    resumed = FinishedWork(path, {})
    assert "a" in resumed and "b" not in resumed
    resumed.add("b", {"score": 3})
    assert FinishedWork(path, {})["b"] == {"score": 3}
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]


# ------------------------------------------------------------------------------------------------- horizon

TINY = horizon.Plan(("delayed recall",), (2, 3), 1, Budget(steps=4, check_every=2, test_size=16), 8, 1)


def test_an_interrupted_run_resumes_and_repeats_nothing(tmp_path, monkeypatch):
    path = tmp_path / "horizon.jsonl"
    measure, measured = horizon.measure, []

    def interrupted(piece, **rest):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(piece)
        return measure(piece, **rest)

    monkeypatch.setattr(horizon, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        horizon.run_plan(TINY, 1, "cpu", True, path)
    monkeypatch.setattr(
        horizon, "measure", lambda piece, **rest: (measured.append(piece), measure(piece, **rest))[1]
    )
    resumed = horizon.run_plan(TINY, 1, "cpu", True, path)
    pieces = len(horizon.MODELS) * len(TINY.delays)
    assert len(measured) == len(set(measured)) == pieces  # each piece once, over both runs
    monkeypatch.setattr(horizon, "measure", measure)
    whole = horizon.run_plan(TINY, 1, "cpu", False, tmp_path / "other.jsonl")
    assert [(r.name, r.values) for r in resumed] == [(r.name, r.values) for r in whole]


def test_worker_processes_give_the_same_results(tmp_path):
    one, two = (
        horizon.run_plan(
            horizon.Plan(TINY.tasks, (2,), 1, TINY.budget, 8, workers),
            1,
            "cpu",
            False,
            tmp_path / f"{workers}.jsonl",
        )
        for workers in (1, 2)
    )
    assert [(r.name, r.values) for r in one] == [(r.name, r.values) for r in two]


def folder_of(piece: str) -> dict[str, str | None]:
    """Where a training run of this piece would write its events."""
    return {"folder": LOG_DIR.get() and str(LOG_DIR.get())}


@pytest.mark.parametrize("count", [1, 2])
def test_each_piece_writes_events_to_a_folder_of_its_own(count, tmp_path):
    pieces = {"GRU/5/0": "x", "GRU/5/1": "y"}
    with logged_to(tmp_path):
        found = dict(workers.measure_all(folder_of, pieces, count, "cpu"))
    assert found == {key: {"folder": str(tmp_path / key)} for key in pieces}
    assert dict(workers.measure_all(folder_of, pieces, 1, "cpu")) == {key: {"folder": None} for key in pieces}


def test_a_benchmark_leaves_tensorboard_events_of_its_runs(tmp_path):
    options = ["ablation", "--seeds", "1", "--out", tmp_path, "--log-dir", tmp_path / "logs"]
    result = CliRunner().invoke(bench, list(map(str, options)))
    assert result.exit_code == 0, result.output
    events = {path.parent.relative_to(tmp_path / "logs") for path in tmp_path.rglob("events.out.tfevents*")}
    assert Path("base/as it is/0") in events and len(events) > 10


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL, and no orphans to leave")
def test_workers_of_a_killed_benchmark_end_with_it(tmp_path):
    code = (
        "from concurrent.futures import ProcessPoolExecutor; from multiprocessing import get_context\n"
        "import os, time; from seqcourse.benchmarks.workers import start_worker\n"
        "if __name__ == '__main__':\n"
        "    pool = ProcessPoolExecutor(1, get_context('spawn'), start_worker)\n"
        "    print(pool.submit(os.getpid).result(), flush=True)\n"
        "    pool.submit(time.sleep, 600); time.sleep(600)\n"
    )
    (tmp_path / "parent.py").write_text(code)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(worker)


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("model", horizon.MODELS)
def test_no_model_of_the_horizon_looks_ahead(model):
    torch.manual_seed(0)
    reader = horizon.make_reader(model, 3, 8, delay=5).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, 6:] += 1
    before, after = reader(x)[0], reader(changed)[0]
    torch.testing.assert_close(before[:, :6], after[:, :6], atol=1e-12, rtol=0)
    assert before.shape == (2, 9, reader.output_size) and not torch.allclose(before[:, 6:], after[:, 6:])


def test_horizon_records_speak_to_the_claims(tmp_path):
    found = horizon.run_plan(TINY, 2, "cpu", False, tmp_path / "x.jsonl")
    horizons = records.find(found, metric="memory horizon")
    assert [record.protocol["model"] for record in horizons] == list(horizon.MODELS)
    assert all(
        record.n == 2 and record.claims == ("N05", "N06", "N08") and record.generated for record in found
    )
    assert len(found) == len(horizon.MODELS) * 3  # a horizon and two delays each


@pytest.mark.parametrize(
    ("task", "scores", "solved", "tried", "kept"),
    [
        ("delayed recall", (0.3, 0.99), (False, True), 2, 0.99),
        ("delayed recall", (0.97, 0.99), (True, True), 1, 0.97),
        ("delayed recall", (0.3, 0.2), (False, False), 2, 0.3),
        ("adding", (0.3, 0.2), (False, False), 2, 0.2),  # an error: less is better
    ],
)
def test_the_next_learning_rate_is_tried_until_one_solves(monkeypatch, task, scores, solved, tried, kept):
    rates = []

    def piece_result(build, task, delay, seed, budget):
        number = len(rates)
        rates.append(budget.learning_rate)
        return {"score": scores[number], "solved": solved[number], "steps": 4, "seconds": 1.5}

    monkeypatch.setattr(horizon, "horizon_piece", piece_result)
    result = horizon.measure(horizon.Piece(task, "GRU", 3, 0), TINY, "cpu")
    assert rates == list(TINY.learning_rates[:tried])
    assert result["score"] == kept and result["seconds"] == 1.5 * tried
    assert result["learning_rate"] == rates[scores.index(kept)]


@pytest.mark.parametrize("model", [m for m in horizon.MODELS if m not in ("minGRU", "Transformer")])
def test_models_start_as_their_name_says(model):
    torch.manual_seed(0)
    H = 400
    cell = horizon.make_recurrent(model, 3, H, delay=100).cells[0]
    bias = (cell.bias_ih + cell.bias_hh).detach()
    if "identity" in model:
        assert torch.equal(cell.weight_hh, torch.eye(H)) and cell.nonlinearity == "relu"
    elif "forget bias" in model:
        expected = float(model[-2])
        assert torch.equal(bias[H : 2 * H], torch.full((H,), expected))
    elif "chrono" in model:
        gate = bias[H : 2 * H]  # forget gate of an LSTM, update gate of a GRU: log U(1, 99)
        assert (
            gate.min() >= 0
            and gate.max() <= torch.tensor(99.0).log()
            and gate.exp().mean() == pytest.approx(50, abs=5)
        )
    else:
        assert bias.abs().max() <= 2 / H**0.5  # as torch starts it


def test_an_unknown_model_is_named():
    with pytest.raises(ValueError, match="Elman"):
        horizon.make_recurrent("Elman", 3, 4, 5)


# -------------------------------------------------------------------------------------- cost, mechanisms


def test_parameters_are_counted():
    gru, lstm = cost.parameter_records((3, 8))
    assert lstm.protocol["counts"] == [4 * (9 + 9 + 3 + 3), 4 * (64 + 64 + 8 + 8)]
    assert (gru.values, lstm.values) == ((3.0, 3.0), (4.0, 4.0))
    assert verdict("N07", [gru, lstm]).status == "confirmed"


def test_training_memory_is_parameters_gradients_and_what_backward_needs():
    class Exponential(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(5))

        def forward(self, x):
            return ((x * self.weight).exp(),)

    # exp keeps its result (7 x 5 floats); the product keeps its factors, which are there anyway.
    assert cost.training_bytes(Exponential(), torch.randn(7, 5)) == 4 * (7 * 5 + 2 * 5)


def test_a_step_is_timed_in_every_round_for_every_layer():
    layers = {model: layer(3, 4) for model, layer in cost.LAYERS.items()}
    times = cost._interleaved(layers, torch.randn(2, 5, 3), rounds=3)
    assert {model: len(seconds) for model, seconds in times.items()} == {"RNN": 3, "GRU": 3, "LSTM": 3}
    assert all(0 < seconds < 60 for values in times.values() for seconds in values)


@pytest.mark.parametrize(
    ("benchmark", "ids"), [(cost, {"N07", "C03"}), (mechanisms, {"M01", "M02", "M03", "M04"})]
)
def test_the_smoke_profile_gives_every_claim_what_its_rule_needs(benchmark, ids, tmp_path):
    found = benchmark.run("smoke", None, "cpu", False, tmp_path)
    assert {claim for record in found for claim in record.claims} == ids
    for claim in ids:
        assert "No record" not in verdict(claim, found).reason
    assert len({record.name for record in found}) == len(found)


def test_mechanisms_repeat_with_the_seed():
    plan = mechanisms.Plan(2, 8, 6, 5, (2,))
    first, again = (mechanisms.gradient_records(plan, [0, 1], "cpu") for _ in range(2))
    assert [record.values for record in first] == [record.values for record in again]
    by_radius = [record.mean for record in first]
    assert by_radius == sorted(by_radius)  # a larger radius, a larger factor


# --------------------------------------------------------------------------------------------- command line


def test_the_list_states_every_cost():
    output = CliRunner().invoke(bench, ["list"]).output
    for benchmark in benchmarks.discover().values():
        assert benchmark.about in output
        assert all(text in output for text in benchmark.cost.values())


def test_a_run_from_the_command_line_states_its_cost_first_and_writes(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr("seqcourse.cli_bench.discover", lambda: {"toy": toy(asked)})
    options = ["toy", "--profile", "laptop", "--seeds", "4", "--no-resume", "--out", str(tmp_path)]
    result = CliRunner().invoke(bench, options, catch_exceptions=False)
    assert result.exit_code == 0
    assert (asked["profile"], asked["seeds"], asked["resume"], asked["device"]) == ("laptop", 4, False, "cpu")
    assert result.output.index("a minute") < result.output.index("Written to")
    assert records.read(tmp_path / "toy-laptop.json")[0].n == 4


def test_an_unknown_benchmark_is_an_error():
    result = CliRunner().invoke(bench, ["nothing"])
    assert result.exit_code == 2 and "No such command 'nothing'" in result.output
