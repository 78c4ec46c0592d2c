"""SIGKILL at random moments, 20 times over a class: afterwards everything is as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
import tiny_course
from tiny_course import NAME, RIGHT, answered, gradebook_contents, hand_in

pytest.importorskip("nbgrader", reason="grading needs the extra 'grade'")

KILLS, STUDENTS = 20, 40
WRONG = RIGHT | {"triple": "def triple(x):\n    return x + 3"}


def first_hand_ins(course: Path) -> None:
    for number in range(0, STUDENTS, 4):
        hand_in(course, f"s{number:02}", answered(course, WRONG))


def later_hand_ins(course: Path) -> None:
    """Everybody hands in; some of those who had before something corrupt; one nothing new."""
    for number in range(1, STUDENTS):
        right = answered(course, RIGHT | {"why": f"Reason {number}."})
        corrupt = number % 8 == 4
        hand_in(course, f"s{number:02}", "{" if corrupt else right, "2026-01-11 12:00:00 UTC")


def work(course: str) -> None:
    """Grade in a process of its own that can be killed; everything is imported already."""
    from seqcourse.grading.course import Course
    from seqcourse.grading.pipeline import Options, grade

    grade(Course.open(course), NAME, Options(jobs=2), run=tiny_course.run_unsafely)


def in_child(course: str, kill_after: float | None) -> bool:
    """Grade in a fork; whether it was killed before it was done."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(course)
            code = 0
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if kill_after is None and status:
        raise SystemExit(f"grading failed: {status}")
    return os.WIFSIGNALED(status)


def torment(disturbed: str, undisturbed: str) -> None:
    """Grade one course in peace, the other under fire; print what happened."""
    import seqcourse.grading.pipeline  # noqa: F401  (before forking)

    for course in (disturbed, undisturbed):
        first_hand_ins(Path(course))
        in_child(course, None)
        later_hand_ins(Path(course))
    began = time.monotonic()
    in_child(undisturbed, None)
    in_peace = time.monotonic() - began
    journal, rng = Path(disturbed, ".seqcourse/grade", NAME), random.Random(3)
    progress = []
    while len(progress) < KILLS:
        # most kills hit while there is work: the more kills, the further a run is let go
        if in_child(disturbed, in_peace * rng.uniform(0.05, 0.1 + 0.05 * len(progress))):
            done = [json.loads(path.read_text()) for path in journal.glob("*.json")]
            progress.append(sum(entry["timestamp"].startswith("2026-01-11") for entry in done))
        else:
            in_peace *= 0.9  # it got done: leave it less time
    in_child(disturbed, None)
    print(json.dumps(progress))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_20_times_and_nothing_lost_or_doubled(tmp_path):
    courses = [tiny_course.make_course(tmp_path / name) for name in ("disturbed", "undisturbed")]
    command = [sys.executable, __file__, *map(str, courses)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    progress = json.loads(done.stdout)
    assert len(progress) == KILLS
    # the kills were spread over the work: journal entries found after them differ
    assert len(set(progress)) >= 5, progress
    disturbed, undisturbed = courses
    assert gradebook_contents(disturbed) == gradebook_contents(undisturbed)
    assert tree(disturbed / "reports") == tree(undisturbed / "reports")
    for step in ("autograded", "feedback"):
        assert tree(disturbed / step) == tree(undisturbed / step)
    for course in courses:
        assert [path.name for path in course.rglob("*.partial")] == []
    scores = {student: row["score"] for student, row in tiny_course.report(disturbed).items()}
    expected = {f"s{n:02}": "" if n % 8 == 4 else "6" for n in range(1, STUDENTS)} | {"s00": "4"}
    assert scores == expected


if __name__ == "__main__":
    torment(*sys.argv[1:])
