"""Marks into nbgrader's gradebook, by nbgrader's own rules. The only module that writes to the database."""

from __future__ import annotations

from datetime import UTC, datetime

from nbgrader.api import Gradebook, MissingEntry


def due_dates(gradebook: Gradebook, name: str) -> dict[str, datetime]:
    """When an exercise is due: ``""`` for everybody, and by student where an extension was granted."""
    try:
        assignment = gradebook.find_assignment(name)
    except MissingEntry:
        return {}
    if assignment.duedate is None:
        return {}
    extended = {entry.student_id: entry.duedate for entry in assignment.submissions if entry.extension}
    return {
        student: due.replace(tzinfo=UTC) for student, due in ({"": assignment.duedate} | extended).items()
    }
