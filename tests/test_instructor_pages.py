"""Every command in the instructor's pages runs, in the order of the page, on a small class."""

from __future__ import annotations

import csv
import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "book" / "instructors"
# `make test` is the run that this test belongs to.
RUN_ELSEWHERE = {"make test"}
SERVERS = ("jupyter lab", "dask ")

pytestmark = [pytest.mark.sandbox]


def commands(page: str) -> list[str]:
    """The lines of all bash blocks of a page."""
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, flags=re.M | re.S)
    return [line.split(" #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Course:
    """A copy of the checkout's tracked files, with a home of its own, as an instructor would have it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "course"
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in tracked.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith(("book/", "tests/")):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        self.servers: list[subprocess.Popen] = []
        self.port = free_port()
        self.environment = self._environment(folder)

    def _environment(self, folder: Path) -> dict[str, str]:
        exchange, settings = folder / "exchange", folder / "jupyter"
        exchange.mkdir()
        exchange.chmod(0o777)  # the exchange of a hub is open to all
        settings.mkdir()
        (settings / "nbgrader_config.py").write_text(
            f"c = get_config()\nc.Exchange.root = {str(exchange)!r}\n"
        )
        (settings / "jupyter_server_config.json").write_text(
            json.dumps({"ServerApp": {"allow_root": True, "token": "secret", "port": self.port}})
        )
        scripts = str(Path(sys.executable).parent)
        return {
            **os.environ,
            "HOME": str(folder),
            "JUPYTER_CONFIG_DIR": str(settings),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def serve(self, command: str) -> None:
        """Start what does not end by itself; wait until it says that it is there."""
        process = subprocess.Popen(
            command, shell=True, cwd=self.folder, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.servers.append(process)
        for line in process.stdout:
            if re.search(r"Scheduler at:|Registered to:|is running at", line):
                return
        raise AssertionError(f"{command!r} ended with code {process.wait()}")

    def stop(self) -> None:
        for process in self.servers:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=30)
            process.stdout.close()

    def perform(self, command: str) -> None:
        if command.startswith(SERVERS):
            self.serve(command)
        else:
            done = self.run(command)
            assert done.returncode == 0, f"$ {command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.fixture
def course(tmp_path: Path) -> Iterator[Course]:
    made = Course(tmp_path)
    yield made
    made.stop()


def answered(source: Path, path: Path) -> Path:
    """The reference answers, as a student's file."""
    from seqcourse.grading.authoring import source_notebook

    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(source_notebook(source), path)
    return path


# The exchange of a hub takes the student's name from the account: who runs this test is in the class.
ACCOUNT = getpass.getuser()
PEOPLE = {"ada": "Ada Lovelace", "alan": "Alan Turing", ACCOUNT: "Grace Hopper"}


def hand_in(course: Course, name: str, students: tuple[str, ...]) -> None:
    """A zip in the layout of Moodle, and the roster."""
    rows = [f"{s},{PEOPLE[s]},{s}@example.org" for s in students]
    (course.folder / "roster.csv").write_text("\n".join(["id,name,email", *rows]) + "\n")
    notebook = answered(ROOT / "solutions" / f"{name}.md", course.folder / "runs" / f"{name}.ipynb")
    with zipfile.ZipFile(course.folder / "handins.zip", "w") as archive:
        for number, student in enumerate(students):
            archive.write(notebook, f"{PEOPLE[student]}_{number}_assignsubmission_file_/{name}.ipynb")


def server_answers(course: Course) -> int:
    """Ask the running server whether it is up: it says where it is before it listens there."""
    address, until = f"http://127.0.0.1:{course.port}/api/status?token=secret", time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=60) as reply:
                assert "started" in json.load(reply)  # formgrader itself: test_formgrader.py
                return reply.status
        except urllib.error.URLError:
            assert time.monotonic() < until, f"nobody listens at {address}"
            time.sleep(0.5)


def test_running_the_course_from_release_to_marks(course):
    hand_in(course, "01-rnn", ("ada", "alan", ACCOUNT))
    for command in commands("running.md"):
        course.perform(command)
        if command.startswith("jupyter lab"):
            assert server_answers(course) == 200
    report = (course.folder / "reports" / "01-rnn.csv").read_text()
    assert "ada" in report and "alan" in report and "graded" in report
    # What came by the exchange, the unanswered notebook, is newer than the zip and took its place.
    [mine] = [row for row in csv.DictReader(report.splitlines()) if row["student"] == ACCOUNT]
    assert float(mine["score"]) == 0


def test_scaling_out_grades_on_a_scheduler(course):
    hand_in(course, "01-rnn", ("ada",))
    assert course.run("seqcourse collect 01-rnn --zip handins.zip --roster roster.csv").returncode == 0
    for command in commands("scaling.md"):
        course.perform(command)
    assert "ada,graded" in (course.folder / "reports" / "01-rnn.csv").read_text()


def test_safety_page_refuses_without_a_sandbox_and_grades_with_one(course):
    hand_in(course, "01-rnn", ("ada",))
    assert course.run("seqcourse collect 01-rnn --zip handins.zip --roster roster.csv").returncode == 0
    for command in commands("safety.md"):
        course.perform(command)


def test_adding_an_exercise(course):
    example = ROOT / "tests" / "data"
    shutil.copy(example / "90-example.md", course.folder / "solutions")
    mutants = course.folder / "tests" / "mutants" / "90-example"
    mutants.mkdir(parents=True)
    shutil.copy(example / "90-example.toml", mutants / "leaky-step.toml")
    shutil.copy(example / "90-example-run-steps.toml", mutants / "run-steps.toml")
    for command in commands("adding.md"):
        if command not in RUN_ELSEWHERE:
            course.perform(command)
    assert (course.folder / "exercises" / "90-example" / "90-example.ipynb").is_file()


def test_no_page_shows_a_command_outside_the_blocks_that_are_run():
    pages = {path.name for path in PAGES.glob("*.md")}
    tested = {"running.md", "scaling.md", "safety.md", "adding.md"}
    assert all(not commands(page) for page in pages - tested)
    for page in pages:
        languages = re.findall(r"^```(\w+)$", (PAGES / page).read_text(encoding="utf-8"), flags=re.M)
        assert set(languages) <= {"bash", "text", "python"}
