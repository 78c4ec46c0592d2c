"""CPU set-up, seeds, devices, and the description of the machine."""

from __future__ import annotations

import json
import platform
import random
import subprocess
import sys

import numpy
import pytest
import torch

import seqcourse
from seqcourse.runtime import hardware, pick_device, seed_everything, setup_cpu, versions

# Run in a process of its own: mallopt cannot be undone. Counts page faults while large tensors come and go.
COUNT_FAULTS = """
import resource, sys, torch
from seqcourse.runtime import setup_cpu
print(setup_cpu(threads=1, allocator=sys.argv[1] == "True")["allocator"])
def churn():
    for _ in range(8):
        torch.zeros(9 * 2**20) + 1  # 36 MB: glibc never keeps more than 32 by itself
churn()  # lets the heap grow to what the work needs
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run_churn(allocator):
    command = [sys.executable, "-c", COUNT_FAULTS, str(allocator)]
    state, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return state, int(faults)


def test_setup_cpu_sets_the_threads_it_reports():
    before = torch.get_num_threads()
    try:
        assert setup_cpu(threads=1, allocator=False) == {
            "threads": 1,
            "allocator": "unchanged: not asked for",
        }
        assert torch.get_num_threads() == 1
        assert setup_cpu(allocator=False)["threads"] == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        setup_cpu(threads=0)


def test_setup_cpu_keeps_freed_memory_where_it_says_so():
    if platform.libc_ver()[0] != "glibc":  # macOS, Windows, musl: nothing may be tuned
        assert setup_cpu()["allocator"].startswith("unchanged: needs glibc")
        return
    state, tuned = run_churn(True)
    _, untuned = run_churn(False)
    assert state == "tuned"
    assert tuned < untuned / 4  # the heap may still grow once


def test_seed_everything_repeats_all_generators():
    def draw():
        generator = seed_everything(3)
        return (
            random.random(),
            numpy.random.rand(),
            torch.rand(1).item(),
            torch.rand(1, generator=generator).item(),
        )

    assert draw() == draw()
    expected = draw()[2]
    seed_everything(4)
    assert torch.rand(1).item() != expected
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="seed"):
            seed_everything(seed)


def test_pick_device_takes_what_is_there_and_explains_what_is_not():
    assert pick_device("cpu") == torch.device("cpu")
    automatic = pick_device()
    assert torch.ones(2, device=automatic).sum().item() == 2
    missing = next((kind for kind, there in availability().items() if not there), None)
    assert missing is not None, "a machine with both cuda and mps?"
    with pytest.raises(ValueError, match=f"'{missing}'; this machine has: .*cpu"):
        pick_device(missing)


def availability():
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def test_hardware_and_versions_can_be_written_into_a_record():
    described = json.loads(json.dumps(hardware()))
    assert described["threads"] == torch.get_num_threads()
    assert described["cores"] >= 1 and described["cpu"]
    assert versions()["torch"] == torch.__version__
    assert versions()["seqcourse"] == seqcourse.__version__
    assert versions()["python"] == platform.python_version()


def test_the_recurrent_modules_import_nothing_heavier_than_torch():
    code = (
        "import sys, seqcourse.recurrent, seqcourse.runtime, seqcourse.initialisation;"
        "heavy = {'matplotlib', 'pandas', 'tokenizers', 'pooch', 'lightning_fabric'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
