"""The processes that torchrun has started: which of them this one is, and waiting for the others.

torch is imported where it is needed: to list or read records nobody should have to wait for it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = datetime.timedelta(days=7)  # that a process may have to wait for the last one


def rank() -> int:
    """The number of this process among those that torchrun started; 0 without it."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def joined(device: str = "cpu") -> Iterator[None]:
    """While it lasts, the processes of torchrun can wait for each other; on CUDA each has a GPU of its own."""
    if world_size() == 1:
        yield
        return
    import torch

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def wait_for_all() -> None:
    """Return when every process has come here."""
    if world_size() > 1:
        import torch

        torch.distributed.barrier()
