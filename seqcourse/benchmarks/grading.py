"""How fast a class is graded, beside stock nbgrader on the same machine and the same hand-ins.

Each round grades the same class twice: with `nbgrader autograde` as it comes, and with `seqcourse grade`,
sandbox on, feedback pages included (which stock nbgrader makes in a second command). The hand-ins are honest:
reference answers, right ones written differently, and wrong ones, from the exercise's mutants. Both must give
every student the same marks, or the benchmark fails. Cells that only show something to the student are left
out of the exercise for both, because stock nbgrader would run them.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tqdm.auto import tqdm

from seqcourse.benchmarks import Benchmark, FinishedWork, unfinished_path
from seqcourse.records import Record

EXERCISE = "02-lstm"
GRADERS = 2
STOCK_CONFIGURATION = """
c = get_config()
c.CourseDirectory.course_id = "seqcourse"
c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
c.ClearSolutions.begin_solution_delimeter = "BEGIN SOLUTION"
c.ClearSolutions.end_solution_delimeter = "END SOLUTION"
"""
OUR_CONFIGURATION = """
from seqcourse.grading.configuration import configure

configure(c)
"""


@dataclass(frozen=True)
class Plan:
    """Size of a profile; ``singles`` hand-ins are also graded by a stock process of their own."""

    students: int
    rounds: int
    singles: int


PLANS = {"smoke": Plan(2, 1, 1), "laptop": Plan(40, 3, 5), "full": Plan(40, 5, 10)}


def checkout() -> Path:
    """The checkout with the exercise and its mutants.

    Raises:
        FileNotFoundError: outside a checkout; the benchmark needs `solutions/` and `tests/mutants/`.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "solutions" / f"{EXERCISE}.md").is_file():
        raise FileNotFoundError(f"expected solutions/{EXERCISE}.md: run this benchmark in a checkout")
    return root


def without_demonstrations(notebook):
    """The notebook without the cells that are not run when graded."""
    kept = copy.deepcopy(notebook)
    kept.cells = [cell for cell in kept.cells if cell.metadata.seqcourse["role"] != "demo"]
    return kept


def variants(reference, folder: Path) -> Iterator:
    """The reference, then one notebook per mutant, right and wrong in turn."""
    yield reference
    for path in sorted(folder.glob("*.toml")):
        mutants = tomllib.loads(path.read_text(encoding="utf-8"))
        for entry in [*mutants["right"][:2], *mutants["wrong"][:2]]:
            yield changed(reference, mutants["answer"], entry)


def changed(reference, answer: str, entry: dict):
    """The reference with one answer exchanged."""
    notebook = copy.deepcopy(reference)
    cell = next(c for c in notebook.cells if c.metadata.nbgrader.get("grade_id") == answer)
    cell.source = cell.source.replace(*entry["replace"]) if "replace" in entry else entry["code"]
    return notebook


def make_course(folder: Path, configuration: str, students: int) -> Path:
    """A course folder with the exercise released and a class handed in."""
    import nbformat

    from seqcourse.grading.authoring import source_notebook

    root = checkout()
    reference = without_demonstrations(source_notebook(root / "solutions" / f"{EXERCISE}.md"))
    solution = folder / "solutions" / EXERCISE / f"{EXERCISE}.ipynb"
    solution.parent.mkdir(parents=True)
    nbformat.write(reference, solution)
    (folder / "nbgrader_config.py").write_text(configuration, encoding="utf-8")
    command(folder, "nbgrader", "generate_assignment", EXERCISE)
    made = islice(cycle(variants(reference, root / "tests" / "mutants" / EXERCISE)), students)
    for number, notebook in enumerate(made):
        path = folder / "submitted" / f"student{number:03}" / EXERCISE / f"{EXERCISE}.ipynb"
        path.parent.mkdir(parents=True)
        nbformat.write(notebook, path)
    return folder


def command(folder: Path, *arguments: str) -> float:
    """Run a command in a course folder; return its seconds.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    started = time.perf_counter()
    done = subprocess.run(
        arguments, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - started


def marks(folder: Path) -> dict[str, dict[str, float]]:
    """Automatic points per student and cell, from a course's gradebook."""
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as gradebook:
        submissions = gradebook.find_assignment(EXERCISE).submissions
        return {s.student.id: grades(s) for s in submissions}


def grades(submission) -> dict[str, float]:
    """Automatic points per cell of one submission; written questions have none."""
    found = [grade for notebook in submission.notebooks for grade in notebook.grades]
    return {grade.cell.name: grade.auto_score for grade in found if grade.auto_score is not None}


def measure(plan: Plan) -> dict[str, float]:
    """Seconds per hand-in of one round: stock for the class, stock one by one, and seqcourse.

    Raises:
        RuntimeError: if the two do not give the same marks.
    """
    with tempfile.TemporaryDirectory(prefix="grading-") as parent:
        stock = make_course(Path(parent) / "stock", STOCK_CONFIGURATION, plan.students)
        ours = make_course(Path(parent) / "ours", STOCK_CONFIGURATION + OUR_CONFIGURATION, plan.students)
        whole = command(stock, "nbgrader", "autograde", EXERCISE)
        sandboxed = command(ours, "seqcourse", "grade", EXERCISE, "--jobs", str(GRADERS), "--require-sandbox")
        compare_marks(marks(stock), marks(ours))
        singles = [
            command(stock, "nbgrader", "autograde", EXERCISE, "--student", f"student{n:03}", "--force")
            for n in range(plan.singles)
        ]
    return {
        "stock": whole / plan.students,
        "stock one by one": sum(singles) / plan.singles,
        "seqcourse": sandboxed / plan.students,
    }


def compare_marks(stock: dict[str, dict[str, float]], ours: dict[str, dict[str, float]]) -> None:
    """Demand the same points for everybody in every cell."""
    different = {s: (stock[s], ours.get(s)) for s in stock if stock[s] != ours.get(s)}
    if different or not stock:
        raise RuntimeError(f"marks differ between stock nbgrader and seqcourse (stock, ours): {different}")


ABOUT = {
    "stock": "nbgrader autograde, the class in one process",
    "stock one by one": "nbgrader autograde, one process per student",
    "seqcourse": f"seqcourse grade, {GRADERS} graders, sandbox on, with feedback",
}


def records(rounds: list[dict[str, float]], plan: Plan, commit: str, duration_s: float) -> list[Record]:
    """Seconds per hand-in, and how many times longer stock nbgrader takes."""
    from seqcourse.data import load_tinyshakespeare

    source = load_tinyshakespeare().source  # what the exercise trains on
    protocol = {"exercise": EXERCISE, "students": plan.students, "graders": GRADERS, "marks": "identical"}
    common = {"protocol": protocol, "source": source, "commit": commit, "duration_s": duration_s}
    seconds = [
        Record.measured(
            f"grading: {about}",
            metric="time per hand-in",
            unit="s",
            values=[r[key] for r in rounds],
            **common,
        )
        for key, about in ABOUT.items()
    ]
    ratios = [
        Record.measured(
            f"grading: {ABOUT[key]}, over seqcourse", metric="ratio of times", unit="1",
            values=[r[key] / r["seqcourse"] for r in rounds], **common,
        )
        for key in ("stock", "stock one by one")
    ]  # fmt: skip
    return seconds + ratios


def run(
    profile: str, seeds: int | None = None, device: str = "cpu", resume: bool = True, out: Path | None = None
) -> list[Record]:
    """Grade the class ``seeds`` times both ways; see :class:`seqcourse.benchmarks.Benchmark`."""
    plan = PLANS[profile]
    work = FinishedWork(unfinished_path(out, "grading", profile), {"plan": vars(plan)}, resume)
    started = time.perf_counter()
    keys = [f"round {number}" for number in range(seeds or plan.rounds)]
    for key in tqdm(keys, desc="rounds"):
        if key not in work:
            work.add(key, measure(plan))
    rounds = [work[key] for key in keys]
    return records(rounds, plan, work.commit, time.perf_counter() - started)


BENCHMARK = Benchmark(
    name="grading",
    about="Grade a class with stock nbgrader and with this course's grader.",
    cost={
        "smoke": "about a minute, 2 hand-ins",
        "laptop": "about 35 minutes on two cores, 40 hand-ins, three rounds",
        "full": "about an hour on two cores, 40 hand-ins, five rounds",
    },
    run=run,
)
