"""What students get back: nbgrader's feedback page, without hidden tests and without anybody else's data."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import HTMLExporter
from nbconvert.exporters.templateexporter import TemplateExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateFeedback
from nbgrader.preprocessors import GetGrades

from seqcourse.grading.course import Course, write_atomically
from seqcourse.grading.markup import safe_markdown
from seqcourse.grading.preprocessors import HideHidden
from seqcourse.grading.record import in_session, resources


class PageExporter(HTMLExporter):
    """nbconvert's exporter for a whole class: it does not parse each page again, nor colour a text twice.

    The parsing (which gives pictures without one an alternative text) and the colouring take nine tenths of
    the time of a page.
    """

    def from_notebook_node(
        self, nb: NotebookNode, resources: dict[str, Any] | None = None, **options: Any
    ) -> tuple[str, dict[str, Any]]:
        """Convert a notebook to a page."""
        resources = self._init_resources(resources)
        shown = WidgetsDataTypeFilter(notebook_metadata=nb.metadata, parent=self, resources=resources)
        self.register_filter("filter_data_type", shown)
        self.register_filter("highlight_code", _highlight)
        return TemplateExporter.from_notebook_node(self, nb, resources, **options)


def _highlight(source: str, language: str | None = None, metadata: dict | None = None) -> str:
    return _highlight_once(source, language)


@lru_cache(maxsize=4096)
def _highlight_once(source: str, language: str | None) -> str:
    return Highlight2HTML()(source, language)


class Pages:
    """The feedback pages of one exercise, rendered by nbgrader's own template.

    Args:
        course: Whose `GenerateFeedback` configuration holds; hidden tests are hidden whatever it says.
        name: The exercise.
    """

    def __init__(self, course: Course, name: str) -> None:
        self.course, self.name = course, name
        converter = GenerateFeedback(coursedir=course.directory, config=course.config)
        self.exporter = PageExporter(config=converter.config)
        # What students wrote must run nothing in the browser of who reads it.
        self.exporter.sanitize_html = True
        self.exporter.register_filter("markdown2html", safe_markdown)
        for step in converter.preprocessors:
            if step not in (GetGrades, HideHidden):  # `write` does both
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
