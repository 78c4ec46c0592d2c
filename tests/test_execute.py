"""What `execute` decides about honest, wrong, crashing and endless submissions."""

from __future__ import annotations

import copy
import json
import os
import threading
import time

import nbformat
import pytest
from grading_fixtures import (
    NAMES,
    NOT_YET,
    STEP,
    TOTAL,
    WRONG,
    hand_in,
    mark,
    outputs,
    reasons,
    template,
)
from nbgrader.utils import determine_grade, is_grade

import seqcourse.grading.sandbox as sandbox_module
from seqcourse.grading import runner
from seqcourse.grading.canaries import canary
from seqcourse.grading.execute import execute
from seqcourse.grading.limits import Limits
from seqcourse.grading.rebuild import rebuild
from seqcourse.grading.sandbox import BUBBLEWRAP, SandboxMissing, SandboxPool

PASSED = dict.fromkeys(NAMES, "passed")


def expected(**changes: str) -> dict[str, str]:
    return PASSED | {name.replace("_", "-"): reason for name, reason in changes.items()}


def test_right_answers_get_everything():
    done = mark()
    assert (done.status, done.notes, reasons(done)) == ("graded", [], PASSED)
    assert done.sandbox == BUBBLEWRAP


def test_the_scratch_is_emptied_around_what_is_mounted_there(tmp_path):
    """A checkout below /tmp is at its own place in the sandbox's /tmp: it stays, all else goes."""
    package, beside = tmp_path / "course" / ".venv", tmp_path / "course" / "left"
    for folder in (package, beside, tmp_path / "locked" / "deep"):
        folder.mkdir(parents=True)
        (folder / "file").write_text("x")
    (tmp_path / "locked").chmod(0)
    runner.empty(str(tmp_path), frozenset({str(package)}))
    assert [path.name for path in tmp_path.rglob("*")] == ["course", ".venv", "file"]


def test_the_release_as_it_is_gets_nothing():
    done = mark(step=NOT_YET, total=NOT_YET)
    assert (done.status, done.notes) == ("graded", [])
    assert set(reasons(done).values()) == {"failed"}


def test_a_wrong_answer_loses_its_own_cells_only():
    done = mark(total=WRONG["total"])
    assert (done.status, done.notes) == ("graded", [])
    assert reasons(done) == expected(total_visible="failed", total_hidden="failed")


def test_the_result_is_json_and_a_valid_notebook_and_the_input_is_untouched():
    notebook = rebuild(template(), hand_in()).notebook
    before = copy.deepcopy(notebook)
    done = execute(notebook)
    assert notebook == before
    assert json.loads(json.dumps(done.as_dict()))["cells"]["step-visible"]["passed"] is True
    nbformat.validate(nbformat.from_dict(done.notebook))


def test_nbgrader_gives_the_same_points():
    done = mark(total=WRONG["total"])
    cells = nbformat.from_dict(done.notebook).cells
    points = {c.id: determine_grade(c) for c in cells if is_grade(c) and c.cell_type == "code"}
    assert points == {
        "step-visible": (2, 2),
        "step-hidden": (3, 3),
        "total-visible": (0, 2),
        "total-hidden": (0, 3),
    }


def test_outputs_of_given_cells_are_kept_and_demos_are_not_run():
    done = mark()
    cells = {c["id"]: c for c in done.notebook["cells"]}
    assert cells["last"]["outputs"] == [{"output_type": "stream", "name": "stdout", "text": "the end\n"}]
    assert cells["plot"]["outputs"] == [] and cells["plot"]["execution_count"] is None


def test_a_failed_visible_test_shows_where_and_why():
    done = mark(step=STEP.replace("+ h", "+ h[:, None]"))
    (error,) = next(c for c in done.notebook["cells"] if c["id"] == "step-visible")["outputs"]
    assert error["output_type"] == "error"
    assert "expected" in error["evalue"]
    assert error["traceback"][0].startswith("test, line 1: check_close(step(")


def test_twenty_runs_in_one_sandbox_are_never_flagged():
    """Also with what honest students do: warnings, prints, helpers, imports, other names for modules."""
    helpers = (
        "import math, warnings\nimport torch.nn.functional as F\n" + STEP + "\nwarnings.warn('careful')\nstep"
    )
    used = set()
    for number in range(20):
        done = mark(step=helpers if number % 2 else STEP)
        assert (done.status, done.notes, reasons(done)) == ("graded", [], PASSED)
        used |= {sandbox.process.pid for sandbox in sandbox_module.sandboxes._idle}
    assert len(used) == 1


@pytest.mark.parametrize(
    "honest",
    [
        "torch.set_num_threads(4); torch.randn(500, 500) @ torch.randn(500, 500)",
        "x = torch.ones(3, requires_grad=True); (x * x).sum().backward()",
        "torch.manual_seed(3); torch.set_default_dtype(torch.float32); torch.set_printoptions(precision=2)",
        "model = torch.nn.LSTM(3, 4); model(torch.randn(2, 5, 3))[0].sum().backward()",
        "torch.optim.Adam([torch.zeros(1, requires_grad=True)]).step()",
        "import numpy as np; np.random.seed(1); np.set_printoptions(3); np.linalg.svd(np.eye(3))",
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
        "from tqdm import trange\nfor _ in trange(3): pass",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()",
        "%matplotlib inline",
        "%%time\nsum(range(10))",
        "with torch.no_grad(): torch.ones(2)\ntorch.autograd.set_detect_anomaly(True)",
        "class Mine(torch.nn.Module):\n    def forward(self, x):\n        return x\nMine()(torch.ones(1))",
        "torch.testing.assert_close(torch.ones(2), torch.ones(2))",
        "from torch.utils.data import DataLoader; list(DataLoader(range(8), num_workers=2))",
        "import seqcourse; seqcourse.setup_cpu(threads=1); seqcourse.LSTM(2, 3)",
        "sum = 3; max = 4; all = lambda x: False; abs = str; isinstance = None; len = 5",
        "print('\\ud800')",
        # Python notes the slots of a class in the class when it first copies or saves one of its objects.
        "import copy; copy.copy(torch.ones(2)); copy.deepcopy([torch.nn.Linear(2, 2), torch.nn.GRU(2, 3)])",
        "display({'a': 1}); 3",
        "torch.jit.script(lambda x: x) if False else torch.vmap(torch.sin)(torch.ones(2))",
    ],
)
def test_honest_code_of_many_kinds_is_never_flagged(honest):
    done = mark(step=f"{honest}\n" * ("%%" not in honest), total=TOTAL, why="")
    assert done.status == "graded", done.notes
    assert not [
        note for note in done.notes if not note.startswith("suspicious: an answer is not plain Python")
    ]
    done = mark(step=STEP, total=f"{TOTAL}\n{honest}" if "%%" not in honest else TOTAL)
    assert (done.status, reasons(done)) == ("graded", PASSED), done.notes


def test_an_exception_in_an_answer_costs_what_needs_it():
    done = mark(total="1 / 0\n" + TOTAL)
    assert done.status == "graded"
    assert reasons(done) == expected(total_visible="failed", total_hidden="failed")
    assert "ZeroDivisionError" in outputs(done)


@pytest.mark.parametrize(
    "leave", ["import sys; sys.exit()", "exit()", "quit()", "raise SystemExit", "raise KeyboardInterrupt"]
)
def test_leaving_the_interpreter_ends_the_cell_only(leave):
    done = mark(step=f"{STEP}\n{leave}")
    assert (done.status, reasons(done)) == ("graded", PASSED)
    inside = mark(total=f"def total(xs):\n    {leave}")
    assert inside.status == "graded"
    assert reasons(inside) == expected(total_visible="failed", total_hidden="failed")


CRASHES = {
    "_exit": "import os; os._exit(0)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "abort": "import os; os.abort()",
    "kill": "import os; os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_in_a_cell_costs_that_cell_only(crash):
    done = mark(total=f"{TOTAL}\n{CRASHES[crash]}")
    assert done.status == "crashed"
    assert reasons(done) == expected(total_visible="failed", total_hidden="failed")
    assert "the end" in outputs(done)


@pytest.mark.parametrize("crash", ["_exit", "segfault", "abort", "kill"])
def test_a_crash_in_a_test_costs_that_test_only(crash):
    done = mark(
        step=f"def step(x, h):\n    if len(x) == 3 and x[0] == 0.25:\n        {CRASHES[crash]}\n    return 2 * x + h"
    )
    assert done.status == "crashed"
    assert reasons(done) == expected(step_hidden="crashed")


LOOPS = {
    "plain": "while True: pass",
    "deaf": (
        "import signal\nfor s in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM): signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    ),
    "asleep": "import time; time.sleep(10**6)",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_cell_costs_that_cell_only(loop):
    done = mark(total=f"{TOTAL}\n{LOOPS[loop]}", limits=Limits(cell_seconds=1))
    assert done.status == "timeout"
    assert reasons(done) == expected(total_visible="failed", total_hidden="failed")


@pytest.mark.parametrize("loop", LOOPS)
def test_an_endless_test_costs_that_test_only(loop):
    body = LOOPS[loop].replace("\n", "\n    ")
    done = mark(total=f"def total(xs):\n    {body}", timeout=1.0)
    assert done.status == "timeout"
    assert reasons(done) == expected(total_visible="timeout", total_hidden="timeout")


def test_more_crashes_than_restarts_end_the_submission_with_points_so_far():
    done = mark(total="import os; os._exit(1)", limits=Limits(restarts=0))
    assert done.status == "crashed"
    assert reasons(done) == expected(step_hidden="not run", total_visible="not run", total_hidden="not run")


def test_the_whole_submission_has_a_time_limit():
    began = time.monotonic()
    done = mark(step=f"{STEP}\nimport time; time.sleep(100)", limits=Limits(cell_seconds=60, total_seconds=2))
    assert time.monotonic() - began < 20
    assert done.status == "timeout"
    assert set(reasons(done).values()) == {"not run"}


def test_output_is_capped():
    began = time.monotonic()
    done = mark(step=f"{STEP}\nfor _ in range(10**5): print('x' * 1000)")
    assert (done.status, reasons(done)) == ("graded", PASSED)
    assert len(outputs(done)) < 15_000 and "too long" in outputs(done)
    assert time.monotonic() - began < 30


def test_rich_output_and_errors_are_capped():
    done = mark(step=f"{STEP}\ndisplay({{'a': 'x' * 10**6}}); raise ValueError('y' * 10**6)")
    assert (done.status, reasons(done)) == ("graded", PASSED)
    assert len(outputs(done)) < 30_000


def test_stderr_warnings_and_displayed_numbers_do_not_change_marks():
    noises = "warnings.warn('careful'); print('x', file=sys.stderr); sys.displayhook(1.0)"
    noisy = f"def step(x, h):\n    import sys, warnings\n    {noises}\n    return 2 * x + h"
    done = mark(step=noisy)
    assert (done.status, reasons(done)) == ("graded", PASSED)
    cells = nbformat.from_dict(done.notebook).cells
    assert determine_grade(next(c for c in cells if c.id == "step-visible")) == (2, 2)


def test_names_defined_in_a_test_are_gone_afterwards():
    leaky = template()
    leaky.cells[3].source += "\nleaked = 1"
    leaky.cells[7].source += "\nassert 'leaked' not in globals()"
    assert reasons(execute(rebuild(leaky, hand_in()).notebook)) == PASSED


def test_canaries_fail_where_nothing_is_patched():
    for source in canary():
        with pytest.raises(AssertionError):
            exec(source, {})


def test_threads_work_side_by_side():
    results = {}

    def work(number: int) -> None:
        results[number] = [reasons(mark()) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [PASSED, PASSED] for number in range(3)}
    assert reasons(mark()) == PASSED  # the threads that used the sandboxes have ended; the sandboxes live


def test_data_of_the_course_can_be_read_and_not_written():
    ask = "from seqcourse.data import load_tinyshakespeare\nprint(load_tinyshakespeare().source.name)"
    done = mark(step=f"{STEP}\n{ask}")
    assert (done.status, reasons(done)) == ("graded", PASSED)
    assert "tinyshakespeare" in outputs(done)


# --- without bubblewrap ---


@pytest.fixture
def no_bubblewrap(monkeypatch):
    """A machine without bwrap, with a pool of its own."""
    monkeypatch.setenv("PATH", "/nowhere")
    pool = SandboxPool()
    monkeypatch.setattr("seqcourse.grading.execute.sandboxes", pool)
    sandbox_module.isolation.cache_clear()
    yield
    pool.close()
    sandbox_module.isolation.cache_clear()


def test_without_bubblewrap_it_works_and_says_loudly_what_is_not_protected(no_bubblewrap):
    done = mark(total=f"{TOTAL}\nimport os; os._exit(0)")
    assert done.sandbox.startswith("NO SANDBOX")
    assert done.status == "crashed"
    assert reasons(done) == expected(total_visible="failed", total_hidden="failed")


def test_without_bubblewrap_limits_hold_and_processes_end(no_bubblewrap):
    sleeper = "subprocess.Popen(['/bin/sleep', '1000'], start_new_session=True).pid"
    daemon = f"import subprocess, sys\nprint('PID', {sleeper})"
    done = mark(step=f"{STEP}\n{daemon}", total=f"{TOTAL}\ntorch.zeros(2**30)", limits=Limits())
    assert reasons(done) == expected(total_visible="passed")
    pid = int(outputs(done).split("PID ")[1].split("\\n")[0])
    assert not os.path.exists(f"/proc/{pid}")


def test_a_demanded_sandbox_is_not_replaced_by_less(no_bubblewrap):
    with pytest.raises(SandboxMissing, match="not installed"):
        execute(template(), require_sandbox=True)
