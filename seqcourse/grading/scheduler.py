"""Executing hand-ins in parallel: on this machine, or on any Dask cluster (SLURM, Kubernetes, ...).

A job is pure JSON, and so is what comes back: workers need this package and a sandbox, nothing of the course.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dask.distributed import Client, LocalCluster, as_completed

CONNECT_SECONDS = 10  # until a scheduler has to answer

Job = dict[str, Any]
Run = Callable[[Job], dict[str, Any]]


def run_job(job: Job) -> dict[str, Any]:
    """Execute one rebuilt notebook, wherever this worker is.

    Args:
        job: ``notebook``, ``limits`` and ``require_sandbox``, as JSON.
    """
    from seqcourse.grading.execute import execute
    from seqcourse.grading.limits import Limits

    return execute(job["notebook"], Limits(**job["limits"]), job["require_sandbox"]).as_dict()


@contextmanager
def _client(address: str | None, jobs: int | None) -> Iterator[Client]:
    if address:
        with Client(address, timeout=CONNECT_SECONDS) as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=jobs or os.cpu_count() or 1,
            processes=False,  # each thread waits for a sandbox process of its own, which does the work
            dashboard_address="127.0.0.1:0",  # Dask's pages: for nobody but this machine
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def execute_all(
    jobs: dict[str, Job], run: Run = run_job, address: str | None = None, workers: int | None = None
) -> Iterator[tuple[str, dict[str, Any] | BaseException]]:
    """Execute jobs in parallel; yield each as it is done.

    Args:
        jobs: By student.
        run: Executes one job.
        address: Of a Dask scheduler; by default the work stays on this machine.
        workers: How many at once on this machine; by default one per core.

    Yields:
        The student and the result, or the exception that came instead.

    Raises:
        OSError: If no scheduler answers at `address`.
    """
    if not jobs:
        return
    with _client(address, workers) as client:
        # pure=False: each hand-in is executed even if two are the same
        students = {client.submit(run, job, pure=False, retries=0): student for student, job in jobs.items()}
        for future in as_completed(students):
            error = future.exception() if future.status != "finished" else None
            yield students.pop(future), error or future.result()
