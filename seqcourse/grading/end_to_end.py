"""A few mutants through plain `nbgrader autograde`: its marks must be those of the fast path."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nbformat import NotebookNode
from nbgrader.api import Gradebook

from seqcourse.grading import authoring
from seqcourse.grading.authoring import course_folder, grade_id
from seqcourse.grading.mutants import Result


class NbgraderFailed(RuntimeError):
    """An nbgrader command ended with an error; the message holds the end of what it said."""


def sample(results: list[Result]) -> list[Result]:
    """Reference, blank, one wrong answer to each question, and one that is right in another way."""
    first = {}
    for result in results:
        kind, answer = result.mutant.kind, result.mutant.answer
        first.setdefault((kind, answer) if kind == "wrong" else kind, result)
    return list(first.values())


def differences(
    name: str, source: NotebookNode, results: list[Result], course: Path | None = None
) -> list[str]:
    """Hand in a sample of mutants to a course made for it, autograde it, and compare the marks cell by cell.

    Args:
        name: the exercise.
        source: the instructor's notebook.
        results: what the fast path found.
        course: the folder of the course; by default the one around the current folder.

    Returns:
        Each cell whose marks differ, in words.

    Raises:
        NbgraderFailed: nbgrader itself failed.
    """
    course, chosen = course or course_folder(), sample(results)
    students = {f"mutant{number}": result for number, result in enumerate(chosen, 1)}
    with tempfile.TemporaryDirectory() as folder:
        copy = _copy_course(course, Path(folder), name)
        nbgrader(copy, "generate_assignment", name)
        for student, result in students.items():
            _hand_in(copy, name, student, result)
        nbgrader(copy, "autograde", name)
        marks = {student: autoscores(copy, name, student) for student in students}
    points = {grade_id(cell): cell.metadata.nbgrader.points for cell in authoring.graded_code(source)}
    return [
        f"{result.mutant}: {test}: nbgrader autograde gives {marks[student].get(test)}, expected {expected}"
        for student, result in students.items()
        for test, full in points.items()
        if marks[student].get(test) != (expected := 0 if test in result.failed else full)
    ]


def _copy_course(course: Path, folder: Path, name: str) -> Path:
    """A course with this exercise only: configuration, source, instructor's notebook."""
    (folder / "solutions").mkdir()
    shutil.copy(course / "nbgrader_config.py", folder)
    shutil.copy(authoring.source_path(name, course), folder / "solutions")
    authoring.write_solution(name, folder)
    return folder


def _hand_in(course: Path, name: str, student: str, result: Result) -> None:
    """The released notebook with the reference answers but for what the mutant changes."""
    notebook = json.loads(authoring.release_path(name, course).read_text(encoding="utf-8"))
    reference = authoring.source_notebook(authoring.source_path(name, course))
    answers = {grade_id(cell): cell.source for cell in reference.cells if authoring.role(cell) == "answer"}
    answers.update(result.mutant.sources)
    for cell in notebook["cells"]:
        cell["source"] = answers.get(cell["metadata"]["nbgrader"]["grade_id"], cell["source"])
    path = course / "submitted" / student / name / f"{name}.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebook), encoding="utf-8")


def nbgrader(course: Path, *arguments: str) -> None:
    """Run an nbgrader command in a course.

    Raises:
        NbgraderFailed: its exit code is not 0.
    """
    # nbgrader calls alembic by name, from the same environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=course, env={**os.environ, "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise NbgraderFailed(
            f"nbgrader {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}"
        )


def autoscores(course: Path, name: str, student: str) -> dict[str, float]:
    """The automatic marks of a hand-in: graded code cell -> points."""
    with Gradebook(f"sqlite:///{course}/gradebook.db") as gradebook:
        grades = gradebook.find_submission_notebook(name, name, student).grades
        return {grade.name: grade.auto_score for grade in grades if grade.auto_score is not None}
