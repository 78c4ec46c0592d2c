"""Safe grading as nbgrader preprocessors: for `nbgrader autograde`, formgrader and `nbgrader generate_feedback`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool, Float

from seqcourse.grading.execute import HIDDEN, WHY, execute
from seqcourse.grading.inspection import folder_members
from seqcourse.grading.limits import Limits
from seqcourse.grading.rebuild import rebuild, template

_log = logging.getLogger(__name__)


class RebuildFromRelease(NbGraderPreprocessor):
    """First step of sanitising: the released notebook with its hidden tests, and only the answers of the hand-in."""

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Replace the notebook.

        Raises:
            FileNotFoundError: The released notebook is not there.
        """
        about = resources["nbgrader"]
        rebuilt = rebuild(self.template(about), nb)
        for note in rebuilt.notes:
            self.log.warning("%s: %s", about["student"], note)
        rebuilt.notebook.metadata["seqcourse_grading"] = {"notes": rebuilt.notes}
        return rebuilt.notebook, resources

    def template(self, about: dict[str, Any]) -> NotebookNode:
        """The exercise as released, hidden tests put back from the gradebook."""
        course = CourseDirectory(config=self.config)
        folder = course.format_path(course.release_directory, ".", about["assignment"])
        path = Path(folder, f"{about['notebook']}.ipynb")
        if not path.is_file():
            raise FileNotFoundError(
                f"expected the released notebook at {path}; run generate_assignment first"
            )
        with Gradebook(about["db_url"], course.course_id) as gradebook:
            cells = gradebook.find_notebook(about["notebook"], about["assignment"]).source_cells
            sources = {cell.name: cell.source for cell in cells}
        return template(nbformat.read(path, as_version=4), sources)


class SandboxedExecute(NbGraderPreprocessor):
    """In place of nbgrader's Execute: no kernel, but `seqcourse.grading.execute`."""

    cell_seconds = Float(Limits.cell_seconds, help="Time limit of a cell that sets none itself.").tag(
        config=True
    )
    total_seconds = Float(Limits.total_seconds, help="Time limit of a submission.").tag(config=True)
    require_sandbox = Bool(False, help="Refuse to execute anything without bubblewrap.").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        """Execute the notebook; what came of it stands in its metadata.

        Raises:
            SandboxMissing: There is no bubblewrap, and `require_sandbox` is set.
        """
        limits = Limits(cell_seconds=self.cell_seconds, total_seconds=self.total_seconds)
        done = execute(nb, limits, self.require_sandbox)
        student = resources.get("nbgrader", {}).get("student", "")
        if done.sandbox != "bubblewrap":
            self.log.warning(done.sandbox)
        for note in [f"status {done.status}"] * (done.status != "graded") + done.notes:
            self.log.warning("%s: %s", student, note)
        graded = nbformat.from_dict(done.notebook)
        about = graded.metadata.setdefault("seqcourse_grading", nbformat.from_dict({"notes": []}))
        about.update(
            {"status": done.status, "sandbox": done.sandbox, "notes": [*about["notes"], *done.notes]}
        )
        return graded, resources


class HideHidden(NbGraderPreprocessor):
    """For feedback: of hidden tests only whether they passed, and the hint of the exercise's author."""

    def preprocess_cell(
        self, cell: NotebookNode, resources: dict[str, Any], index: int
    ) -> tuple[NotebookNode, dict[str, Any]]:
        """Replace text and outputs of a cell with hidden tests."""
        own = cell.metadata.get("seqcourse", {})
        if cell.cell_type != "code" or not (own.get("role") == "hidden" or HIDDEN in cell.source):
            return cell, resources
        text = _verdict(cell.outputs)
        if cell.outputs and own.get("hint"):
            text += f"\nHint: {own['hint']}"
        cell.source = f"{cell.source.partition(HIDDEN)[0].rstrip(' #')}# hidden tests"
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
        return cell, resources


def _verdict(outputs: list[NotebookNode]) -> str:
    """Passed or not, and why if the grader itself says so: an error's own text may quote the test."""
    if not outputs:
        return "Hidden tests: passed."
    name = outputs[0].get("ename", "")
    ours = WHY.get(name) == outputs[0].get("evalue")
    return f"Hidden tests: not passed. {WHY[name]}" if ours else "Hidden tests: not passed."


def drop_links(assignment: str, student: str, notebooks: list[str]) -> None:
    """Before nbgrader copies a submission's files: remove links and devices, for it would follow them.

    (nbgrader goes on when this hook raises, so it cannot refuse. A removed link harms no file.)
    """
    for folder in {Path(notebook).parent for notebook in notebooks}:
        for member in [*folder_members(folder)] if not folder.is_symlink() else []:
            if member.problem:
                _log.error("%s: %s; removed", folder, member.problem)
                (folder / member.name).unlink()
        if folder.is_symlink():
            _log.error("%s is a link; removed", folder)
            folder.unlink()
