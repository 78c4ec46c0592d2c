"""The peak memory of a call, measured in a process of its own.

On a CPU it is resident memory as the operating system counts it: scratch space of kernels and rounding of the
allocator are in it, which autograd does not see. In a process that has done other work freed memory would be
used again and hide part of the peak; so each measurement gets a fresh one, with a small call first that loads
libraries. On a GPU it is what torch's allocator handed out.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def method(device: str) -> str | None:
    """How the peak is measured on this machine; None if it cannot be (on Windows, without a GPU)."""
    if device.startswith("cuda"):
        return "what torch's allocator handed out at most, above what it had handed out before"
    if STATUS.exists() and RESET.exists():
        return "peak resident memory of a fresh process (VmHWM) above what was resident before the call"
    if sys.platform == "darwin":
        return "peak resident memory of a fresh process (ru_maxrss) above the peak before the call"
    return None


def peak_bytes(work: Callable[[], Any], device: str = "cpu") -> int:
    """Return how many bytes a call takes at the most, above what is taken before it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated
    elif RESET.exists():
        RESET.write_text("5")  # the peak falls to what is resident now: proc(5)
        before, most = _status("VmHWM"), lambda: _status("VmHWM")
    else:
        before, most = _max_rss(), _max_rss
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    peak = most() - before
    del result  # it counts: the caller would have it
    return peak


def _status(entry: str) -> int:
    """Bytes of an entry of the process's status, such as VmHWM, the peak of VmRSS.

    Not getrusage: its peak outlives exec on Linux, so a child would start from the peak of its parent.
    """
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{entry}:"))
    return 1024 * int(line.split()[1])


def _max_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def limit_memory(more_bytes: int) -> None:
    """Let this process take so many bytes more than now; the system then refuses, and torch raises.

    Without it a call that is too large would take the machine's last memory, and with it other programs.
    """
    if STATUS.exists():
        import resource

        limit = _status("VmSize") + more_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def measure(
    build: Callable[..., Callable], arguments: dict, warm_up: dict, device: str, limit: int, threads: int
):
    """Build a call here and measure it; arguments and result as of :func:`peak_in_a_process`."""
    torch.set_num_threads(threads)
    build(**warm_up, device=device)()
    work = build(**arguments, device=device)
    if device == "cpu":
        limit_memory(limit)
    try:
        return {"peak": peak_bytes(work, device)}
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return {"ended": (str(error).splitlines() or ["MemoryError"])[0][:200]}


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ended; torch has a class for it on a GPU only."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ("allocate memory", "out of memory", "bad_alloc"))


def peak_in_a_process(
    build: Callable[..., Callable[[], Any]], arguments: dict, warm_up: dict, device: str, limit: int
) -> dict[str, Any]:
    """Measure a call in a fresh process.

    Args:
        build: makes the call: ``build(**arguments, device=device)``; a function of a module.
        arguments: plain values.
        warm_up: arguments of a small call before, after which libraries are loaded.
        device: where.
        limit: bytes that it may take; on a GPU, what there is.

    Returns:
        ``peak``, in bytes, or ``ended``, the message with which memory ended.
    """
    with ProcessPoolExecutor(1, _context(device)) as pool:
        task = pool.submit(measure, build, arguments, warm_up, device, limit, torch.get_num_threads())
        try:
            return task.result()
        except BrokenProcessPool:
            return {"ended": "the system killed the process: no memory left on this machine"}


def _context(device: str) -> multiprocessing.context.BaseContext:
    """Fork from a server that has imported this package and done nothing else: fresh, and no wait for torch.

    A process that will use a GPU must not be forked at all.
    """
    if device != "cpu" or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["seqcourse.models", "seqcourse.transformer", __name__])
    return context
