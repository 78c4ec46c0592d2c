"""Marks for the examination office: the gradebook's, with hand marks and late penalties."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, Student, SubmittedAssignment

from seqcourse.grading import record
from seqcourse.grading.course import Course, CourseError
from seqcourse.grading.report import MARKED, write_csv

COLUMNS = [
    "assignment",
    "student",
    "last_name",
    "first_name",
    "email",
    "lms",
    "status",
    "timestamp",
    "auto_score",
    "hand_score",
    "late_penalty",
    "score",
    "max_score",
    "needs_hand_grading",
]


def export(course: Course, names: list[str], to: Path) -> list[dict[str, Any]]:
    """Write everybody's marks as CSV.

    The score is empty where the last `seqcourse grade` found nothing to mark (see the status): a missing
    hand-in is not an earned 0. Late penalties are computed anew: they depend on hand marks given since.

    Args:
        names: Exercises.

    Returns:
        The rows.

    Raises:
        CourseError: If an exercise has not been graded, or somebody is grading.
    """
    with course.at_work("seqcourse marks"), course.gradebook() as gradebook:
        for name in names:
            record.renew_penalties(course, gradebook, name)
        rows = [row for name in names for row in _assignment(course, gradebook, name)]
    write_csv(to, rows, COLUMNS)
    return rows


def graded_names(course: Course) -> list[str]:
    """The exercises that `seqcourse grade` has reported on."""
    return [name for name in course.releases() if (course.root / "reports" / f"{name}.csv").is_file()]


def _assignment(course: Course, gradebook: Gradebook, name: str) -> list[dict[str, Any]]:
    statuses = _statuses(course, name)
    submissions = {entry.student_id: entry for entry in gradebook.assignment_submissions(name)}
    most = gradebook.find_assignment(name).max_score
    students = {student.id: student for student in gradebook.students}
    # whoever never had a readable hand-in is in the report only
    everybody = sorted(set(students) | set(statuses))
    return [
        _row(
            students.get(who) or Student(id=who),
            name,
            statuses.get(who, "missing"),
            submissions.get(who),
            most,
        )
        for who in everybody
    ]


def _statuses(course: Course, name: str) -> dict[str, str]:
    path = course.root / "reports" / f"{name}.csv"
    if not path.is_file():
        raise CourseError(f"{name} has not been graded: expected {path}; run `seqcourse grade {name}`")
    with path.open(newline="") as file:
        return {row["student"]: row["status"] for row in csv.DictReader(file)}


def _row(
    student: Student, name: str, status: str, mark: SubmittedAssignment | None, most: float
) -> dict[str, Any]:
    row = {
        "assignment": name,
        "student": student.id,
        "last_name": student.last_name or "",
        "first_name": student.first_name or "",
        "email": student.email or "",
        "lms": student.lms_user_id or "",
        "status": status,
        "max_score": most,
    }
    return row | (_marks(mark) if mark and status in MARKED else {})


def _marks(mark: SubmittedAssignment) -> dict[str, Any]:
    """A hand mark of a cell takes the place of the autograder's; extra credit comes on top."""
    grades = [grade for notebook in mark.notebooks for grade in notebook.grades]
    by_hand = sum(_hand_part(grade) for grade in grades)
    penalty = mark.late_submission_penalty or 0.0
    return {
        "timestamp": mark.timestamp.isoformat(sep=" ", timespec="seconds") if mark.timestamp else "",
        "auto_score": mark.score - by_hand,
        "hand_score": by_hand,
        "late_penalty": penalty,
        "score": max(0.0, mark.score - penalty),
        "needs_hand_grading": "yes" if mark.needs_manual_grade else "no",
    }


def _hand_part(grade: Any) -> float:
    return (grade.manual_score or 0.0) + (grade.extra_credit or 0.0)
