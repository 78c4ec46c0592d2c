"""nbgrader's formgrader opens on the gradebook that `seqcourse grade` wrote; hand marks reach the export."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_course
from tiny_course import NAME, RIGHT, answered, hand_in, run_unsafely

pytest.importorskip("nbgrader", reason="grading needs the extra 'grade'")
from click.testing import CliRunner

from seqcourse.grading.cli_marks import marks_cmd
from seqcourse.grading.course import Course
from seqcourse.grading.pipeline import Options, grade

TOKEN = "only-for-this-test"
EXTENSION = "{'nbgrader.server_extensions.formgrader': True}"


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    folder = tiny_course.make_course(tmp_path_factory.mktemp("formgrader") / "course", (NAME, "02-other"))
    with (folder / "nbgrader_config.py").open("a") as config:
        config.write("\nfrom seqcourse.grading.configuration import configure\n\nconfigure(c)\n")
    why = "Because sums stay sums, says Ada. <script>steal()</script><img src=x onerror=steal()>"
    hand_in(folder, "ada", answered(folder, RIGHT | {"why": why}))
    hand_in(folder, "bob", answered(folder, RIGHT | {"double": "def double(x):\n    return 7 * x"}))
    hand_in(folder, "cat", "{")
    with Course.open(folder).gradebook() as gradebook:
        gradebook.add_student("dan")
    grade(Course.open(folder), NAME, Options(jobs=1), run=run_unsafely)
    return folder


@contextlib.contextmanager
def jupyter_server(folder: Path, private: Path) -> Iterator[str]:
    """A Jupyter server with formgrader on 127.0.0.1; its address."""
    about = private / "runtime"
    folders = {f"JUPYTER_{kind}_DIR": str(private / kind.lower()) for kind in ("CONFIG", "RUNTIME", "DATA")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    options = {"ip": "127.0.0.1", "port": 0, "open_browser": False, "allow_root": True}
    command = [sys.executable, "-m", "jupyter_server", f"--IdentityProvider.token={TOKEN}"]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    command += [f"--ServerApp.jpserver_extensions={EXTENSION}"]
    log = private / "log"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=os.environ | folders | {"PATH": path}
        )
        try:
            yield _address(server, about, log)
        finally:
            server.terminate()
            server.wait(20)


def _address(server: subprocess.Popen, about: Path, log: Path) -> str:
    for _ in range(600):
        for file in about.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError):
                return json.loads(file.read_text())["url"]
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def address(course, tmp_path_factory) -> Iterator[str]:
    with jupyter_server(course, tmp_path_factory.mktemp("jupyter")) as url:
        yield url


def ask(url: str, data: dict | None = None, token: str = TOKEN) -> tuple[int, str]:
    body = json.dumps(data).encode() if data else None
    headers = {"Authorization": f"token {token}"}
    request = urllib.request.Request(url, body, headers, method="PUT" if data else "GET")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def submissions(address: str) -> dict[str, str]:
    status, text = ask(f"{address}formgrader/api/submitted_notebooks/{NAME}/{NAME}")
    assert status == 200
    return {entry["student"]: entry["id"] for entry in json.loads(text) if entry["id"]}


def test_the_pages_of_the_assignment_open(address):
    for page in ("gradebook", f"gradebook/{NAME}", f"gradebook/{NAME}/{NAME}", f"manage_submissions/{NAME}"):
        status, text = ask(f"{address}formgrader/{page}")
        assert status == 200 and "<title>nbgrader formgrade</title>" in text, page
    assert set(submissions(address)) == {"ada", "bob"}
    status, text = ask(f"{address}formgrader/api/submissions/{NAME}")
    scores = {entry["student"]: entry["score"] for entry in json.loads(text)}
    assert (status, scores["ada"], scores["bob"]) == (200, 6.0, 2.0)


def test_a_page_shows_the_students_answer_and_the_hidden_test_to_the_grader(address):
    status, text = ask(f"{address}formgrader/submissions/{submissions(address)['ada']}/?index=0")
    assert status == 200
    assert "Because sums stay sums, says Ada." in text
    assert "<script>steal" not in text and "onerror=steal" not in text
    assert "SECRET-HIDDEN-TEST" in text
    status, text = ask(f"{address}formgrader/submissions/{submissions(address)['bob']}/?index=1")
    assert status == 200 and "expected 6, got 21" in text


def test_nobody_gets_in_without_the_token(address):
    _, text = ask(f"{address}formgrader/api/submissions/{NAME}", token="guessed")
    assert "ada" not in text and "Token authentication is enabled" in text


def exported(course: Path) -> dict[str, dict[str, str]]:
    done = CliRunner().invoke(marks_cmd, [NAME, "--course", str(course)])
    assert done.exit_code == 0, done.output
    with (course / "reports/marks.csv").open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def test_a_hand_mark_given_in_formgrader_counts_in_the_export(address, course):
    before = exported(course)
    assert {s: (row["status"], row["score"]) for s, row in before.items()} == {
        "ada": ("graded", "6"),
        "bob": ("graded", "2"),
        "cat": ("corrupt", ""),
        "dan": ("missing", ""),
    }
    assert before["ada"]["needs_hand_grading"] == "yes"
    status, text = ask(f"{address}formgrader/api/grades?submission_id={submissions(address)['ada']}")
    why = next(entry["id"] for entry in json.loads(text) if entry["name"] == "why")
    status, text = ask(f"{address}formgrader/api/grade/{why}", {"manual_score": 3.5, "extra_credit": 0.25})
    assert (status, json.loads(text)["manual_score"]) == (200, 3.5)
    row = exported(course)["ada"]
    assert (row["auto_score"], row["hand_score"], row["score"]) == ("6", "3.75", "9.75")
    assert row["needs_hand_grading"] == "no"
    grade(Course.open(course), NAME, Options(jobs=1, again=True), run=run_unsafely)
    assert exported(course)["ada"]["score"] == "9.75"


def test_a_late_penalty_counts_hand_marks_given_after_it(tmp_path):
    folder = tiny_course.make_course(tmp_path / "course", (NAME, "02-other"))
    with (folder / "nbgrader_config.py").open("a") as config:
        config.write('c.LateSubmissionPlugin.penalty_method = "zero"\n')
    with Course.open(folder).gradebook() as gradebook:
        gradebook.update_or_create_assignment(NAME, duedate="2026-01-01 00:00:00")
    hand_in(folder, "ada", answered(folder))
    grade(Course.open(folder), NAME, Options(jobs=1), run=run_unsafely)
    with Course.open(folder).gradebook() as gradebook:
        gradebook.find_grade("why", NAME, NAME, "ada").manual_score = 3.0
        gradebook.db.commit()
    row = exported(folder)["ada"]
    assert (row["auto_score"], row["hand_score"], row["late_penalty"], row["score"]) == ("6", "3", "9", "0")


def test_the_export_says_what_it_needs(tmp_path):
    folder = tiny_course.make_course(tmp_path / "course", (NAME, "02-other"))
    done = CliRunner().invoke(marks_cmd, [NAME, "--course", str(folder)])
    assert done.exit_code == 1 and "run `seqcourse grade 01-tiny`" in done.output
    assert "name exercises, or give --all" in CliRunner().invoke(marks_cmd, []).output
    done = CliRunner().invoke(marks_cmd, ["--all", "--course", str(folder)])
    assert (done.exit_code, "0 rows" in done.output) == (0, True)
