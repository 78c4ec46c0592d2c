"""What a submission may use while it is graded."""

from __future__ import annotations

from dataclasses import asdict, dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of one submission; a cell's own `timeout` metadata overrides `cell_seconds`.

    Args:
        cell_seconds: Wall-clock time of one cell.
        total_seconds: Wall-clock time of the whole submission, restarts included.
        address_space: Bytes of virtual memory of one process (torch alone takes about 0.8 GiB).
        memory: Bytes of real memory of all processes together, files in /tmp included.
        processes: Processes of one submission at once.
        output: Characters of output kept of one cell.
        scratch: Bytes in /tmp, and in /dev/shm.
        open_files: File descriptors of one process.
        restarts: How often a submission is run again without the cell that crashed or hung.
    """

    cell_seconds: float = 30.0
    total_seconds: float = 300.0
    address_space: int = 3072 * MEBIBYTE
    memory: int = 2048 * MEBIBYTE
    processes: int = 64
    output: int = 10_000
    scratch: int = 128 * MEBIBYTE
    open_files: int = 256
    restarts: int = 3

    def as_dict(self) -> dict[str, float | int]:
        """The limits as JSON carries them."""
        return asdict(self)
