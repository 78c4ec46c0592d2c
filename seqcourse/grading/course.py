"""A course folder: nbgrader's layout and configuration, and what seqcourse keeps beside them."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from nbgrader.api import Gradebook
from nbgrader.apps.baseapp import NbGrader
from nbgrader.coursedir import CourseDirectory
from nbgrader.exchange.default import Exchange
from nbgrader.utils import parse_utc
from traitlets.config import Config

# A student's id is a folder's name and part of a glob in nbgrader: nothing that means something to either.
_STUDENT_ID = re.compile(r"[^\W_][\w.@-]{0,99}")


class CourseError(Exception):
    """Something about the course as a whole is not as the grader needs it."""


class Busy(CourseError):
    """Another seqcourse is at work in this course."""


def is_student_id(text: str) -> bool:
    """Whether `text` can name a student: letters, digits and ``._@-``, at most 100, no leading dot."""
    return bool(_STUDENT_ID.fullmatch(text))


def write_atomically(path: Path, content: str | bytes, durable: bool = False) -> None:
    """Write a file so that a kill leaves either the old content or the new, never half of it.

    Args:
        durable: Wait until the disk has it (milliseconds): for what could not be made again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # One fixed name: what a kill leaves behind is overwritten when the work is done again.
    partial = path.with_name(f".{path.name}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(partial, flags, 0o644), "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    os.replace(partial, path)


def timestamp_text(moment: datetime) -> str:
    """Write a moment as nbgrader's ``timestamp.txt`` does, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")


def parse_timestamp(text: str) -> datetime | None:
    """Read nbgrader's timestamp text; `None` if it is empty or not a date."""
    try:
        return parse_utc(text.strip()).replace(tzinfo=UTC) if text.strip() else None
    except (ValueError, OverflowError):
        return None


def _configuration(root: Path) -> Config:
    """What nbgrader itself would load in this folder, with this course's folder names as the default."""
    app = NbGrader()
    before = os.getcwd()
    os.chdir(root)
    try:
        app.load_config_file()
    finally:
        os.chdir(before)
    config = Config({"CourseDirectory": {"source_directory": "solutions", "release_directory": "exercises"}})
    config.merge(app.config)
    config.CourseDirectory.root = str(root)
    return config


@dataclass(frozen=True)
class Course:
    """A course folder with its nbgrader configuration.

    Args:
        root: The folder (with ``nbgrader_config.py``, ``solutions/``, ``exercises/``, ``submitted/`` ...).
        config: The traitlets configuration that nbgrader's parts are given.
    """

    root: Path
    config: Config

    @classmethod
    def open(cls, folder: str | Path = ".") -> Course:
        """Open a course folder.

        Raises:
            CourseError: If the folder does not exist.
        """
        root = Path(folder).resolve()
        if not root.is_dir():
            raise CourseError(f"{root} is no folder: expected a course folder")
        return cls(root, _configuration(root))

    @property
    def directory(self) -> CourseDirectory:
        """nbgrader's own view of the folder."""
        return CourseDirectory(config=self.config)

    def step(self, step: str, student: str, name: str) -> Path:
        """The folder of one student's (or with ``"."`` the course's) assignment at one of nbgrader's steps.

        Args:
            step: ``source``, ``release``, ``submitted``, ``autograded`` or ``feedback``.
        """
        directory = self.directory
        return Path(
            os.path.normpath(directory.format_path(getattr(directory, f"{step}_directory"), student, name))
        )

    def released(self, name: str) -> Path:
        """The released notebook of an exercise."""
        return self.step("release", ".", name) / f"{name}.ipynb"

    def releases(self) -> dict[str, Path]:
        """Every released exercise: name to notebook."""
        folders = sorted(path for path in self.step("release", ".", "x").parent.glob("*") if path.is_dir())
        return {path.name: self.released(path.name) for path in folders if self.released(path.name).is_file()}

    def text_source(self, name: str) -> Path:
        """Where the text of an exercise is, if this course keeps it."""
        return self.step("source", ".", name).parent / f"{name}.md"

    def handed_in(self, name: str) -> dict[str, Path]:
        """Folders in ``submitted/`` for this exercise, by student."""
        level = self.step("submitted", "*", name)
        found = self.root.glob(str(level.relative_to(self.root)))
        position = level.parts.index("*")
        return {path.parts[position]: path for path in sorted(found) if is_student_id(path.parts[position])}

    @property
    def state(self) -> Path:
        """Where seqcourse keeps its journal and lists."""
        return self.root / ".seqcourse"

    def collected(self, name: str) -> Path:
        """The list of hand-ins that `seqcourse collect` keeps."""
        return self.state / f"collect-{name}.json"

    @property
    def roster_given(self) -> Path:
        """There once a roster was given: from then on nobody else is in the class."""
        return self.state / "roster-given"

    def inbound(self) -> Path:
        """Where nbgrader's exchange keeps this course's hand-ins."""
        exchange = Exchange(coursedir=self.directory, config=self.config)
        return Path(exchange.root) / self.directory.course_id / "inbound"

    def gradebook(self) -> Gradebook:
        """Open nbgrader's gradebook (use it in a ``with`` statement); make it if there is none."""
        directory = self.directory
        course_id = directory.course_id or "default_course"
        kind, _, file = directory.db_url.partition(":///")
        if kind == "sqlite" and not Path(file).exists():
            _make_gradebook(Path(file), course_id)
        return Gradebook(directory.db_url, course_id)

    @contextmanager
    def at_work(self, what: str) -> Iterator[None]:
        """Be the only one who collects or grades in this course.

        Raises:
            Busy: If another process is; its number and since when are named.
        """
        self.state.mkdir(exist_ok=True)
        lock, note = FileLock(self.state / "lock"), self.state / "at-work.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise Busy(_who(note, self.root)) from None
        try:
            about = {
                "pid": os.getpid(),
                "host": os.uname().nodename,
                "since": timestamp_text(datetime.now(UTC)),
            }
            write_atomically(note, json.dumps(about | {"what": what}))
            yield
            note.unlink(missing_ok=True)
        finally:
            lock.release()


def _make_gradebook(file: Path, course_id: str) -> None:
    """Make nbgrader's database beside its place and move it there when complete: a kill leaves no half."""
    before = os.environ.get("PATH", "")
    # nbgrader runs the command `alembic`, which is beside this Python, not always on the path
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".gradebook-") as folder:
            Gradebook(f"sqlite:///{folder}/new.db", course_id).close()
            os.replace(f"{folder}/new.db", file)
    finally:
        os.environ["PATH"] = before


def _who(note: Path, root: Path) -> str:
    try:
        about = json.loads(note.read_text())
        return (
            f"`{about['what']}` is at work in {root}: process {about['pid']} on {about['host']}, "
            f"since {about['since']}. Wait for it, or stop it; nothing was changed."
        )
    except (OSError, ValueError, KeyError):
        return f"another seqcourse has just started in {root}. Wait for it; nothing was changed."
