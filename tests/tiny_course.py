"""A course with one small exercise, for tests of collecting and grading: no torch, milliseconds to run."""

from __future__ import annotations

import atexit
import copy
import csv
import json
import os
import shutil
import sqlite3
import sys
import tempfile
import textwrap
from contextlib import closing
from functools import cache
from pathlib import Path

NAME = "01-tiny"
CONFIG = """
c = get_config()
c.CourseDirectory.course_id = "tiny"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.begin_solution_delimeter = "BEGIN SOLUTION"
c.ClearSolutions.end_solution_delimeter = "END SOLUTION"
"""
SOURCE = '''\
---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
exercise:
  name: 01-tiny
  points: 10
---

# A tiny exercise

```{code-cell} python3
import math
```

```{code-cell} python3
:role: answer
:name: double

def double(x):
    """Twice `x`."""
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
```

```{code-cell} python3
:role: test
:name: double-visible
:points: 2

assert double(3) == 6, f"double(3): expected 6, got {double(3)}"
```

```{code-cell} python3
:role: hidden
:name: double-hidden
:points: 2
:hint: "Does it hold for negative numbers?"

# Tries a negative number.
double(1)
### BEGIN HIDDEN TESTS
assert double(-41) == -82, "SECRET-HIDDEN-TEST"
### END HIDDEN TESTS
```

```{code-cell} python3
:role: answer
:name: triple

def triple(x):
    """Three times `x`."""
    ### BEGIN SOLUTION
    return 3 * x
    ### END SOLUTION
```

```{code-cell} python3
:role: test
:name: triple-visible
:points: 2

assert triple(3) == 9, f"triple(3): expected 9, got {triple(3)}"
```

+++ {"role": "written", "name": "why", "points": 4}

Why is `double` linear?

<!-- BEGIN SOLUTION -->
Because double(a + b) = double(a) + double(b).
<!-- END SOLUTION -->
'''
RIGHT = {
    "double": "def double(x):\n    return x + x",
    "triple": "def triple(x):\n    return 3 * x",
    "why": "It keeps sums and multiples.",
}
FULL_AUTO = 6.0


def make_course(folder: Path, names: tuple[str, ...] = (NAME,)) -> Path:
    """Write a course folder with the exercise (under each of `names`) released."""
    return Path(shutil.copytree(_pattern(names), folder, dirs_exist_ok=True))


@cache
def _pattern(names: tuple[str, ...]) -> Path:
    """Made once in a test run: nbgrader takes a second for it."""
    from seqcourse.grading.authoring import generate, source_notebook
    from seqcourse.grading.course import Course

    folder = Path(tempfile.mkdtemp(prefix="tiny-course-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "nbgrader_config.py").write_text(CONFIG)
    (folder / "solutions").mkdir()
    for number, name in enumerate(names):
        source = folder / "solutions" / f"{name}.md"
        source.write_text(SOURCE if number == 0 else _renamed(SOURCE, name))
        released = folder / "exercises" / name / f"{name}.ipynb"
        released.parent.mkdir(parents=True)
        released.write_text(json.dumps(generate(name, source_notebook(source), folder)))
    Course.open(folder).gradebook().close()  # nbgrader takes seconds to make an empty one
    return folder


def empty_gradebook(course: Path) -> None:
    """Put an empty gradebook in the place of the course's."""
    shutil.copy(_pattern((NAME, "02-other")) / "gradebook.db", course / "gradebook.db")


def _renamed(source: str, name: str) -> str:
    """Another exercise: other functions, other cells."""
    for old, new in ((NAME, name), ("double", "halve"), ("triple", "third"), ("why", "explain")):
        source = source.replace(old, new)
    return source.replace("import math", "import cmath").replace("A tiny", "Another")


def released(course: Path, name: str = NAME) -> dict:
    """The released notebook."""
    return json.loads((course / "exercises" / name / f"{name}.ipynb").read_text())


def answered(course: Path, answers: dict[str, str] = RIGHT, name: str = NAME) -> dict:
    """The released notebook with answers filled in, as a student saves it."""
    notebook = copy.deepcopy(released(course, name))
    for cell in notebook["cells"]:
        grade_id = cell["metadata"].get("nbgrader", {}).get("grade_id")
        if grade_id in answers:
            cell["source"] = textwrap.dedent(answers[grade_id])
    return notebook


def hand_in(
    course: Path, student: str, notebook: dict | str, when: str = "2026-01-10 12:00:00.000000 UTC"
) -> Path:
    """Put a notebook (or any text) into ``submitted/``, as `seqcourse collect` does."""
    folder = course / "submitted" / student / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "timestamp.txt").write_text(when)
    path = folder / f"{NAME}.ipynb"
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook))
    return path


def run_unsafely(job: dict) -> dict:
    """Stands in for the sandboxed `execute`: same contract, no protection, a millisecond."""
    notebook, names, cells, status = copy.deepcopy(job["notebook"]), {}, {}, "graded"
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        about, cell["outputs"], cell["execution_count"] = cell["metadata"]["nbgrader"], [], 1
        try:
            exec(cell["source"], names)
            outcome = {"passed": True, "reason": "passed", "seconds": 0.001}
        except Exception as error:
            said = {"ename": type(error).__name__, "evalue": str(error), "traceback": [repr(error)]}
            cell["outputs"] = [{"output_type": "error", **said}]
            outcome = {"passed": False, "reason": "failed", "seconds": 0.001}
        if about["grade"]:
            cells[about["grade_id"]] = outcome
    return {
        "notebook": notebook,
        "status": status,
        "cells": cells,
        "notes": [],
        "sandbox": "none: the tests' stand-in",
        "seconds": 0.001,
    }


def gradebook_contents(course: Path) -> dict[str, list[tuple]]:
    """Everything in the gradebook but nbgrader's random ids, so that two gradebooks can be compared."""
    queries = {
        "submissions": "SELECT a.name, s.student_id, s.timestamp, s.extension FROM submitted_assignment s "
        "JOIN assignment a ON a.id = s.assignment_id",
        "notebooks": "SELECT n.name, s.student_id, b.flagged, b.late_submission_penalty "
        "FROM submitted_notebook b JOIN submitted_assignment s ON s.id = b.assignment_id "
        "JOIN notebook n ON n.id = b.notebook_id",
        "grades": "SELECT c.name, s.student_id, g.auto_score, g.manual_score, g.extra_credit, "
        "g.needs_manual_grade FROM grade g JOIN base_cell c ON c.id = g.cell_id "
        "JOIN submitted_notebook b ON b.id = g.notebook_id "
        "JOIN submitted_assignment s ON s.id = b.assignment_id",
        "comments": "SELECT c.name, s.student_id, m.auto_comment, m.manual_comment FROM comment m "
        "JOIN base_cell c ON c.id = m.cell_id JOIN submitted_notebook b ON b.id = m.notebook_id "
        "JOIN submitted_assignment s ON s.id = b.assignment_id",
        "cells": "SELECT name, type FROM base_cell",
        "source": "SELECT name, source, checksum, locked FROM source_cell",
        "students": "SELECT id, first_name, last_name, email FROM student",
    }
    with closing(sqlite3.connect(course / "gradebook.db")) as database:
        found = {
            name: sorted(database.execute(query).fetchall(), key=repr) for name, query in queries.items()
        }
        for table in ("grade", "comment", "submitted_notebook", "submitted_assignment"):
            found[f"rows of {table}"] = database.execute(f"SELECT count(*) FROM {table}").fetchall()
    return found


def report(course: Path, name: str = NAME) -> dict[str, dict[str, str]]:
    """The rows of the report by student."""
    with (course / "reports" / f"{name}.csv").open(newline="") as file:
        return {row["student"]: row for row in csv.DictReader(file)}


def forbid(folder: str) -> None:
    """On a worker: end the process the moment that anything opens a file of the course."""

    def watch(event: str, arguments: tuple) -> None:
        if event in ("open", "os.listdir", "os.scandir", "os.chdir", "sqlite3.connect"):
            touched = os.fspath(arguments[0]) if isinstance(arguments[0], str | os.PathLike) else ""
            if touched.startswith(folder):
                os.write(2, f"the worker touched {touched}\n".encode())
                os._exit(3)

    sys.addaudithook(watch)
    os.chdir("/")


def where_it_ran(job: dict) -> dict:
    """Execute for real, and note in which process."""
    from seqcourse.grading.scheduler import run_job

    result = run_job(job)
    return result | {"notes": [*result["notes"], f"ran in process {os.getpid()}"]}
