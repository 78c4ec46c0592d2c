"""The machine under the model: CPU set-up, seeds, devices, and what to write into a record about them."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import random
from typing import Any

import torch

# Parameters of glibc's mallopt(3), from malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_KEEP_BYTES = 2**31 - 1  # the largest value that mallopt's int can hold


def setup_cpu(threads: int | None = None, allocator: bool = True) -> dict[str, Any]:
    """Make CPU training faster with one call: keep freed memory, and state the number of threads.

    By default glibc hands every large tensor back to the system when it is freed, and each training step then
    pays for fresh pages again. Here freed memory stays with the process. Other systems' allocators are left
    alone.

    Args:
        threads: for torch's operations; unchanged if left out. Small recurrent steps gain nothing from a
            second one.
        allocator: tune glibc's malloc.

    Returns:
        What was done: ``threads`` and ``allocator`` (``"tuned"`` or ``"unchanged"``, and why).

    Raises:
        ValueError: if ``threads`` is smaller than one.
    """
    if threads is not None:
        if threads < 1:
            raise ValueError(f"expected at least 1 thread, got {threads}")
        torch.set_num_threads(threads)
    state = _tune_allocator() if allocator else "unchanged: not asked for"
    return {"threads": torch.get_num_threads(), "allocator": state}


def _tune_allocator() -> str:
    """Serve all sizes from the heap (no mmap per tensor) and never trim it; mallopt returns 1 on success."""
    if platform.libc_ver()[0] != "glibc":
        return f"unchanged: needs glibc, this is {platform.system()}"
    mallopt = ctypes.CDLL(None).mallopt
    done = mallopt(_M_MMAP_MAX, 0) == 1 and mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES) == 1
    return "tuned" if done else "unchanged: mallopt refused"


def seed_everything(seed: int) -> torch.Generator:
    """Seed the global generators that libraries draw from, and return a generator to pass on.

    Raises:
        ValueError: if ``seed`` is outside 0 .. 2**32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"expected a seed from 0 to 2**32 - 1, got {seed}")
    import numpy

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    return torch.Generator().manual_seed(seed)


def pick_device(name: str | torch.device = "auto") -> torch.device:
    """Return the named device, or for ``"auto"`` the first of cuda, mps, cpu that is there.

    Raises:
        ValueError: if the device is not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if str(name) == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    device = torch.device(name)
    if not available.get(device.type, True):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise ValueError(f"expected an available device, got {str(device)!r}; this machine has: {there}")
    return device


def hardware() -> dict[str, Any]:
    """Describe the machine for a record: CPU, cores, torch threads, GPU, memory in GB, operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ram_gb": _ram_gb(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_model() -> str:
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _ram_gb() -> float | None:
    """Physical memory where POSIX tells it; Windows has no sysconf."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def versions() -> dict[str, str]:
    """Return the versions that decide a result: Python, seqcourse, torch, NumPy."""
    packages = ("seqcourse", "torch", "numpy")
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
