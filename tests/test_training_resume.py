"""Killed and resumed equals uninterrupted, to the bit; several processes equal one."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for run_training, which also runs as a script
from run_training import Stopped, train

SCRIPT = Path(__file__).with_name("run_training.py")
STEPS = 40


def resume(kind, checkpoint, result):
    """Run to the end in a new process; return how many steps that took."""
    command = [sys.executable, SCRIPT, kind, checkpoint, result, "0.001"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.count("step")


def run_and_kill(kind, checkpoint, result, after):
    """Start the run and kill it as soon as it begins step number ``after``, counted from its own start."""
    command = [sys.executable, SCRIPT, kind, checkpoint, result, "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for number, _ in enumerate(process.stdout, start=1):
            if number == after:
                time.sleep(random.uniform(0, 0.12))  # before, in or after the step
                process.kill()  # SIGKILL: no handler, no clean-up
                break
    assert process.returncode != 0, "the run ended before it was killed"


def assert_same(got, wanted):
    """Every bit of weights and history, but not the clock."""
    times, expected_times = got["history"].pop("seconds"), wanted["history"].pop("seconds")
    assert len(times) == len(expected_times) and times == sorted(times)
    assert got["history"] == wanted["history"]
    assert got["model"].keys() == wanted["model"].keys()
    for name, tensor in wanted["model"].items():
        assert torch.equal(got["model"][name], tensor), name


@pytest.mark.parametrize(("kind", "kills"), [("loader", 2), ("streams", 1)])
def test_killed_and_resumed_is_uninterrupted(kind, kills, tmp_path):
    checkpoint, result = tmp_path / "checkpoint.pt", tmp_path / "result.pt"
    steps = random.choices(range(4, 16), k=kills)  # anywhere: no step may be special
    for after in steps:
        run_and_kill(kind, checkpoint, result, after)
    assert not result.exists()
    left = resume(kind, checkpoint, result)
    assert 0 < left < STEPS, f"killed at {steps}, resumed with {left} steps to go"
    assert_same(torch.load(result), train(kind, None, STEPS))


@pytest.mark.parametrize(  # an epoch has 7 steps (streams 11), a checkpoint comes every 3
    ("kind", "before"), [("bucketed", n) for n in (5, 7, 8, 9, 13)] + [("streams", n) for n in (6, 12, 14)]
)
def test_resumes_anywhere(kind, before, tmp_path):
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Stopped):
        train(kind, checkpoint, 16, stop_before=before)
    saved = len(torch.load(checkpoint)["history"]["step"])
    assert before - 3 <= saved < before
    assert_same(train(kind, checkpoint, 16), train(kind, None, 16))


def test_two_processes(tmp_path):
    """Two processes with half a batch each equal one with the whole batch, and resume exactly."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, SCRIPT, "distributed", tmp_path], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = torch.load(tmp_path / "outcomes.pt")
    alone = train("plain", None, 12)
    torch.testing.assert_close(
        outcomes["plain"]["history"]["loss"], alone["history"]["loss"], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(outcomes["plain"]["model"], alone["model"], rtol=1e-4, atol=1e-5)
    assert_same(outcomes["resumed"], outcomes["whole"])
