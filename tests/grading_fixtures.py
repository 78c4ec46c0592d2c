"""A tiny exercise, built in code: two answers, visible and hidden tests, a written question."""

from __future__ import annotations

import copy
from typing import Any

import nbformat
from nbformat import NotebookNode

from seqcourse.grading.execute import Executed, execute
from seqcourse.grading.limits import Limits
from seqcourse.grading.rebuild import rebuild

GIVEN = """\
import torch
from seqcourse.checks import check_close

weight = torch.full((3,), 2.0)"""
STEP = '''\
def step(x, h):
    """One step: weight * x + h."""
    return weight * x + h'''
TOTAL = '''\
def total(xs):
    """The sum of all steps from zero."""
    h = torch.zeros(3)
    for x in xs:
        h = step(x, h)
    return h'''
WRONG = {
    "step": STEP.replace("weight * x + h", "weight * x - h"),
    "total": TOTAL.replace("return h", "return 2 * h"),
}
STEP_VISIBLE = "check_close(step(torch.ones(3), torch.ones(3)), torch.full((3,), 3.0))"
STEP_HIDDEN = """\
step  # several inputs, against the formula
### BEGIN HIDDEN TESTS
for secret_number in (0.25, -7.5):
    got = step(torch.full((3,), secret_number), torch.ones(3))
    assert torch.allclose(got, 2.0 * torch.full((3,), secret_number) + 1.0), "secret_message"
### END HIDDEN TESTS"""
TOTAL_VISIBLE = "assert torch.allclose(total([torch.ones(3)] * 4), torch.full((3,), 8.0)), 'expected 8'"
TOTAL_HIDDEN = """\
total  # an empty sequence and a long one
### BEGIN HIDDEN TESTS
assert torch.equal(total([]), torch.zeros(3))
assert abs(total([torch.ones(3)] * 100).sum().item() - 600.0) < 1e-3
### END HIDDEN TESTS"""
NAMES = ("step-visible", "step-hidden", "total-visible", "total-hidden")
NOT_YET = "# YOUR CODE HERE\nraise NotImplementedError()"


def cell(name: str, source: str, role: str, points: int = 0, kind: str = "code", **own: Any) -> NotebookNode:
    """A cell with nbgrader's metadata and the course's."""
    flags = {
        "given": (False, False, True),
        "demo": (False, False, True),
        "answer": (False, True, False),
        "test": (True, False, True),
        "hidden": (True, False, True),
        "written": (True, True, False),
    }
    grade, solution, locked = flags[role]
    made = nbformat.v4.new_code_cell(source) if kind == "code" else nbformat.v4.new_markdown_cell(source)
    made.id = name
    nbgrader = {"grade": grade, "solution": solution, "locked": locked, "task": False, "grade_id": name}
    nbgrader |= {"schema_version": 3, "cell_type": kind} | ({"points": points} if grade else {})
    made.metadata = nbformat.from_dict({"nbgrader": nbgrader, "seqcourse": {"role": role, **own}})
    return made


def template(timeout: float = 10.0) -> NotebookNode:
    """The exercise as `rebuild` wants it: answers cleared, hidden tests in place."""
    cells = [
        cell("intro", "# A tiny exercise", "given", kind="markdown"),
        cell("imports", GIVEN, "given"),
        cell("step", NOT_YET, "answer"),
        cell("step-visible", STEP_VISIBLE, "test", 2, timeout=timeout),
        cell("step-hidden", STEP_HIDDEN, "hidden", 3, timeout=timeout, hint="Does it hold for other inputs?"),
        cell("plot", "raise RuntimeError('a demo is not run when graded')", "demo"),
        cell("total", NOT_YET, "answer"),
        cell("total-visible", TOTAL_VISIBLE, "test", 2, timeout=timeout),
        cell("total-hidden", TOTAL_HIDDEN, "hidden", 3, timeout=timeout, hint="And an empty sequence?"),
        cell("why", "YOUR ANSWER HERE", "written", 4, kind="markdown"),
        cell("last", "print('the end')", "given"),
    ]
    return nbformat.v4.new_notebook(cells=cells)


def hand_in(step: str = STEP, total: str = TOTAL, **more: str) -> NotebookNode:
    """What a student hands in: the release with answers filled in."""
    notebook = template()
    for made in notebook.cells:
        made.source = {"step": step, "total": total, **more}.get(made.id, made.source)
        if "BEGIN HIDDEN" in made.source:
            made.source = made.source.splitlines()[0]
    return notebook


def mark(
    step: str = STEP, total: str = TOTAL, limits: Limits | None = None, timeout: float = 10.0, **more: str
) -> Executed:
    """Rebuild and execute a hand-in."""
    rebuilt = rebuild(template(timeout), hand_in(step, total, **more))
    return execute(copy.deepcopy(rebuilt.notebook), limits or Limits(cell_seconds=timeout))


def reasons(executed: Executed) -> dict[str, str]:
    """grade_id -> reason."""
    return {name: outcome.reason for name, outcome in executed.cells.items()}


def outputs(executed: Executed, visible_only: bool = False) -> str:
    """All outputs as one text; optionally only those that are shown to students."""
    cells = [c for c in executed.notebook["cells"] if c["cell_type"] == "code"]
    shown = [c for c in cells if not visible_only or c["metadata"]["seqcourse"]["role"] != "hidden"]
    return "\n".join(str(c["outputs"]) for c in shown)
