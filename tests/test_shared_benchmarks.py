"""Processes of torchrun share a benchmark: each piece is measured once, and the records are those of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from seqcourse import records
from seqcourse.benchmarks import FinishedWork, discover, run_benchmark

SCRIPT = Path(__file__).with_name("run_shared.py")
# These measure time or memory and need the machine, or are too short to be shared.
ALONE = {"attention", "cost", "grading", "mechanisms", "speed"}


def torchrun(*command: str | Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launch, *map(str, command)], capture_output=True, text=True, env=quiet, timeout=300
    )


def measured(folder: Path) -> tuple[Counter, set[str]]:
    """How often each piece was measured, and by which processes."""
    files = [(path.name.split("-"), len(path.read_text())) for path in (folder / "measured").iterdir()]
    return Counter({name[0]: times for name, times in files}), {name[1] for name, _ in files}


def test_each_piece_is_measured_once_and_nothing_is_left(tmp_path):
    done = torchrun(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert measured(tmp_path) == (Counter("abcdef"), {"0", "1"})
    found = records.read(tmp_path / "toy-laptop.json")
    assert found[0].values == (*map(float, b"abcde"), float(ord("a") + ord("f")))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_broken_run_resumes_also_with_another_number_of_processes(tmp_path):
    assert torchrun(SCRIPT, tmp_path, "--fail", "d").returncode != 0  # the second process breaks, after b
    assert not (tmp_path / "toy-laptop.json").exists()
    before, _ = measured(tmp_path)
    assert 1 <= len(before) < 6 and before["b"] == 1
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert measured(tmp_path)[0] == Counter("abcdef")
    assert records.read(tmp_path / "toy-laptop.json")[0].n == 6


def test_what_measures_time_refuses_several_processes(tmp_path, monkeypatch):
    assert {name for name, benchmark in discover().items() if not benchmark.shared} == ALONE
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="'speed' cannot be shared by several processes, got 2"):
        run_benchmark(discover()["speed"], out=tmp_path)


def test_no_resume_forgets_what_other_processes_had_finished(tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    monkeypatch.setenv("RANK", "1")
    FinishedWork(path, {}).add("b", {"score": 1})
    assert (tmp_path / "x.rank1.jsonl").exists()
    other = tmp_path / "x-y.jsonl"  # of another benchmark
    other.write_text("")
    monkeypatch.delenv("RANK")
    assert "b" in FinishedWork(path, {})
    assert "b" not in FinishedWork(path, {}, resume=False) and other.exists()


def test_a_real_benchmark_gives_the_records_of_one_process(tmp_path):
    """Pre-training: the first process makes the language model, both go on from it."""
    done = torchrun("-m", "seqcourse", "bench", "pretraining", "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Written to") == 1
    alone = records.read(run_benchmark(discover()["pretraining"], "smoke", out=tmp_path / "one"))
    shared = records.read(tmp_path / "two" / "runs" / "pretraining-smoke.json")
    assert [(r.name, r.values) for r in shared] == [(r.name, r.values) for r in alone]
