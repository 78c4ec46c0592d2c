"""Take in a delivery of hand-ins: inspect each, find whose and what it is, file it as nbgrader does."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath

from seqcourse.grading.course import (
    Course,
    CourseError,
    is_student_id,
    parse_timestamp,
    timestamp_text,
    write_atomically,
)
from seqcourse.grading.inspection import (
    Exercise,
    Inspection,
    Member,
    folder_members,
    inspect_notebook,
    read_regular,
    recognise,
    zip_members,
)
from seqcourse.grading.report import write_csv
from seqcourse.grading.roster import Origin, Roster, Unattributed, attribute, named_by_system, origin

_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class HandIn:
    """What became of one student's hand-in (or of a file that could be given to nobody: no student).

    Args:
        status: ``collected``, ``missing``, ``doubtful``, ``corrupt``, ``refused`` or ``empty``.
        file: Its name in the delivery.
        timestamp: When it was handed in, as in ``timestamp.txt``.
        reason: Why it was not collected.
        notes: What else a human should know.
    """

    student: str
    status: str
    file: str = ""
    timestamp: str = ""
    late: bool = False
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    sha256: str = ""

    @property
    def when(self) -> datetime:
        """The moment it was handed in; the beginning of time if unknown."""
        return parse_timestamp(self.timestamp) or _BEGINNING


@dataclass(frozen=True)
class Collection:
    """The state of an exercise's hand-ins after collecting.

    Args:
        hand_ins: One for every student known, by student.
        strays: Files that could be given to no student or that must not be used.
        kept: Students whose filed hand-in was at least as new as what the delivery holds.
    """

    name: str
    hand_ins: dict[str, HandIn]
    strays: list[HandIn]
    kept: list[str] = field(default_factory=list)

    @property
    def attention(self) -> bool:
        """Whether a human has to look at something."""
        return bool(self.strays) or any(entry.status != "collected" for entry in self.hand_ins.values())

    def counts(self) -> Counter:
        """How many students have each status; ``late`` counts besides."""
        counts = Counter(entry.status for entry in self.hand_ins.values())
        counts["late"] = sum(entry.late for entry in self.hand_ins.values())
        return counts


@dataclass(frozen=True)
class _Candidate:
    """One notebook file of one student, looked at."""

    member: Member
    found: Origin
    when: datetime | None
    data: bytes
    result: Inspection
    exercise: str = ""
    how: str = ""

    def newness(self, name: str) -> tuple:
        """Sort key: latest hand-in, then the highest copy number, then the file named like the exercise."""
        stem = PurePosixPath(self.member.name).stem
        copy = re.search(r"(?:\((\d+)\)|-(\d+))$", stem.removeprefix(name))
        number = int(next(group for group in copy.groups() if group)[:6]) if copy else 0
        return self.when or _BEGINNING, number, stem == name


def members(zip_file: Path | None, folder: Path | None, timezone: tzinfo, roster: Roster) -> list[Member]:
    """List a delivery.

    Raises:
        CourseError: If it is not there, or the zip file as a whole cannot be read.
    """
    try:
        found = zip_members(zip_file, timezone) if zip_file else folder_members(_existing(folder))
        return _without_common_root(list(found), roster)
    except (OSError, zipfile.BadZipFile) as error:
        raise CourseError(f"the delivery {zip_file or folder} cannot be read: {error}") from error


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder, {folder} is none")
    return folder


def _without_common_root(found: list[Member], roster: Roster) -> list[Member]:
    """Drop a folder that wraps the whole delivery: it is no student, and what lies in it are several."""
    tops = {member.name.split("/")[0] for member in found}
    below = {member.name.split("/")[1] for member in found if "/" in member.name}
    folders = {member.name.split("/")[1] for member in found if member.name.count("/") > 1}
    if len(tops) != 1 or not below or any(map(roster.knows, tops)) or any(map(named_by_system, tops)):
        return found
    if (folders == below and len(folders) > 1) or all(
        roster.knows(name) or named_by_system(name) for name in below
    ):
        return [replace(member, name=member.name.split("/", 1)[1]) for member in found]
    return found


def collect(
    course: Course,
    name: str,
    delivery: list[Member],
    roster: Roster,
    *,
    due: dict[str, datetime] | None = None,
) -> Collection:
    """File every usable hand-in of a delivery under ``submitted/STUDENT/NAME``; list all the others.

    One bad file costs its own student only. What is newer than the delivery stays; what a newer hand-in
    replaces (or, being unreadable, invalidates) moves to ``.seqcourse/superseded``.

    Args:
        roster: The class; without students in it, every account name in the delivery is taken as it stands.
        due: When each student's hand-in is due, ``""`` for everybody else.

    Raises:
        CourseError: If the exercise is not released in this course.
    """
    exercises = known_exercises(course, name)
    strays, by_student = _sort(delivery, name, roster)
    previous = read_collection(course, name)
    fresh = {student: judge(student, files, name, exercises) for student, files in by_student.items()}
    hand_ins, kept = dict(previous.hand_ins), []
    for student, (entry, data) in sorted(fresh.items()):
        if _is_newer(entry, _filed(course, name, student, previous)):
            hand_ins[student] = _file(course, name, entry, data)
        else:
            kept.append(student)
            hand_ins[student] = _filed(course, name, student, previous)
    hand_ins = _complete(course, name, hand_ins, roster, due or {})
    collection = Collection(name, hand_ins, strays, kept)
    write_collection(course, collection)
    return collection


def known_exercises(course: Course, name: str) -> list[Exercise]:
    """The exercises released in this course, `name` among them.

    Raises:
        CourseError: If it is not.
    """
    releases = course.releases()
    if name not in releases:
        raise CourseError(f"{name!r} is not released here: expected {course.released(name)}")
    return [Exercise.of(each, json.loads(path.read_text())) for each, path in releases.items()]


def _sort(delivery: list[Member], name: str, roster: Roster) -> tuple[list[HandIn], dict[str, list]]:
    """Give every file to its student; what fits nobody, or tries to escape, is a stray."""
    strays, by_student = [], {}
    for member in delivery:
        found = origin(member.name, name, roster)
        if _is_clutter(member.name) or found.exercise not in ("", name):
            continue
        try:
            by_student.setdefault(attribute(found, roster), []).append((member, found))
        except Unattributed as error:
            if member.problem or member.suffix == ".ipynb":
                status = "refused" if member.problem else "doubtful"
                strays.append(HandIn("", status, member.name, reason=member.problem or str(error)))
    return strays, by_student


def _is_clutter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in ("__MACOSX", ".ipynb_checkpoints", "__pycache__", ".DS_Store") for part in parts)


def judge(
    student: str, files: list[tuple[Member, Origin]], name: str, exercises: list[Exercise]
) -> tuple[HandIn, bytes]:
    """Choose a student's hand-in among their files: the newest of this exercise; say what was left out."""
    notebooks = [pair for pair in files if pair[0].suffix == ".ipynb"]
    notes = _left_out(files)
    when = _stated_time(files)
    looked_at = [_look(member, found, when, name, exercises) for member, found in notebooks]
    ours = [each for each in looked_at if each.exercise in ("", name)]
    if not ours:
        return _nothing_usable(student, looked_at, files, name, notes), b""
    readable = [each for each in ours if each.exercise == name or each.result.status != "collected"]
    best = max(readable or ours, key=lambda each: each.newness(name))
    others = [each.member.name for each in ours if each is not best]
    if others:
        notes.append(f"newest of {len(ours)} copies taken; left: {', '.join(sorted(others))[:300]}")
    return _hand_in(student, best, name, notes), best.data


def _left_out(files: list) -> list[str]:
    """Notes on everything in the delivery that is not a notebook: never collected."""
    notes = [
        f"not used: {member.problem}" for member, _ in files if member.problem and member.suffix != ".ipynb"
    ]
    code = sorted(member.name for member, _ in files if member.suffix in (".py", ".so", ".pyd", ".pth"))
    if code:
        notes.append(f"dropped: {', '.join(code)[:300]} (code beside the notebook is never imported)")
    return notes


def _stated_time(files: list) -> datetime | None:
    """The moment that a ``timestamp.txt`` among the files states."""
    for member, _ in files:
        if PurePosixPath(member.name).name == "timestamp.txt" and not member.problem and member.size < 100:
            try:
                return parse_timestamp(member.read().decode(errors="replace"))
            except OSError:
                return None
    return None


def _look(
    member: Member, found: Origin, stated: datetime | None, name: str, exercises: list[Exercise]
) -> _Candidate:
    when = found.timestamp or stated or member.modified
    try:
        data = b"" if member.problem else member.read()
        result = Inspection("refused", member.problem) if member.problem else inspect_notebook(data)
    except OSError as error:
        data, result = b"", Inspection("corrupt", str(error))
    candidate = _Candidate(member, found, when, data, result)
    if result.notebook is None:
        return candidate
    exercise, how = recognise(result.notebook, exercises)
    return replace(candidate, exercise=exercise, how=how)


def _nothing_usable(student: str, looked_at: list, files: list, name: str, notes: list[str]) -> HandIn:
    if looked_at:
        held = ", ".join(f"{each.member.name} is {each.exercise}" for each in looked_at)
        newest = max(looked_at, key=lambda each: each.newness(name))
        return HandIn(
            student, "doubtful", newest.member.name, _stamp(newest.when), reason=f"not {name}: {held}"[:500]
        )
    listed = ", ".join(sorted(member.name for member, _ in files))[:300]
    times = [member.modified for member, _ in files if member.modified]
    when = _stated_time(files) or max(times, default=None)
    return HandIn(student, "doubtful", "", _stamp(when), reason=f"no notebook among: {listed}", notes=notes)


def _hand_in(student: str, best: _Candidate, name: str, notes: list[str]) -> HandIn:
    entry = HandIn(
        student,
        best.result.status,
        best.member.name,
        _stamp(best.when),
        reason=best.result.reason,
        notes=notes,
        sha256=hashlib.sha256(best.data).hexdigest() if best.data else "",
    )
    if best.result.status == "collected" and best.exercise != name:
        return replace(entry, status="doubtful", reason=f"it holds none of the cells of {name}")
    if best.how and best.how != "nbgrader's cell names":
        return replace(entry, notes=[*notes, f"recognised by {best.how}"])
    return entry


def _stamp(when: datetime | None) -> str:
    return timestamp_text(when) if when else ""


def _filed(course: Course, name: str, student: str, previous: Collection) -> HandIn:
    """What is known of a student so far: from the last list, or from ``submitted/`` itself."""
    if student in previous.hand_ins and previous.hand_ins[student].status != "missing":
        return previous.hand_ins[student]
    folder = course.step("submitted", student, name)
    with suppress(OSError):
        digest = hashlib.sha256(read_regular(folder / f"{name}.ipynb")).hexdigest()
        notes = ["filed by other means"]
        return HandIn(student, "collected", f"{name}.ipynb", folder_time(folder), notes=notes, sha256=digest)
    return HandIn(student, "missing", reason="no hand-in")


def folder_time(folder: Path) -> str:
    """The moment in a folder's ``timestamp.txt``; empty if there is none, or no date in it."""
    try:
        return _stamp(parse_timestamp((folder / "timestamp.txt").read_text()[:100]))
    except (OSError, UnicodeDecodeError):
        return ""


def _is_newer(entry: HandIn, filed: HandIn) -> bool:
    """Whether a hand-in replaces what is filed: a later one does, and any does where there was none."""
    if filed.status == "missing":
        return True
    if entry.when == filed.when:
        return entry.sha256 != filed.sha256 or entry.status != filed.status
    return entry.when > filed.when


def _file(course: Course, name: str, entry: HandIn, data: bytes) -> HandIn:
    """Put a hand-in in its place, and whatever it replaces aside."""
    aside = _put_aside(course, name, entry.student)
    notes = [*entry.notes, f"the earlier hand-in was put aside: {aside}"] if aside else entry.notes
    if entry.status == "collected":
        folder = course.step("submitted", entry.student, name)
        write_atomically(folder / "timestamp.txt", entry.timestamp)
        write_atomically(folder / f"{name}.ipynb", data, durable=True)
    return replace(entry, notes=notes)


def _put_aside(course: Course, name: str, student: str) -> str:
    """Move what is filed for a student to ``.seqcourse/superseded``; its new place, or nothing."""
    folder = course.step("submitted", student, name)
    if folder.is_symlink():
        folder.unlink()  # a link as a hand-in's folder is never followed
    if not folder.is_dir():
        return ""
    place = course.state / "superseded" / name / student
    place.mkdir(parents=True, exist_ok=True)
    number = sum(1 for _ in place.iterdir()) + 1
    shutil.move(folder, place / str(number))
    return os.path.relpath(place / str(number), course.root)


def _complete(
    course: Course, name: str, hand_ins: dict[str, HandIn], roster: Roster, due: dict[str, datetime]
) -> dict[str, HandIn]:
    """Everybody known, in order: those without a hand-in as missing, the late ones marked."""
    nothing = Collection(name, {}, [])
    students = {student.id for student in roster.students} | set(hand_ins) | set(course.handed_in(name))
    complete = {
        student: hand_ins.get(student) or _filed(course, name, student, nothing)
        for student in sorted(students)
    }
    return {student: replace(entry, late=_is_late(entry, due)) for student, entry in complete.items()}


def _is_late(entry: HandIn, due: dict[str, datetime]) -> bool:
    limit = due.get(entry.student, due.get(""))
    return limit is not None and bool(entry.timestamp) and entry.when > limit


def write_collection(course: Course, collection: Collection) -> None:
    """Keep the list of hand-ins as JSON (for the grader) and as CSV in ``reports/`` (for people)."""
    entries = [asdict(entry) for entry in (*collection.hand_ins.values(), *collection.strays)]
    write_atomically(course.collected(collection.name), json.dumps(entries, indent=1))
    rows = [entry | {"notes": "; ".join(entry["notes"])} for entry in entries]
    write_csv(course.root / "reports" / f"collect-{collection.name}.csv", rows, list(asdict(HandIn("", ""))))


def read_collection(course: Course, name: str) -> Collection:
    """Read the list that the last `seqcourse collect` kept; empty if there was none.

    Raises:
        CourseError: If the list is damaged.
    """
    path = course.collected(name)
    if not path.exists():
        return Collection(name, {}, [])
    try:
        entries = [HandIn(**entry) for entry in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise CourseError(f"{path} is damaged ({error}): remove it and collect again") from error
    return Collection(
        name,
        {entry.student: entry for entry in entries if is_student_id(entry.student)},
        [entry for entry in entries if not entry.student],
    )


def summary(
    collection: Collection, shown: Iterable[str] = ("doubtful", "corrupt", "refused", "empty")
) -> list[str]:
    """Lines for the terminal: counts, then everything that needs a human."""
    counts = collection.counts()
    lines = [", ".join(f"{counts[status]} {status}" for status in ("collected", "late", "missing", *shown))]
    for entry in (*collection.hand_ins.values(), *collection.strays):
        if entry.status in shown:
            lines.append(f"{entry.status:<9} {entry.student or '(nobody)'}: {entry.file!r}: {entry.reason}")
    missing = [student for student, entry in collection.hand_ins.items() if entry.status == "missing"]
    if missing:
        lines.append(f"missing   {', '.join(missing)}")
    flagged = [entry for entry in collection.hand_ins.values() if entry.status == "collected" and entry.notes]
    return lines + [f"note      {entry.student}: {'; '.join(entry.notes)}" for entry in flagged]
