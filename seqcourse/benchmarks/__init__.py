"""Benchmarks: each module here measures one family of claims and ends in records.

A module is found by its ``BENCHMARK``. It has three profiles: ``smoke`` (seconds, to see that it runs),
``laptop`` (two CPU cores) and ``full`` (longer, or a GPU). ``seqcourse bench list`` tells what each costs.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqcourse.benchmarks import processes
from seqcourse.history import logged_to
from seqcourse.records import Record, current_commit, default_folder, read, write

PROFILES = ("smoke", "laptop", "full")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as ``seqcourse bench`` sees it.

    Attributes:
        name: what is typed after ``seqcourse bench``.
        about: one sentence.
        cost: for each profile, in words, what it costs: time, cores, memory.
        run: ``run(profile, seeds, device, resume, out) -> list[Record]``. ``seeds`` is a number, or None for
            the profile's own; in the folder ``out`` it may keep unfinished work (:class:`FinishedWork`).
        shared: whether the processes of torchrun share the runs (:func:`workers.finish`); what measures time or
            memory runs alone.

    Raises:
        ValueError: a profile's cost is not stated.
    """

    name: str
    about: str
    cost: dict[str, str]
    run: Callable[..., list[Record]]
    shared: bool = False

    def __post_init__(self) -> None:
        if missing := [profile for profile in PROFILES if not self.cost.get(profile)]:
            raise ValueError(f"benchmark {self.name!r} does not say what {', '.join(missing)} costs")


def discover() -> dict[str, Benchmark]:
    """All benchmarks by name: every module of this package that has a ``BENCHMARK``."""
    modules = (
        importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    )
    benchmarks = [module.BENCHMARK for module in modules if hasattr(module, "BENCHMARK")]
    return {
        benchmark.name: benchmark for benchmark in sorted(benchmarks, key=lambda benchmark: benchmark.name)
    }


def run_benchmark(
    benchmark: Benchmark,
    profile: str = "smoke",
    *,
    seeds: int | None = None,
    device: str = "cpu",
    resume: bool = True,
    out: str | os.PathLike[str] | None = None,
    log_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Runs a benchmark and writes its records; returns the path, see :func:`records_path`.

    Started by torchrun, its processes share the work, and the first of them writes the records. In ``log_dir``
    every training run leaves TensorBoard events, in a folder of its own.

    Raises:
        ValueError: no such profile, fewer than one seed, or several processes for a benchmark that needs one.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if seeds is not None and seeds < 1:
        raise ValueError(f"at least one seed is needed, got {seeds}")
    if processes.world_size() > 1 and not benchmark.shared:
        raise ValueError(
            f"{benchmark.name!r} cannot be shared by several processes, got {processes.world_size()}: no torchrun"
        )
    folder = Path(out) if out is not None else default_folder()
    path = records_path(folder, benchmark.name, profile)
    with processes.joined(device), logged_to(log_dir):
        records = benchmark.run(profile=profile, seeds=seeds, device=device, resume=resume, out=folder)
        if processes.rank() == 0:
            write(path, records)
            forget(unfinished_path(folder, benchmark.name, profile))  # all of it is in the records now
        processes.wait_for_all()
    return path


def records_path(out: str | os.PathLike[str], name: str, profile: str) -> Path:
    """``out/NAME-PROFILE.json``; a smoke run is no evidence and goes to ``out/runs``."""
    folder = Path(out) / "runs" if profile == "smoke" else Path(out)
    return folder / f"{name}-{profile}.json"


def load_records(folder: str | os.PathLike[str] | None = None) -> list[Record]:
    """The evidence in a folder of records: of each benchmark the fullest profile that was run.

    Use this, not ``records.read(folder)``, for verdicts: it never mixes two profiles of one benchmark.
    """
    return [record for path in record_files(folder) for record in read(path)]


def record_files(folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """The files that :func:`load_records` reads."""
    folder = Path(folder) if folder is not None else default_folder()
    best: dict[str, Path] = {}
    for profile in PROFILES:  # a later profile replaces an earlier one
        for path in sorted(folder.glob(f"*-{profile}.json")):
            best[path.name.removesuffix(f"-{profile}.json")] = path
    return list(best.values())


def unfinished_path(out: str | os.PathLike[str], name: str, profile: str) -> Path:
    """Where a benchmark keeps finished pieces of an unfinished run (git ignores folders named ``runs``)."""
    return Path(out) / "runs" / f"{name}-{profile}.jsonl"


def files_of_all(path: Path) -> list[Path]:
    """The files of finished work of all processes: ``x.jsonl`` of the first, ``x.rank1.jsonl`` and so on."""
    others = sorted(path.parent.glob(f"{path.stem}.rank*.jsonl"))
    return [found for found in (path, *others) if found.exists()]


def forget(path: Path) -> None:
    """Remove the files of finished work of all processes."""
    for found in files_of_all(path):
        found.unlink(missing_ok=True)


class FinishedWork:
    """Finished pieces of a run, one JSON line each, so that an interrupted run resumes where it stopped.

    A piece counts only under the protocol it was measured with; under another it is measured again. Of several
    processes each writes a file of its own, and reads those of all.

    Args:
        path: the file; see :func:`unfinished_path`.
        protocol: everything that decides a result, as plain JSON values.
        resume: False forgets what was finished before.
    """

    def __init__(self, path: str | os.PathLike[str], protocol: dict[str, Any], resume: bool = True) -> None:
        self._first, rank = Path(path), processes.rank()
        self.path = self._first.with_suffix(f".rank{rank}.jsonl") if rank else self._first
        self._commit = current_commit()  # of the code that was loaded, whatever happens to the files later
        self.protocol = json.loads(json.dumps(protocol))  # as it will come back from the file
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not resume and rank == 0:
            forget(self._first)
        processes.wait_for_all()  # nobody reads what is about to be forgotten
        self._cut_last_line()
        self._pieces: dict[str, dict[str, Any]] = {}
        self.read()

    def _cut_last_line(self) -> None:
        """A process killed while it wrote leaves a last line without its end: that piece is not finished."""
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8")
            self.path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")

    def read(self) -> None:
        """Take in what all processes have finished so far."""
        for path in files_of_all(self._first):
            for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
                line = json.loads(text)
                if line["protocol"] == self.protocol:
                    self._pieces[line["key"]] = line

    def __contains__(self, key: str) -> bool:
        return key in self._pieces

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._pieces[key]["result"]

    def __len__(self) -> int:
        return len(self._pieces)

    @property
    def commit(self) -> str:
        """The commits of the code that measured the pieces; more than one if it changed between two runs."""
        return " and ".join(sorted({line["commit"] for line in self._pieces.values()}))

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Stores a finished piece at once, on the disk."""
        line = {"key": key, "result": result, "protocol": self.protocol, "commit": self._commit}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._pieces[key] = line
