"""A whole class through `seqcourse collect` and `seqcourse grade`: each gets its mark."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hand_ins import Exercise, HandIn, Maker, cell, write_folder

DATA = Path(__file__).parent / "data"
pytestmark = [pytest.mark.sandbox]


def example() -> Exercise:
    """The exercise of the instructor's page, with one wrong answer for each of its two answers."""
    from seqcourse.grading.authoring import source_notebook

    def wrong(name: str, kind: str) -> str:
        mutants = tomllib.loads((DATA / name).read_text(encoding="utf-8"))
        entry = next(m for m in mutants["wrong"] if m["name"] == kind)
        return cell(reference, mutants["answer"]).source.replace(*entry["replace"])

    reference = source_notebook(DATA / "90-example.md")
    return Exercise(
        name="90-example",
        reference=reference,
        wrong={
            "leaky-step": (wrong("90-example.toml", "sigmoid for tanh"), 5.0),
            "run-steps": (wrong("90-example-run-steps.toml", "begins with a zero state"), 3.0),
        },
        last="run-steps",
        lost_with_last=5.0,
    )


def seqcourse(course: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seqcourse", *arguments]
    return subprocess.run(command, cwd=course, capture_output=True, text=True, timeout=900)


@pytest.fixture(scope="module")
def graded(tmp_path_factory) -> tuple[Path, dict[str, HandIn], dict[str, dict[str, str]]]:
    """One hand-in of every kind, collected from a folder and graded in one command."""
    from seqcourse.grading.authoring import release

    course = tmp_path_factory.mktemp("class") / "course"
    (course / "solutions").mkdir(parents=True)
    shutil.copy(DATA / "90-example.md", course / "solutions")
    shutil.copy(DATA.parents[1] / "nbgrader_config.py", course)
    release("90-example", course)
    made = {f"s{number:03}": hand_in for number, hand_in in enumerate(Maker(example()).everything())}
    write_folder(made, course / "handins")
    (course / "roster.csv").write_text("id\n" + "".join(f"{student}\n" for student in made))
    collected = seqcourse(course, "collect", "90-example", "--folder", "handins", "--roster", "roster.csv")
    assert collected.returncode == 3, collected.stdout + collected.stderr  # some need attention
    done = seqcourse(course, "grade", "90-example", "--jobs", "2", "--require-sandbox")
    assert done.returncode == 3, done.stdout + done.stderr
    with (course / "reports" / "90-example.csv").open(newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return course, made, rows


def test_every_student_is_in_the_report(graded):
    _, made, rows = graded
    assert set(rows) == set(made)


def test_each_gets_the_status_and_the_score_it_must_have(graded):
    _, made, rows = graded
    wrong = {}
    for student, hand_in in made.items():
        row = rows[student]
        score = float(row["score"]) if row["score"] else None
        if (row["status"], score) != (hand_in.status, hand_in.score):
            wrong[hand_in.kind] = (
                f"expected {hand_in.status} {hand_in.score}, got {row['status']} {score}: {row}"
            )
    assert not wrong, "\n".join(f"{kind}: {what}" for kind, what in wrong.items())


def test_what_looks_odd_is_noted(graded):
    _, made, rows = graded
    silent = [h.kind for s, h in made.items() if h.flagged and not rows[s]["notes"]]
    assert not silent


def test_feedback_never_shows_a_hidden_test_or_another_student(graded):
    course, made, _ = graded
    pages = sorted((course / "feedback").rglob("*.html"))
    assert len(pages) == sum(h.status in ("graded", "crashed", "timeout", "tampered") for h in made.values())
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "the new state with leak 0.25" not in text and "one step from a state of ones" not in text
        assert len(text) < 1_500_000, f"{page}: a flood of output reached the page"


def test_grading_again_changes_nothing(graded):
    course, _, _ = graded
    before = (course / "reports" / "90-example.csv").read_text()
    assert seqcourse(course, "grade", "90-example", "--require-sandbox").returncode == 3
    assert (course / "reports" / "90-example.csv").read_text() == before
