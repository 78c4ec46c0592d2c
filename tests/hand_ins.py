"""A class as it is: honest, late, broken and hostile hand-ins, each with the status and score it must get.

The attacks are small texts put before or into an answer. None of them may earn more than the answers do, stop
the others, or reach anything outside the sandbox.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

GRADED_SOMEHOW = ("graded", "crashed", "timeout", "tampered")


@dataclass(frozen=True)
class Exercise:
    """What the catalogue needs to know about an exercise.

    Attributes:
        name: of the assignment.
        reference: the source notebook, with answers.
        wrong: for an answer's name, a wrong text and the points it loses.
        last: name of the last answer; no other answer needs it.
    """

    name: str
    reference: NotebookNode
    wrong: dict[str, tuple[str, float]]
    last: str
    lost_with_last: float

    @property
    def points(self) -> float:
        """All points that are not given by hand."""
        graded = [
            c.metadata.nbgrader for c in self.reference.cells if c.metadata.get("nbgrader", {}).get("grade")
        ]
        return float(sum(meta["points"] for meta in graded if not meta["solution"]))


@dataclass(frozen=True)
class HandIn:
    """One student's files, and what must become of them."""

    kind: str
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    status: str = "graded"
    score: float | None = None
    late: bool = False
    flagged: bool = False  # the report must have a note about it


def cell(notebook: NotebookNode, name: str) -> NotebookNode:
    """The cell with this grade_id."""
    return next(c for c in notebook.cells if c.metadata.get("nbgrader", {}).get("grade_id") == name)


def answers(notebook: NotebookNode) -> list[NotebookNode]:
    return [
        c for c in notebook.cells
        if c.cell_type == "code" and c.metadata.get("nbgrader", {}).get("solution")
    ]  # fmt: skip


def checks(notebook: NotebookNode) -> list[NotebookNode]:
    return [
        c for c in notebook.cells
        if c.cell_type == "code" and c.metadata.get("nbgrader", {}).get("grade")
    ]  # fmt: skip


class Maker:
    """Makes hand-ins of one exercise."""

    def __init__(self, exercise: Exercise) -> None:
        self.exercise, self.full = exercise, exercise.points

    def notebook(self) -> NotebookNode:
        return copy.deepcopy(self.exercise.reference)

    def hand_in(self, kind: str, notebook: NotebookNode, **outcome) -> HandIn:
        outcome.setdefault("score", self.full)
        return HandIn(kind, {f"{self.exercise.name}.ipynb": nbformat.writes(notebook).encode()}, **outcome)

    def with_code(self, kind: str, code: str, where: str = "first", **outcome) -> HandIn:
        """The right answers, with code put before the first or the last of them."""
        notebook = self.notebook()
        target = cell(notebook, self.exercise.last) if where == "last" else answers(notebook)[0]
        target.source = code + "\n" + target.source
        return self.hand_in(kind, notebook, **outcome)

    def all_wrong(self) -> NotebookNode:
        notebook = self.notebook()
        for answer in answers(notebook):
            answer.source = "raise NotImplementedError()"
        return notebook

    def wrong_with_code(self, kind: str, code: str, **outcome) -> HandIn:
        """No answers at all, and code that tries to get points nevertheless."""
        notebook = self.all_wrong()
        answers(notebook)[0].source = code
        return self.hand_in(kind, notebook, **{"score": 0.0, **outcome})

    # --- honest ------------------------------------------------------------------------------------------

    def right(self) -> HandIn:
        return self.hand_in("right", self.notebook())

    def late(self) -> HandIn:
        return self.hand_in("late", self.notebook(), late=True)

    def blank(self) -> HandIn:
        return self.hand_in("blank", self.all_wrong(), score=0.0)

    def one_wrong(self, name: str) -> HandIn:
        text, lost = self.exercise.wrong[name]
        notebook = self.notebook()
        cell(notebook, name).source = text
        return self.hand_in(f"wrong {name}", notebook, score=self.full - lost)

    # --- accidents -----------------------------------------------------------------------------------------

    def warning(self) -> HandIn:
        return self.with_code("prints a warning", "import warnings\nwarnings.warn('careful')")

    def warning_when_called(self) -> HandIn:
        notebook = self.notebook()
        for answer in answers(notebook):
            lines = answer.source.splitlines()
            start = next(i for i, line in enumerate(lines) if line.startswith(("def ", "class ")))
            lines.insert(start, "import sys; print('working', file=sys.stderr)")
            answer.source = "\n".join(lines)
        return self.hand_in("writes to stderr", notebook)

    def doubled_check(self) -> HandIn:
        notebook = self.notebook()
        position = notebook.cells.index(checks(notebook)[0])
        notebook.cells.insert(position, copy.deepcopy(notebook.cells[position]))
        return self.hand_in("check copied and pasted", notebook, flagged=True)

    def deleted_checks(self) -> HandIn:
        notebook = self.notebook()
        notebook.cells = [c for c in notebook.cells if c not in checks(notebook)]
        return self.hand_in("checks deleted", notebook, flagged=True)

    def stripped_metadata(self) -> HandIn:
        notebook = self.notebook()
        for c in notebook.cells:
            c.metadata = {}
        return self.hand_in("metadata stripped", notebook)

    def renamed_checks(self) -> HandIn:
        notebook = self.notebook()
        for c in checks(notebook):
            c.metadata.nbgrader["grade_id"] += "-mine"
        return self.hand_in("grade_id of checks renamed", notebook)

    def renamed_file(self) -> HandIn:
        made = self.right()
        (content,) = made.files.values()
        return HandIn("file renamed", {f"{self.exercise.name} (1) FINAL.ipynb": content}, score=self.full)

    def two_versions(self) -> HandIn:
        """An older blank one and a newer right one; the newer counts."""
        old = nbformat.writes(self.all_wrong()).encode()
        new = nbformat.writes(self.notebook()).encode()
        files = {f"{self.exercise.name}.ipynb": old, f"{self.exercise.name} (1).ipynb": new}
        return HandIn("two versions", files, score=self.full)

    def old_format(self) -> HandIn:
        """Saved by a tool that writes nbformat 4.4, which has no cell ids."""
        notebook = self.notebook()
        notebook.nbformat_minor = 4
        for c in notebook.cells:
            c.pop("id", None)
        return self.hand_in("nbformat 4.4", notebook)

    def with_bom(self) -> HandIn:
        made = self.right()
        ((name, content),) = made.files.items()
        return HandIn("byte order mark", {name: b"\xef\xbb\xbf" + content}, score=self.full)

    def extra_cells(self) -> HandIn:
        notebook = self.notebook()
        notebook.cells.insert(0, nbformat.v4.new_code_cell("x = [1, 2, 3]\n1 / 0"))
        notebook.cells.append(nbformat.v4.new_code_cell("while True:\n    pass"))
        return self.hand_in("cells added", notebook)

    # --- broken -------------------------------------------------------------------------------------------

    def missing(self) -> HandIn:
        return HandIn("nothing", status="missing")

    def truncated(self) -> HandIn:
        ((name, content),) = self.right().files.items()
        return HandIn("truncated", {name: content[: len(content) // 2]}, status="corrupt")

    def empty(self) -> HandIn:
        return HandIn("empty file", {f"{self.exercise.name}.ipynb": b""}, status="empty")

    def binary(self) -> HandIn:
        noise = random.Random(0).randbytes(5000)
        return HandIn("not a notebook", {f"{self.exercise.name}.ipynb": noise}, status="corrupt")

    def other_json(self) -> HandIn:
        text = json.dumps({"cells": {"a": 1}, "nbformat": "four"}).encode()
        return HandIn("JSON, not a notebook", {f"{self.exercise.name}.ipynb": text}, status="corrupt")

    def link_to_gradebook(self) -> HandIn:
        name = f"{self.exercise.name}.ipynb"
        return HandIn("link to the gradebook", links={name: "../../../gradebook.db"}, status="refused")

    # --- hostile: no points for wrong answers ---------------------------------------------------------------

    def skip_execution(self) -> HandIn:
        notebook = self.all_wrong()
        for c in checks(notebook):
            c.metadata["tags"] = ["skip-execution"]
        return self.hand_in("skip-execution", notebook, score=0.0, flagged=True)

    def edited_checks(self) -> HandIn:
        notebook = self.all_wrong()
        for c in checks(notebook):
            c.source = "pass"
        return self.hand_in("checks emptied", notebook, score=0.0, flagged=True)

    def claims_points(self) -> HandIn:
        notebook = self.all_wrong()
        for c in checks(notebook):
            c.metadata.nbgrader["points"] = 1000
            c.metadata.nbgrader["solution"] = True
        return self.hand_in("points in the metadata raised", notebook, score=0.0)

    def ships_torch(self) -> HandIn:
        made = self.hand_in("ships its own torch.py", self.all_wrong(), score=0.0)
        files = {**made.files, "torch.py": b"allclose = lambda *a, **k: True\n"}
        return HandIn(made.kind, files, score=0.0, flagged=True)

    def tampering(self) -> list[HandIn]:
        """Wrong answers with the grader's tools exchanged: nothing, and a flag."""
        return [
            self.wrong_with_code(kind, code, status="tampered", flagged=True)
            for kind, code in TAMPERING.items()
        ]  # fmt: skip

    def attacks(self) -> list[HandIn]:
        """Right answers with an attack that must fail unseen by anybody else; the answers still count."""
        return [self.with_code(kind, code) for kind, code in ATTACKS.items()]

    def useless(self) -> list[HandIn]:
        """Wrong answers with an attempt that changes nothing: no points."""
        return [self.wrong_with_code(kind, code) for kind, code in USELESS.items()]

    def killers(self) -> list[HandIn]:
        """Code in the last answer that ends or hangs the process: only its checks are lost."""
        score = self.full - self.exercise.lost_with_last
        return [
            self.with_code(kind, code, where="last", status=status, score=score)
            for kind, (status, code) in KILLERS.items()
        ]

    def everything(self) -> list[HandIn]:
        """One hand-in of every kind."""
        singles: list[Callable[[], HandIn]] = [
            self.right, self.late, self.blank, self.warning, self.warning_when_called, self.doubled_check,
            self.deleted_checks, self.stripped_metadata, self.renamed_checks, self.renamed_file,
            self.two_versions, self.old_format, self.with_bom, self.extra_cells, self.missing, self.truncated,
            self.empty, self.binary, self.other_json, self.link_to_gradebook, self.skip_execution,
            self.edited_checks, self.claims_points, self.ships_torch,
        ]  # fmt: skip
        wrong = [self.one_wrong(name) for name in self.exercise.wrong]
        grouped = [self.tampering(), self.attacks(), self.useless(), self.killers()]
        return [make() for make in singles] + wrong + [made for group in grouped for made in group]


TAMPERING = {
    "patches torch.allclose": "import torch\ntorch.allclose = lambda *a, **k: True",
    "patches Tensor comparison": "import torch\ntorch.Tensor.__eq__ = lambda *a: torch.tensor(True)",
    "patches the course's checks": (
        "import seqcourse.checks\n"
        "for name in dir(seqcourse.checks):\n"
        "    if name.startswith('check_'):\n"
        "        setattr(seqcourse.checks, name, lambda *a, **k: None)"
    ),
    "patches a check's code": (
        "import seqcourse.checks as c\nc.check_close.__code__ = (lambda *a, **k: None).__code__"
    ),
    "patches builtins": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.all = lambda x: True",
    "drops asserts by an AST transformer": (
        "import ast\n"
        "class Drop(ast.NodeTransformer):\n"
        "    def visit_Assert(self, node):\n        return ast.Pass()\n"
        "    def visit_Expr(self, node):\n        return ast.Pass()\n"
        "get_ipython().ast_transformers.append(Drop())"
    ),
    "patches compile": (
        "import builtins\nold = builtins.compile\n"
        "builtins.compile = lambda source, *a, **k: old('pass', *a, **k)"
    ),
}

USELESS = {
    "displays a number as partial credit": "import sys\nsys.displayhook(4.0)",
    "prints hidden tests": "print(globals().get('In', [''])[-1])",
    "reads its own frames": "import sys\nprint([f.f_code.co_name for f in sys._current_frames().values()])",
    "raises SystemExit": "raise SystemExit(0)",
}

ATTACKS = {
    "opens a connection": (
        "import socket\ntry:\n    socket.create_connection(('1.1.1.1', 53), 2)\n"
        "    leaked = True\nexcept OSError:\n    leaked = False\nassert not leaked\n"
    ),
    "writes the gradebook": (
        "import pathlib\nfor up in range(1, 8):\n"
        "    path = pathlib.Path('../' * up) / 'gradebook.db'\n"
        "    assert not path.exists(), path\n"
    ),
    "looks for solutions": (
        "import pathlib\n"
        "found = [p for top in ('/', '..', '../..') for p in pathlib.Path(top).glob('*/solutions/*.md')]\n"
        "assert not found, found\n"
    ),
    "looks for other students": (
        "import pathlib\nassert not list(pathlib.Path('/').glob('*/submitted')), 'others are visible'\n"
    ),
    "leaves a file for the next": (
        "import pathlib, tempfile\nfolder = pathlib.Path(tempfile.gettempdir())\n"
        "assert not (folder / 'note').exists(), 'the note of another student'\n"
        "(folder / 'note').write_text('hello')\n"
    ),
    "floods the output": "for _ in range(1000):\n    print('x' * 100_000)\n",
    "asks for memory": (
        "try:\n    hoard = bytearray(40 << 30)\nexcept MemoryError:\n    pass\n"
    ),
    "fills the disk": (
        "import os, tempfile\ntry:\n    with open(os.path.join(tempfile.gettempdir(), 'big'), 'wb') as f:\n"
        "        for _ in range(4000):\n            f.write(b'0' * (1 << 20))\nexcept OSError:\n    pass\n"
    ),
    "leaves a daemon": (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
    ),
}  # fmt: skip

KILLERS = {
    "os._exit": ("crashed", "import os\nos._exit(0)"),
    "crashes in C": ("crashed", "import ctypes\nctypes.string_at(0)"),
    "endless loop": ("timeout", "while True:\n    pass"),
    "loop that ignores interrupts": (
        "timeout",
        "import signal\nfor s in (signal.SIGINT, signal.SIGTERM):\n    signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n    pass",
    ),
}


def write_folder(hand_ins: dict[str, HandIn], folder: Path) -> None:
    """Lay hand-ins out as one folder per student, with the symbolic links some of them contain."""
    for student, made in hand_ins.items():
        for name, content in made.files.items():
            (folder / student).mkdir(parents=True, exist_ok=True)
            (folder / student / name).write_bytes(content)
        for name, target in made.links.items():
            (folder / student).mkdir(parents=True, exist_ok=True)
            (folder / student / name).symlink_to(target)
