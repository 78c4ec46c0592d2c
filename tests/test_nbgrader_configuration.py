"""Plain nbgrader, with the course's nbgrader_config.py, is protected: autograde, feedback, collecting."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from grading_fixtures import STEP, TOTAL, WRONG, cell, hand_in, template
from nbgrader.api import Gradebook
from nbgrader.apps import NbGraderAPI
from nbgrader.coursedir import CourseDirectory
from traitlets.config import Config
from traitlets.config.loader import PyFileConfigLoader

from seqcourse.grading.plugins import InspectedCollect, InspectedExtractor

NAME = "tiny"
CONFIG = Path(__file__).parents[1] / "nbgrader_config.py"
CRASH = f"{TOTAL}\nimport os; os._exit(1)"
CHEAT = "import torch\ntorch.allclose = lambda *a, **k: True"


def source() -> nbformat.NotebookNode:
    notebook = template()
    for made, answer in ((2, STEP), (6, TOTAL)):
        notebook.cells[made].source = f"### BEGIN SOLUTION\n{answer}\n### END SOLUTION"
    return notebook


def config(root: Path) -> Config:
    loaded = PyFileConfigLoader(CONFIG.name, path=str(CONFIG.parent)).load_config()
    loaded.CourseDirectory.root = str(root)
    return loaded


def submit(root: Path, student: str, notebook: nbformat.NotebookNode) -> Path:
    folder = root / "submitted" / student / NAME
    folder.mkdir(parents=True)
    nbformat.write(notebook, folder / f"{NAME}.ipynb")
    return folder


def hand_ins() -> dict[str, nbformat.NotebookNode]:
    """Students with what they hand in; among them rows of the table of what stock nbgrader gets wrong."""
    skipped = hand_in(step=WRONG["step"], total=WRONG["total"])
    doubled, deleted, stripped, renamed = hand_in(), hand_in(), hand_in(), hand_in()
    for made in skipped.cells:
        made.metadata["tags"] = ["skip-execution"]
    doubled.cells.insert(4, copy.deepcopy(doubled.cells[3]))
    doubled.cells[4].id = "copied"
    deleted.cells = [c for c in deleted.cells if not c.metadata.nbgrader.grade]
    renamed.cells[3].metadata.nbgrader.grade_id = "renamed"
    for made in stripped.cells:
        made.metadata = nbformat.from_dict({})
    return {
        "honest": hand_in(),
        "skipped": skipped,
        "doubled": doubled,
        "deleted": deleted,
        "stripped": stripped,
        "renamed": renamed,
        "warner": hand_in(
            step=STEP.replace("    return", "    import warnings; warnings.warn('x')\n    return")
        ),
        "cheat": hand_in(step=f"{WRONG['step']}\n{CHEAT}"),
        "number": hand_in(step="def step(x, h):\n    import sys; sys.displayhook(4.0)"),
        "crash": hand_in(total=CRASH),
        "thief": hand_in(step=f"{STEP}\nopen('../../../gradebook.db', 'w').write('mine')"),
    }


MARKS = {
    "honest": 10,
    "skipped": 0,
    "doubled": 10,
    "deleted": 10,
    "stripped": 10,
    "renamed": 10,
    "warner": 10,
    "cheat": 0,
    "number": 0,
    "crash": 5,
    "thief": 10,
}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course in which plain nbgrader graded everybody and wrote the feedback."""
    root = tmp_path_factory.mktemp("course")
    # nbgrader starts `alembic` to make a gradebook.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (root / "solutions" / NAME).mkdir(parents=True)
    nbformat.write(source(), root / "solutions" / NAME / f"{NAME}.ipynb")
    api = NbGraderAPI(config=config(root))
    assert api.generate_assignment(NAME)["success"]
    for student, notebook in hand_ins().items():
        folder = submit(root, student, notebook)
        (folder / "torch.py").write_text("raise SystemExit")
    os.symlink(root / "gradebook.db", root / "submitted" / "honest" / NAME / "notes.txt")
    for student in MARKS:  # as formgrader's button does
        result = api.autograde(NAME, student)
        assert result["success"], result
        assert api.generate_feedback(NAME, student)["success"]
    return root


def test_everybody_gets_the_right_mark(course):
    with Gradebook(f"sqlite:///{course}/gradebook.db", "seqcourse") as gradebook:
        marks = {
            s.student.id: s.auto_score if hasattr(s, "auto_score") else s.score
            for s in gradebook.assignment_submissions(NAME)
        }
    assert marks == MARKS


def test_the_autograded_notebook_says_what_happened(course):
    def about(student: str) -> dict:
        path = course / "autograded" / student / NAME / f"{NAME}.ipynb"
        return nbformat.read(path, as_version=4).metadata["seqcourse_grading"]

    assert about("honest") == {"status": "graded", "sandbox": "bubblewrap", "notes": []}
    assert about("cheat")["status"] == "tampered"
    assert about("crash")["status"] == "crashed"
    assert "the tag 'skip-execution' was ignored" in about("skipped")["notes"]


def test_a_link_to_the_gradebook_is_not_followed(course):
    copies = [*(course / "autograded").rglob("notes.txt"), *(course / "feedback").rglob("notes.txt")]
    assert copies == []
    assert (course / "gradebook.db").read_bytes().startswith(b"SQLite")


def test_feedback_shows_hints_and_no_hidden_test(course):
    page = (course / "feedback" / "skipped" / NAME / f"{NAME}.html").read_text()
    assert "Hidden tests: not passed." in page and "Does it hold for other inputs?" in page
    right = (course / "feedback" / "honest" / NAME / f"{NAME}.html").read_text()
    assert "Hidden tests: passed." in right and "Does it hold for other inputs?" not in right
    for student in MARKS:
        page = (course / "feedback" / student / NAME / f"{NAME}.html").read_text()
        assert "secret_number" not in page and "secret_message" not in page and "600.0" not in page


def test_the_command_line_is_protected_too(course):
    """`nbgrader autograde` as a command, with nothing but the course's nbgrader_config.py."""
    shutil.copy(CONFIG, course / "nbgrader_config.py")
    command = [sys.executable, "-m", "nbgrader", "autograde", NAME, "--student", "cheat", "--force"]
    done = subprocess.run(command, cwd=course, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cheat: status tampered" in done.stderr
    with Gradebook(f"sqlite:///{course}/gradebook.db", "seqcourse") as gradebook:
        assert gradebook.find_submission(NAME, "cheat").score == 0


def test_a_demanded_sandbox_fails_the_submission_and_not_silently(course, monkeypatch):
    import seqcourse.grading.sandbox as sandbox_module

    submit(course, "late", hand_in())
    own = config(course)
    own.SandboxedExecute.require_sandbox = True
    monkeypatch.setenv("PATH", "/nowhere")
    sandbox_module.isolation.cache_clear()
    result = NbGraderAPI(config=own).autograde(NAME, "late")
    sandbox_module.isolation.cache_clear()
    assert not result["success"]
    assert "require-sandbox" in result["log"] + str(result.get("error", ""))


def delivery(folder: Path) -> None:
    """A folder with a notebook, a module that hides torch, a link and a pipe."""
    folder.mkdir(parents=True)
    nbformat.write(hand_in(), folder / f"{NAME}.ipynb")
    (folder / "torch.py").write_text("")
    (folder / "timestamp.txt").write_text("2026-01-01 00:00:00 UTC")
    os.symlink("/etc/passwd", folder / "link.ipynb")
    os.mkfifo(folder / "pipe.ipynb")


def test_collecting_from_the_exchange_takes_notebooks_only(tmp_path):
    delivery(tmp_path / "inbound")
    collector = InspectedCollect(coursedir=CourseDirectory(root=str(tmp_path)), config=config(tmp_path))
    collector.do_copy(str(tmp_path / "inbound"), str(tmp_path / "submitted"))
    assert sorted(path.name for path in (tmp_path / "submitted").iterdir()) == [
        "timestamp.txt",
        f"{NAME}.ipynb",
    ]


def test_unpacking_a_delivery_stays_inside_and_one_bad_file_stops_nothing(tmp_path):
    delivery(tmp_path / "archive")
    (tmp_path / "archive" / "broken.zip").write_bytes(b"PK no zip")
    with zipfile.ZipFile(tmp_path / "archive" / "anna.zip", "w") as archive:
        archive.writestr("../../outside.ipynb", "{}")
        archive.writestr("tiny.ipynb", json.dumps(hand_in()))
        archive.writestr("torch.py", "")
    InspectedExtractor().extract(str(tmp_path / "archive"), str(tmp_path / "extracted"))
    found = sorted(
        str(p.relative_to(tmp_path / "extracted")) for p in (tmp_path / "extracted").rglob("*") if p.is_file()
    )
    assert found == ["anna/tiny.ipynb", "timestamp.txt", f"{NAME}.ipynb"]
    assert not list(tmp_path.rglob("outside.ipynb"))


def test_nbgrader_takes_the_plugins_from_the_configuration(tmp_path):
    from nbgrader.apps.zipcollectapp import ZipCollectApp
    from nbgrader.exchange import ExchangeFactory

    assert ExchangeFactory(config=config(tmp_path)).collect is InspectedCollect
    assert ZipCollectApp(config=config(tmp_path)).extractor_plugin is InspectedExtractor


def test_stray_cells_of_other_roles_are_left_alone_in_feedback():
    from seqcourse.grading.preprocessors import HideHidden

    notebook = nbformat.v4.new_notebook(
        cells=[cell("a", "print(1)", "given"), cell("w", "text", "written", kind="markdown")]
    )
    assert HideHidden().preprocess(copy.deepcopy(notebook), {})[0] == notebook
