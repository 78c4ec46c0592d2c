"""Look at what students hand in, before anything else touches it: no link followed, nothing unpacked to disk.

A hand-in is untrusted data. Folders and zip files are read as lists of members with a name, a size, a date
and, where a member must not be used, the reason. Only regular files are ever opened, up to a size limit.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath

MAX_NOTEBOOK = 20_000_000  # bytes; a notebook with large pictures in it has two or three million
MAX_MEMBERS = 50_000  # files in one delivery
MAX_DELIVERY = 4_000_000_000  # bytes of one delivery, unpacked
MAX_CELLS = 2_000


@dataclass(frozen=True)
class Member:
    """One file of a delivery.

    Args:
        name: Path inside the delivery, with ``/``.
        modified: When it was last changed, if known.
        problem: Why it must not be used; empty if it may be.
        read: Returns its bytes.
    """

    name: str
    size: int
    modified: datetime | None
    problem: str
    read: Callable[[], bytes]

    @property
    def suffix(self) -> str:
        """The file name's ending, in lower case."""
        return PurePosixPath(self.name).suffix.lower()


@dataclass(frozen=True)
class Inspection:
    """What a notebook file turned out to be.

    Args:
        status: ``collected`` (usable), ``empty``, ``corrupt`` or ``refused``.
        reason: Why it is not usable.
        notebook: The parsed notebook if it is usable.
    """

    status: str
    reason: str = ""
    notebook: dict | None = None


def read_regular(path: Path, limit: int = MAX_NOTEBOOK) -> bytes:
    """Read a regular file without following a link at its end.

    Raises:
        OSError: If it is a link, a device, a pipe or longer than `limit` bytes.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{path.name} is {_kind(about.st_mode)}, expected a regular file")
        if about.st_size > limit:
            raise OSError(f"{path.name} has {about.st_size} bytes, the limit is {limit}")
        return file.read(limit)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_ISLNK: "a symbolic link",
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISBLK: "a device",
        stat.S_ISCHR: "a device",
    }
    return next((name for test, name in kinds.items() if test(mode)), "a regular file")


def folder_members(folder: Path) -> Iterator[Member]:
    """List a folder's files; links and devices are named, never opened or followed."""
    for directory, folders, files in os.walk(folder, followlinks=False):
        here = Path(directory)
        # os.walk lists a link to a folder among the folders, without entering it
        linked = [name for name in folders if (here / name).is_symlink()]
        for name in sorted(files + linked):
            yield _file_member(here / name, (here / name).relative_to(folder).as_posix())


def _file_member(path: Path, name: str) -> Member:
    about = path.lstat()
    problem = "" if stat.S_ISREG(about.st_mode) else f"{name} is {_kind(about.st_mode)}"
    if stat.S_ISLNK(about.st_mode):
        problem += f" (to {os.readlink(path)})"
    modified = datetime.fromtimestamp(about.st_mtime, UTC)
    problem = problem or _size_problem(name, about.st_size)
    return Member(name, about.st_size, modified, problem, lambda: read_regular(path))


def _size_problem(name: str, size: int) -> str:
    if name.lower().endswith((".ipynb", ".zip")) and size > MAX_NOTEBOOK:
        return f"{name} has {size} bytes, the limit is {MAX_NOTEBOOK}"
    return ""


def zip_members(source: Path | bytes, timezone: tzinfo = UTC, prefix: str = "") -> Iterator[Member]:
    """List a zip file's members, those of zip files inside it included, without unpacking anything to disk.

    Args:
        source: The file, or its bytes.
        timezone: Of the dates in it, where they do not say (most do not).
        prefix: Put before every name.

    Raises:
        zipfile.BadZipFile: If it is no zip file, or a bomb.
    """
    archive = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    listed = [info for info in archive.infolist() if not info.is_dir()]
    if len(listed) > MAX_MEMBERS or sum(info.file_size for info in listed) > MAX_DELIVERY:
        raise zipfile.BadZipFile(f"a zip of {len(listed)} files and more bytes than {MAX_DELIVERY}: refused")
    for info in listed:
        member = _zip_member(archive, info, timezone, prefix)
        if member.suffix == ".zip" and not member.problem and not prefix:
            yield from _nested(member, timezone)
        else:
            yield member


def _nested(member: Member, timezone: tzinfo) -> Iterator[Member]:
    try:
        yield from zip_members(member.read(), timezone, prefix=f"{member.name}/")
    except (zipfile.BadZipFile, OSError) as error:
        yield replace(member, problem=f"{member.name} cannot be unpacked: {error}")


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, timezone: tzinfo, prefix: str) -> Member:
    name = prefix + info.filename
    problem = _name_problem(info.filename) or _zip_kind_problem(info) or _size_problem(name, info.file_size)
    return Member(name, info.file_size, _zip_date(info, timezone), problem, lambda: _unpack(archive, info))


def _name_problem(name: str) -> str:
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", name):
        return f"{name!r} points outside the delivery"
    if any(ord(character) < 32 for character in name):
        return f"{name!r} has control characters in its name"
    return ""


def _zip_kind_problem(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) and not stat.S_ISREG(mode):
        return f"{info.filename} is {_kind(mode)}"
    return f"{info.filename} is encrypted" if info.flag_bits & 1 else ""


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Unpack one member; the size in the header may lie, so the reading itself is limited."""
    try:
        with archive.open(info) as file:
            data = file.read(MAX_NOTEBOOK + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise OSError(f"{info.filename} cannot be unpacked: {error}") from error
    if len(data) > MAX_NOTEBOOK:
        raise OSError(f"{info.filename} unpacks to more than {MAX_NOTEBOOK} bytes")
    return data


def _zip_date(info: zipfile.ZipInfo, timezone: tzinfo) -> datetime | None:
    """The member's date: the extended timestamp (UTC) if there is one, else the header's local time."""
    exact = _extended_timestamp(info.extra)
    if exact is not None:
        return datetime.fromtimestamp(exact, UTC)
    try:
        return datetime(*info.date_time, tzinfo=timezone).astimezone(UTC)
    except ValueError:
        return None


def _extended_timestamp(extra: bytes) -> int | None:
    while len(extra) >= 4:
        kind, length = int.from_bytes(extra[:2], "little"), int.from_bytes(extra[2:4], "little")
        if kind == 0x5455 and length >= 5 and extra[4] & 1:
            return int.from_bytes(extra[5:9], "little", signed=True)
        extra = extra[4 + length :]
    return None


def inspect_notebook(data: bytes) -> Inspection:
    """Parse a notebook that somebody else wrote.

    Never raises: whatever is wrong with the file becomes a status and a reason.
    """
    if not data.strip():
        return Inspection("empty", "the file is empty")
    if len(data) > MAX_NOTEBOOK:
        return Inspection("refused", f"the file has {len(data)} bytes, the limit is {MAX_NOTEBOOK}")
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return Inspection("corrupt", f"not a notebook: the file is no JSON ({str(error)[:120]})")
    problem = _notebook_problem(notebook)
    if problem:
        return Inspection("corrupt", f"not a notebook: {problem}")
    if not any(_text(cell).strip() for cell in notebook["cells"]):
        return Inspection("empty", "the notebook has no cells with text")
    return Inspection("collected", notebook=notebook)


def _notebook_problem(notebook: object) -> str:
    if not isinstance(notebook, dict):
        return f"expected a JSON object, got {type(notebook).__name__}"
    if "worksheets" in notebook:
        return "format 3 or older; open it in a current Jupyter and save it again"
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        return "it has no list of cells"
    if len(cells) > MAX_CELLS:
        return f"it has {len(cells)} cells, the limit is {MAX_CELLS}"
    wrong = sum(not isinstance(cell, dict) or not isinstance(cell.get("cell_type"), str) for cell in cells)
    return f"{wrong} of its {len(cells)} cells are no cells" if wrong else ""


def _text(cell: dict) -> str:
    source = cell.get("source", "")
    if isinstance(source, list):
        return "".join(line for line in source if isinstance(line, str))
    return source if isinstance(source, str) else ""


def link_above(path: Path, root: Path) -> str:
    """Say which part of a path below `root` is a symbolic link; empty if none is."""
    links = [part for part in (path, *path.parents) if root in part.parents and part.is_symlink()]
    return f"{links[-1].relative_to(root)} is a symbolic link (to {os.readlink(links[-1])})" if links else ""


@dataclass(frozen=True)
class Exercise:
    """What identifies an exercise in a notebook, whatever the file is called.

    Args:
        ids: Names of nbgrader's cells in the released notebook.
        texts: Texts of the released code cells, and the opening lines of their functions and classes.
    """

    name: str
    ids: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, name: str, released: dict) -> Exercise:
        """Take the marks of an exercise from its released notebook."""
        return cls(name, frozenset(_grade_ids(released)), frozenset(_marks(released)))

    def likeness(self, notebook: dict) -> tuple[float, str]:
        """How much of this exercise is in `notebook` (0 to 1), and by what it was recognised."""
        return max(
            (_share(self.ids, _grade_ids(notebook)), "nbgrader's cell names"),
            (_share(self.ids, _cell_ids(notebook)) * 0.99, "cell ids: nbgrader's metadata are gone"),
            (
                _share(self.texts, _marks(notebook)) * 0.98,
                "the text of its cells: nbgrader's metadata are gone",
            ),
        )


def _share(expected: frozenset[str], found: set[str]) -> float:
    return len(expected & found) / len(expected) if expected else 0.0


def _cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook.get("cells", []) if isinstance(cell, dict)]


def _grade_ids(notebook: dict) -> set[str]:
    found = set()
    for cell in _cells(notebook):
        metadata = cell.get("metadata")
        about = metadata.get("nbgrader") if isinstance(metadata, dict) else None
        name = about.get("grade_id") if isinstance(about, dict) else None
        if isinstance(name, str):
            found.add(name)
    return found


def _cell_ids(notebook: dict) -> set[str]:
    return {cell["id"] for cell in _cells(notebook) if isinstance(cell.get("id"), str)}


def _marks(notebook: dict) -> set[str]:
    """Texts of code cells without white space, and each `def name(` or `class Name`."""
    marks = set()
    for cell in _cells(notebook):
        if cell.get("cell_type") == "code":
            text = _text(cell)
            marks.add("".join(text.split()))
            marks.update(re.findall(r"^(?:def|class) +\w+", text, flags=re.MULTILINE))
    return marks - {""}


RECOGNISED = 0.3  # share of an exercise's cells that makes a notebook a hand-in of it


def recognise(notebook: dict, exercises: list[Exercise]) -> tuple[str, str]:
    """Name the exercise that a notebook is a hand-in of, and by what it was recognised.

    Returns:
        The exercise's name, or ``""`` if it looks like none of them.
    """
    scored = [(*exercise.likeness(notebook), exercise.name) for exercise in exercises]
    share, how, name = max(scored, default=(0.0, "", ""))
    return (name, how) if share >= RECOGNISED else ("", "")
