"""Put a hand-in's answers, and nothing else of it, into a pristine copy of the exercise.

Tests, points, metadata and order come from the course, so nothing that was done to them in the hand-in matters:
deleted, doubled, renamed or edited test cells, a `skip-execution` tag, stripped metadata.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbformat import NotebookNode
from nbgrader.preprocessors import ClearSolutions
from nbgrader.utils import is_locked, is_solution
from traitlets.config import Config

from seqcourse.grading import authoring

MOST_CELLS = 2000
LONGEST_CELL = 200_000
MOST_NOTES = 40
_DEFINITION = re.compile(r"^(?:async\s+)?(?:def|class)\s+(\w+)", re.MULTILINE)
# Tags that make a tool leave a cell out, or hide that it failed.
_TAGS = frozenset({"skip-execution", "raises-exception", "remove-cell", "hide-output"})


@dataclass
class Rebuilt:
    """The exercise with a student's answers, and what was noticed on the way."""

    notebook: NotebookNode
    notes: list[str] = field(default_factory=list)


@dataclass
class _Cell:
    """A cell of a hand-in as far as it could be read."""

    index: int
    kind: str
    source: str
    grade_id: str
    cell_id: str
    tags: list[str]


def template(release: NotebookNode, sources: Mapping[str, str]) -> NotebookNode:
    """The released notebook with the full text of its locked cells, hidden tests included.

    Args:
        release: As students got it.
        sources: grade_id -> text, as the gradebook keeps it (`SourceCell.name`, `SourceCell.source`).
    """
    notebook = copy.deepcopy(release)
    for cell in notebook.cells:
        if is_locked(cell):
            cell.source = sources.get(authoring.grade_id(cell), cell.source)
    return notebook


def template_from_source(name: str) -> NotebookNode:
    """The template of an exercise straight from `solutions/NAME.md`: answers cleared, hidden tests in place."""
    notebook = authoring.source_notebook(authoring.source_path(name))
    delimiters = {"begin_solution_delimeter": "BEGIN SOLUTION", "end_solution_delimeter": "END SOLUTION"}
    clear = ClearSolutions(config=Config(ClearSolutions=delimiters))
    return clear.preprocess(notebook, {"metadata": {}})[0]


def rebuild(template: NotebookNode, handed_in: Any) -> Rebuilt:
    """Copy the text of the answers into a copy of the template; never raises, whatever was handed in.

    An answer is found by its grade_id, else by its cell id, else (all metadata gone) by the function or class it
    defines or by the cell it follows. Of several copies the last one that differs from the template counts:
    who pastes a cell goes on working in one of the copies.
    """
    rebuilt = Rebuilt(copy.deepcopy(template))
    cells = _readable(handed_in, rebuilt.notes)
    names = {_name(cell): cell for cell in template.cells if _name(cell)}
    used = _answers(rebuilt, cells, names)
    rebuilt.notes += _about_tests(template, cells)
    rebuilt.notes += _about_rest(cells, used, names)
    if len(rebuilt.notes) > MOST_NOTES:
        rebuilt.notes[MOST_NOTES:] = [f"and {len(rebuilt.notes) - MOST_NOTES} more remarks"]
    return rebuilt


def _name(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


# --- Reading what a student may have written by hand ------------------------------------------------------


def _readable(handed_in: Any, notes: list[str]) -> list[_Cell]:
    """The cells that can be read as cells; notes about the others."""
    found = _get(handed_in, "cells")
    if not isinstance(found, list):
        notes.append("the notebook has no cells")
        return []
    if len(found) > MOST_CELLS:
        notes.append(f"only the first {MOST_CELLS} of {len(found)} cells were read")
    read = [_read(index, cell, notes) for index, cell in enumerate(found[:MOST_CELLS])]
    return [cell for cell in read if cell is not None]


def _read(index: int, cell: Any, notes: list[str]) -> _Cell | None:
    source = _get(cell, "source")
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        source = "".join(source)
    if not isinstance(source, str):
        notes.append(f"cell {index + 1} has no readable text")
        return None
    if len(source) > LONGEST_CELL:
        notes.append(f"cell {index + 1} was cut to {LONGEST_CELL:,} of {len(source):,} characters")
    source = source[:LONGEST_CELL].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
    tags = _get(cell, "metadata", "tags")
    return _Cell(
        index=index,
        kind=_string(_get(cell, "cell_type")),
        source=source,
        grade_id=_string(_get(cell, "metadata", "nbgrader", "grade_id")),
        cell_id=_string(_get(cell, "id")),
        tags=[_string(tag) for tag in tags] if isinstance(tags, list) else [],
    )


def _get(value: Any, *path: str) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _string(value: Any) -> str:
    return value[:200] if isinstance(value, str) else ""


# --- Finding the answers ---------------------------------------------------------------------------------------


def _answers(rebuilt: Rebuilt, cells: list[_Cell], names: Mapping[str, NotebookNode]) -> set[int]:
    """Fill in every answer that can be found; the indices of the cells that were used or are copies."""
    used: set[int] = set()
    previous = None
    for cell in rebuilt.notebook.cells:
        if is_solution(cell):
            copies, how = _find(cell, previous, [c for c in cells if c.index not in used], names)
            used |= {c.index for c in copies}
            _fill(rebuilt, cell, copies, how)
        previous = cell
    return used


def _find(
    cell: NotebookNode, previous: NotebookNode | None, cells: list[_Cell], names: Mapping[str, NotebookNode]
) -> tuple[list[_Cell], str]:
    """All copies of an answer in the hand-in, and by what they were recognised."""
    name = _name(cell)
    strangers = [c for c in cells if c.grade_id not in names]
    ways = (
        ("grade_id", [c for c in cells if c.grade_id == name]),
        ("cell id", [c for c in strangers if c.cell_id in (name, cell.get("id"))]),
        ("what it defines", [c for c in strangers if c.kind == "code" and _same_definition(c, cell)]),
        ("its place", _after(previous, cells, strangers, cell)),
    )
    return next(((found, how) for how, found in ways if found), ([], ""))


def _same_definition(candidate: _Cell, cell: NotebookNode) -> bool:
    wanted = _DEFINITION.findall(cell.source)
    return bool(wanted) and wanted[0] in _DEFINITION.findall(candidate.source)


def _after(
    previous: NotebookNode | None, cells: Iterable[_Cell], strangers: list[_Cell], cell: NotebookNode
) -> list[_Cell]:
    """Cells without a name that directly follow a cell with the text that comes before the answer."""
    if previous is None:
        return []
    following = {c.index + 1 for c in cells if _is_released(c.source, previous.source)}
    return [c for c in strangers if c.index in following and c.kind == cell.cell_type]


def _fill(rebuilt: Rebuilt, cell: NotebookNode, copies: list[_Cell], how: str) -> None:
    name, notes = _name(cell), rebuilt.notes
    if not copies:
        notes.append(f"answer {name} is missing")
        return
    changed = [c for c in copies if c.source.strip() != cell.source.strip()]
    chosen = (changed or copies)[-1]
    if how != "grade_id":
        notes.append(f"answer {name} has lost its name; recognised by {how}")
    if len(copies) > 1:
        notes.append(f"answer {name} is there {len(copies)} times; cell {chosen.index + 1} counts")
    if chosen.kind != cell.cell_type:
        notes.append(f"answer {name} had become a {chosen.kind or 'nameless'} cell")
    cell.source = chosen.source


# --- Remarks -----------------------------------------------------------------------------------------------------


def _about_tests(template: NotebookNode, cells: list[_Cell]) -> list[str]:
    """What had happened to the cells that students should leave alone; all of it is undone."""
    notes = []
    for cell in template.cells:
        name = _name(cell)
        if not name or is_solution(cell) or not cell.metadata.nbgrader.get("grade"):
            continue
        copies = [c for c in cells if c.grade_id == name]
        if len(copies) != 1:
            notes.append(f"test {name} was {f'there {len(copies)} times' if copies else 'missing'}; restored")
        elif not _is_released(copies[0].source, cell.source):
            notes.append(f"test {name} was changed; restored")
    return notes


def _is_released(source: str, full: str) -> bool:
    """Whether `source` is the test as students got it: whole, or without its hidden part."""
    public = re.sub(r"^[^\n]*BEGIN HIDDEN TESTS.*?END HIDDEN TESTS[^\n]*\n?", "", full, flags=re.M | re.S)
    return source.strip() in (full.strip(), public.strip())


def _about_rest(cells: list[_Cell], used: set[int], names: Mapping[str, NotebookNode]) -> list[str]:
    notes = []
    extra = [c for c in cells if c.index not in used and c.grade_id not in names and c.kind == "code"]
    extra = [
        c for c in extra if c.source.strip() and not any(c.source == cell.source for cell in names.values())
    ]
    if extra:
        places = ", ".join(str(c.index + 1) for c in extra[:10])
        notes.append(f"{len(extra)} cells of the student's own were left out (cell {places})")
    for tag in sorted(_TAGS & {tag for c in cells for tag in c.tags}):
        notes.append(f"the tag {tag!r} was ignored")
    return notes
