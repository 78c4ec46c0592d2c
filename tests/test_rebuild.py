"""Only answers come from a hand-in; everything else comes from the course."""

from __future__ import annotations

import copy
from typing import Any

import nbformat
import pytest
from grading_fixtures import NOT_YET, STEP, STEP_HIDDEN, TOTAL, WRONG, cell, hand_in, template
from hypothesis import given, settings
from hypothesis import strategies as st

from seqcourse.grading.rebuild import LONGEST_CELL, MOST_CELLS, MOST_NOTES, rebuild
from seqcourse.grading.rebuild import template as make_template


def answers(rebuilt) -> dict[str, str]:
    return {c.id: c.source for c in rebuilt.notebook.cells if c.metadata.nbgrader.solution}


def assert_pristine(rebuilt) -> None:
    """All but the answers' text is the template's, and what comes out is a valid notebook."""
    nbformat.validate(rebuilt.notebook)
    for got, expected in zip(rebuilt.notebook.cells, template().cells, strict=True):
        assert (got.id, got.cell_type, got.metadata) == (expected.id, expected.cell_type, expected.metadata)
        assert got.metadata.nbgrader.solution or got.source == expected.source


def test_an_honest_hand_in_is_taken_over_without_a_remark():
    rebuilt = rebuild(template(), hand_in(why="Because."))
    assert answers(rebuilt) == {"step": STEP, "total": TOTAL, "why": "Because."}
    assert rebuilt.notes == []
    assert_pristine(rebuilt)


def test_neither_template_nor_hand_in_is_changed():
    pristine, handed = template(), hand_in()
    before = copy.deepcopy(pristine), copy.deepcopy(handed)
    rebuild(pristine, handed)
    assert (pristine, handed) == before


def test_template_puts_hidden_tests_back_and_leaves_answers_alone():
    made = make_template(hand_in(), {"step-hidden": STEP_HIDDEN, "step": "def step(): return 'leaked'"})
    sources = {c.id: c.source for c in made.cells}
    assert sources["step-hidden"] == STEP_HIDDEN
    assert sources["step"] == STEP


def test_edited_tests_are_restored():
    handed = hand_in(**{"step-visible": "pass", "imports": "def check_close(*a): pass"})
    rebuilt = rebuild(template(), handed)
    assert_pristine(rebuilt)
    assert rebuilt.notes == ["test step-visible was changed; restored"]


def test_deleted_tests_and_points_are_restored():
    handed = hand_in()
    handed.cells = [c for c in handed.cells if c.id not in ("step-visible", "step-hidden")]
    handed.cells[-1].metadata.nbgrader.points = 1000
    rebuilt = rebuild(template(), handed)
    assert_pristine(rebuilt)
    assert rebuilt.notes == [
        "test step-visible was missing; restored",
        "test step-hidden was missing; restored",
    ]


def test_doubled_tests_are_dropped():
    handed = hand_in()
    handed.cells.insert(4, copy.deepcopy(handed.cells[3]))
    rebuilt = rebuild(template(), handed)
    assert_pristine(rebuilt)
    assert rebuilt.notes == ["test step-visible was there 2 times; restored"]


@pytest.mark.parametrize("changed", [0, 1])
def test_of_two_copies_of_an_answer_the_changed_one_counts(changed):
    handed = hand_in(step=NOT_YET)
    handed.cells.insert(3, copy.deepcopy(handed.cells[2]))
    handed.cells[2 + changed].source = STEP
    rebuilt = rebuild(template(), handed)
    assert answers(rebuilt)["step"] == STEP
    assert rebuilt.notes == [f"answer step is there 2 times; cell {3 + changed} counts"]


def test_of_two_changed_copies_the_last_one_counts():
    handed = hand_in(step=WRONG["step"])
    handed.cells.insert(3, cell("step", STEP, "answer"))
    assert answers(rebuild(template(), handed))["step"] == STEP


def test_renamed_answer_is_found_by_its_cell_id():
    handed = hand_in()
    handed.cells[2].metadata.nbgrader.grade_id = "mine"
    rebuilt = rebuild(template(), handed)
    assert answers(rebuilt)["step"] == STEP
    assert rebuilt.notes == ["answer step has lost its name; recognised by cell id"]


def test_stripped_notebook_is_recognised_by_definitions_and_places():
    """All metadata and ids gone, as after a conversion through other tools."""
    pristine, handed = template(), hand_in(why="Because.")
    pristine.cells[2].source = f"def step(x, h):\n    {NOT_YET}"
    for made in handed.cells:
        made.metadata = nbformat.from_dict({})
        del made["id"]
    rebuilt = rebuild(pristine, handed)
    assert answers(rebuilt) == {"step": STEP, "total": TOTAL, "why": "Because."}
    assert "answer step has lost its name; recognised by what it defines" in rebuilt.notes
    assert "answer why has lost its name; recognised by its place" in rebuilt.notes


def test_another_answers_cell_is_not_taken_for_a_missing_one():
    handed = hand_in()
    del handed.cells[2]
    rebuilt = rebuild(template(), handed)
    assert answers(rebuilt) == {"step": NOT_YET, "total": TOTAL, "why": "YOUR ANSWER HERE"}
    assert rebuilt.notes == ["answer step is missing"]


def test_extra_cells_and_tags_are_dropped_with_a_remark():
    handed = hand_in()
    handed.cells.insert(2, nbformat.v4.new_code_cell("import torch; torch.allclose = lambda *a: True"))
    handed.cells[4].metadata["tags"] = ["skip-execution"]
    rebuilt = rebuild(template(), handed)
    assert_pristine(rebuilt)
    assert rebuilt.notes == [
        "1 cells of the student's own were left out (cell 3)",
        "the tag 'skip-execution' was ignored",
    ]


def test_answer_turned_into_text_is_still_code():
    handed = hand_in()
    handed.cells[2] = cell("step", STEP, "answer", kind="markdown")
    rebuilt = rebuild(template(), handed)
    assert_pristine(rebuilt)
    assert answers(rebuilt)["step"] == STEP
    assert rebuilt.notes == ["answer step had become a markdown cell"]


def test_huge_cells_and_notebooks_are_cut():
    rebuilt = rebuild(template(), hand_in(step="#" * (LONGEST_CELL + 1)))
    assert len(answers(rebuilt)["step"]) == LONGEST_CELL
    assert rebuilt.notes == ["cell 3 was cut to 200,000 of 200,001 characters"]
    many = {"cells": [{"cell_type": "code", "source": 7}] * (MOST_CELLS + 1)}
    assert len(rebuild(template(), many).notes) == MOST_NOTES + 1


def test_text_that_no_file_can_hold_is_mended():
    rebuilt = rebuild(template(), hand_in(step="x = '\ud800\0'"))
    assert answers(rebuilt)["step"] == "x = '?\ufffd'"


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["cells", "source", "metadata", "nbgrader", "grade_id", "id", "tags"]), inner
        )
    ),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None)
@given(junk)
def test_never_raises_and_stays_pristine_whatever_is_handed_in(handed: Any):
    assert_pristine(rebuild(template(), handed))
    assert_pristine(rebuild(template(), {"cells": [handed, {"cell_type": handed, "source": handed}]}))
