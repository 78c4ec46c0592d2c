"""Runs of a benchmark side by side, each in a process with one thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from seqcourse.runtime import setup_cpu

Piece = TypeVar("Piece")


def measure_all(
    measure: Callable[[Piece], dict[str, Any]], pieces: Sequence[Piece], workers: int, device: str
) -> Iterator[tuple[Piece, dict[str, Any]]]:
    """Each piece with its result, as they end.

    Args:
        measure: a function that other processes can import, or a ``functools.partial`` of one.
        pieces: what is to be measured; plain enough to be sent to another process.
        workers: so many processes; with one, and on anything but a CPU, this process does the work.
        device: where a piece is measured.
    """
    if workers == 1 or device != "cpu":
        yield from ((piece, measure(piece)) for piece in pieces)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), start_worker) as pool:
        futures = {pool.submit(measure, piece): piece for piece in pieces}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # interrupted: start nothing more


def start_worker() -> None:
    """One thread, and no life after the parent: a killed benchmark must not go on computing unseen."""
    setup_cpu(1)
    parent = parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
