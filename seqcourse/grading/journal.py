"""What the grader has done so far, one file per student: the reason why a kill costs nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import seqcourse
from seqcourse.grading.course import write_atomically

# What decides about a mark: a change in one of these modules executes every hand-in anew.
_DECIDING = ("rebuild", "execute", "runner", "canaries", "integrity", "limits", "capture")


@dataclass
class Entry:
    """One student's hand-in of one exercise, as far as it has come.

    Args:
        key: What was executed (see `key_of`); another key means: execute again.
        result: What `execute` returned.
        timestamp: When it was handed in, as in ``timestamp.txt``; empty if unknown.
        notes: Remarks from the inspection and from rebuilding it.
        recorded: The marks in the gradebook after recording it, by cell; `None` before.
        due: The due date that the late penalty was computed with.
        feedback: Of which marks and comments the feedback page is; empty before.
    """

    student: str
    key: str
    result: dict[str, Any]
    timestamp: str = ""
    notes: list[str] = field(default_factory=list)
    recorded: dict[str, float | None] | None = None
    due: str = ""
    feedback: str = ""

    @property
    def status(self) -> str:
        """graded, crashed, timeout or tampered."""
        return self.result["status"]


@cache
def grader_version() -> str:
    """The version of what decides about marks."""
    folder = Path(__file__).parent
    texts = [folder / f"{name}.py" for name in _DECIDING] + [folder.parent / "checks.py"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in texts)).hexdigest()
    return f"{seqcourse.__version__}+{digest[:12]}"


def key_of(notebook: dict[str, Any], timestamp: str, limits: dict[str, Any]) -> str:
    """Name what a mark depends on: tests and answers (the rebuilt notebook), time, limits and grader."""
    parts = [notebook, timestamp, limits, grader_version()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Journal:
    """The entries of one exercise.

    Args:
        folder: ``.seqcourse/grade/NAME``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, student: str) -> Path:
        """Where a student's entry is."""
        return self.folder / f"{student}.json"

    def read(self, student: str) -> Entry | None:
        """A student's entry; `None` if there is none, or none that can be read (then it is made again)."""
        try:
            return Entry(**json.loads(self.path(student).read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def write(self, entry: Entry) -> None:
        """Keep an entry; one with another key goes to ``earlier/``.

        What was executed is on the disk when this returns; what was done with it since can be done again.
        """
        before = self.read(entry.student)
        if before is not None and before.key != entry.key:
            self.retire(entry.student)
        durable = entry.recorded is None
        write_atomically(self.path(entry.student), json.dumps(asdict(entry)), durable)

    def retire(self, student: str) -> None:
        """Put a student's entry aside: it is no longer what counts."""
        entry = self.read(student)
        if entry is not None:
            place = self.folder / "earlier" / student / f"{entry.key[:16]}.json"
            place.parent.mkdir(parents=True, exist_ok=True)
            self.path(student).replace(place)

    def earlier(self, student: str) -> list[Path]:
        """The student's entries that were put aside, oldest first."""
        return sorted(
            (self.folder / "earlier" / student).glob("*.json"), key=lambda path: path.stat().st_mtime
        )
