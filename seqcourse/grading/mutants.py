"""The grader is graded: wrong answers must lose exactly their cells, and right ones nothing.

`tests/mutants/NN-name/ANSWER.toml` holds, for one answer cell, mistakes that students make, each with the
graded cells that it must fail, and right answers written differently. Each becomes an instructor's notebook
with this one answer exchanged, and is executed as a student's would be. What comes out is a kill matrix
(mutants by graded cells), kept as a record with a hash of what it was made from.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from seqcourse.grading import authoring
from seqcourse.grading.authoring import course_folder, grade_id, role
from seqcourse.records import Table
from seqcourse.runtime import versions

MINIMUM_WRONG, MINIMUM_RIGHT = 5, 3
# Takes a notebook as JSON; gives an object with `status` and, for each graded code cell, `cells[name]`.
Run = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Mutant:
    """One variant of an exercise's answers.

    Args:
        kind: reference, blank, wrong or right.
        answer: the answer cell it changes; "all answers" for reference and blank.
        name: what is different about it, in words.
        sources: answer cell -> its text; cells that are not named keep the reference answer.
        fails: the graded code cells that it must fail.
        members: the mutants that share its notebook, where it is several of them (:func:`together`).
    """

    kind: str
    answer: str
    name: str
    sources: Mapping[str, str]
    fails: frozenset[str] = frozenset()
    members: tuple[Mutant, ...] = ()

    def __str__(self) -> str:
        return f"{self.answer}: {self.kind}: {self.name}"


@dataclass(frozen=True)
class Result:
    """What came of a mutant: the graded code cells it failed, each with the reason."""

    mutant: Mutant
    status: str
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


# --- reading -----------------------------------------------------------------------------------------


def folder(name: str, course: Path | None = None) -> Path:
    """Where the mutants of an exercise lie."""
    return (course or course_folder()) / "tests" / "mutants" / name


def read_mutants(name: str, course: Path | None = None) -> tuple[list[Mutant], list[str]]:
    """Read the mutants of an exercise.

    Args:
        name: the exercise.
        course: the folder of the course; by default the one around the current folder.

    Returns:
        The mutants that are well formed, and all that is wrong with their files.
    """
    source = authoring.source_notebook(authoring.source_path(name, course))
    answers = {grade_id(cell): cell.source for cell in source.cells if role(cell) == "answer"}
    tests = frozenset(grade_id(cell) for cell in authoring.graded_code(source))
    mutants, problems = [], []
    for path in sorted(folder(name, course).glob("*.toml")):
        if path.stem not in answers:
            problems.append(f"{path.name}: expected the name of an answer, one of {', '.join(answers)}")
    for answer, reference in answers.items():
        for found in _read_file(folder(name, course) / f"{answer}.toml", answer, reference, tests):
            (mutants if isinstance(found, Mutant) else problems).append(found)
    return mutants, problems


def _read_file(path: Path, answer: str, reference: str, tests: frozenset[str]) -> Iterator[Mutant | str]:
    """The mutants of one answer, and what is wrong with their file in words."""
    if not path.is_file():
        yield f"{answer}: no mutants: expected tests/mutants/{path.parent.name}/{path.name}"
        return
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        yield f"{path.name}: {error}"
        return
    if content.get("answer") != answer or set(content) - {"answer", "wrong", "right"}:
        yield f"{path.name}: expected answer = {answer!r}, [[wrong]] and [[right]]; got {sorted(content)}"
    names = [entry.get("name") for kind in ("wrong", "right") for entry in content.get(kind, [])]
    for repeated in sorted({str(n) for n in names if names.count(n) > 1}):
        yield f"{answer}: the name {repeated!r} is repeated"
    for kind, minimum in (("wrong", MINIMUM_WRONG), ("right", MINIMUM_RIGHT)):
        entries = content.get(kind, [])
        if len(entries) < minimum:
            yield f"{answer}: expected at least {minimum} {kind} answers, got {len(entries)}"
        for number, entry in enumerate(entries, 1):
            where = f"{answer}: {kind} {number} ({entry.get('name')})"
            wrong = [f"{where}: {problem}" for problem in _entry_problems(entry, kind, reference, tests)]
            yield from wrong or [_mutant(entry, kind, answer, reference)]


def _entry_problems(entry: dict, kind: str, reference: str, tests: frozenset[str]) -> Iterator[str]:
    allowed = {"name", "replace", "code"} | ({"fails"} if kind == "wrong" else set())
    if set(entry) - allowed or "name" not in entry or ("replace" in entry) == ("code" in entry):
        yield f"expected a name, and replace or code, of {sorted(allowed)}; got {sorted(entry)}"
        return
    if "replace" in entry:
        yield from _replace_problems(entry["replace"], reference)
    elif _plain(entry["code"]) == _plain(reference):
        yield "the code is the reference answer"
    fails = entry.get("fails", [])
    if kind == "wrong" and not fails:
        yield "says no graded cells that it fails"
    if unknown := sorted(set(fails) - tests):
        yield f"fails names no graded code cell: {', '.join(unknown)}"


def _replace_problems(replace: list[str], reference: str) -> Iterator[str]:
    if len(replace) != 2 or replace[0] == replace[1]:
        yield f"expected replace = [old, new], two different texts; got {replace!r}"
    elif (count := reference.count(replace[0])) != 1:
        yield f"expected the old text exactly once in the reference answer, got {count}: {replace[0]!r}"


def _plain(source: str) -> str:
    """A cell without markers and blank lines."""
    lines = (line.rstrip() for line in source.splitlines())
    return "\n".join(line for line in lines if line and " SOLUTION" not in line)


def _mutant(entry: dict, kind: str, answer: str, reference: str) -> Mutant:
    source = entry["code"] if "code" in entry else reference.replace(*entry["replace"])
    return Mutant(kind, answer, entry["name"], {answer: source}, frozenset(entry.get("fails", [])))


# --- running -----------------------------------------------------------------------------------------


def notebook_of(mutant: Mutant, source: NotebookNode, quick: bool = False) -> dict[str, Any]:
    """The instructor's notebook with a mutant's answers, as plain JSON; quick: without unaffected checks."""
    notebook = json.loads(json.dumps(source))
    for cell in notebook["cells"]:
        cell["source"] = mutant.sources.get(_grade_id(cell), cell["source"])
    if quick and mutant.sources:
        used = (authoring.tests_of(answer, source, through_answers=True) for answer in mutant.sources)
        kept = mutant.fails.union(*used)
        notebook["cells"] = [c for c in notebook["cells"] if not _is_check(c) or _grade_id(c) in kept]
    return notebook


def _grade_id(cell: dict[str, Any]) -> str:
    return cell["metadata"]["nbgrader"]["grade_id"]


def _is_check(cell: dict[str, Any]) -> bool:
    return cell["cell_type"] == "code" and cell["metadata"]["nbgrader"]["grade"]


def extremes(name: str, source: NotebookNode, course: Path | None = None) -> list[Mutant]:
    """The reference answers, which must get everything, and the release as it is, which must get nothing."""
    stubs = {grade_id(c): c.source for c in authoring.generate(name, source, course).cells}
    answers = [grade_id(cell) for cell in source.cells if role(cell) == "answer"]
    tests = frozenset(grade_id(cell) for cell in authoring.graded_code(source))
    return [
        Mutant("reference", "all answers", "the reference answers", {}),
        Mutant("blank", "all answers", "the release as it is", {a: stubs[a] for a in answers}, tests),
    ]


def cover(mutants: list[Mutant]) -> list[Mutant]:
    """A few mutants that put every gate to the test: a right and a wrong answer to each answer cell, and for
    each graded cell one that fails it. In the order given."""
    chosen = {(mutant.answer, mutant.kind): mutant for mutant in reversed(mutants)}  # the first of each
    kept = {str(mutant) for mutant in chosen.values()}
    waiting = frozenset().union(*(mutant.fails for mutant in mutants))
    waiting -= frozenset().union(*(mutant.fails for mutant in chosen.values()))
    while waiting:
        best = max(mutants, key=lambda mutant: len(mutant.fails & waiting))
        kept.add(str(best))
        waiting -= best.fails
    return [mutant for mutant in mutants if str(mutant) in kept]


def together(mutants: list[Mutant]) -> list[Mutant]:
    """As few notebooks as greedy choice finds, each with several of the mutants: of one kind, to different answer
    cells, failing different graded cells. Each must then fail what its members fail, and nothing else."""
    groups: list[list[Mutant]] = []
    for mutant in mutants:
        fitting = (group for group in groups if all(_can_share(mutant, other) for other in group))
        group = next(fitting, None)
        if group is None:
            groups.append(group := [])
        group.append(mutant)
    return [_joined(group) if len(group) > 1 else group[0] for group in groups]


def _can_share(one: Mutant, other: Mutant) -> bool:
    """Whether two mutants can be told apart by what fails when they are in one notebook."""
    return one.kind == other.kind and one.answer != other.answer and not one.fails & other.fails


def _joined(group: list[Mutant]) -> Mutant:
    sources = {answer: text for mutant in group for answer, text in mutant.sources.items()}
    fails = frozenset().union(*(mutant.fails for mutant in group))
    name = ", ".join(sources)
    return Mutant(group[0].kind, f"{len(group)} answers", name, sources, fails, tuple(group))


def run_mutants(
    mutants: list[Mutant],
    source: NotebookNode,
    run: Run,
    jobs: int = 2,
    done: Callable[[Result], None] = lambda result: None,
    quick: bool = False,
) -> list[Result]:
    """Run mutants side by side; one that cannot be run stops none of the others.

    Args:
        mutants: what to run.
        source: the instructor's notebook.
        run: executes a notebook; `seqcourse.grading.execute.execute`, or a stand-in.
        jobs: how many at a time.
        done: called after each.
        quick: of a mutant, run only the checks that use its answer, and the ones it must fail.

    Returns:
        Results in the order of `mutants`; in the place of a shared notebook with an unexpected result, those of
        its members, each run alone.
    """
    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(_run_one, mutant, source, run, quick) for mutant in mutants]
        for future in as_completed(waiting):
            done(future.result())
    return [
        result for future in waiting for result in _again_if_unexpected(future.result(), source, run, quick)
    ]


def _again_if_unexpected(result: Result, source: NotebookNode, run: Run, quick: bool) -> list[Result]:
    """The result, or new ones: of mutants that shared a notebook each alone, of a late one in a second try."""
    if not any(_result_problems(result)):
        return [result]
    if result.mutant.members:  # answers can disturb each other: alone, each shows whose problem it is
        return run_mutants(list(result.mutant.members), source, run, jobs=1, quick=quick)
    # A busy machine can make a right answer late.
    late = "timeout" in {result.status, *result.failed.values()}
    return [_run_one(result.mutant, source, run, quick) if late else result]


def _run_one(mutant: Mutant, source: NotebookNode, run: Run, quick: bool) -> Result:
    started = time.monotonic()
    try:
        ran = run(notebook_of(mutant, source, quick))
    except Exception as error:  # the grader failed: a violation of its own, never a kill
        return Result(mutant, f"error: {type(error).__name__}: {error}")
    failed = {name: outcome.reason for name, outcome in ran.cells.items() if not outcome.passed}
    return Result(mutant, ran.status, failed, round(time.monotonic() - started, 2))


# --- judging -----------------------------------------------------------------------------------------


def violations(results: list[Result], tests: list[str]) -> list[str]:
    """What the gates find: each mutant loses exactly its cells, and each cell kills at least one mutant.

    Args:
        results: of reference, blank and all mutants.
        tests: the graded code cells.
    """
    found = [f"{result.mutant}: {problem}" for result in results for problem in _result_problems(result)]
    killers = {name for result in results if result.mutant.kind == "wrong" for name in result.failed}
    return found + [f"{name}: kills no mutant" for name in tests if name not in killers]


def _result_problems(result: Result) -> Iterator[str]:
    mutant = result.mutant
    # A wrong answer may hang or crash; a right one must not, and nothing here tampers.
    if result.status != "graded" and (mutant.kind != "wrong" or result.status not in ("timeout", "crashed")):
        yield f"status {result.status}"
    if result.status.startswith("error"):
        return
    if mutant.kind == "wrong" and not result.failed:
        yield "survives: it gets everything"
    missed = sorted(mutant.fails - set(result.failed))
    extra = sorted(f"{name} ({reason})" for name, reason in result.failed.items() if name not in mutant.fails)
    if missed:
        yield f"should fail {', '.join(missed)}, but passes"
    if extra:
        yield f"should pass {', '.join(extra)}"


# --- the record --------------------------------------------------------------------------------------


def content_hash(name: str, course: Path | None = None) -> str:
    """A hash of an exercise's source and its mutants: what a kill matrix was made from."""
    digest = hashlib.sha256()
    for path in (authoring.source_path(name, course), *sorted(folder(name, course).glob("*.toml"))):
        digest.update(f"{path.name}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def record_path(name: str, course: Path | None = None) -> Path:
    """Where the kill matrix of an exercise is kept."""
    return (course or course_folder()) / "book" / "records" / "mutants" / f"{name}.json"


def kill_record(
    name: str, source: NotebookNode, results: list[Result], seconds: float, course: Path | None = None
) -> dict[str, Any]:
    """The kill matrix as JSON, with the hash of what it was made from and the versions it was made with."""
    tests = [grade_id(cell) for cell in authoring.graded_code(source)]
    wrong = [result for result in results if result.mutant.kind == "wrong"]
    return {
        "exercise": name,
        "content": content_hash(name, course),
        "versions": versions(),
        "seconds": round(seconds, 1),
        "violations": violations(results, tests),
        "cells": [
            {
                "name": grade_id(cell),
                "role": role(cell),
                "points": cell.metadata.nbgrader.points,
                "kills": sum(grade_id(cell) in result.failed for result in wrong),
            }
            for cell in authoring.graded_code(source)
        ],
        "mutants": [
            {
                "kind": result.mutant.kind,
                "answer": result.mutant.answer,
                "name": result.mutant.name,
                "status": result.status,
                "failed": [test for test in tests if test in result.failed],
            }
            for result in results
        ],
    }


def write_record(record: dict[str, Any], course: Path | None = None) -> Path:
    """Write a kill matrix to book/records/mutants/."""
    path = record_path(record["exercise"], course)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def record_problems(name: str, course: Path | None = None) -> list[str]:
    """What is wrong with an exercise's mutants and their record as they lie there; nothing is run."""
    _, found = read_mutants(name, course)
    path = record_path(name, course)
    if not path.is_file():
        return [*found, f"no record: run seqcourse mutants {name} --write"]
    record = json.loads(path.read_text(encoding="utf-8"))
    if record["content"] != content_hash(name, course):
        found.append(
            f"the record is older than the exercise or its mutants: seqcourse mutants {name} --write"
        )
    return found + record["violations"]


def kill_matrix(name: str, course: Path | None = None) -> list[Table]:
    """The recorded kill matrix as tables: the graded cells, then for each answer who fails which of them."""
    record = json.loads(record_path(name, course).read_text(encoding="utf-8"))
    cells = [(c["name"], c["role"], f"{c['points']:g}", c["kills"]) for c in record["cells"]]
    note = " (each answer was graded by the checks that use it)" if record.get("quick") else ""
    columns = ("Cell", "Role", "Points", "Wrong answers it catches")
    tables = [Table(f"{name}: graded cells{note}", columns, cells)]
    answers = dict.fromkeys(m["answer"] for m in record["mutants"] if m["kind"] == "wrong")
    return tables + [_answer_table(name, answer, record["mutants"]) for answer in answers]


def _answer_table(name: str, answer: str, mutants: list[dict[str, Any]]) -> Table:
    """One answer: a row for each mutant, a column for each cell that any of them fails."""
    own = [mutant for mutant in mutants if mutant["answer"] == answer]
    columns = list(dict.fromkeys(test for mutant in own for test in mutant["failed"]))
    rows = [
        (m["name"], m["kind"], *("fails" if test in m["failed"] else "passes" for test in columns))
        for m in own
    ]
    return Table(f"{name}: answers to {answer}", ("Answer", "Kind", *columns), rows)


def kill_matrix_html(name: str, course: Path | None = None) -> str:
    """The recorded kill matrix as accessible HTML tables."""
    return "\n".join(table._repr_html_() for table in kill_matrix(name, course))
