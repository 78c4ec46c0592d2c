"""What students get back: nbgrader's feedback page, without hidden tests and without anybody else's data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import HTMLExporter
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback
from nbgrader.preprocessors import GetGrades

from seqcourse.grading.course import Course, write_atomically
from seqcourse.grading.preprocessors import HideHidden
from seqcourse.grading.record import in_session, resources


class Pages:
    """The feedback pages of one exercise, rendered by nbgrader's own template.

    Args:
        course: Whose `GenerateFeedback` configuration holds; hidden tests are hidden whatever it says.
        name: The exercise.
    """

    def __init__(self, course: Course, name: str) -> None:
        self.course, self.name = course, name
        converter = GenerateFeedback(coursedir=course.directory, config=course.config)
        # Marks are read, and hidden tests hidden, before a page is rendered: see `write`.
        self.steps = [step for step in converter.preprocessors if step not in (GetGrades, HideHidden)]
        self.exporter = HTMLExporter(config=converter.config)
        self.exporter.sanitize_html = True  # a student's output must not run scripts in a grader's browser
        for step in self.steps:
            self.exporter.register_preprocessor(step, enabled=True)

    def path(self, student: str) -> Path:
        """Where a student's page is."""
        return self.course.step("feedback", student, self.name) / f"{self.name}.html"

    def write(self, gradebook: Gradebook, student: str, notebook: dict[str, Any]) -> None:
        """Write a student's page with the marks and comments that the gradebook holds now.

        Args:
            notebook: As `execute` returned it.
        """
        page, about = nbformat.from_dict(copy.deepcopy(notebook)), resources(self.course, self.name, student)
        in_session(GetGrades(config=self.course.config), gradebook, page, about)
        submitted = gradebook.find_submission_notebook(self.name, self.name, student)
        penalty = submitted.late_submission_penalty or 0
        about["nbgrader"] |= {
            "score": submitted.score - penalty,
            "max_score": submitted.max_score,
            "late_penalty": penalty,
        }
        page, about = HideHidden(config=self.course.config).preprocess(page, about)
        html, _ = self.exporter.from_notebook_node(page, resources=about)
        write_atomically(self.path(student), html)
