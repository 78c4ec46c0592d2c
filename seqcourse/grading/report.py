"""Lists for people: CSV files that a spreadsheet opens without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, SubmittedAssignment

from seqcourse.grading.course import Course, parse_timestamp, write_atomically

MARKED = ("graded", "crashed", "timeout", "tampered")  # statuses with a score


def write_csv(path: Path, rows: Iterable[dict], columns: list[str]) -> None:
    """Write rows as CSV, at once or not at all; `None` becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe: students choose file names."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


COLUMNS = [
    "student",
    "status",
    "score",
    "max_score",
    "needs_hand_grading",
    "late",
    "late_penalty",
    "seconds",
    "notes",
]


def write_report(
    course: Course, name: str, gradebook: Gradebook, tasks: Iterable[Any], due: dict[str, datetime]
) -> list[dict[str, Any]]:
    """Write ``reports/NAME.csv``: everybody with a status; a score only where there is a mark.

    An empty score says that there is no mark (missing, corrupt, refused, grader failed); 0 says earned 0.
    """
    marks = {entry.student_id: entry for entry in gradebook.assignment_submissions(name)}
    most = gradebook.find_assignment(name).max_score
    rows = [_row(task, marks.get(task.student), most, due) for task in tasks]
    write_csv(course.root / "reports" / f"{name}.csv", rows, COLUMNS)
    return rows


def _row(
    task: Any, mark: SubmittedAssignment | None, most: float, due: dict[str, datetime]
) -> dict[str, Any]:
    row = {"student": task.student, "status": task.status, "score": None, "max_score": most}
    row |= {"needs_hand_grading": "", "late": "", "late_penalty": None, "seconds": None}
    if task.status in MARKED and mark is not None:
        penalty = mark.late_submission_penalty or 0.0
        row |= {"score": max(0.0, mark.score - penalty), "late_penalty": penalty}
        row |= {"needs_hand_grading": _yes(mark.needs_manual_grade), "seconds": task.entry.result["seconds"]}
    handed_in, limit = parse_timestamp(task.hand_in.timestamp), due.get(task.student, due.get(""))
    row["late"] = _yes(bool(handed_in and limit and handed_in > limit))
    remarks = [
        task.failure,
        task.hand_in.reason,
        *task.notes,
        *(task.entry.result["notes"] if task.entry else []),
    ]
    return row | {"notes": "; ".join(remark for remark in remarks if remark)[:2000]}


def _yes(value: bool) -> str:
    return "yes" if value else "no"
