"""Marks into nbgrader's gradebook, by nbgrader's own rules. The only module that writes to the database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.api import (
    Assignment,
    BaseCell,
    Comment,
    Grade,
    Gradebook,
    MissingEntry,
    SubmittedAssignment,
    SubmittedNotebook,
)
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    SaveAutoGrades,
    SaveCells,
)
from nbgrader.utils import is_grade, is_locked, is_solution

from seqcourse.grading.course import Course, CourseError


def resources(course: Course, name: str, student: str) -> dict[str, Any]:
    """What nbgrader's preprocessors want to be told."""
    about = {"assignment": name, "notebook": name, "student": student, "db_url": course.directory.db_url}
    return {"nbgrader": about, "metadata": {}, "unique_key": name}


# --- the exercise -------------------------------------------------------------------------------------


def register(course: Course, gradebook: Gradebook, name: str, source: NotebookNode) -> None:
    """Let the gradebook know an exercise as its source stands, through nbgrader's own steps.

    Args:
        source: The instructor's notebook, with answers and hidden tests.

    Raises:
        CourseError: If graded cells or answers came or went after students had handed in.
    """
    notebook, about = source, resources(course, name, ".")
    for step in (LockCells, ClearSolutions, ClearOutput, CheckCellMetadata, ComputeChecksums):
        notebook, about = step(config=course.config).preprocess(notebook, about)
    if _wanted(notebook).items() <= _known(gradebook, name).items():
        return
    step = SaveCells(config=course.config)
    step.new_grade_cells, step.new_solution_cells, step.new_task_cells, step.new_source_cells = {}, {}, {}, {}
    with _one_transaction(gradebook), gradebook.db.no_autoflush:
        gradebook.update_or_create_assignment(name)
        in_session(step, gradebook, notebook, about)
        _save(step, gradebook, name, notebook)


def _save(step: SaveCells, gradebook: Gradebook, name: str, notebook: NotebookNode) -> None:
    """Save the cells; once students have handed in, texts, points and prose may change, graded cells not."""
    if not gradebook.assignment_submissions(name):
        step._create_notebook(notebook)
        return
    wanted = set(step.new_grade_cells) | set(step.new_solution_cells)
    odd = wanted ^ marked_cells(gradebook, name)
    if odd:
        raise CourseError(
            f"{name}: students have handed in, and since then cells were added or removed: "
            f"{', '.join(sorted(odd))}. Bring them back, or give the changed exercise another name."
        )
    for cell, about in step.new_grade_cells.items():
        gradebook.update_or_create_grade_cell(cell, name, name, **about)
    for cell, about in step.new_source_cells.items():
        gradebook.update_or_create_source_cell(cell, name, name, **about)


def marked_cells(gradebook: Gradebook, name: str) -> set[str]:
    """Names of an exercise's graded cells and answers, as the gradebook has them."""
    notebook = gradebook.find_notebook(name, name)
    return {cell.name for cell in (*notebook.grade_cells, *notebook.solution_cells)}


def _wanted(notebook: NotebookNode) -> dict[str, tuple]:
    return {
        cell.metadata.nbgrader.grade_id: (
            cell.source,
            cell.metadata.nbgrader.checksum,
            float(cell.metadata.nbgrader.points) if is_grade(cell) else None,
        )
        for cell in notebook.cells
        if is_grade(cell) or is_solution(cell) or is_locked(cell)
    }


def _known(gradebook: Gradebook, name: str) -> dict[str, tuple]:
    try:
        notebook = gradebook.find_notebook(name, name)
    except MissingEntry:
        return {}
    points = {cell.name: cell.max_score for cell in notebook.grade_cells}
    return {cell.name: (cell.source, cell.checksum, points.get(cell.name)) for cell in notebook.source_cells}


def source_cells(gradebook: Gradebook, name: str) -> dict[str, str]:
    """The full texts of an exercise's cells, hidden tests included, by cell name.

    Raises:
        CourseError: If the gradebook does not know the exercise.
    """
    known = _known(gradebook, name)
    if not known:
        raise CourseError(f"{name}: expected solutions/{name}.md, or an assignment that the gradebook knows")
    return {cell: text for cell, (text, _, _) in known.items()}


def bring_up_to_date(gradebook: Gradebook, name: str, notebook: NotebookNode) -> None:
    """Give cells of a released notebook the points and checksums of the gradebook, as nbgrader does."""
    known = _known(gradebook, name)
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("grade_id") in known:
            _, about["checksum"], points = known[about.grade_id]
            if points is not None:
                about["points"] = points


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


# --- a student's marks --------------------------------------------------------------------------------


@contextmanager
def _one_transaction(gradebook: Gradebook) -> Iterator[None]:
    """Let nbgrader's many commits be one: quick, and a kill leaves all of a student's marks or none."""
    session = gradebook.db
    session.commit = session.flush
    try:
        yield
        del session.commit
        session.commit()
    except BaseException:
        session.__dict__.pop("commit", None)
        session.rollback()
        raise


def record(
    course: Course, gradebook: Gradebook, name: str, student: str, timestamp: str, notebook: dict
) -> dict[str, float | None]:
    """Enter a student's marks as ``nbgrader autograde`` would; doing it again changes nothing.

    Marks and comments given by hand stay.

    Args:
        timestamp: When it was handed in; empty if unknown.
        notebook: As `execute` returned it.

    Returns:
        The autograder's mark of every graded cell; `None` where a human has to look.
    """
    executed = nbformat.from_dict(notebook)
    with _one_transaction(gradebook):
        gradebook.update_or_create_student(student)
        with gradebook.db.no_autoflush:  # as it adds rows in an order that SQLAlchemy warns about
            gradebook.update_or_create_submission(name, student, timestamp=timestamp or None)
        in_session(
            SaveAutoGrades(config=course.config), gradebook, executed, resources(course, name, student)
        )
        _late_penalty(course, gradebook, name, student)
    return scores(gradebook, name, student).get(student, {})


def in_session(step: Any, gradebook: Gradebook, notebook: NotebookNode, about: dict) -> None:
    """Run a preprocessor of nbgrader's over the cells in a session that is open already."""
    step.gradebook = gradebook
    step.notebook_id = step.assignment_id = about["nbgrader"]["notebook"]
    step.student_id = about["nbgrader"]["student"]
    for index, cell in enumerate(notebook.cells):
        step.preprocess_cell(cell, about, index)


def _late_penalty(course: Course, gradebook: Gradebook, name: str, student: str) -> None:
    """nbgrader's `AssignLatePenalties` with the course's plugin, in the open session."""
    step = AssignLatePenalties(config=course.config)
    step.init_plugin()
    gradebook.db.expire_all()  # the score is computed by the database
    submission = gradebook.find_submission(name, student)
    notebook = gradebook.find_submission_notebook(name, name, student)
    notebook.late_submission_penalty = None
    if submission.total_seconds_late > 0:
        late = submission.total_seconds_late
        penalty = step.plugin_inst.late_submission_penalty(student, notebook.score, late)
        notebook.late_submission_penalty = penalty and step._check_late_penalty(notebook, penalty)


def renew_penalties(course: Course, gradebook: Gradebook, name: str, student: str | None = None) -> None:
    """Compute late penalties anew (everybody's, or one student's): hand marks change what they are of."""
    try:
        submissions = gradebook.find_assignment(name).submissions
    except MissingEntry:
        return
    late = [entry.student_id for entry in submissions if entry.total_seconds_late > 0]
    with _one_transaction(gradebook):
        for each in late:
            if student in (None, each):
                _late_penalty(course, gradebook, name, each)


def withdraw(gradebook: Gradebook, name: str, student: str) -> None:
    """Take the autograder's marks of a hand-in that no longer counts out; marks given by hand stay."""
    try:
        submission = gradebook.find_submission(name, student)
    except MissingEntry:
        return
    with _one_transaction(gradebook):
        submission.timestamp = None
        for notebook in submission.notebooks:
            notebook.late_submission_penalty = None
            for grade in notebook.grades:
                grade.auto_score, grade.needs_manual_grade = None, True


# --- reading ------------------------------------------------------------------------------------------


def _grades(
    gradebook: Gradebook, name: str, student: str | None, *columns: Any, kind: Any = Grade
) -> list[tuple]:
    query = (
        gradebook.db.query(SubmittedAssignment.student_id, BaseCell.name, *columns)
        .select_from(kind)
        .join(BaseCell, BaseCell.id == kind.cell_id)
        .join(SubmittedNotebook, SubmittedNotebook.id == kind.notebook_id)
        .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
        .join(Assignment, Assignment.id == SubmittedAssignment.assignment_id)
        .filter(Assignment.name == name)
        .order_by(SubmittedAssignment.student_id, BaseCell.name)
    )
    return (query.filter(SubmittedAssignment.student_id == student) if student else query).all()


def scores(gradebook: Gradebook, name: str, student: str | None = None) -> dict[str, dict[str, float | None]]:
    """The autograder's marks in the gradebook: student, then cell."""
    found: dict[str, dict[str, float | None]] = {}
    for who, cell, score in _grades(gradebook, name, student, Grade.auto_score):
        found.setdefault(who, {})[cell] = score
    return found


def fingerprints(gradebook: Gradebook, name: str, student: str | None = None) -> dict[str, str]:
    """A short text per student that changes with any mark, comment or penalty: what a feedback page shows."""
    shown: dict[str, list] = {}
    marks = _grades(gradebook, name, student, Grade.auto_score, Grade.manual_score, Grade.extra_credit)
    for who, *rest in marks:
        shown.setdefault(who, []).append(rest)
    comments = _grades(gradebook, name, student, Comment.auto_comment, Comment.manual_comment, kind=Comment)
    for who, *rest in comments:
        shown.setdefault(who, []).append(rest)
    for who, penalty in _penalties(gradebook, name):
        if who in shown:
            shown[who].append(penalty)
    return {who: hashlib.sha256(json.dumps(rest).encode()).hexdigest()[:16] for who, rest in shown.items()}


def _penalties(gradebook: Gradebook, name: str) -> list[tuple[str, float | None]]:
    return (
        gradebook.db.query(SubmittedAssignment.student_id, SubmittedNotebook.late_submission_penalty)
        .select_from(SubmittedNotebook)
        .join(SubmittedAssignment, SubmittedAssignment.id == SubmittedNotebook.assignment_id)
        .join(Assignment, Assignment.id == SubmittedAssignment.assignment_id)
        .filter(Assignment.name == name)
        .all()
    )
