"""Hand-ins are looked at without being trusted: links, zip paths, bombs, sizes, and what is no notebook."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import tiny_course

pytest.importorskip("nbgrader", reason="grading needs the extra 'grade'")
from seqcourse.grading import inspection
from seqcourse.grading.inspection import (
    Exercise,
    folder_members,
    inspect_notebook,
    link_above,
    read_regular,
    recognise,
    zip_members,
)

CELL = {"cell_type": "code", "source": "x = 1", "metadata": {}, "outputs": []}


def notebook(*cells: dict) -> bytes:
    return json.dumps({"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def test_a_notebook_is_accepted_and_parsed():
    found = inspect_notebook(b"\xef\xbb\xbf" + notebook(CELL))
    assert found.status == "collected"
    assert found.notebook["cells"][0]["source"] == "x = 1"


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        (b"", "empty", "the file is empty"),
        (b" \n\t ", "empty", "the file is empty"),
        (notebook(), "empty", "no cells with text"),
        (notebook(CELL | {"source": ["  \n", "\n"]}), "empty", "no cells with text"),
        (notebook(CELL)[:-20], "corrupt", "no JSON"),
        (b"<html>session expired</html>", "corrupt", "no JSON"),
        ("\ufeff{}".encode("utf-16"), "corrupt", "no JSON"),
        (b"PK\x03\x04 a zip called ipynb", "corrupt", "no JSON"),
        (b"[1, 2]", "corrupt", "expected a JSON object, got list"),
        (b'{"nbformat": 4}', "corrupt", "no list of cells"),
        (b'{"worksheets": [], "nbformat": 3}', "corrupt", "format 3"),
        (b'{"cells": [1, "two", {"source": []}]}', "corrupt", "3 of its 3 cells"),
        (b"[" * 200_000, "corrupt", "no JSON"),  # deeper than the parser's recursion
        (b'{"cells": ' + b"9" * 10_000 + b"}", "corrupt", ""),  # longer than Python reads a number
    ],
)
def test_what_is_no_notebook_gets_a_status_and_a_reason(data, status, said):
    found = inspect_notebook(data)
    assert (found.status, found.notebook) == (status, None)
    assert said in found.reason


def test_too_many_cells_are_corrupt(monkeypatch):
    monkeypatch.setattr(inspection, "MAX_CELLS", 3)
    assert inspect_notebook(notebook(*[CELL] * 3)).status == "collected"
    assert "4 cells, the limit is 3" in inspect_notebook(notebook(*[CELL] * 4)).reason


def test_folders_are_listed_without_following_links(tmp_path):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "gradebook.db").write_text("marks")
    hand_in = tmp_path / "alice"
    hand_in.mkdir()
    (hand_in / "work.ipynb").write_bytes(notebook(CELL))
    (hand_in / "link.ipynb").symlink_to(secret / "gradebook.db")
    (hand_in / "everything").symlink_to(secret)
    os.mkfifo(hand_in / "pipe.ipynb")
    found = {member.name: member for member in folder_members(hand_in)}
    assert set(found) == {"work.ipynb", "link.ipynb", "everything", "pipe.ipynb"}
    assert found["work.ipynb"].problem == ""
    assert "symbolic link" in found["link.ipynb"].problem
    assert "symbolic link" in found["everything"].problem
    assert "a pipe" in found["pipe.ipynb"].problem


def test_reading_refuses_links_pipes_and_long_files(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    assert read_regular(tmp_path / "file") == b"12345"
    with pytest.raises(OSError, match=r"[Ss]ymbolic link|Too many levels"):
        read_regular(tmp_path / "link")
    with pytest.raises(OSError, match="a pipe, expected a regular file"):
        read_regular(tmp_path / "pipe")  # returns at once, though nobody writes to it
    with pytest.raises(OSError, match="5 bytes, the limit is 4"):
        read_regular(tmp_path / "file", limit=4)


def test_a_link_anywhere_above_a_file_is_named(tmp_path):
    (tmp_path / "outside").mkdir()
    root = tmp_path / "submitted"
    root.symlink_to(tmp_path / "outside")  # the instructor's own link: a larger disk, for instance
    (root / "alice").symlink_to(tmp_path)
    (root / "bob").mkdir()
    assert "alice is a symbolic link (to" in link_above(root / "alice" / "x" / "work.ipynb", root)
    assert link_above(root / "bob" / "x" / "work.ipynb", root) == ""


@pytest.mark.parametrize(
    "name", ["../up.ipynb", "a/../../up.ipynb", "/etc/x.ipynb", "..\\up.ipynb", "C:\\x.ipynb"]
)
def test_zip_paths_that_leave_the_delivery_are_named_not_followed(name):
    escaping, honest = zip_members(zipped((name, b"{}"), ("bob/ok.ipynb", notebook(CELL))))
    assert "points outside the delivery" in escaping.problem
    assert (honest.name, honest.problem) == ("bob/ok.ipynb", "")


def test_links_devices_and_encrypted_members_of_a_zip_are_refused():
    link, device, plain = (zipfile.ZipInfo(name) for name in ("link.ipynb", "device.ipynb", "ok.ipynb"))
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    device.external_attr = (stat.S_IFCHR | 0o600) << 16
    plain.external_attr = (stat.S_IFREG | 0o644) << 16
    data = bytearray(zipped((link, b"/etc/passwd"), (device, b""), (plain, b"{}"), ("locked.ipynb", b"x")))
    position = data.rfind(b"PK\x01\x02")  # the directory's entry of the last file: set its "encrypted" bit
    data[position + 8] |= 1
    found = {member.name: member.problem for member in zip_members(bytes(data))}
    assert "symbolic link" in found["link.ipynb"]
    assert "device" in found["device.ipynb"]
    assert found["ok.ipynb"] == ""
    assert "encrypted" in found["locked.ipynb"]


def test_a_member_larger_than_the_limit_is_refused_by_its_header(monkeypatch):
    monkeypatch.setattr(inspection, "MAX_NOTEBOOK", 1000)
    (bomb,) = zip_members(zipped(("bomb.ipynb", b"0" * 100_000)))
    assert "100000 bytes, the limit is 1000" in bomb.problem


def test_a_header_that_lies_about_the_size_does_not_help(monkeypatch):
    monkeypatch.setattr(inspection, "MAX_NOTEBOOK", 1000)
    data = bytearray(zipped(("bomb.ipynb", b"0" * 100_000)))
    position = data.rfind(b"PK\x01\x02")
    data[position + 24 : position + 28] = struct.pack("<I", 10)
    (bomb,) = zip_members(bytes(data))
    assert bomb.problem == "" and bomb.size == 10
    # zipfile stops at the stated size and finds the sum wrong, or the reading limit stops it: never all of it
    with pytest.raises(OSError, match=r"cannot be unpacked|more than 1000"):
        bomb.read()


def test_a_zip_of_too_many_files_is_refused(monkeypatch):
    monkeypatch.setattr(inspection, "MAX_MEMBERS", 2)
    with pytest.raises(zipfile.BadZipFile, match="3 files"):
        list(zip_members(zipped(("a", b""), ("b", b""), ("c", b""))))


def test_zips_inside_are_opened_once_and_a_broken_one_costs_only_itself():
    inner = zipped(("work.ipynb", notebook(CELL)), ("deeper.zip", zipped(("x.ipynb", b"{}"))))
    found = list(
        zip_members(zipped(("alice/all.zip", inner), ("bob/broken.zip", b"PK nothing"), ("c.ipynb", b"{}")))
    )
    by_name = {member.name: member for member in found}
    assert set(by_name) == {
        "alice/all.zip/work.ipynb",
        "alice/all.zip/deeper.zip",
        "bob/broken.zip",
        "c.ipynb",
    }
    assert by_name["alice/all.zip/work.ipynb"].read() == notebook(CELL)
    assert "cannot be unpacked" in by_name["bob/broken.zip"].problem


def test_dates_in_a_zip_are_local_unless_they_say_otherwise():
    local = zipfile.ZipInfo("local.ipynb", date_time=(2026, 1, 10, 23, 30, 0))
    exact = zipfile.ZipInfo("exact.ipynb", date_time=(2026, 1, 10, 23, 30, 0))
    moment = datetime(2026, 1, 10, 20, 15, tzinfo=UTC)
    exact.extra = struct.pack("<HHBi", 0x5455, 5, 1, int(moment.timestamp()))
    found = {m.name: m for m in zip_members(zipped((local, b""), (exact, b"")), ZoneInfo("Europe/Berlin"))}
    assert found["local.ipynb"].modified == datetime(2026, 1, 10, 22, 30, tzinfo=UTC)
    assert found["exact.ipynb"].modified == moment


@pytest.fixture
def exercises(tmp_path) -> list[Exercise]:
    course = tiny_course.make_course(tmp_path / "course", ("01-tiny", "02-other"))
    return [Exercise.of(name, tiny_course.released(course, name)) for name in ("01-tiny", "02-other")]


def _answered(tmp_path: Path) -> dict:
    return tiny_course.answered(tmp_path / "course")


def test_an_exercise_is_recognised_by_its_cells_names(exercises, tmp_path):
    assert recognise(_answered(tmp_path), exercises) == ("01-tiny", "nbgrader's cell names")
    other = tiny_course.released(tmp_path / "course", "02-other")
    assert recognise(other, exercises)[0] == "02-other"


def test_without_nbgraders_metadata_it_is_recognised_by_ids_or_text(exercises, tmp_path):
    stripped = _answered(tmp_path)
    for cell in stripped["cells"]:
        cell["metadata"] = {}
    name, how = recognise(stripped, exercises)
    assert name == "01-tiny" and "cell ids" in how
    for cell in stripped["cells"]:
        del cell["id"]
    name, how = recognise(stripped, exercises)
    assert name == "01-tiny" and "text of its cells" in how


def test_an_unrelated_notebook_is_recognised_as_nothing(exercises):
    assert recognise({"cells": [CELL, CELL | {"metadata": {"nbgrader": "junk"}, "id": 5}]}, exercises) == (
        "",
        "",
    )
