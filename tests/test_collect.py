"""Collecting: every way a class hands in, every way a hand-in can be bad; one costs only itself."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tiny_course
from click.testing import CliRunner

pytest.importorskip("nbgrader", reason="grading needs the extra 'grade'")
from seqcourse.grading.cli_collect import collect_cmd
from seqcourse.grading.collect import collect, members, read_collection
from seqcourse.grading.course import Busy, Course, CourseError
from seqcourse.grading.roster import Roster, Student, read_roster

NAME = tiny_course.NAME
CLASS = Roster.of(
    [
        Student("ada", "Ada", "Lovelace", "ada.l@uni.example", "501"),
        Student("bob", "Bob", "Noël", "bob@uni.example", "502"),
        Student("cat", "Cat", "Xu", "cat@uni.example", "503"),
    ],
    complete=True,
)
EARLY, LATER, LAST = [(2026, 1, day, 12, 0, 0) for day in (10, 11, 12)]


@pytest.fixture
def course(tmp_path) -> Course:
    return Course.open(tiny_course.make_course(tmp_path / "course", (NAME, "02-other")))


def work(course: Course, **answers: str) -> bytes:
    return json.dumps(tiny_course.answered(course.root, tiny_course.RIGHT | answers)).encode()


def deliver(path: Path, files: dict[str, bytes], date: tuple = EARLY) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, date), data)
    return path


def take_in(course: Course, files: dict[str, bytes], roster: Roster = CLASS, date: tuple = EARLY, **options):
    file = deliver(course.root.parent / "delivery.zip", files, date)
    return collect(course, NAME, members(file, None, UTC, roster), roster, **options)


def filed(course: Course, student: str) -> dict:
    return json.loads((course.root / "submitted" / student / NAME / f"{NAME}.ipynb").read_text())


@pytest.mark.parametrize(
    "name",
    [
        "ada/01-tiny.ipynb",
        "ada/01-tiny/01-tiny.ipynb",
        "submissions/ada/anything at all (3).ipynb",
        "ada+01-tiny+2026-01-10 12:00:00.000000 UTC+c2VjcmV0/01-tiny.ipynb",
        "Ada Lovelace_887766_assignsubmission_file_/01-tiny.ipynb",
        "Ada Lovelace_887766_assignsubmission_file_my work.ipynb",
        "Class of 2026/Ada Lovelace_887766_assignsubmission_file_/folder/01-tiny.ipynb",
        "lovelaceada_501_98765_01-tiny-2.ipynb",
        "lovelaceada_LATE_501_98765_01-tiny.ipynb",
        "01-tiny_ada_attempt_2026-01-10-12-00-00_01-tiny.ipynb",
        "01-tiny_ada.ipynb",
        "ada_01-tiny (1).ipynb",
    ],
)
def test_every_naming_finds_the_student(course, name):
    found = take_in(course, {name: work(course)})
    assert {student: entry.status for student, entry in found.hand_ins.items()} == {
        "ada": "collected",
        "bob": "missing",
        "cat": "missing",
    }
    assert found.strays == []
    assert filed(course, "ada") == tiny_course.answered(course.root)
    stamp = (course.root / "submitted" / "ada" / NAME / "timestamp.txt").read_text()
    assert stamp == "2026-01-10 12:00:00.000000 UTC"


def test_the_timestamp_comes_from_the_name_then_the_file_then_the_zip(course):
    files = {
        "01-tiny_ada_attempt_2026-01-02-03-04-05_x.ipynb": work(course),
        "bob/01-tiny.ipynb": work(course),
        "bob/timestamp.txt": b"2026-01-03 00:00:00 UTC",
        "cat/01-tiny.ipynb": work(course),
    }
    found = take_in(course, files).hand_ins
    assert [found[student].when.day for student in ("ada", "bob", "cat")] == [2, 3, 10]


def test_late_is_told_for_everybody_and_with_extensions(course):
    due = {"": datetime(2026, 1, 9, tzinfo=UTC), "bob": datetime(2026, 1, 11, tzinfo=UTC)}
    found = take_in(course, {f"{s}/x.ipynb": work(course) for s in ("ada", "bob")}, due=due).hand_ins
    assert (found["ada"].late, found["bob"].late, found["cat"].late) == (True, False, False)


def test_one_bad_hand_in_costs_only_itself(course):
    files = {
        "ada/01-tiny.ipynb": work(course),
        "bob/01-tiny.ipynb": work(course)[:400],
        "cat/01-tiny.ipynb": b"",
        "../../gradebook.db": b"marks",
        "stranger/01-tiny.ipynb": work(course),
    }
    found = take_in(course, files)
    assert {s: e.status for s, e in found.hand_ins.items()} == {
        "ada": "collected",
        "bob": "corrupt",
        "cat": "empty",
    }
    assert {(e.status, e.file) for e in found.strays} == {
        ("refused", "../../gradebook.db"),
        ("doubtful", "stranger/01-tiny.ipynb"),
    }
    assert "no student of the roster fits 'stranger'" in next(
        e.reason for e in found.strays if "stranger" in e.file
    )
    assert sorted(path.name for path in (course.root / "submitted").iterdir()) == ["ada"]
    assert not (course.root.parent / "gradebook.db").exists()
    assert found.attention


def test_a_wrong_exercise_an_unknown_notebook_and_none_are_doubtful(course):
    other = json.dumps(tiny_course.released(course.root, "02-other")).encode()
    unknown = b'{"cells": [{"cell_type": "code", "source": "print(1)", "metadata": {}}], "nbformat": 4}'
    found = take_in(
        course, {"ada/01-tiny.ipynb": other, "bob/01-tiny.ipynb": unknown, "cat/work.pdf": b"%PDF"}
    )
    assert {entry.status for entry in found.hand_ins.values()} == {"doubtful"}
    assert "01-tiny.ipynb is 02-other" in found.hand_ins["ada"].reason
    assert "none of the cells" in found.hand_ins["bob"].reason
    assert "no notebook among: cat/work.pdf" in found.hand_ins["cat"].reason
    assert not (course.root / "submitted").exists()


def test_the_right_exercise_is_found_among_several_notebooks(course):
    other = json.dumps(tiny_course.released(course.root, "02-other")).encode()
    files = {
        "ada/a.ipynb": other,
        "ada/b.ipynb": work(course),
        "ada/torch.py": b"evil",
        "ada/torch/x.so": b"evil",
    }
    entry = take_in(course, files).hand_ins["ada"]
    assert (entry.status, entry.file) == ("collected", "ada/b.ipynb")
    assert any("dropped: ada/torch.py, ada/torch/x.so" in note for note in entry.notes)
    assert sorted(p.name for p in (course.root / "submitted/ada/01-tiny").iterdir()) == [
        f"{NAME}.ipynb",
        "timestamp.txt",
    ]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("01-tiny.ipynb", "01-tiny (1).ipynb"),
        ("01-tiny (2).ipynb", "01-tiny (10).ipynb"),
        ("01-tiny.ipynb", "01-tiny-1.ipynb"),
    ],
)
def test_of_copies_made_at_the_same_time_the_highest_number_wins(course, older, newer):
    files = {f"ada/{newer}": work(course, why="new"), f"ada/{older}": work(course, why="old")}
    entry = take_in(course, files).hand_ins["ada"]
    assert entry.file == f"ada/{newer}"
    assert any(older in note for note in entry.notes)


def test_the_newest_of_two_hand_ins_wins_even_if_it_is_corrupt(course):
    name = "01-tiny_ada_attempt_2026-01-{}-00-00-00_x.ipynb"
    files = {name.format(10): work(course, why="old"), name.format(12): work(course, why="new")}
    assert take_in(course, files).hand_ins["ada"].file == name.format(12)
    entry = take_in(course, files | {name.format(13): b"half a noteb"}).hand_ins["ada"]
    assert entry.status == "corrupt"
    assert any(name.format(12) in note for note in entry.notes)


def test_a_newer_delivery_replaces_an_older_one_does_not(course):
    take_in(course, {"ada/x.ipynb": work(course, why="second")}, date=LATER)
    assert take_in(course, {"ada/x.ipynb": work(course, why="first")}, date=EARLY).kept == ["ada"]
    assert filed(course, "ada") == tiny_course.answered(course.root, tiny_course.RIGHT | {"why": "second"})
    again = take_in(course, {"ada/x.ipynb": work(course, why="third")}, date=LAST)
    assert filed(course, "ada") == tiny_course.answered(course.root, tiny_course.RIGHT | {"why": "third"})
    assert any("superseded" in note for note in again.hand_ins["ada"].notes)
    aside = course.root / ".seqcourse/superseded" / NAME / "ada/1" / f"{NAME}.ipynb"
    assert "second" in aside.read_text()


def test_a_newer_corrupt_hand_in_takes_the_old_one_out_of_grading(course):
    take_in(course, {"ada/x.ipynb": work(course)}, date=EARLY)
    corrupt = take_in(course, {"ada/x.ipynb": b"{"}, date=LATER)
    assert corrupt.hand_ins["ada"].status == "corrupt"
    assert not (course.root / "submitted/ada" / NAME).exists()
    # the old zip given again does not bring it back: what came last counts
    assert take_in(course, {"ada/x.ipynb": work(course)}, date=EARLY).hand_ins["ada"].status == "corrupt"


def test_collecting_the_same_delivery_again_changes_nothing(course):
    files = {"ada/x.ipynb": work(course), "bob/x.ipynb": b"{"}
    first = take_in(course, files)
    before = {p: p.stat().st_mtime_ns for p in (course.root / "submitted").rglob("*")}
    second = take_in(course, files)
    assert second.hand_ins == first.hand_ins
    assert {p: p.stat().st_mtime_ns for p in (course.root / "submitted").rglob("*")} == before


def test_a_second_delivery_adds_to_the_first(course):
    take_in(course, {"ada/x.ipynb": work(course)})
    found = take_in(course, {"bob/x.ipynb": work(course)}, date=LATER)
    assert {s: e.status for s, e in found.hand_ins.items()} == {
        "ada": "collected",
        "bob": "collected",
        "cat": "missing",
    }


def test_links_in_a_folder_are_refused_and_in_submitted_not_followed(course, tmp_path):
    delivery, outside = tmp_path / "delivery", tmp_path / "outside"
    for folder in (delivery / "ada", delivery / "bob", outside):
        folder.mkdir(parents=True)
    (outside / "secret.ipynb").write_bytes(work(course))
    (delivery / "ada/01-tiny.ipynb").symlink_to(outside / "secret.ipynb")
    (delivery / "bob/01-tiny.ipynb").write_bytes(work(course))
    (delivery / "bob/gradebook.db").symlink_to(course.root / "gradebook.db")
    (course.root / "submitted/bob").mkdir(parents=True)
    (course.root / "submitted/bob" / NAME).symlink_to(outside)
    found = collect(course, NAME, members(None, delivery, UTC, CLASS), CLASS).hand_ins
    assert (found["ada"].status, found["bob"].status) == ("refused", "collected")
    assert "symbolic link" in found["ada"].reason
    assert any("gradebook.db is a symbolic link" in note for note in found["bob"].notes)
    assert not (course.root / "submitted/ada").exists()
    assert not (course.root / "submitted/bob" / NAME).is_symlink()
    assert sorted(p.name for p in outside.iterdir()) == ["secret.ipynb"]


def test_two_students_of_one_name_need_their_number():
    roster = Roster.of(
        [Student("x1", "Kim", "Lee", lms="7"), Student("x2", "Kim", "Lee", lms="8")], complete=True
    )
    assert roster.find("Kim Lee", "8") == "x2"
    with pytest.raises(Exception, match="fits several students: x1, x2"):
        roster.find("Kim Lee", "999")


def test_without_a_roster_accounts_are_taken_and_names_are_not(course):
    files = {
        "dora/x.ipynb": work(course),
        "Eve Smith_12_assignsubmission_file_/x.ipynb": work(course),
        "x.ipynb": work(course),
    }
    found = take_in(course, files, Roster())
    assert {s: e.status for s, e in found.hand_ins.items()} == {"dora": "collected"}
    assert sorted(e.reason for e in found.strays) == [
        "'Eve Smith / 12' is no account's name: give --roster",
        "'x' is no account's name: give --roster",
    ]


def test_a_student_cannot_hand_in_for_another_by_naming_folders(course):
    found = take_in(course, {"mallory/ada/01-tiny.ipynb": work(course), "bob/ada_1_2_x.ipynb": work(course)})
    assert found.hand_ins["ada"].status == "missing"
    assert found.hand_ins["bob"].status == "collected"
    assert [entry.file for entry in found.strays] == ["mallory/ada/01-tiny.ipynb"]


def test_the_roster_says_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "roster.csv"
    path.write_text("Student,Name,E-mail,Canvas ID\nada,Ada Lovelace,ada@x,501\n")
    assert read_roster(path).students == (Student("ada", "Ada", "Lovelace", "", "501"),)
    path.write_text("student\n../etc\n")
    with pytest.raises(CourseError, match=r"line 2: expected a student's id.*'\.\./etc'"):
        read_roster(path)
    path.write_text("student\nada\nada\n")
    with pytest.raises(CourseError, match="found twice: ada"):
        read_roster(path)


def run(*arguments: str):
    return CliRunner().invoke(collect_cmd, list(arguments))


def test_the_command_lists_counts_and_tells_by_its_exit_code(course, tmp_path):
    roster = tmp_path / "roster.csv"
    roster.write_text("student,name,lms\nada,Ada Lovelace,501\nbob,Bob Noël,502\n")
    good = deliver(tmp_path / "good.zip", {f"{s}/x.ipynb": work(course) for s in ("ada", "bob")})
    bad = deliver(tmp_path / "bad.zip", {"bob/x.ipynb": b"=1+1"}, LATER)
    options = ("--course", str(course.root))
    done = run(NAME, "--zip", str(good), "--roster", str(roster), *options)
    assert (done.exit_code, done.output) == (
        0,
        "01-tiny: 2 collected, 0 late, 0 missing, 0 doubtful, 0 corrupt, 0 refused, 0 empty\n",
    )
    done = run(NAME, "--zip", str(bad), *options)
    assert done.exit_code == 3
    assert "corrupt   bob: 'bob/x.ipynb': not a notebook" in done.output
    with (course.root / "reports" / f"collect-{NAME}.csv").open() as file:
        assert [(row["student"], row["status"]) for row in csv.DictReader(file)] == [
            ("ada", "collected"),
            ("bob", "corrupt"),
        ]
    stranger = deliver(tmp_path / "stranger.zip", {"eve/x.ipynb": work(course)}, LATER)
    assert "no student of the roster fits 'eve'" in run(NAME, "--zip", str(stranger), *options).output


def test_the_command_says_what_it_needs(course, tmp_path):
    options = ("--course", str(course.root))
    assert "give one of --zip FILE, --folder DIR and --exchange" in run(NAME, *options).output
    not_a_zip = tmp_path / "x.zip"
    not_a_zip.write_text("no zip")
    done = run(NAME, "--zip", str(not_a_zip), *options)
    assert done.exit_code == 1 and "cannot be read" in done.output
    done = run("09-none", "--folder", str(tmp_path), *options)
    assert done.exit_code == 1 and "'09-none' is not released here" in done.output


def test_collecting_from_nbgraders_exchange(tmp_path):
    folder = tiny_course.make_course(tmp_path / "course")
    exchange = tmp_path / "exchange"
    with (folder / "nbgrader_config.py").open("a") as config:
        config.write(f"c.Exchange.root = {str(exchange)!r}\n")
    course = Course.open(folder)
    for when, why in (("10", "first"), ("11", "second")):
        inbound = exchange / f"tiny/inbound/ada+{NAME}+2026-01-{when} 12:00:00.000000 UTC+{why}"
        inbound.mkdir(parents=True)
        (inbound / f"{NAME}.ipynb").write_bytes(work(course, why=why))
    (exchange / "tiny/inbound/ada+02-other+2026-01-12 12:00:00.000000 UTC").mkdir()
    assert run(NAME, "--exchange", "--course", str(folder)).exit_code == 0
    assert "second" in json.dumps(filed(course, "ada"))


def test_two_at_once_the_second_names_the_first(course):
    with course.at_work("seqcourse grade 01-tiny"):
        with (
            pytest.raises(Busy, match=rf"seqcourse grade 01-tiny.*process {os.getpid()} on .*, since 20"),
            course.at_work("x"),
        ):
            pass
        done = run(NAME, "--folder", str(course.root), "--course", str(course.root))
    assert done.exit_code == 1 and f"process {os.getpid()}" in done.output
    with course.at_work("again"):
        pass


def test_a_damaged_list_is_reported(course):
    course.state.mkdir()
    course.collected(NAME).write_text('[{"student": "ada"')
    with pytest.raises(CourseError, match="damaged"):
        read_collection(course, NAME)


def test_a_zip_inside_the_zip_belongs_to_its_student(course):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("deep/01-tiny.ipynb", work(course))
    found = take_in(course, {"Ada Lovelace_9_assignsubmission_file_/all.zip": inner.getvalue()})
    assert found.hand_ins["ada"].status == "collected"
