"""Grading a class: everybody gets the right mark and a status; nothing is lost, doubled or left stale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import tiny_course
from tiny_course import FULL_AUTO, NAME, RIGHT, answered, gradebook_contents, hand_in, report, run_unsafely

pytest.importorskip("nbgrader", reason="grading needs the extra 'grade'")
import nbformat
from click.testing import CliRunner
from nbgrader.preprocessors import AssignLatePenalties, SaveAutoGrades

from seqcourse.grading import record
from seqcourse.grading.cli_grade import grade_cmd
from seqcourse.grading.course import Busy, Course, CourseError
from seqcourse.grading.pipeline import Options, grade

WRONG = RIGHT | {"triple": "def triple(x):\n    return x + 3"}
LATE_PLUGIN = 'c.LateSubmissionPlugin.penalty_method = "zero"\n'


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny_course.make_course(tmp_path / "course", (NAME, "02-other"))


def go(folder: Path, run=run_unsafely, **options):
    return grade(Course.open(folder), NAME, Options(jobs=2, **options), run=run)


def never(job: dict) -> dict:
    raise AssertionError("executed again")


def statuses(folder: Path) -> dict[str, tuple[str, str]]:
    return {student: (row["status"], row["score"]) for student, row in report(folder).items()}


def journal(folder: Path, student: str) -> Path:
    return folder / ".seqcourse/grade" / NAME / f"{student}.json"


def mark_by_hand(folder: Path, student: str, cell: str, score: float) -> None:
    with Course.open(folder).gradebook() as gradebook:
        entry = gradebook.find_grade(cell, NAME, NAME, student)
        entry.manual_score, entry.needs_manual_grade = score, False
        gradebook.find_comment(cell, NAME, NAME, student).manual_comment = "Well <b>argued</b>."
        gradebook.db.commit()


def test_an_honest_class(folder):
    hand_in(folder, "ada", answered(folder))
    hand_in(folder, "bob", answered(folder, WRONG))
    hand_in(folder, "cat", answered(folder, {}))
    done = go(folder)
    assert statuses(folder) == {"ada": ("graded", "6"), "bob": ("graded", "4"), "cat": ("graded", "0")}
    rows = report(folder)
    assert {row["max_score"] for row in rows.values()} == {"10"}
    # cat left the written question as it was: 0 at once, nothing to read
    assert [rows[s]["needs_hand_grading"] for s in ("ada", "bob", "cat")] == ["yes", "yes", "no"]
    assert done.failures == [] and not (folder / "reports" / f"{NAME}-failures.log").exists()
    for student in rows:
        executed = json.loads((folder / "autograded" / student / NAME / f"{NAME}.ipynb").read_text())
        assert any("SECRET-HIDDEN-TEST" in cell["source"] for cell in executed["cells"])
        page = (folder / "feedback" / student / NAME / f"{NAME}.html").read_text()
        assert "SECRET-HIDDEN-TEST" not in page and "-41" not in page
        assert f"Score: {float(rows[student]['score'])} / 10.0" in page


def test_the_gradebook_is_what_nbgraders_own_steps_write(folder, tmp_path):
    with (folder / "nbgrader_config.py").open("a") as config:
        config.write(LATE_PLUGIN)
    other = tiny_course.make_course(tmp_path / "other", (NAME, "02-other"))
    (other / "nbgrader_config.py").write_text((folder / "nbgrader_config.py").read_text())
    for place in (folder, other):
        with Course.open(place).gradebook() as gradebook:
            gradebook.update_or_create_assignment(NAME, duedate="2026-01-10 00:00:00")
            gradebook.update_or_create_student("ada", first_name="Ada")
    for student, answers, day in (("ada", RIGHT, 9), ("bob", WRONG, 11), ("cat", {}, 11)):
        hand_in(folder, student, answered(folder, answers), f"2026-01-{day:02} 12:00:00 UTC")
    done = go(folder)
    course = Course.open(other)
    with course.gradebook() as gradebook:
        record.register(course, gradebook, NAME, record_source(course))
        for task in done.tasks:
            gradebook.update_or_create_student(task.student)
            with gradebook.db.no_autoflush:
                gradebook.update_or_create_submission(NAME, task.student, timestamp=task.hand_in.timestamp)
            notebook = nbformat.from_dict(task.entry.result["notebook"])
            about = record.resources(course, NAME, task.student)
            for step in (SaveAutoGrades, AssignLatePenalties):
                notebook, about = step(config=course.config).preprocess(notebook, about)
    assert gradebook_contents(folder) == gradebook_contents(other)
    assert statuses(folder)["bob"] == ("graded", "0")
    assert (report(folder)["bob"]["late"], report(folder)["bob"]["late_penalty"]) == ("yes", "4")
    assert (report(folder)["ada"]["late"], report(folder)["ada"]["score"]) == ("no", "6")


def record_source(course: Course):
    from seqcourse.grading.authoring import source_notebook

    return source_notebook(course.text_source(NAME))


def test_every_bad_hand_in_has_its_status_and_no_score(folder, tmp_path):
    good = answered(folder)
    hand_in(folder, "good", good)
    hand_in(folder, "corrupt", json.dumps(good)[:500])
    hand_in(folder, "empty", "")
    hand_in(folder, "wrong", tiny_course.released(folder, "02-other"))
    renamed = hand_in(folder, "renamed", good)
    renamed.rename(renamed.with_name("01-tiny (1) final.ipynb"))
    twice = hand_in(folder, "twice", answered(folder, {}))
    twice.with_name("01-tiny (1).ipynb").write_text(json.dumps(good))
    linked = hand_in(folder, "linked", good)
    linked.unlink()
    linked.symlink_to(folder / "gradebook.db")
    (folder / "submitted/escaped").symlink_to(folder / "submitted/good")
    shadow = hand_in(folder, "shadow", good)
    shadow.with_name("torch.py").write_text("raise SystemExit")
    with Course.open(folder).gradebook() as gradebook:
        gradebook.add_student("absent")
    go(folder)
    assert statuses(folder) == {
        "absent": ("missing", ""),
        "corrupt": ("corrupt", ""),
        "empty": ("empty", ""),
        "escaped": ("refused", ""),
        "good": ("graded", "6"),
        "linked": ("refused", ""),
        "renamed": ("graded", "6"),
        "shadow": ("graded", "6"),
        "twice": ("graded", "6"),
        "wrong": ("doubtful", ""),
    }
    notes = {student: row["notes"] for student, row in report(folder).items()}
    assert "no JSON" in notes["corrupt"] and "symbolic link" in notes["linked"]
    assert "is 02-other" in notes["wrong"] and "dropped: torch.py" in notes["shadow"]
    assert sorted(os.listdir(folder / "autograded/shadow" / NAME)) == [f"{NAME}.ipynb", "timestamp.txt"]
    assert sorted(os.listdir(folder / "autograded")) == ["good", "renamed", "shadow", "twice"]
    assert sorted(os.listdir(folder / "feedback")) == ["good", "renamed", "shadow", "twice"]


def outcome(status: str, reason: str):
    """A run in which everything went wrong in one way."""

    def run(job: dict) -> dict:
        result = run_unsafely(job)
        for cell in result["notebook"]["cells"]:
            if cell["metadata"]["nbgrader"]["grade"] and cell["cell_type"] == "code":
                cell["outputs"] = [{"output_type": "error", "ename": reason, "evalue": "", "traceback": []}]
        result["cells"] = {
            cell: {"passed": False, "reason": reason, "seconds": 0.0} for cell in result["cells"]
        }
        return result | {"status": status, "notes": ["why it is so"]}

    return run


@pytest.mark.parametrize("status", ["tampered", "crashed", "timeout"])
def test_what_earned_nothing_scores_0_and_says_why(folder, status):
    hand_in(folder, "ada", answered(folder))
    go(folder, outcome(status, status))
    assert statuses(folder) == {"ada": (status, "0")}
    assert "why it is so" in report(folder)["ada"]["notes"]


def test_a_failure_of_the_grader_is_not_a_zero_and_stops_nobody(folder):
    hand_in(folder, "ada", answered(folder))
    hand_in(folder, "bob", answered(folder, WRONG))

    def fails_for_bob(job: dict) -> dict:
        if "x + 3" in json.dumps(job):
            raise OSError("disk full")
        return run_unsafely(job)

    done = go(folder, fails_for_bob)
    assert statuses(folder) == {"ada": ("graded", "6"), "bob": ("failed", "")}
    assert "the grader failed: OSError: disk full" in report(folder)["bob"]["notes"]
    assert "Traceback" in (folder / "reports" / f"{NAME}-failures.log").read_text()
    assert len(done.failures) == 1
    go(folder)  # next time only bob is executed
    assert statuses(folder)["bob"] == ("graded", "4")
    assert not (folder / "reports" / f"{NAME}-failures.log").exists()


def test_what_is_done_is_not_done_again(folder):
    for student in ("ada", "bob"):
        hand_in(folder, student, answered(folder))
    go(folder)
    before = gradebook_contents(folder)
    made = {
        p: p.stat().st_mtime_ns for step in ("autograded", "feedback") for p in (folder / step).rglob("*")
    }
    go(folder, never)
    assert gradebook_contents(folder) == before
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert sorted(go(folder, again=True).executed) == ["ada", "bob"]
    assert gradebook_contents(folder) == before


def test_only_the_changed_hand_in_is_executed_again(folder):
    for student in ("ada", "bob"):
        hand_in(folder, student, answered(folder, WRONG))
    go(folder)
    hand_in(folder, "bob", answered(folder), "2026-01-11 12:00:00 UTC")
    assert go(folder).executed == ["bob"]
    assert statuses(folder) == {"ada": ("graded", "4"), "bob": ("graded", "6")}
    assert len(list((journal(folder, "bob").parent / "earlier/bob").iterdir())) == 1


def test_a_changed_test_grades_everybody_again(folder):
    hand_in(folder, "ada", answered(folder))
    go(folder)
    source = folder / "solutions" / f"{NAME}.md"
    source.write_text(source.read_text().replace("double(-41) == -82", "double(-41) == -83"))
    go(folder)
    assert statuses(folder) == {"ada": ("graded", "4")}


def test_mended_prose_and_new_points_are_taken_in_after_students_have_handed_in(folder):
    hand_in(folder, "ada", answered(folder))
    go(folder)
    source = folder / "solutions" / f"{NAME}.md"
    text = source.read_text().replace("A tiny exercise", "A very tiny exercise")
    source.write_text(text.replace(":name: triple-visible\n:points: 2", ":name: triple-visible\n:points: 3"))
    go(folder)
    assert (statuses(folder), report(folder)["ada"]["max_score"]) == ({"ada": ("graded", "7")}, "11")


def test_a_new_corrupt_hand_in_withdraws_the_old_mark_and_a_good_one_brings_it_back(folder):
    good = answered(folder)
    hand_in(folder, "ada", good)
    go(folder)
    mark_by_hand(folder, "ada", "why", 3.0)
    go(folder, never)
    assert statuses(folder)["ada"] == ("graded", "9")
    kept = journal(folder, "ada").read_text()
    hand_in(folder, "ada", "{", "2026-01-12 12:00:00 UTC")
    go(folder, never)
    row = report(folder)["ada"]
    assert (row["status"], row["score"]) == ("corrupt", "")
    assert "the mark of an earlier hand-in was withdrawn" in row["notes"]
    place = row["notes"].rsplit(" is ", 1)[1]
    assert json.loads((folder / place).read_text())["key"] == json.loads(kept)["key"]
    grades = {cell: rest for cell, _, *rest in gradebook_contents(folder)["grades"]}
    assert grades["triple-visible"] == [None, None, None, 1]  # nothing of the old mark
    assert grades["why"] == [None, 3.0, None, 1]  # the hand mark is not lost
    assert not (folder / "autograded/ada" / NAME).exists() and not (folder / "feedback/ada" / NAME).exists()
    go(folder, never)  # and it still says so next time
    assert "withdrawn" in report(folder)["ada"]["notes"]
    hand_in(folder, "ada", good, "2026-01-13 12:00:00 UTC")
    go(folder)
    assert statuses(folder)["ada"] == ("graded", "9")
    assert report(folder)["ada"]["needs_hand_grading"] == "yes"


def test_hand_marks_survive_grading_again_and_reach_the_feedback(folder):
    hand_in(folder, "ada", answered(folder))
    go(folder)
    mark_by_hand(folder, "ada", "why", 3.5)
    go(folder, never)
    page = (folder / "feedback/ada" / NAME / f"{NAME}.html").read_text()
    assert "Score: 9.5 / 10.0" in page and "argued" in page
    go(folder, again=True)
    assert statuses(folder)["ada"] == ("graded", "9.5")


def test_a_lost_gradebook_is_filled_from_the_journal(folder):
    hand_in(folder, "ada", answered(folder, WRONG))
    go(folder)
    before = gradebook_contents(folder)
    tiny_course.empty_gradebook(folder)
    go(folder, never)
    assert gradebook_contents(folder) == before


def test_a_mark_changed_behind_the_graders_back_is_put_right(folder):
    hand_in(folder, "ada", answered(folder, WRONG))
    go(folder)
    with Course.open(folder).gradebook() as gradebook:
        gradebook.find_grade("triple-visible", NAME, NAME, "ada").auto_score = 2.0
        gradebook.db.commit()
    go(folder, never)
    assert statuses(folder)["ada"] == ("graded", "4")


def test_a_due_date_or_extension_given_later_changes_the_penalty_without_executing(folder):
    with (folder / "nbgrader_config.py").open("a") as config:
        config.write(LATE_PLUGIN)
    hand_in(folder, "ada", answered(folder), "2026-01-11 12:00:00 UTC")
    go(folder)
    assert statuses(folder)["ada"] == ("graded", "6")
    with Course.open(folder).gradebook() as gradebook:
        gradebook.update_or_create_assignment(NAME, duedate=datetime(2026, 1, 11))
    go(folder, never)
    assert (statuses(folder)["ada"], report(folder)["ada"]["late_penalty"]) == (("graded", "0"), "6")
    with Course.open(folder).gradebook() as gradebook:
        gradebook.grant_extension(NAME, "ada", days=1)
    go(folder, never)
    assert (statuses(folder)["ada"], report(folder)["ada"]["late"]) == (("graded", "6"), "no")


def test_a_damaged_journal_entry_is_made_again(folder):
    hand_in(folder, "ada", answered(folder))
    go(folder)
    journal(folder, "ada").write_text('{"student": "ada", "key"')
    go(folder)
    assert statuses(folder)["ada"] == ("graded", "6")


def test_only_the_students_asked_for(folder):
    for student in ("ada", "bob"):
        hand_in(folder, student, answered(folder))
    go(folder, students=("bob",))
    assert statuses(folder) == {"ada": ("waiting", ""), "bob": ("graded", "6")}
    with pytest.raises(CourseError, match="no student zoe"):
        go(folder, students=("zoe",))


def test_what_collecting_found_out_is_in_the_report(folder):
    from seqcourse.grading.collect import Collection, HandIn, write_collection

    course = Course.open(folder)
    found = {
        "ada": HandIn("ada", "corrupt", "x.ipynb", reason="half a file"),
        "bob": HandIn("bob", "collected"),
    }
    write_collection(course, Collection(NAME, found, []))
    go(folder)
    assert statuses(folder) == {"ada": ("corrupt", ""), "bob": ("missing", "")}
    assert report(folder)["ada"]["notes"] == "half a file"
    assert "no longer in submitted/" in report(folder)["bob"]["notes"]


def test_an_unready_course_is_named(folder):
    with pytest.raises(CourseError, match="'09-none' is not released here"):
        grade(Course.open(folder), "09-none")
    source = folder / "solutions" / f"{NAME}.md"
    whole = source.read_text()
    source.write_text(whole.replace("triple-visible", "triple-shown"))
    with pytest.raises(CourseError, match=r"triple-shown, triple-visible\): run `seqcourse release"):
        go(folder)
    source.write_text(whole)
    hand_in(folder, "ada", answered(folder))
    go(folder)
    source.write_text(whole.replace("triple-visible", "triple-shown"))
    with pytest.raises(CourseError, match=r"students have handed in.*: triple-shown, triple-visible\."):
        go(folder)


def test_without_a_text_source_the_gradebook_is_the_source(folder):
    hand_in(folder, "ada", answered(folder))
    go(folder)
    (folder / "solutions" / f"{NAME}.md").unlink()
    go(folder, never)
    assert statuses(folder)["ada"] == ("graded", "6")
    tiny_course.empty_gradebook(folder)
    with pytest.raises(CourseError, match="or an assignment that the gradebook knows"):
        go(folder)


def test_a_second_grader_refuses_and_names_the_first(folder):
    hand_in(folder, "ada", answered(folder))
    course = Course.open(folder)
    code = "import sys; from seqcourse.grading.cli_grade import grade_cmd; grade_cmd(sys.argv[1:])"
    with course.at_work("seqcourse grade 01-tiny"):
        with pytest.raises(Busy, match=f"process {os.getpid()}"):
            go(folder)
        second = subprocess.run(
            [sys.executable, "-c", code, NAME, "--course", str(folder)],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert second.returncode == 1
    assert f"`seqcourse grade {NAME}` is at work" in second.stderr
    assert f"process {os.getpid()} on" in second.stderr and "since 20" in second.stderr
    assert "Traceback" not in second.stderr
    assert not (folder / "reports").exists()


def test_the_command_grades_for_real_and_its_exit_code_tells(folder):
    hand_in(folder, "ada", answered(folder))
    done = CliRunner().invoke(grade_cmd, [NAME, "--course", str(folder), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    assert "01-tiny: 1 graded" in done.output
    assert statuses(folder) == {"ada": ("graded", f"{FULL_AUTO:g}")}
    hand_in(folder, "bob", "{")
    done = CliRunner().invoke(grade_cmd, [NAME, "--course", str(folder), "--jobs", "1"])
    assert done.exit_code == 3
    assert "corrupt   bob: not a notebook" in done.output
    done = CliRunner().invoke(grade_cmd, ["09-none", "--course", str(folder)])
    assert done.exit_code == 1 and "is not released here" in done.output


def test_a_cluster_of_two_processes_that_see_neither_course_nor_database(folder):
    from dask.distributed import Client, LocalCluster

    for number in range(6):
        hand_in(folder, f"s{number}", answered(folder, RIGHT if number % 2 else WRONG))
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(tiny_course.forbid, str(folder))
        done = go(folder, tiny_course.where_it_ran, scheduler=cluster.scheduler_address)
    assert statuses(folder) == {f"s{n}": ("graded", "6" if n % 2 else "4") for n in range(6)}
    workers = {note for task in done.tasks for note in task.entry.result["notes"] if "ran in process" in note}
    assert len(workers) == 2 and f"ran in process {os.getpid()}" not in workers


def test_a_worker_that_touches_the_course_would_be_noticed(folder):
    code = "import sys, tiny_course as t; t.forbid(sys.argv[1]); open(sys.argv[1] + '/gradebook.db', 'rb')"
    found = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
    )
    assert found.returncode == 3 and "the worker touched" in found.stderr


def test_no_scheduler_at_the_address_is_said(folder, monkeypatch):
    monkeypatch.setattr("seqcourse.grading.scheduler.CONNECT_SECONDS", 0.5)
    hand_in(folder, "ada", answered(folder))
    options = [NAME, "--course", str(folder), "--scheduler", "tcp://127.0.0.1:9"]
    done = CliRunner().invoke(grade_cmd, options)
    assert done.exit_code == 1 and "no Dask scheduler answers at tcp://127.0.0.1:9" in done.output


def test_a_page_runs_no_script_of_a_student(folder):
    evil = "<script>steal()</script><img src=x onerror=steal()> [x](javascript:steal())"
    hand_in(folder, "ada", answered(folder, RIGHT | {"why": f"Because {evil}"}))
    go(folder)
    page = (folder / "feedback/ada" / NAME / f"{NAME}.html").read_text()
    answer = page[page.index("Because") :]
    assert "<script>steal" not in answer and "onerror=" not in answer and 'href="javascript:' not in answer


def test_a_demanded_sandbox_that_is_missing_ends_the_run_and_says_so(folder, monkeypatch):
    hand_in(folder, "ada", answered(folder))
    monkeypatch.setattr("seqcourse.grading.execute.problem", lambda: "there is no bubblewrap here")
    done = CliRunner().invoke(grade_cmd, [NAME, "--course", str(folder), "--require-sandbox"])
    assert done.exit_code == 1 and "there is no bubblewrap here" in done.output
    assert not (folder / "reports" / f"{NAME}.csv").exists()


def test_what_ran_unprotected_is_executed_again_when_the_sandbox_is_demanded(folder):
    hand_in(folder, "ada", answered(folder))
    assert go(folder).executed == ["ada"]
    assert go(folder).executed == []
    assert go(folder, require_sandbox=True).executed == ["ada"]
