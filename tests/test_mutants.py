"""The gates on wrong and right answers: each gate is shown something that it must refuse."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from toy_exercise import MUTANTS, NAME, toy_course, toy_mutants

from seqcourse.grading import authoring, end_to_end, mutants
from seqcourse.grading.cli_mutants import mutants_cmd
from seqcourse.grading.mutants import Mutant, Result


@dataclass
class Outcome:
    passed: bool
    reason: str


@dataclass
class Ran:
    status: str
    cells: dict[str, Outcome]


def plain_run(notebook: dict) -> Ran:
    """A stand-in for the sandbox: all cells in this process, each test on a copy of the names."""
    names: dict = {}
    cells = {}
    for cell in notebook["cells"]:
        own = cell["metadata"]
        if cell["cell_type"] != "code" or own["seqcourse"]["role"] == "demo":
            continue
        test = own["nbgrader"]["grade"]
        try:
            exec(cell["source"], dict(names) if test else names)
            passed = True
        except Exception:
            passed = False
        if test:
            cells[own["nbgrader"]["grade_id"]] = Outcome(passed, "passed" if passed else "failed")
    return Ran("graded", cells)


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """The toy exercise with its mutants; tests must not change it."""
    return toy_mutants(toy_course(tmp_path_factory.mktemp("course")))


@pytest.fixture(scope="module")
def source(course):
    return authoring.source_notebook(authoring.source_path(NAME, course))


@pytest.fixture(scope="module")
def results(course, source):
    """Of everything, by the stand-in."""
    known, problems = mutants.read_mutants(NAME, course)
    assert problems == []
    return mutants.run_mutants([*mutants.extremes(NAME, source, course), *known], source, plain_run)


@pytest.fixture(scope="module")
def tests(source) -> list[str]:
    return [authoring.grade_id(cell) for cell in authoring.graded_code(source)]


# --- reading -----------------------------------------------------------------------------------------


def test_mutants_are_read(course):
    known, problems = mutants.read_mutants(NAME, course)
    assert problems == []
    assert [m.kind for m in known] == (["wrong"] * 5 + ["right"] * 3) * 2
    assert "return 3 * x" not in known[0].sources["toy-double"]
    assert "doubled = 3 * x" in known[0].sources["toy-double"]
    assert known[0].fails == {"toy-double-values", "toy-double-hidden"}


SUM = 'replace = ["2 * x", "x + x"]'
FORM = "expected a name, and replace or code"
TOML_DEFECTS = {
    "another answer": ('answer = "toy-double"', 'answer = "toy-triple"', "expected answer = 'toy-double'"),
    "a mistyped table": ('[[right]]\nname = "sum"', '[[rigth]]\nname = "sum"', "and [[right]]; got"),
    "no TOML": ('[[wrong]]\nname = "three times"', "[[wrong\nname", "toy-double.toml: "),
    "old text that is not there": ('"2 * x", "3 * x"', '"2 x", "3 * x"', "in the reference answer, got 0"),
    "old text that is there twice": ('"2 * x", "3 * x"', '"doubled", "tripled"', "got 2: 'doubled'"),
    "a replacement by itself": ('"2 * x", "3 * x"', '"2 * x", "2 * x"', "two different texts"),
    "an unknown cell": ('["toy-double-hidden"]', '["toy-hiden"]', "names no graded code cell: toy-hiden"),
    "a written cell": ('["toy-double-hidden"]', '["toy-why"]', "fails names no graded code cell: toy-why"),
    "no cells at all": ('fails = ["toy-double-hidden"]', "fails = []", "says no graded cells that it fails"),
    "a right answer that fails": (SUM, f"{SUM}\nfails = []", FORM),
    "code and replace": (SUM, f'{SUM}\ncode = "x"', FORM),
    "no name": ('name = "sum"\n', "", FORM),
    "a repeated name": ('name = "adds two"', 'name = "three times"', "the name 'three times' is repeated"),
    "the reference as a mutant": (
        'code = "def double(x): return x.mul(2)"',
        "code = '''\ndef double(x):\n    \"\"\"Twice x, of any shape.\"\"\"\n"
        "    doubled = 2 * x\n    return doubled'''",
        "the code is the reference answer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", TOML_DEFECTS)
def test_a_defect_in_a_file_of_mutants_is_found(defect, tmp_path):
    old, new, expected = TOML_DEFECTS[defect]
    planted = MUTANTS["toy-double"].replace(old, new, 1)
    assert planted != MUTANTS["toy-double"]
    course = toy_mutants(toy_course(tmp_path), {**MUTANTS, "toy-double": planted})
    _, problems = mutants.read_mutants(NAME, course)
    assert any(expected in problem for problem in problems), problems


def test_too_few_mutants_missing_files_and_stray_files_are_found(tmp_path):
    few = MUTANTS["toy-double"].split('[[wrong]]\nname = "needs')[0]
    course = toy_mutants(toy_course(tmp_path), {"toy-double": few, "toy-tripel": "answer = 'toy-tripel'"})
    known, problems = mutants.read_mutants(NAME, course)
    assert len(known) == 4, "well-formed mutants are kept"
    assert problems == [
        "toy-tripel.toml: expected the name of an answer, one of toy-double, toy-sums",
        "toy-double: expected at least 5 wrong answers, got 4",
        "toy-double: expected at least 3 right answers, got 0",
        "toy-sums: no mutants: expected tests/mutants/01-toy/toy-sums.toml",
    ]


# --- running and judging -----------------------------------------------------------------------------


def test_all_gates_pass_on_the_toy(results, tests):
    assert mutants.violations(results, tests) == []
    by_kind = {
        kind: [r for r in results if r.mutant.kind == kind] for kind in ("reference", "blank", "wrong")
    }
    assert by_kind["reference"][0].failed == {}
    assert set(by_kind["blank"][0].failed) == set(tests)
    assert all(set(r.failed) == r.mutant.fails for r in by_kind["wrong"])


def test_a_mutant_changes_one_answer_only(course, source):
    mutant = mutants.read_mutants(NAME, course)[0][0]
    reference = {
        c["id"]: c["source"] for c in mutants.notebook_of(Mutant("reference", "", "", {}), source)["cells"]
    }
    changed = {c["id"]: c["source"] for c in mutants.notebook_of(mutant, source)["cells"]}
    assert [name for name in reference if reference[name] != changed[name]] == ["toy-double"]
    assert reference["toy-double"] == next(c.source for c in source.cells if c.id == "toy-double")


def test_quick_leaves_out_only_checks_that_do_not_use_the_answer(course, source):
    mutant = next(m for m in mutants.read_mutants(NAME, course)[0] if m.kind == "wrong")
    whole, quick = (mutants.notebook_of(mutant, source, quick)["cells"] for quick in (False, True))
    dropped = {c["id"] for c in whole} - {c["id"] for c in quick}
    used = authoring.tests_of(mutant.answer, source, through_answers=True)
    tests = {authoring.grade_id(c) for c in authoring.graded_code(source)}
    assert dropped == tests - set(used) - mutant.fails and dropped
    results = [mutants.run_mutants([mutant], source, plain_run, quick=q)[0] for q in (False, True)]
    assert results[0].failed == results[1].failed


def test_a_cover_is_small_and_still_kills_with_every_cell(course, source, tests):
    known, _ = mutants.read_mutants(NAME, course)
    few = mutants.cover(known)
    assert len(few) < len(known) and few == [mutant for mutant in known if mutant in few]
    assert {(m.answer, m.kind) for m in few} == {(m.answer, m.kind) for m in known}
    assert mutants.violations(mutants.run_mutants(few, source, plain_run), tests) == []


def test_a_cover_leaves_a_cell_that_nothing_fails_uncovered():
    sent = [
        Mutant("wrong", "a", "one", {}, frozenset({"x"})),
        Mutant("wrong", "a", "another", {}, frozenset({"x"})),
        Mutant("wrong", "a", "both", {}, frozenset({"x", "y"})),
    ]
    assert [mutant.name for mutant in mutants.cover(sent)] == ["one", "both"]
    few = mutants.cover(sent[:2])
    results = [Result(mutant, "graded", dict.fromkeys(mutant.fails, "failed")) for mutant in few]
    assert mutants.violations(results, ["x", "y"]) == ["y: kills no mutant"]


def test_together_needs_fewer_notebooks_and_finds_the_same(course, source, tests):
    known, _ = mutants.read_mutants(NAME, course)
    shared = mutants.together(known)
    members = [member for mutant in shared for member in mutant.members or (mutant,)]
    assert len(shared) < len(known) and sorted(map(str, members)) == sorted(map(str, known))
    for mutant in shared:
        assert len({member.answer for member in mutant.members}) == len(mutant.members)
        assert {member.kind for member in mutant.members} <= {mutant.kind}
        assert len(mutant.fails) == sum(len(member.fails) for member in mutant.members or (mutant,))
    for quick in (False, True):
        results = mutants.run_mutants(shared, source, plain_run, quick=quick)
        assert [result.mutant for result in results] == shared  # none had to be run again
        assert mutants.violations(results, tests) == []


def test_a_shared_notebook_names_the_member_that_survives(course, source):
    """A wrong answer that is right after all hides between two that are wrong: run alone, it is found."""
    known, _ = mutants.read_mutants(NAME, course)
    wrong = next(m for m in mutants.together(known) if m.kind == "wrong" and m.members)
    answer = wrong.members[0].answer
    reference = next(c.source for c in source.cells if authoring.role(c) == "answer" and c.id == answer)
    sleeper = replace(wrong.members[0], sources={answer: reference})
    shared = mutants.together([sleeper, *wrong.members[1:]])
    assert len(shared) == 1
    results = mutants.run_mutants(shared, source, plain_run)
    assert [result.mutant for result in results] == list(shared[0].members)
    assert [str(sleeper) in problem for problem in mutants.violations(results, [])] == [True, True]


def test_answers_that_disturb_each_other_are_judged_alone(source):
    """Together they fail a cell that neither fails: that says nothing against either."""

    def run(notebook):
        both = sum(cell["source"] == "right" for cell in notebook["cells"]) == 2
        return Ran("graded", {"toy-double-zero": Outcome(not both, "failed")})

    answers = [authoring.grade_id(cell) for cell in source.cells if authoring.role(cell) == "answer"][:2]
    sent = [Mutant("right", answer, "written differently", {answer: "right"}) for answer in answers]
    results = mutants.run_mutants(mutants.together(sent), source, run)
    assert [result.mutant for result in results] == sent and not any(result.failed for result in results)


def test_results_keep_the_order_and_run_side_by_side(source):
    """Two at a time: the first can end only after the second was reported as done."""
    second_done, seen = threading.Event(), []

    def run(notebook):
        if notebook["cells"][3]["source"] == "first":
            assert second_done.wait(20), "the second was never done"
        return Ran("graded", {})

    def done(result):
        seen.append(result.mutant.name)
        if seen == ["second"]:
            second_done.set()

    sent = [Mutant("right", "toy-double", name, {"toy-double": name}) for name in ("first", "second")]
    position = [cell.id for cell in source.cells].index("toy-double")
    assert position == 3
    results = mutants.run_mutants(sent, source, run, jobs=2, done=done)
    assert [r.mutant.name for r in results] == ["first", "second"]
    assert seen == ["second", "first"]


def test_a_mutant_that_cannot_be_run_stops_nothing_and_is_no_kill(source, tests):
    def run(notebook):
        if "boom" in json.dumps(notebook):
            raise OSError("no sandbox")
        return plain_run(notebook)

    fails = frozenset({"toy-double-zero"})
    sent = [
        Mutant("wrong", "toy-double", "bad", {"toy-double": "boom"}, fails),
        Mutant("reference", "all answers", "ref", {}),
    ]
    results = mutants.run_mutants(sent, source, run)
    assert results[1].status == "graded" and results[1].failed == {}
    found = mutants.violations(results, tests)
    assert "toy-double: wrong: bad: status error: OSError: no sandbox" in found
    assert "toy-double-zero: kills no mutant" in found


def test_an_unexpected_timeout_has_a_second_try(source):
    """A right answer that was late once is right; always late is not; a hang that is stated stays."""
    tries = []

    def run(notebook):
        text = next(c["source"] for c in notebook["cells"] if c["id"] == "toy-double")
        tries.append(text)
        late = text != "late once" or tries.count(text) == 1
        outcome = Outcome(False, "timeout") if late else Outcome(True, "passed")
        return Ran("timeout" if late else "graded", {"toy-double-zero": outcome})

    def sent(kind, text, fails=frozenset()):
        return Mutant(kind, "toy-double", text, {"toy-double": text}, frozenset(fails))

    stated = sent("wrong", "hangs", {"toy-double-zero"})
    results = mutants.run_mutants([sent("right", "late once"), sent("right", "late"), stated], source, run)
    assert [r.status for r in results] == ["graded", "timeout", "timeout"]
    assert [tries.count(text) for text in ("late once", "late", "hangs")] == [2, 2, 1]


def result(kind: str, fails: set[str], failed: set[str], status: str = "graded") -> Result:
    mutant = Mutant(kind, "a", "m", {}, frozenset(fails))
    return Result(mutant, status, dict.fromkeys(failed, "failed"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (result("reference", set(), {"x"}), "a: reference: m: should pass x (failed)"),
        (result("blank", {"x", "y"}, {"x"}), "a: blank: m: should fail y, but passes"),
        (result("wrong", {"x"}, {"x", "y"}), "a: wrong: m: should pass y (failed)"),
        (result("wrong", {"x", "y"}, {"x"}), "a: wrong: m: should fail y, but passes"),
        (result("wrong", {"x"}, set()), "a: wrong: m: survives: it gets everything"),
        (result("wrong", {"x"}, {"x"}, "tampered"), "a: wrong: m: status tampered"),
        (result("right", set(), {"x"}), "a: right: m: should pass x (failed)"),
        (result("right", set(), set(), "timeout"), "a: right: m: status timeout"),
    ],
)
def test_each_gate_refuses(given, expected):
    killer = result("wrong", {"x", "y"}, {"x", "y"})
    assert mutants.violations([killer], ["x", "y"]) == []
    assert expected in mutants.violations([given, killer], ["x", "y"])


def test_a_wrong_answer_may_hang_or_crash():
    assert mutants.violations([result("wrong", {"x"}, {"x"}, "timeout")], ["x"]) == []
    assert mutants.violations([result("wrong", {"x"}, {"x"}, "crashed")], ["x"]) == []


def test_a_cell_that_kills_nothing_is_found(results, tests):
    """Neither blank nor right answers count as kills."""
    without = [r for r in results if not (r.mutant.kind == "wrong" and "toy-sums-shape" in r.failed)]
    assert mutants.violations(without, tests) == ["toy-sums-shape: kills no mutant"]


# --- the record --------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path, source, results):
    course = toy_mutants(toy_course(tmp_path))
    mutants.write_record(mutants.kill_record(NAME, source, results, 1.0, course), course)
    return course


def test_the_record_counts_kills_by_wrong_answers(recorded, tests):
    record = json.loads(mutants.record_path(NAME, recorded).read_text(encoding="utf-8"))
    assert [c["name"] for c in record["cells"]] == tests
    kills = {c["name"]: c["kills"] for c in record["cells"]}
    assert kills["toy-double-hidden"] == 4 and kills["toy-sums-shape"] == 1
    assert record["violations"] == [] and record["exercise"] == NAME
    assert record["mutants"][1] == {
        "kind": "blank", "answer": "all answers", "name": "the release as it is",
        "status": "graded", "failed": tests,
    }  # fmt: skip


@pytest.mark.parametrize("path", [f"solutions/{NAME}.md", f"tests/mutants/{NAME}/toy-sums.toml"])
def test_a_record_is_stale_when_source_or_mutants_change(path, recorded):
    assert mutants.record_problems(NAME, recorded) == []
    changed = recorded / path
    changed.write_text(changed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert mutants.record_problems(NAME, recorded) == [
        "the record is older than the exercise or its mutants: seqcourse mutants 01-toy --write"
    ]


def test_a_missing_record_and_recorded_violations_are_found(recorded):
    path = mutants.record_path(NAME, recorded)
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "violations": ["x: kills no mutant"]}), encoding="utf-8")
    assert mutants.record_problems(NAME, recorded) == ["x: kills no mutant"]
    path.unlink()
    assert mutants.record_problems(NAME, recorded) == ["no record: run seqcourse mutants 01-toy --write"]


def test_the_kill_matrix_says_if_not_every_check_was_run(recorded):
    path = mutants.record_path(NAME, recorded)
    assert "by the checks that use it" not in mutants.kill_matrix_html(NAME, recorded)
    record = json.loads(path.read_text(encoding="utf-8")) | {"quick": True}
    path.write_text(json.dumps(record), encoding="utf-8")
    assert "by the checks that use it" in mutants.kill_matrix(NAME, recorded)[0].caption


def test_the_kill_matrix_is_an_accessible_table(recorded):
    html = mutants.kill_matrix_html(NAME, recorded)
    assert html.count("<table>") == html.count("<caption>") == 3
    assert '<th scope="col">toy-double-zero</th>' in html
    assert '<th scope="row">adds two</th><td>wrong</td>' in html
    row = re.search(r'<th scope="row">three times</th>(.*?)</tr>', html).group(1)
    table = mutants.kill_matrix(NAME, recorded)[1]
    assert table.columns == (
        "Answer", "Kind", "toy-double-values", "toy-double-hidden", "toy-double-zero", "toy-double-shape",
    )  # fmt: skip
    assert row == "<td>wrong</td><td>fails</td><td>fails</td><td>passes</td><td>passes</td>"


# --- the command -------------------------------------------------------------------------------------


def test_check_runs_nothing_and_tells(recorded, monkeypatch):
    monkeypatch.chdir(recorded)
    assert CliRunner().invoke(mutants_cmd, ["--check"]).exit_code == 0
    (recorded / "tests" / "mutants" / NAME / "toy-sums.toml").unlink()
    result = CliRunner().invoke(mutants_cmd, ["--check", NAME])
    assert result.exit_code == 1
    assert "toy-sums: no mutants" in result.output and "the record is older" in result.output


def test_a_matrix_of_a_few_is_not_written(recorded, monkeypatch):
    monkeypatch.chdir(recorded)
    result = CliRunner().invoke(mutants_cmd, ["--write", "--cover"])
    assert result.exit_code == 2 and "--write without --cover" in result.output


def test_the_command_runs_everything_in_the_sandbox_and_writes_the_record(tmp_path, monkeypatch):
    """With one right answer made wrong: the record says so, and the exit code too."""
    broken = MUTANTS["toy-sums"].replace("total + x[:, t]", "total - x[:, t]")
    course = toy_mutants(toy_course(tmp_path), {**MUTANTS, "toy-sums": broken})
    monkeypatch.chdir(course)
    done = CliRunner().invoke(mutants_cmd, ["--write"])
    record = json.loads(mutants.record_path(NAME, course).read_text(encoding="utf-8"))
    found = [
        violation for violation in record["violations"] if not violation.startswith("toy-sums: right: loop")
    ]
    assert found == [] and len(record["violations"]) == 1, done.output
    assert "toy-sums: right: loop: should pass" in done.output and done.exit_code == 1
    assert "10 wrong and 6 right answers, 9 graded cells" in done.output


# --- end to end --------------------------------------------------------------------------------------


def test_the_sample_has_each_kind_of_each_answer(results):
    chosen = [(r.mutant.kind, r.mutant.answer) for r in end_to_end.sample(results)]
    assert chosen == [
        ("reference", "all answers"), ("blank", "all answers"),
        ("wrong", "toy-double"), ("right", "toy-double"), ("wrong", "toy-sums"),
    ]  # fmt: skip


def test_nbgrader_gives_the_marks_of_the_fast_path(course, source, results):
    """And a mark that differs is named: here the fast path is said to have failed one cell more."""
    assert [r.mutant.kind for r in results[:2]] == ["reference", "blank"]
    lying = Result(results[0].mutant, "graded", {"toy-double-zero": "failed"})
    found = end_to_end.differences(NAME, source, [lying, *results[1:3]], course)
    assert found == [f"{lying.mutant}: toy-double-zero: nbgrader autograde gives 1.0, expected 0"]
