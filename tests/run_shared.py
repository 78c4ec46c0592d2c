"""A toy benchmark in the processes that torchrun starts; see test_shared_benchmarks.py.

    run_shared.py FOLDER [--fail KEY]

Each measured piece leaves a file ``measured/KEY-RANK``, one more letter in it for each time.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from seqcourse.benchmarks import Benchmark, FinishedWork, processes, run_benchmark, unfinished_path
from seqcourse.benchmarks.workers import finish
from seqcourse.records import Record, generated_source

folder = Path(sys.argv[1])
failing = sys.argv[sys.argv.index("--fail") + 1] if "--fail" in sys.argv else ""
(folder / "measured").mkdir(parents=True, exist_ok=True)


def measure(key: str) -> dict[str, float]:
    """Note who measures; the result says nothing about that."""
    if key == failing:
        os._exit(3)
    with (folder / "measured" / f"{key}-{processes.rank()}").open("a") as file:
        file.write("x")
    return {"value": float(ord(key))}


def run(profile, seeds, device, resume, out) -> list[Record]:
    """Two stages: the second needs a result of the first in every process."""
    finished = FinishedWork(unfinished_path(out, "toy", profile), {}, resume)
    finish(finished, {key: key for key in "abcde"}, measure, "toy")
    first = finished["a"]["value"]
    finish(finished, {"f": "f"}, lambda key: {"value": measure(key)["value"] + first}, "toy: second")
    values = [finished[key]["value"] for key in "abcdef"]
    source = generated_source("toy", "made up")
    return [
        Record.measured(
            "toy", metric="m", unit="1", values=values, protocol={}, source=source, duration_s=0.0
        )
    ]


cost = dict.fromkeys(("smoke", "laptop", "full"), "nothing")
toy = Benchmark("toy", "A toy.", cost, run, shared=True)
run_benchmark(toy, "laptop", out=folder)
