"""From the one source of an exercise, `solutions/NN-name.md`, to the notebook that students get.

The source is a MyST notebook. What a cell is for stands in its options (`:role: answer`,
`:name: lstm-step`, `:points: 4`, ...; see `solutions/README.md`). From it this module makes the instructor's
notebook and, through nbgrader's own `generate_assignment`, the released one. Each run gives the same bytes:
a released notebook that was not made from its source can be told by comparison.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbgrader.converters import GenerateAssignment
from nbgrader.coursedir import CourseDirectory
from nbgrader.utils import capture_log, determine_grade, is_grade
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

# role -> nbgrader's three flags.
ROLES = {
    "given": {"grade": False, "solution": False, "locked": True},
    "demo": {"grade": False, "solution": False, "locked": True},
    "answer": {"grade": False, "solution": True, "locked": False},
    "test": {"grade": True, "solution": False, "locked": True},
    "hidden": {"grade": True, "solution": False, "locked": True},
    "written": {"grade": True, "solution": True, "locked": False},
}
OPTIONS = ("role", "name", "points", "hint", "timeout")
MINIMUM_GRADED = 10
EXAMPLES = "9"  # exercises 90 to 99 are for trying out, and may be short
_UNNAMED = "cell-"
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_SECRET = re.compile(r"^.*BEGIN (SOLUTION|HIDDEN TESTS).*\n((?:.*\n)*?).*END \1.*$", re.MULTILINE)
# Directives and roles of the book: JupyterLab, VS Code and Colab show them as raw text.
_MYST_ONLY = re.compile(r"^(?:`{3,}|:{3,})\{\w|^\([\w-]+\)=$|(?<!`)\{[\w:]+\}`", re.MULTILINE)


def course_folder() -> Path:
    """The folder with the course: the nearest one upwards that holds `nbgrader_config.py`.

    Raises:
        FileNotFoundError: there is none.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "nbgrader_config.py").is_file():
            return folder
    raise FileNotFoundError(f"expected a course: a folder with nbgrader_config.py, at or above {Path.cwd()}")


def exercise_names(course: Path | None = None) -> list[str]:
    """The names of all exercises, in order: `01-rnn`, `02-lstm`, ..."""
    folder = (course or course_folder()) / "solutions"
    return sorted(path.stem for path in folder.glob("*.md") if re.match(r"\d\d-", path.name))


def source_path(name: str, course: Path | None = None) -> Path:
    """The path of an exercise's source.

    Raises:
        FileNotFoundError: there is no such exercise.
    """
    path = (course or course_folder()) / "solutions" / f"{name}.md"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected one of {', '.join(exercise_names(course)) or 'no exercises'}; got {name!r}"
        )
    return path


def release_path(name: str, course: Path | None = None) -> Path:
    """Where the released notebook of an exercise lies."""
    return (course or course_folder()) / "exercises" / name / f"{name}.ipynb"


def source_notebook(path: Path) -> NotebookNode:
    """The instructor's notebook: the source with nbgrader's metadata, answers and hidden tests included.

    Each cell's id is its name; unnamed cells get one from their text, which changes only when that does.

    Args:
        path: a MyST notebook, `solutions/NN-name.md`.

    Raises:
        ValueError: a cell has a role that does not exist.
    """
    read = jupytext.read(path, fmt="md:myst")
    notebook = nbformat.v4.new_notebook(cells=read.cells)
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "seqcourse": {"exercise": path.stem, "points": read.metadata.get("points")},
        }
    )
    names: dict[str, int] = {}
    for cell in notebook.cells:
        _mark(cell, names)
    return notebook


def _mark(cell: NotebookNode, names: dict[str, int]) -> None:
    """Turn a cell's options into nbgrader's metadata, and its name into its id."""
    options = {key: cell.metadata.pop(key) for key in OPTIONS if key in cell.metadata}
    role = options.pop("role", "given")
    if role not in ROLES:
        raise ValueError(f"expected a role of {', '.join(ROLES)}; got {role!r} in the cell\n{cell.source}")
    name, points = str(options.pop("name", "")) or _unnamed(cell, names), options.pop("points", 0)
    nbgrader = {"schema_version": 3, "grade_id": name, "task": False, **ROLES[role]}
    if ROLES[role]["grade"]:
        nbgrader["points"] = points
    cell.id = name[:64]
    cell.metadata["nbgrader"] = nbformat.from_dict(nbgrader)
    cell.metadata["seqcourse"] = nbformat.from_dict({"role": role, **options})


def _unnamed(cell: NotebookNode, names: dict[str, int]) -> str:
    """An id from the cell's text, numbered where the same text comes again."""
    digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
    names[digest] = names.get(digest, 0) + 1
    return f"{_UNNAMED}{digest}" + (f"-{names[digest]}" if names[digest] > 1 else "")


def grade_id(cell: NotebookNode) -> str:
    """The name of a cell."""
    return cell.metadata.nbgrader.grade_id


def role(cell: NotebookNode) -> str:
    """What a cell is for: one of `ROLES`."""
    return cell.metadata.seqcourse.role


def graded(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells with points."""
    return [cell for cell in notebook.cells if cell.metadata.nbgrader.grade]


def graded_code(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells with points that are run, in order."""
    return [cell for cell in graded(notebook) if cell.cell_type == "code"]


# --- releasing ---------------------------------------------------------------------------------------


def generate(name: str, source: NotebookNode, course: Path | None = None) -> NotebookNode:
    """What nbgrader makes of an instructor's notebook; in a temporary folder and without a gradebook.

    Args:
        name: the exercise.
        source: the instructor's notebook.
        course: whose `nbgrader_config.py` holds.

    Raises:
        ValueError: nbgrader refuses the notebook, for instance because a marker is never closed.
    """
    loader = PyFileConfigLoader("nbgrader_config.py", path=str(course or course_folder()))
    with tempfile.TemporaryDirectory() as folder:
        config = Config(loader.load_config())
        config.CourseDirectory.root = folder
        config.CourseDirectory.assignment_id = name
        # nbgrader's own --no-db: creating a gradebook takes most of the time, and runs a command of its own.
        config.SaveCells.enabled, config.GenerateAssignment.no_database = False, True
        coursedir = CourseDirectory(config=config)
        path = Path(folder, coursedir.source_directory, name, f"{name}.ipynb")
        path.parent.mkdir(parents=True)
        nbformat.write(source, path)
        done = capture_log(GenerateAssignment(coursedir=coursedir, config=config))
        if not done["success"]:
            raise ValueError(f"nbgrader refuses {name}: {_reason(done['log'])}")
        return nbformat.read(Path(folder, coursedir.release_directory, name, path.name), as_version=4)


def _reason(log: str) -> str:
    """The last line of the first traceback in nbgrader's log: the rest says only that there was an error."""
    lines = [line for line in log.splitlines() if re.match(r"\s*\w+(Error|Exception): ", line)]
    return lines[0].strip() if lines else log


def release(name: str, course: Path | None = None) -> Path:
    """Write `exercises/NAME/NAME.ipynb`, and `solutions/NAME/NAME.ipynb`, which git ignores.

    Args:
        name: the exercise.
        course: the folder of the course; by default the one around the current folder.

    Returns:
        The path of the released notebook.
    """
    course = course or course_folder()
    source = write_solution(name, course)
    path = release_path(name, course)
    _write(path, generate(name, nbformat.read(source, as_version=4), course))
    return path


def write_solution(name: str, course: Path | None = None) -> Path:
    """Write the instructor's notebook to `solutions/NAME/NAME.ipynb`, where nbgrader looks for it."""
    course = course or course_folder()
    path = course / "solutions" / name / f"{name}.ipynb"
    _write(path, source_notebook(source_path(name, course)))
    return path


def _write(path: Path, notebook: NotebookNode) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_bytes(notebook))


def _bytes(notebook: NotebookNode) -> bytes:
    return (nbformat.writes(notebook) + "\n").encode()


# --- what can be wrong with an exercise --------------------------------------------------------------


@dataclass(frozen=True)
class Exercise:
    """An exercise as its source says it, and as it lies in `exercises/`."""

    name: str
    course: Path

    @cached_property
    def source(self) -> NotebookNode:
        return source_notebook(source_path(self.name, self.course))

    @cached_property
    def released(self) -> NotebookNode | None:
        """The released notebook on disk; None where there is none."""
        path = release_path(self.name, self.course)
        # Not nbformat.read: it would mend what is to be found here.
        return nbformat.from_dict(json.loads(path.read_bytes())) if path.is_file() else None


def problems(name: str, course: Path | None = None) -> list[str]:
    """All that is wrong with an exercise, as it stands in `solutions/` and `exercises/`; nothing is run.

    Args:
        name: the exercise.
        course: the folder of the course; by default the one around the current folder.
    """
    exercise = Exercise(name, course or course_folder())
    found = []
    for check in _CHECKS:
        try:
            found += check(exercise)
        except Exception as error:  # a source that cannot be read or released is a problem to list
            found.append(f"{type(error).__name__}: {error}")
    return list(dict.fromkeys(found))


def _front_matter(exercise: Exercise) -> Iterator[str]:
    stated = exercise.source.metadata.seqcourse.points
    total = sum(_points(cell) or 0 for cell in graded(exercise.source))
    if stated != total:
        yield f"points: the cells add up to {total:g}, the front matter says {stated}"


def _points(cell: NotebookNode) -> float | None:
    points = cell.metadata.nbgrader.get("points")
    return points if type(points) in (int, float) and points > 0 else None


def _options(exercise: Exercise) -> Iterator[str]:
    for cell in exercise.source.cells:
        name, unknown = grade_id(cell), set(cell.metadata) - {"nbgrader", "seqcourse", "tags"}
        if unknown:
            yield f"{name}: unknown options {', '.join(sorted(unknown))}; known: {', '.join(OPTIONS)}, tags"
        if role(cell) not in ("given", "demo") and not _NAME.fullmatch(name):
            yield f"{name}: expected a name like lstm-step"
        if role(cell) not in ("given", "demo") and name.startswith(_UNNAMED):
            yield f"{name}: {role(cell)} without a name, or with one that begins with {_UNNAMED}"
        if (role(cell) == "written") != (cell.cell_type == "markdown") and role(cell) != "given":
            yield f"{name}: a {cell.cell_type} cell cannot have the role {role(cell)}"


def _graded_cells(exercise: Exercise) -> Iterator[str]:
    cells = graded(exercise.source)
    if len(cells) < MINIMUM_GRADED and not exercise.name.startswith(EXAMPLES):
        yield f"expected at least {MINIMUM_GRADED} graded cells, got {len(cells)}"
    for cell in cells:
        if _points(cell) is None:
            yield f"{grade_id(cell)}: graded, but without points"
        if role(cell) == "hidden" and not cell.metadata.seqcourse.get("hint"):
            yield f"{grade_id(cell)}: hidden, but without a hint for the feedback"


def _markers(exercise: Exercise) -> Iterator[str]:
    """What a cell hides must fit its role: else an answer or a hidden test is released."""
    wanted = {"answer": ["SOLUTION"], "written": ["SOLUTION"], "hidden": ["HIDDEN TESTS"]}
    for cell in exercise.source.cells:
        hides = [match.group(1) for match in _SECRET.finditer(cell.source)]
        if hides[:1] != wanted.get(role(cell), []) or len(set(hides)) > 1:
            expected = " and ".join(wanted.get(role(cell), ["nothing"]))
            yield f"{grade_id(cell)}: {role(cell)} hides {expected}; this one hides {hides or 'nothing'}"


def _ids(exercise: Exercise) -> Iterator[str]:
    for where, notebook in (("source", exercise.source), ("release", exercise.released)):
        cells = notebook.cells if notebook else []
        for kind, ids in (("id", [c.get("id") for c in cells]), ("name", [_any_name(c) for c in cells])):
            for repeated in sorted({str(i) for i in ids if ids.count(i) > 1}):
                yield f"{where}: the {kind} {repeated} is repeated"


def _any_name(cell: NotebookNode) -> str | None:
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def _stale(exercise: Exercise) -> Iterator[str]:
    path = release_path(exercise.name, exercise.course)
    fresh = _bytes(generate(exercise.name, exercise.source, exercise.course))
    if not path.is_file():
        yield f"not released: run seqcourse release {exercise.name}"
    elif path.read_bytes() != fresh:
        yield f"stale: exercises/ is not what the source gives: run seqcourse release {exercise.name}"


def _leaks(exercise: Exercise) -> Iterator[str]:
    """No line of an answer or a hidden test may stand in the release, unless the public part has it too."""
    released = set(_all_lines(exercise.released)) if exercise.released else set()
    public = {line for cell in exercise.source.cells for line in _lines(_SECRET.sub("", cell.source))}
    for cell in exercise.source.cells:
        regions = [match.group(2) for match in _SECRET.finditer(cell.source)]
        secret = [line for region in regions for line in _lines(region)]
        leaked = [line for line in secret if line in released and line not in public]
        # A whole answer that also stands in the public part is no accident of one common line.
        if len(secret) > 1 and public.issuperset(secret):
            leaked = secret
        if leaked:
            yield f"{grade_id(cell)}: the release shows what it hides: {leaked[0]!r}"


def _lines(text: str) -> list[str]:
    """The lines that say something: no brackets alone, no `else:`."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if len(re.sub(r"\W", "", line)) > 5]


def _all_lines(node: Any) -> Iterator[str]:
    """The lines of all strings in a notebook, metadata and outputs included."""
    if isinstance(node, str):
        yield from _lines(node)
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _all_lines(child)


def _outputs(exercise: Exercise) -> Iterator[str]:
    for cell in exercise.released.cells if exercise.released else []:
        if cell.get("outputs") or cell.get("execution_count"):
            yield f"{_any_name(cell)}: the release has outputs"


def _prose(exercise: Exercise) -> Iterator[str]:
    for cell in exercise.source.cells:
        if cell.cell_type == "markdown" and (found := _MYST_ONLY.search(cell.source)):
            yield f"{grade_id(cell)}: {found.group()!r} is for the book; Jupyter shows it as raw text"


def _valid(exercise: Exercise) -> Iterator[str]:
    for where, notebook in (("source", exercise.source), ("release", exercise.released)):
        if notebook:
            nbformat.validate(notebook)
            if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
                yield f"{where}: expected nbformat 4.5, got {notebook.nbformat}.{notebook.nbformat_minor}"


# --- which test tries which answer -------------------------------------------------------------------


def _tree(cell: NotebookNode) -> ast.Module:
    return ast.parse(TransformerManager().transform_cell(cell.source))


def _names(tree: ast.Module, context: type[ast.expr_context]) -> set[str]:
    return {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, context)
    }


def _defines(tree: ast.Module) -> list[str]:
    """The functions and classes that a cell defines at its top level."""
    return [node.name for node in tree.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef))]


def _assigns(node: ast.AST) -> Iterator[str]:
    """The names that a cell leaves behind: assigned, imported or defined, not what is local to a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            yield from [child.name] if hasattr(child, "name") else []
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        if isinstance(child, ast.alias):
            yield (child.asname or child.name).split(".")[0]
        yield from _assigns(child)


def tests_of(answer: str, notebook: NotebookNode, through_answers: bool = False) -> list[str]:
    """The names of the graded cells that use an answer, itself or through what other cells made from it.

    Args:
        answer: its name.
        notebook: the instructor's notebook.
        through_answers: count also the cells that use it through another answer.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    start = [grade_id(cell) for cell in cells].index(answer)
    made, found = set(_defines(_tree(cells[start]))), []
    for cell in cells[start + 1 :]:
        tree = _tree(cell)
        if not made & _names(tree, ast.Load):
            continue
        if cell.metadata.nbgrader.grade:
            found.append(grade_id(cell))
        elif through_answers or role(cell) != "answer":
            made |= set(_assigns(tree))
    return found


def _answers(exercise: Exercise) -> Iterator[str]:
    for cell in exercise.source.cells:
        if role(cell) == "answer":
            defined = _defines(_tree(cell))
            if len(defined) != 1:
                yield f"{grade_id(cell)}: expected one function or class, got {defined or 'none'}"
            if not tests_of(grade_id(cell), exercise.source):
                yield f"{grade_id(cell)}: an answer that no graded cell tries"


@dataclass(frozen=True)
class _Uses:
    """What a code cell does with names."""

    name: str
    test: bool
    assigns: frozenset[str]
    needs: frozenset[str]  # from other cells
    inner: frozenset[str]  # those of them that its functions look up when they are called

    @classmethod
    def of(cls, cell: NotebookNode) -> _Uses:
        tree = _tree(cell)
        functions = [node for node in ast.walk(tree) if isinstance(node, (*_FUNCTIONS, ast.Lambda))]
        arguments = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        nested = {node.name for node in functions if hasattr(node, "name")}
        known = _names(tree, ast.Store) | arguments | nested | set(_assigns(tree))
        inner = {name for node in functions for name in _names(node, ast.Load)}
        needs = _names(tree, ast.Load) - known
        test = cell.metadata.nbgrader.grade
        return cls(grade_id(cell), test, frozenset(_assigns(tree)), frozenset(needs), needs & inner)


def _tests_stand_alone(exercise: Exercise) -> Iterator[str]:
    """When graded, what a test assigns is gone after it; in a student's notebook it is not.

    So a test must not change what later cells use, and no cell may need a name from a test.
    """
    cells = [_Uses.of(cell) for cell in exercise.source.cells if cell.cell_type == "code"]
    given = frozenset().union(*(cell.assigns for cell in cells if not cell.test))
    private = frozenset().union(*(cell.assigns for cell in cells if cell.test)) - given
    for i, cell in enumerate(cells):
        if cell.test and (changed := _changed(cell, cells[:i], cells[i + 1 :])):
            yield f"{cell.name}: a test that changes what later cells use: {', '.join(sorted(changed))}"
        if borrowed := cell.needs & private:
            yield f"{cell.name}: needs what only a test assigns: {', '.join(sorted(borrowed))}"


def _changed(test: _Uses, before: list[_Uses], after: list[_Uses]) -> set[str]:
    """The names that a test takes from cells before it and that later cells see changed."""
    taken = test.assigns & frozenset().union(*(cell.assigns for cell in before if not cell.test))
    found = {name for cell in before if not cell.test for name in taken & cell.inner}
    for cell in after:
        found |= taken & cell.needs
        if not cell.test:
            taken -= cell.assigns
    return found


_CHECKS = (
    _front_matter,
    _options,
    _graded_cells,
    _markers,
    _ids,
    _stale,
    _leaks,
    _outputs,
    _prose,
    _valid,
    _answers,
    _tests_stand_alone,
)


# --- running notebooks -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failures:
    """Which cells of a notebook failed when all were run in order, as a student's Validate button would."""

    graded: frozenset[str]
    others: dict[str, str]  # name -> the error's class, for cells without points


def failures(notebook: NotebookNode, timeout: int = 300) -> Failures:
    """Run a notebook in a kernel, go on after errors, and list the cells that failed.

    Args:
        notebook: an instructor's, a released or a student's notebook.
        timeout: seconds for one cell.
    """
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        done = NotebookClient(notebook, timeout=timeout, allow_errors=True, resources=resources).execute()
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    points = {grade_id(cell): determine_grade(cell) for cell in code if is_grade(cell)}
    errors = {grade_id(cell): error for cell in code if (error := _error(cell)) and not is_grade(cell)}
    return Failures(frozenset(name for name, (got, full) in points.items() if got != full), errors)


def _error(cell: NotebookNode) -> str | None:
    return next((o.ename for o in cell.get("outputs", []) if o.output_type == "error"), None)


def release_failures(name: str, course: Path | None = None) -> list[str]:
    """What is wrong with how a released notebook runs.

    It must fail in exactly its graded code cells. A cell without points may stop only where an answer is
    still missing (NotImplementedError), or where it needs what such a cell would have made (NameError).
    """
    notebook = nbformat.read(release_path(name, course), as_version=4)
    wanted, found = {grade_id(cell) for cell in graded_code(notebook)}, failures(notebook)
    wrong = [f"{cell}: earns its points without an answer" for cell in sorted(wanted - found.graded)]
    answers = {grade_id(cell) for cell in notebook.cells if role(cell) == "answer"}
    for cell, error in found.others.items():
        if cell in answers:
            wrong.append(f"{cell}: fails when it is run; hide the bodies of functions and methods only")
        elif error not in ("NotImplementedError", "NameError"):
            wrong.append(f"{cell}: fails with {error} in the release")
    if "NameError" in found.others.values() and "NotImplementedError" not in found.others.values():
        wrong.append("a cell without points fails with NameError, and no missing answer explains it")
    return wrong


def nbval_solutions(course: Path | None = None) -> list[str | Path]:
    """Write every instructor's notebook; return the arguments with which pytest runs them through nbval."""
    course = course or course_folder()
    paths = [write_solution(name, course) for name in exercise_names(course)]
    return ["--nbval-lax", "--nbval-cell-timeout=300", "-p", "no:cacheprovider", *paths]
