"""Runs of a benchmark side by side: in processes of one machine, or in those that torchrun started on several.

A benchmark is many runs that need nothing from each other. So each process does its share of them, stores each in
a file of its own as it ends, and when all are done every process reads what the others have stored. The gradient
of one run is never spread: for that, give :func:`seqcourse.training.fit` a Lightning Fabric.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm.auto import tqdm

from seqcourse.benchmarks.processes import rank, wait_for_all, world_size
from seqcourse.history import LOG_DIR, logged_to
from seqcourse.runtime import setup_cpu

if TYPE_CHECKING:
    from seqcourse.benchmarks import FinishedWork

Piece = TypeVar("Piece")


def finish(
    finished: FinishedWork,
    pieces: Mapping[str, Piece],
    measure: Callable[[Piece], dict[str, Any]],
    about: str,
    workers: int = 1,
    device: str = "cpu",
) -> None:
    """Measure the pieces that are not finished and store each at once; afterwards all of them are in ``finished``.

    Args:
        finished: the work so far.
        pieces: key -> what is measured; of several processes, each measures its share.
        measure: from a piece to plain JSON values; with several workers, a function that other processes can
            import, or a ``functools.partial`` of one.
        about: what the progress bar says.
        workers: so many processes on this machine; on anything but a CPU, this process does the work.
        device: where a piece is measured.
    """
    # The share does not depend on what is finished: no process knows how far the others are.
    share = dict(list(pieces.items())[rank() :: world_size()])
    missing = {key: piece for key, piece in share.items() if key not in finished}
    bar = {"total": len(share), "initial": len(share) - len(missing), "desc": about, "unit": "run"}
    for key, result in tqdm(measure_all(measure, missing, workers, device), disable=None, **bar):
        finished.add(key, result)
    wait_for_all()
    finished.read()


def measure_all(
    measure: Callable[[Piece], dict[str, Any]], pieces: Mapping[str, Piece], workers: int, device: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The key of each piece with its result, as they end; the arguments are those of :func:`finish`."""
    folder = LOG_DIR.get()
    if workers == 1 or device != "cpu":
        yield from ((key, measure_logged(measure, key, piece, folder)) for key, piece in pieces.items())
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        futures = {
            pool.submit(measure_logged, measure, key, piece, folder): key for key, piece in pieces.items()
        }
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # interrupted: start nothing more


def measure_logged(
    measure: Callable[[Piece], dict[str, Any]], key: str, piece: Piece, folder: Path | None
) -> dict[str, Any]:
    """Measure a piece, with TensorBoard events of its training in a folder of its own if there is one for all."""
    with logged_to(folder and folder / key):
        return measure(piece)


def start_worker() -> None:
    """One thread, and no life after the parent: a killed benchmark must not go on computing unseen."""
    setup_cpu(1)
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
