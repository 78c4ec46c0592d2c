"""Who is in the class, and whose hand-in a file in a delivery is."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from nbgrader.api import Gradebook

from seqcourse.grading.course import CourseError, is_student_id, parse_timestamp

_ID_COLUMNS = ("student", "student_id", "id", "username", "user", "login")
_LMS_COLUMNS = ("lms", "lms_id", "lms_user_id", "canvas_id", "moodle_id", "idnumber", "participant")


@dataclass(frozen=True)
class Student:
    """One student of the class."""

    id: str
    first_name: str = ""
    last_name: str = ""
    email: str = ""
    lms: str = ""

    def clues(self) -> set[str]:
        """Everything that stands for this student in the names an LMS makes, in folded form."""
        names = [f"{self.first_name} {self.last_name}", f"{self.last_name} {self.first_name}"]
        local = self.email.split("@")[0]
        return {fold(clue) for clue in (self.id, self.lms, self.email, local, *names)} - {""}


def fold(text: str) -> str:
    """Fold a name for comparison: no case, accents, spaces or punctuation."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(character for character in plain if character.isalnum())


class Unattributed(Exception):
    """Nobody, or more than one student, fits a file's name."""


@dataclass(frozen=True)
class Roster:
    """The students of a class, found by any of their clues.

    Args:
        complete: Whether nobody else is in the class; else an account's name is taken as it stands.
    """

    students: tuple[Student, ...] = ()
    complete: bool = False
    _by_clue: dict[str, set[str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, students: Iterable[Student], complete: bool = False) -> Roster:
        """Index the students."""
        students, by_clue = tuple(students), {}
        for student in students:
            for clue in student.clues():
                by_clue.setdefault(clue, set()).add(student.id)
        return cls(students, complete, by_clue)

    def find(self, *clues: str) -> str:
        """The one student that the clues stand for; a later clue only decides what an earlier one left open.

        Raises:
            Unattributed: If no clue fits, or they fit several students.
        """
        fitting: set[str] = set()
        for clue in clues:
            fits = self._by_clue.get(fold(clue), set())
            fitting = (fitting & fits) or fitting or fits
            if len(fitting) == 1:
                return next(iter(fitting))
        said = " and ".join(repr(clue) for clue in clues)
        if fitting:
            raise Unattributed(f"{said} fits several students: {', '.join(sorted(fitting))}")
        raise Unattributed(f"no student of the roster fits {said}")

    def knows(self, clue: str) -> bool:
        """Whether a clue stands for exactly one student."""
        return len(self._by_clue.get(fold(clue), set())) == 1


def read_roster(path: Path) -> Roster:
    """Read a roster CSV with a header line.

    Columns, in any order and case: ``student`` (or ``id``, ``username``); optional ``name`` or ``first_name``
    and ``last_name``, ``email``, ``lms`` (the number in the LMS's file names; or ``canvas_id``).

    Raises:
        CourseError: If there is no column of ids, an id cannot be a folder's name, or one stands there twice.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [
            {_column(key): (value or "").strip() for key, value in row.items() if key}
            for row in csv.DictReader(file)
        ]
    students = [_student(row, path, line) for line, row in enumerate(rows, start=2)]
    repeated = {student.id for student in students if sum(other.id == student.id for other in students) > 1}
    if repeated:
        raise CourseError(
            f"{path.name}: expected every student once, found twice: {', '.join(sorted(repeated))}"
        )
    return Roster.of(students, complete=True)


def _column(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _first(row: dict[str, str], columns: Iterable[str]) -> str:
    return next((row[column] for column in columns if row.get(column)), "")


def _student(row: dict[str, str], path: Path, line: int) -> Student:
    identity = _first(row, _ID_COLUMNS)
    if not is_student_id(identity):
        raise CourseError(
            f"{path.name}, line {line}: expected a student's id (letters, digits and ._@-) in a column "
            f"'student', got {identity!r}"
        )
    first, _, last = row.get("name", "").rpartition(" ")
    return Student(
        identity,
        row.get("first_name") or first,
        row.get("last_name") or row.get("surname") or last,
        row.get("email", ""),
        _first(row, _LMS_COLUMNS),
    )


def gradebook_roster(gradebook: Gradebook, complete: bool = False) -> Roster:
    """The students that nbgrader's gradebook knows."""
    students = (
        Student(
            entry.id,
            entry.first_name or "",
            entry.last_name or "",
            entry.email or "",
            entry.lms_user_id or "",
        )
        for entry in gradebook.students
    )
    return Roster.of(students, complete)


def enrol(gradebook: Gradebook, roster: Roster) -> None:
    """Put a roster's students into the gradebook; what it does not say is left as it is."""
    for student in roster.students:
        about = {
            "first_name": student.first_name,
            "last_name": student.last_name,
            "email": student.email,
            "lms_user_id": student.lms,
        }
        gradebook.update_or_create_student(
            student.id, **{key: value for key, value in about.items() if value}
        )


@dataclass(frozen=True)
class Origin:
    """What a file's name in a delivery says.

    Args:
        clues: What may name the student, best first.
        known: Whether a clue is an account's name by itself, without a roster.
        timestamp: When it was handed in, if the name says so.
        exercise: The exercise, if the name says so.
    """

    clues: tuple[str, ...]
    known: bool = True
    timestamp: datetime | None = None
    exercise: str = ""


_EXCHANGE = re.compile(
    r"(?P<student>.+?)\+(?P<exercise>[^+]+)\+(?P<when>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[^+]*)(\+.*)?"
)
_MOODLE = re.compile(r"(?P<name>.+?)_(?P<lms>\d+)_assignsubmission_(file|onlinetext)")
_BLACKBOARD = re.compile(r"(?:.*_)?(?P<student>[^_]+)_attempt_(?P<when>\d{4}(?:-\d\d){5})")
_CANVAS = re.compile(r"(?P<name>[^_/]+)_(?:LATE_)?(?P<lms>\d+)_\d+_.+")


def origin(name: str, exercise: str, roster: Roster) -> Origin:
    """Read the student out of a path as an LMS or nbgrader makes it, or out of a folder per student.

    Args:
        name: Path of the file inside the delivery.
        exercise: The exercise being collected (a folder or a part of the file name may be called like it).
    """
    # Only the first part counts: what lies further down is the student's own naming.
    top, *below = name.split("/")
    named = named_by_system(top)
    if named:
        return named
    return Origin((top,)) if below else Origin(_file_clues(top, exercise, roster), known=False)


def named_by_system(part: str) -> Origin | None:
    """Read a name that nbgrader's exchange or an LMS has made; `None` if it is none."""
    if match := _EXCHANGE.match(part):
        return Origin((match["student"],), True, parse_timestamp(match["when"]), match["exercise"])
    if match := _MOODLE.match(part):
        return Origin((match["name"], match["lms"]), known=False)  # the number is of this hand-in only
    if match := _BLACKBOARD.match(part):
        when = datetime.strptime(match["when"], "%Y-%m-%d-%H-%M-%S").replace(tzinfo=UTC)
        return Origin((match["student"],), True, when)
    if match := _CANVAS.match(part):
        return Origin((match["lms"], match["name"]), known=False)
    return None


def _file_clues(file: str, exercise: str, roster: Roster) -> tuple[str, ...]:
    """A bare file: the whole name without the exercise, then each word in it that fits a student."""
    stem = re.sub(r"\s*\(\d+\)$", "", file.rsplit(".", 1)[0])
    rest = stem.replace(exercise, "").strip(" _-.")
    words = [word for word in re.split(r"[\s_]+", rest) if roster.knows(word)]
    return (rest, *words) if rest else ()


def attribute(found: Origin, roster: Roster) -> str:
    """Decide whose hand-in it is.

    Raises:
        Unattributed: If the roster (or, without one, the name itself) does not say.
    """
    if not found.clues:
        raise Unattributed("the file's name names no student")
    clue = found.clues[0]
    if roster.complete or any(map(roster.knows, found.clues)):
        return roster.find(*found.clues)
    if not found.known:
        raise Unattributed(f"{' / '.join(found.clues)!r} is no account's name: give --roster")
    if not is_student_id(clue):
        raise Unattributed(f"{clue!r} cannot be a student's id (letters, digits and ._@-)")
    return clue
