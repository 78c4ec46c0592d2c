"""Grade a class: sanitise, execute, record, feedback, report. Killed and started again, it goes on.

Every hand-in is rebuilt from the release here, executed somewhere (`seqcourse.grading.scheduler`), kept in
the journal, and only then entered in the gradebook, by this process alone. What the journal and the gradebook
agree on is not done again.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.utils import is_grade, is_solution

from seqcourse.grading import authoring, feedback, record
from seqcourse.grading.collect import HandIn, folder_time, judge, known_exercises, read_collection
from seqcourse.grading.course import Course, CourseError, write_atomically
from seqcourse.grading.inspection import Exercise, folder_members, inspect_notebook, link_above
from seqcourse.grading.journal import Entry, Journal, key_of
from seqcourse.grading.limits import Limits
from seqcourse.grading.rebuild import rebuild, template
from seqcourse.grading.report import write_report
from seqcourse.grading.roster import Origin
from seqcourse.grading.sandbox import SandboxMissing
from seqcourse.grading.scheduler import Run, execute_all, run_job


@dataclass(frozen=True)
class Options:
    """How to grade.

    Args:
        jobs: Hand-ins at once on this machine; by default one per core.
        scheduler: Address of a Dask scheduler.
        require_sandbox: Refuse to run student code without bubblewrap.
        again: Execute also what has been executed.
        students: Only these; everybody if empty.
        limits: Of one hand-in.
    """

    jobs: int | None = None
    scheduler: str | None = None
    require_sandbox: bool = False
    again: bool = False
    students: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass
class Task:
    """One student's hand-in on its way.

    Args:
        hand_in: What inspection said.
        notebook: The exercise with the student's answers; `None` if there is nothing to execute.
        notes: Remarks of inspection and rebuilding.
        entry: What the journal knows of exactly this.
        failure: What went wrong in the grader itself.
    """

    student: str
    hand_in: HandIn
    notebook: dict[str, Any] | None = None
    key: str = ""
    notes: list[str] = field(default_factory=list)
    entry: Entry | None = None
    failure: str = ""

    @property
    def status(self) -> str:
        """What the report says.

        graded, crashed, timeout, tampered; failed (the grader did); waiting (not asked for in this run); or
        why there is nothing to grade: missing, doubtful, corrupt, refused, empty.
        """
        if self.failure:
            return "failed"
        if self.entry:
            return self.entry.status
        return "waiting" if self.notebook else self.hand_in.status


Progress = Callable[[Task, int], None]


def grade(
    course: Course,
    name: str,
    options: Options = Options(),
    run: Run = run_job,
    progress: Progress = lambda task, total: None,
) -> Grading:
    """Grade one exercise of a class.

    Args:
        run: Executes one job; tests give another.
        progress: Called with every hand-in when it is done, and how many there are.

    Returns:
        What was done; its `report` has been written to ``reports/NAME.csv``.

    Raises:
        CourseError: If the course is not ready, or another grader is at work.
        SandboxMissing: If the sandbox is demanded and not there.
    """
    with course.at_work(f"seqcourse grade {name}"), course.gradebook() as gradebook:
        grading = Grading(course, name, gradebook, options)
        grading.prepare()
        grading.execute(run, progress)
        grading.report()
        return grading


class Grading:
    """One run over one exercise."""

    def __init__(self, course: Course, name: str, gradebook: Gradebook, options: Options) -> None:
        self.course, self.name, self.gradebook, self.options = course, name, gradebook, options
        self.journal = Journal(course.state / "grade" / name)
        self.tasks: list[Task] = []
        self.failures: list[str] = []
        self.executed: list[str] = []

    # --- sanitise ---

    def prepare(self) -> None:
        """Rebuild every hand-in from the release, and look up what is known of it."""
        base = exercise_template(self.course, self.name, self.gradebook)
        exercises = known_exercises(self.course, self.name)
        for hand_in, data in hand_ins(self.course, self.name, self.gradebook, exercises):
            task = Task(hand_in.student, hand_in, notes=list(hand_in.notes))
            if hand_in.status == "collected":
                rebuilt = rebuild(base, inspect_notebook(data).notebook)
                task.notebook, task.notes = rebuilt.notebook, [*hand_in.notes, *rebuilt.notes]
                task.key = key_of(task.notebook, hand_in.timestamp, self.options.limits.as_dict())
                task.entry = self._done_already(task)
            self.tasks.append(task)
        unknown = set(self.options.students) - {task.student for task in self.tasks}
        if unknown:
            raise CourseError(f"no student {', '.join(sorted(unknown))} in the gradebook or in submitted/")

    def chosen(self) -> list[Task]:
        """The tasks of this run: everybody's, or those of the students asked for."""
        return [task for task in self.tasks if task.student in (self.options.students or (task.student,))]

    def _done_already(self, task: Task) -> Entry | None:
        entry = self.journal.read(task.student)
        if entry is None or entry.key != task.key or self.options.again:
            return None
        unprotected = entry.result["sandbox"] != "bubblewrap"
        return None if unprotected and self.options.require_sandbox else entry

    # --- execute, record, feedback ---

    def execute(self, run: Run, progress: Progress) -> None:
        """Finish what was executed before, execute the rest, and finish each as it comes."""
        self.due = record.due_dates(self.gradebook, self.name)
        self.scores = record.scores(self.gradebook, self.name)
        self.marks = record.fingerprints(self.gradebook, self.name)
        self.pages = feedback.Pages(self.course, self.name)
        waiting = {task.student: task for task in self.chosen() if task.notebook and not task.entry}
        for task in self.chosen():
            if task.student not in waiting:
                self._finish(task)
                progress(task, len(self.chosen()))
        jobs = {student: self._job(task) for student, task in waiting.items()}
        for student, result in execute_all(jobs, run, self.options.scheduler, self.options.jobs):
            self._take(waiting[student], result)
            progress(waiting[student], len(self.chosen()))

    def _job(self, task: Task) -> dict[str, Any]:
        return {
            "notebook": task.notebook,
            "limits": self.options.limits.as_dict(),
            "require_sandbox": self.options.require_sandbox,
        }

    def _take(self, task: Task, result: dict[str, Any] | BaseException) -> None:
        self.executed.append(task.student)
        if isinstance(result, SandboxMissing):
            raise result
        if isinstance(result, BaseException):
            task.failure = f"the grader failed: {type(result).__name__}: {result}"[:500]
            self.failures.append("".join(traceback.format_exception(result)))
            return
        task.entry = Entry(task.student, task.key, result, task.hand_in.timestamp, task.notes)
        self.journal.write(task.entry)
        self._finish(task)

    def _finish(self, task: Task) -> None:
        """Bring a student's part to an end; if the grader fails at it, only this student is `failed`."""
        try:
            self._bring_in_line(task)
        except Exception as error:
            task.failure = f"the grader failed: {type(error).__name__}: {error}"[:500]
            self.failures.append("".join(traceback.format_exception(error)))

    def _bring_in_line(self, task: Task) -> None:
        """Make gradebook, ``autograded/`` and ``feedback/`` say what the journal says."""
        if task.entry is None:
            self._withdraw(task)
            return
        if not self._is_recorded(task):
            self._record(task)
        elif task.entry.feedback != self.marks[task.student]:  # marked by hand since then
            record.renew_penalties(self.course, self.gradebook, self.name, task.student)
            self.marks |= record.fingerprints(self.gradebook, self.name, task.student)
        if task.entry.feedback != self.marks[task.student] or not self.pages.path(task.student).exists():
            self.pages.write(self.gradebook, task.student, task.entry.result["notebook"])
            task.entry.feedback = self.marks[task.student]
            self.journal.write(task.entry)  # only now: until here, all of it would be done again

    def _due(self, student: str) -> str:
        return str(self.due.get(student, self.due.get("", "")))

    def _is_recorded(self, task: Task) -> bool:
        """Whether the gradebook says what the journal says; a restored or emptied gradebook does not."""
        return (
            task.entry.recorded is not None
            and task.entry.recorded == self.scores.get(task.student)
            and task.entry.due == self._due(task.student)
            and self._autograded(task.student).exists()
        )

    def _autograded(self, student: str) -> Path:
        return self.course.step("autograded", student, self.name) / f"{self.name}.ipynb"

    def _record(self, task: Task) -> None:
        entry, path = task.entry, self._autograded(task.student)
        notebook = entry.result["notebook"]
        write_atomically(path, json.dumps(notebook, indent=1))
        if entry.timestamp:
            write_atomically(path.parent / "timestamp.txt", entry.timestamp)
        entry.recorded = record.record(
            self.course, self.gradebook, self.name, task.student, entry.timestamp, notebook
        )
        entry.due, entry.feedback = self._due(task.student), ""
        self.marks |= record.fingerprints(self.gradebook, self.name, task.student)

    def _withdraw(self, task: Task) -> None:
        """Without a usable hand-in no mark stands: take an earlier one out, and say so."""
        student = task.student
        if any(score is not None for score in self.scores.get(student, {}).values()):
            record.withdraw(self.gradebook, self.name, student)
        self.journal.retire(student)
        for step in ("autograded", "feedback"):
            folder = self.course.step(step, student, self.name)
            if folder.is_dir():
                shutil.rmtree(folder)
        earlier = self.journal.earlier(student)
        if earlier:
            where = earlier[-1].relative_to(self.course.root)
            task.notes.append(f"the mark of an earlier hand-in was withdrawn; its journal entry is {where}")

    # --- report ---

    def report(self) -> None:
        """Write ``reports/NAME.csv``, and what the grader itself failed at beside it."""
        self.gradebook.db.expire_all()
        self.rows = write_report(self.course, self.name, self.gradebook, self.tasks, self.due)
        log = self.course.root / "reports" / f"{self.name}-failures.log"
        log.unlink(missing_ok=True)
        if self.failures:
            write_atomically(log, "\n".join(self.failures))


def exercise_template(course: Course, name: str, gradebook: Gradebook) -> NotebookNode:
    """The released exercise with its hidden tests, and the gradebook knowing it.

    Raises:
        CourseError: If it is not released, or the release is not what the source says.
    """
    known_exercises(course, name)
    text = course.text_source(name)
    if text.is_file():
        record.register(course, gradebook, name, authoring.source_notebook(text))
    cells = record.source_cells(gradebook, name)
    released = nbformat.read(course.released(name), as_version=4)
    marked = {authoring.grade_id(cell) for cell in released.cells if is_grade(cell) or is_solution(cell)}
    if marked != record.marked_cells(gradebook, name):
        odd = ", ".join(sorted(marked ^ record.marked_cells(gradebook, name)))
        raise CourseError(
            f"{name}: the release is not of this source (cells {odd}): run `seqcourse release {name}`"
        )
    record.bring_up_to_date(gradebook, name, released)
    return template(released, cells)


def hand_ins(
    course: Course, name: str, gradebook: Gradebook, exercises: list[Exercise]
) -> Iterator[tuple[HandIn, bytes]]:
    """What everybody has handed in, as it lies in ``submitted/`` now, inspected again, one by one."""
    listed, folders = read_collection(course, name).hand_ins, course.handed_in(name)
    everybody = sorted({student.id for student in gradebook.students} | set(listed) | set(folders))
    for student in everybody:
        filed = _filed(course, name, student, folders.get(student), exercises)
        if filed and (collected := listed.get(student)):  # what collecting left out is in no folder any more
            filed[0].notes[:0] = [note for note in collected.notes if note not in filed[0].notes]
        yield filed or (_not_filed(listed.get(student), student), b"")


def _filed(
    course: Course, name: str, student: str, folder: Path | None, exercises: list[Exercise]
) -> tuple[HandIn, bytes] | None:
    if folder is None:
        return None
    link = link_above(folder, Path(str(course.step("submitted", "*", name)).split("*")[0]))
    if link:
        return HandIn(student, "refused", reason=link), b""
    files = [(member, Origin((student,))) for member in folder_members(folder)]
    if not any(member.suffix == ".ipynb" for member, _ in files):
        return None
    entry, data = judge(student, files, name, exercises)
    return HandIn(
        student, entry.status, entry.file, folder_time(folder), False, entry.reason, entry.notes
    ), data


def _not_filed(listed: HandIn | None, student: str) -> HandIn:
    if listed is None or listed.status == "collected":
        gone = "collected, but no longer in submitted/" if listed else "no hand-in"
        return HandIn(student, "missing", reason=gone)
    return listed
