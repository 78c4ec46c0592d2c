"""From the source of an exercise to its released notebook; every defect that must be found is planted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from nbgrader.validator import Validator
from toy_exercise import NAME, SOURCE, toy_course

from seqcourse.grading import authoring
from seqcourse.grading.cli_release import release_cmd

GRADED = [
    "toy-double-shape",
    "toy-double-values",
    "toy-double-zero",
    "toy-double-hidden",
    "toy-sums-shape",
    "toy-sums-first",
    "toy-sums-last",
    "toy-sums-hidden",
    "toy-sums-batch",
]


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    """A course whose exercise is released; tests must not change it."""
    course = toy_course(tmp_path_factory.mktemp("course"))
    authoring.release(NAME, course)
    return course


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def cell(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    return next(c for c in notebook.cells if c.id == name)


def source_of(course: Path) -> nbformat.NotebookNode:
    return authoring.source_notebook(course / "solutions" / f"{NAME}.md")


# --- the instructor's notebook -----------------------------------------------------------------------


def test_source_cells_carry_nbgraders_metadata(released):
    notebook = source_of(released)
    assert [authoring.grade_id(c) for c in authoring.graded_code(notebook)] == GRADED
    answer = cell(notebook, "toy-double")
    assert answer.metadata.nbgrader == {
        "schema_version": 3, "grade_id": "toy-double", "task": False,
        "grade": False, "solution": True, "locked": False,
    }  # fmt: skip
    hidden = cell(notebook, "toy-double-hidden").metadata
    assert (hidden.nbgrader.points, hidden.nbgrader.grade, hidden.nbgrader.locked) == (3, True, True)
    assert hidden.seqcourse == {"role": "hidden", "hint": "a scalar has no dimension at all"}
    assert cell(notebook, "toy-double-values").metadata.seqcourse.timeout == 20
    written = cell(notebook, "toy-why")
    assert written.cell_type == "markdown" and written.metadata.nbgrader.solution
    assert notebook.metadata.seqcourse == {"exercise": NAME, "points": 19}


def test_ids_of_unnamed_cells_stay_when_other_cells_change(tmp_path):
    before = source_of(toy_course(tmp_path / "a"))
    longer = SOURCE.replace("## Running sums", "New text.\n\n+++\n\n## Running sums").replace(
        "Double a tensor", "Double any tensor"
    )
    after = source_of(toy_course(tmp_path / "b", longer))
    ids = [[c.id for c in notebook.cells] for notebook in (before, after)]
    changed = [i for i in ids[0] if i not in ids[1]]
    assert changed == [before.cells[0].id], "only the cell whose text changed may change its id"
    assert len(ids[1]) == len(set(ids[1])) == len(ids[0]) + 1


def test_equal_unnamed_cells_get_different_ids(tmp_path):
    given = "```{code-cell} ipython3\nsummed = Sums()(x)\n```\n"
    notebook = source_of(toy_course(tmp_path, SOURCE.replace(given, given + "\n" + given)))
    ids = [c.id for c in notebook.cells if c.source == "summed = Sums()(x)"]
    assert len(ids) == 2 and ids[1] == f"{ids[0]}-2"


def test_an_unknown_role_is_refused(tmp_path):
    course = toy_course(tmp_path, SOURCE.replace(":role: demo", ":role: solution"))
    with pytest.raises(ValueError, match=r"expected a role of given, demo, .*; got 'solution'"):
        source_of(course)
    assert any("got 'solution'" in problem for problem in authoring.problems(NAME, course))


# --- the release -------------------------------------------------------------------------------------


def test_release_has_stubs_and_no_secrets(released):
    text = authoring.release_path(NAME, released).read_text(encoding="utf-8")
    for secret in ("doubled = 2 * x", "cumsum", '6.0, \\"twice', "22.0", "Each sum needs", "BEGIN"):
        assert secret not in text, secret
    notebook = read(authoring.release_path(NAME, released))
    assert cell(notebook, "toy-double").source == (
        'def double(x):\n    """Twice x, of any shape."""\n'
        "    # YOUR CODE HERE\n    raise NotImplementedError()"
    )
    assert cell(notebook, "toy-why").source == "Why does the order matter?\n\nYOUR ANSWER HERE"
    assert cell(notebook, "toy-double-hidden").source.endswith("doubled_scalar = double(torch.tensor(3.0))")


def test_release_keeps_ids_roles_and_locks(released):
    source, notebook = source_of(released), read(authoring.release_path(NAME, released))
    assert [c.id for c in notebook.cells] == [c.id for c in source.cells]
    assert [c.metadata.seqcourse for c in notebook.cells] == [c.metadata.seqcourse for c in source.cells]
    locked = {c.id for c in notebook.cells if c.metadata.get("editable") is False}
    assert locked == {c.id for c in notebook.cells} - {"toy-double", "toy-sums", "toy-why"}


def test_release_opens_elsewhere(released):
    """What JupyterLab, VS Code and Colab need: a valid notebook 4.5, the kernel's common name, a language."""
    notebook = read(authoring.release_path(NAME, released))
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}


def test_release_is_the_same_on_each_run_and_touches_no_gradebook(released):
    path = authoring.release_path(NAME, released)
    before = path.read_bytes()
    assert authoring.release(NAME, released).read_bytes() == before
    assert not list(released.rglob("*.db"))
    assert authoring.problems(NAME, released) == []


def test_missing_exercise_is_named(released):
    with pytest.raises(FileNotFoundError, match="expected one of 01-toy; got '09-none'"):
        authoring.release("09-none", released)


# --- planted defects ---------------------------------------------------------------------------------

SOURCE_DEFECTS = {
    "wrong total": ("\npoints: 19\n", "\npoints: 20\n", "add up to 19, the front matter says 20"),
    "no points": (":name: toy-sums-first\n:points: 1", ":name: toy-sums-first", "toy-sums-first: graded,"),
    "points in words": (":points: 2\n:timeout", ":points: two\n:timeout", "toy-double-values: graded,"),
    "mistyped option": (":timeout: 20", ":timout: 20", "toy-double-values: unknown options timout"),
    "no hint": (':hint: "one step is a sequence too"\n', "", "toy-sums-hidden: hidden, but without a hint"),
    "test without a name": (":name: toy-sums-last\n", "", "test without a name"),
    "badly formed name": (":name: toy-sums-last", ":name: Toy_Last", "Toy_Last: expected a name like"),
    "repeated name": (":name: toy-sums-last", ":name: toy-sums-first", "the name toy-sums-first is repeated"),
    "answer without markers": (
        "    ### BEGIN SOLUTION\n    doubled = 2 * x\n    return doubled\n    ### END SOLUTION",
        "    return 2 * x",
        "toy-double: answer hides SOLUTION; this one hides nothing",
    ),
    "hidden test without markers": (
        '### BEGIN HIDDEN TESTS\ncheck_close(one, [[1.0], [1.0]], "sum of one step")\n### END HIDDEN TESTS',
        'check_close(one, [[1.0], [1.0]], "sum of one step")',
        "toy-sums-hidden: hidden hides HIDDEN TESTS; this one hides nothing",
    ),
    "visible test that hides": (
        "check_shape(summed, (2, 3))",
        "### BEGIN HIDDEN TESTS\ncheck_shape(summed, (2, 3))\n### END HIDDEN TESTS\nsummed",
        "toy-sums-shape: test hides nothing; this one hides ['HIDDEN TESTS']",
    ),
    "marker never closed": ("    return doubled\n    ### END SOLUTION", "    return doubled",
                            "nbgrader refuses 01-toy: RuntimeError: no end solution statement found"),
    "answer shown in the prose": (
        "Double a tensor, then",
        "Use\n\n    doubled = 2 * x\n    return doubled\n\nthen",
        "toy-double: the release shows what it hides: 'doubled = 2 * x'",
    ),
    "answer that no cell tries": ("summed = Sums()(x)", "summed = x.cumsum(1)", None),
    "two functions in an answer": (
        "def double(x):",
        "def half(x):\n    return x / 2\n\n\ndef double(x):",
        "toy-double: expected one function or class, got ['half', 'double']",
    ),
    "a role that does not fit": (":role: test\n:name: toy-sums-first",
                                 ":role: written\n:name: toy-sums-first",
                                 "toy-sums-first: a code cell cannot have the role written"),
    "a test that changes a shared name": ("check_close(double(torch.z", "x = 0; check_close(double(torch.z",
        "toy-double-zero: a test that changes what later cells use: x"),
    "a test that changes a name of a function": (
        "check_close(double(torch.z", "torch = torch; check_close(double(torch.z",
        "toy-double-zero: a test that changes what later cells use: torch"),
    "a test that needs another test": ("check_close(one, [[", "together\ncheck_close(one, [[",
        "toy-sums-hidden: needs what only a test assigns: together"),
    "a given cell that needs a test": ("summed = Sums()(x)", "summed = Sums()(x * doubled_scalar)",
        ": needs what only a test assigns: doubled_scalar"),
    "the book's syntax": ("Double a tensor", "Double a {term}`tensor`", "'{term}`' is for the book"),
    "the book's directive": ("A good answer", ":::{note}\nA\n:::\n\nA good answer", "':::{n' is for the"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
@pytest.mark.parametrize("defect", SOURCE_DEFECTS)
def test_a_defect_in_the_source_is_found(defect, tmp_path):
    old, new, expected = SOURCE_DEFECTS[defect]
    if expected is None:  # no cell may use the answer: take it from the hidden tests too
        planted = SOURCE.replace(old, new).replace("Sums()(torch", "sorted((torch")
        planted, expected = planted.replace("4))\n###", "4)))\n###"), "toy-sums: an answer that no graded"
        planted = planted.replace("(2, 1))\n###", "(2, 1)))\n###")
    else:
        planted = SOURCE.replace(old, new)
    assert planted != SOURCE
    found = authoring.problems(NAME, toy_course(tmp_path, planted))
    assert any(expected in problem for problem in found), found


def test_a_test_may_use_a_name_that_nobody_needs_later(tmp_path):
    """Loop variables and the like: rebound before they are used again, or local to a function."""
    harmless = SOURCE.replace("check_shape(double(x), (2, 3))", "for i in range(3):\n    one = i").replace(
        "import sys", "import sys\n\none = [i for i in range(3)]\nf = lambda i: i"
    )
    course = toy_course(tmp_path, harmless)
    authoring.release(NAME, course)
    assert authoring.problems(NAME, course) == []


def test_too_few_graded_cells_are_found(tmp_path):
    start, end = SOURCE.index("```{code-cell} ipython3\n:role: test\n:name: toy-sums-last"), SOURCE.index(
        "```{code-cell} ipython3\n:role: hidden\n:name: toy-sums-hidden"
    )  # fmt: skip
    found = authoring.problems(NAME, toy_course(tmp_path, SOURCE[:start] + SOURCE[end:]))
    assert "expected at least 10 graded cells, got 9" in found


def edited(course: Path, edit) -> list[str]:
    """The problems after the released notebook was edited by hand."""
    path = authoring.release(NAME, course)
    notebook = read(path)
    edit(notebook)
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")
    return authoring.problems(NAME, course)


def leak_answer(notebook):
    cell(notebook, "toy-double").source = "def double(x):\n    doubled = 2 * x\n    return doubled"


def leak_hidden_in_metadata(notebook):
    cell(notebook, "toy-sums-hidden").metadata["old"] = 'check_close(one, [[1.0], [1.0]], "sum of one step")'


def leak_in_output(notebook):
    outputs = [nbformat.v4.new_output("stream", name="stdout", text="doubled = 2 * x\n")]
    cell(notebook, "toy-sums-shape").outputs = outputs


def repeat_id(notebook):
    notebook.cells.append(cell(notebook, "toy-sums-last"))


def old_format(notebook):
    notebook.nbformat_minor = 4
    for c in notebook.cells:
        del c["id"]


@pytest.mark.filterwarnings("ignore::nbformat.warnings.DuplicateCellId")
@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (leak_answer, "toy-double: the release shows what it hides: 'doubled = 2 * x'"),
        (leak_hidden_in_metadata, "toy-sums-hidden: the release shows what it hides"),
        (leak_in_output, "toy-double: the release shows what it hides"),
        (leak_in_output, "toy-sums-shape: the release has outputs"),
        (repeat_id, "release: the name toy-sums-last is repeated"),
        (repeat_id, "release: the id toy-sums-last is repeated"),
        (old_format, "release: expected nbformat 4.5, got 4.4"),
        (leak_answer, "stale: exercises/ is not what the source gives"),
    ],
)
def test_a_defect_in_the_release_is_found(edit, expected, tmp_path):
    found = edited(toy_course(tmp_path), edit)
    assert any(expected in problem for problem in found), found


def test_a_release_older_than_its_source_is_stale(tmp_path):
    course = toy_course(tmp_path)
    assert "not released: run seqcourse release 01-toy" in authoring.problems(NAME, course)
    authoring.release(NAME, course)
    path = course / "solutions" / f"{NAME}.md"
    path.write_text(SOURCE.replace("Double a tensor", "Double any tensor"), encoding="utf-8")
    [problem] = authoring.problems(NAME, course)
    assert problem.startswith("stale:")


# --- which test tries which answer -------------------------------------------------------------------


def test_tests_of_an_answer_are_found_through_given_cells(released):
    notebook = source_of(released)
    assert authoring.tests_of("toy-double", notebook) == GRADED[:4]
    assert authoring.tests_of("toy-sums", notebook) == GRADED[4:]


# --- running -----------------------------------------------------------------------------------------


def test_a_release_fails_in_exactly_its_graded_cells(released):
    notebook = read(authoring.release_path(NAME, released))
    found = authoring.failures(notebook)
    assert found.graded == set(GRADED)
    assert set(found.others.values()) == {"NotImplementedError"}  # summed = Sums()(x)
    assert authoring.release_failures(NAME, released) == []


def test_the_solution_fails_nowhere(released):
    found = authoring.failures(source_of(released))
    assert (found.graded, found.others) == (frozenset(), {})


def test_nbgraders_validator_agrees(released):
    solution = released / "solutions" / NAME / f"{NAME}.ipynb"
    assert Validator().validate(str(solution)) == {}
    failed = Validator().validate(str(authoring.release_path(NAME, released)))["failed"]
    notebook = read(authoring.release_path(NAME, released))
    unanswered = [*GRADED, "toy-why"]  # nbgrader also lists a written question without an answer
    assert [f["source"] for f in failed] == [cell(notebook, name).source.strip() for name in unanswered]


def test_a_graded_cell_that_passes_without_an_answer_is_found(tmp_path):
    planted = SOURCE.replace("check_close(double(torch.zeros(4)), torch.zeros(4))", "assert True")
    planted = planted.replace("import torch\n", "import torch\nimport no_such_module\n")
    planted = planted.replace('time: x (B, T) gives (B, T)."""', 'time."""\n\n    steps = 0 / 0')
    course = toy_course(tmp_path, planted)
    authoring.release(NAME, course)
    found = authoring.release_failures(NAME, course)
    assert "toy-double-zero: earns its points without an answer" in found
    assert any("fails with ModuleNotFoundError in the release" in problem for problem in found)
    assert "toy-sums: fails when it is run; hide the bodies of functions and methods only" in found


def test_nbval_runs_the_solutions(tmp_path):
    """The right one passes; one whose given cell fails does not."""
    for broken in (False, True):
        extra = "\nassert summed.dim() == 3" if broken else ""
        course = toy_course(tmp_path / str(broken), SOURCE.replace("= Sums()(x)", f"= Sums()(x){extra}"))
        command = [sys.executable, "-m", "pytest", "-q", *authoring.nbval_solutions(course)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=course)
        assert done.returncode == int(broken), done.stdout
        assert ("1 failed, 13 passed" if broken else "14 passed") in done.stdout


# --- the command -------------------------------------------------------------------------------------


def test_the_command_releases_checks_and_tells(tmp_path, monkeypatch):
    course = toy_course(tmp_path)
    monkeypatch.chdir(course)
    run = CliRunner().invoke
    assert run(release_cmd, ["--check"]).exit_code == 1
    assert not (course / "exercises").exists(), "--check writes nothing"
    result = run(release_cmd)
    assert result.exit_code == 0 and "01-toy: released" in result.output
    assert run(release_cmd, ["--check", NAME]).exit_code == 0
    authoring.release_path(NAME, course).write_text("{}", encoding="utf-8")
    result = run(release_cmd, ["--check"])
    assert result.exit_code == 1 and "stale" in result.output
