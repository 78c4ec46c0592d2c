"""Execute a rebuilt notebook and decide, cell by cell, which tests it passes: pure JSON in, pure JSON out.

The notebook must come from `rebuild`: its metadata and tests are the course's own; only the answers are a student's.
"""

from __future__ import annotations

import contextlib
import copy
import random
import secrets
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from seqcourse.grading import channel
from seqcourse.grading.canaries import canary
from seqcourse.grading.limits import Limits
from seqcourse.grading.sandbox import Sandbox, SandboxLost, SandboxMissing, problem, sandboxes, waiter
from seqcourse.grading.suspicion import suspicions

HIDDEN = "BEGIN HIDDEN TESTS"
WHY = {
    "timeout": "The cell did not end within its time.",
    "crashed": "The process that ran this cell ended without an answer (a crash, or too much memory).",
    "not run": "This cell was not run, because the submission broke off before it.",
    "tampered": "This submission changed what decides about marks; none of its cells count.",
}


@dataclass
class Outcome:
    """What came of a graded cell; `reason`: passed, failed, timeout, crashed, not run or tampered."""

    passed: bool
    reason: str
    seconds: float = 0.0


@dataclass
class Executed:
    """What came of a submission; `status`: graded, crashed, timeout or tampered."""

    notebook: dict[str, Any]
    status: str
    cells: dict[str, Outcome]
    notes: list[str]
    sandbox: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        return asdict(self)


@dataclass
class Step:
    """One cell to execute: `kind` is given, answer, test or hidden."""

    index: int
    name: str
    kind: str
    source: str
    seconds: float


class _Broken(Exception):
    """The process of the submission is lost; the step that did it must not be tried again."""

    def __init__(self, step: Step, reason: str, note: str) -> None:
        super().__init__(note)
        self.step, self.reason, self.note = step, reason, note


def execute(
    notebook: dict[str, Any], limits: Limits | None = None, require_sandbox: bool = False
) -> Executed:
    """Run a rebuilt notebook in a sandbox.

    Args:
        notebook: As `rebuild` made it; it is not changed.
        limits: Time, memory and output.
        require_sandbox: Refuse to run without bubblewrap.

    Raises:
        SandboxMissing: The sandbox is demanded and not there, or cannot be started.
    """
    if require_sandbox and problem():
        raise SandboxMissing(f"--require-sandbox: {problem()}")
    run = _Execution(copy.deepcopy(dict(notebook)), limits or Limits())
    try:
        run.attempt_until_done()
    finally:
        run.release()
    return run.result()


@dataclass
class _Execution:
    """One submission on its way: what is decided, what waits, what was dropped."""

    notebook: dict[str, Any]
    limits: Limits
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    troubles: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    dropped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.steps = plan(self.notebook, self.limits)
        self.waiting: dict[str, tuple[Step, socket.socket, int]] = {}
        self.lease = contextlib.ExitStack()
        self.sandbox: Sandbox | None = None
        self.statement = ""
        answers = "\n\n".join(step.source for step in self.steps if step.kind == "answer")
        self.suspicions = suspicions(answers)
        self.notes += self.suspicions
        tests = [step for step in self.steps if step.kind in ("test", "hidden")]
        self.samples = [random.choice(tests), tests[-1]] if tests else []

    # --- attempts ---

    def attempt_until_done(self) -> None:
        """Run; after a crash or hang of the whole process, run again without the cell that did it."""
        for _ in range(1 + self.limits.restarts):
            try:
                self.borrow()
                self.visible_phase()
                self.hidden_phase()
                return
            except _Broken as broken:
                self.drop(broken)
            finally:
                self.leave()
            if "tampered" in self.troubles or self.left() <= 0:
                return

    def borrow(self) -> None:
        """A sandbox for this attempt, and in it a process for the cells."""
        if self.sandbox is None:
            self.sandbox = self.lease.enter_context(sandboxes.lend())
            self.statement = self.sandbox.statement
        try:
            self.pid, self.sock = self.sandbox.start(self.limits)
        except SandboxLost as lost:
            raise SandboxMissing(f"the sandbox does not start a submission: {lost}") from lost

    def leave(self) -> None:
        """End an attempt: wipe the sandbox, and throw it away if something could have been left in it."""
        for _, sock, _ in self.waiting.values():
            sock.close()
        self.waiting.clear()
        if self.sandbox is None:
            return
        self.sock.close()
        if not self.wiped() or self.suspicions or "tampered" in self.troubles:
            self.sandbox.close()
            self.release()

    def wiped(self) -> bool:
        """Whether nothing of the submission remains."""
        try:
            left = self.sandbox.wipe()["left"]
        except SandboxLost:
            return False
        if left:
            self.note(f"left behind: {', '.join(map(str, left[:5]))}")
        return not left

    def release(self) -> None:
        """Give the sandbox back."""
        self.sandbox = None
        self.lease.close()

    def drop(self, broken: _Broken) -> None:
        """Note who broke the process; a test is decided by it, another cell is left out next time."""
        self.troubles.add(broken.reason)
        self.notes.append(broken.note)
        if broken.step.kind in ("test", "hidden"):
            self.decide(broken.step, broken.reason, 0.0)
        else:
            self.dropped.add(broken.step.index)
            self.outputs[broken.step.index] = [_error(broken.reason, WHY[broken.reason])]

    def left(self) -> float:
        """Seconds until the time of the whole submission is over."""
        return self.began + self.limits.total_seconds - time.monotonic()

    # --- phases ---

    def visible_phase(self) -> None:
        """Run the cells in order; tests in forks; hidden tests are forked where they stand and wait."""
        for step in self.steps:
            if step.index in self.dropped or step.name in self.outcomes:
                continue
            if step.kind == "test":
                self.fork(step)
                self.examine(step)
            elif step.kind == "hidden":
                self.fork(step)
            else:
                self.run_cell(step)

    def hidden_phase(self) -> None:
        """Only now, with all visible output collected, send the hidden tests; S has ended and cannot watch."""
        for step, _, _ in list(self.waiting.values()):
            if self.pid:
                self.command(step, lambda: self.sandbox.kill(self.pid))
                self.pid = 0
            self.examine(step)

    def run_cell(self, step: Step) -> None:
        """Run a cell that is no test, in S."""
        nonce = secrets.token_hex(16)
        message = {"do": "run", "nonce": nonce, "source": step.source, "given": step.kind == "given"}
        answer = self.talk(step, self.sock, message)
        if answer.get("nonce") != nonce:
            raise self.forgery(step)
        self.outputs[step.index] = clean_outputs(answer.get("outputs"), self.limits.output)

    def fork(self, step: Step) -> None:
        """Let S fork a T for a test and wait until it says that it is there."""
        ours, theirs = socket.socketpair()
        ours.settimeout(step.seconds)  # who does not read must not stop the grader while it writes
        with theirs:
            try:
                channel.send(self.sock, {"do": "test"}, [theirs.fileno()])
            except (channel.Closed, TimeoutError):
                ours.close()
                raise self.gone(step) from None
        pid = self.talk(step, ours, None).get("pid")
        if not isinstance(pid, int):
            raise self.forgery(step)
        self.waiting[step.name] = (step, ours, pid)

    def examine(self, step: Step) -> None:
        """Send a waiting T its test and decide by the answer; a T that crashes or hangs costs its cell only."""
        _, sock, pid = self.waiting.pop(step.name)
        began = time.monotonic()
        with sock:
            try:
                answer = self.question(step, sock, self.sources(step))
            except (channel.Closed, TimeoutError) as error:
                reason = "timeout" if isinstance(error, TimeoutError) else "crashed"
                self.command(step, lambda: self.sandbox.kill(pid))
                self.troubles.add(reason)
                self.decide(step, reason, time.monotonic() - began)
                return
        result, *must_fail = answer["results"]
        if any(failure["passed"] for failure in must_fail):
            self.tampered(f"{step.name}: an assertion that must fail passed")
        if not result["passed"]:
            self.errors[step.name] = result
        self.decide(step, "passed" if result["passed"] else "failed", time.monotonic() - began)

    def sources(self, step: Step) -> list[str]:
        """A test, followed, in the same process, by canaries: after it, for a function can patch when it is called.

        Two of them always; all of them, and the test itself with an assertion that must fail (which finds functions
        that make what calls them skip statements), in doubtful submissions and in two tests of every other.
        """
        canaries = canary()
        if self.suspicions or step in self.samples:
            return [step.source, f"{step.source}\nassert {random.random()} > 1", *canaries]
        return [step.source, *random.sample(canaries, 2)]

    # --- talking ---

    def question(self, step: Step, sock: socket.socket, sources: list[str]) -> dict[str, Any]:
        """Send sources to a T; what it answers, checked for form, nonce and changes."""
        nonce = secrets.token_hex(16)
        try:
            channel.send(sock, {"nonce": nonce, "sources": sources})
            wait = waiter(sock, time.monotonic() + min(step.seconds, self.left()), self.sandbox.watch)
            answer = channel.receive(sock, wait)[0]
        except channel.Forged:
            raise self.forgery(step) from None
        except SandboxLost as lost:
            raise _Broken(step, "crashed", f"{step.name}: {lost}") from None
        if not well_formed(answer, nonce, len(sources)):
            raise self.forgery(step)
        if answer["changes"]:
            self.tampered("replaced " + ", ".join(map(str, answer["changes"][:5])))
        for name in answer["redefined"]:
            self.note(f"an answer redefines {str(name)[:50]!r} of the course; tests used the course's own")
        return answer

    def talk(self, step: Step, sock: socket.socket, message: dict[str, Any] | None) -> dict[str, Any]:
        """Send S a message, or nothing, and wait for an answer; whatever goes wrong is the step's doing."""
        try:
            if message:
                channel.send(sock, message)
            wait = waiter(sock, time.monotonic() + min(step.seconds, self.left()), self.sandbox.watch)
            return channel.receive(sock, wait)[0]
        except channel.Closed:
            raise self.gone(step) from None
        except channel.Forged:
            raise self.forgery(step) from None
        except TimeoutError:
            raise _Broken(step, "timeout", f"{step.name}: no end within its time") from None
        except SandboxLost as lost:
            raise _Broken(step, "crashed", f"{step.name}: {lost}") from None

    def command(self, step: Step, action: Any) -> None:
        """Tell the zygote something."""
        try:
            action()
        except SandboxLost as lost:
            raise _Broken(step, "crashed", f"{step.name}: {lost}") from None

    def gone(self, step: Step) -> _Broken:
        return _Broken(step, "crashed", f"{step.name}: the process ended")

    def forgery(self, step: Step) -> _Broken:
        """No accident writes to the grader's socket."""
        self.tampered(f"{step.name}: wrote to the grader's channel")
        return _Broken(step, "tampered", f"{step.name}: its answer is not the grader's")

    def tampered(self, note: str) -> None:
        self.troubles.add("tampered")
        self.note(f"tampering: {note}")

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def decide(self, step: Step, reason: str, seconds: float) -> None:
        self.outcomes.setdefault(step.name, Outcome(reason == "passed", reason, round(seconds, 4)))

    # --- result ---

    def result(self) -> Executed:
        """Outcomes of all tests, and the notebook with outputs that nbgrader turns into the same marks."""
        for step in self.steps:
            if step.kind in ("test", "hidden"):
                self.decide(step, "not run", 0.0)
                if "tampered" in self.troubles:
                    self.outcomes[step.name] = Outcome(False, "tampered")
                self.outputs[step.index] = self.verdict(step)
        for index, cell in enumerate(self.notebook["cells"]):
            if cell["cell_type"] == "code":
                cell["outputs"] = self.outputs.get(index, [])
                cell["execution_count"] = index + 1 if index in self.outputs else None
        severity = ("tampered", "crashed", "timeout")
        status = next((trouble for trouble in severity if trouble in self.troubles), "graded")
        seconds = round(time.monotonic() - self.began, 3)
        return Executed(self.notebook, status, self.outcomes, self.notes, self.statement, seconds)

    def verdict(self, step: Step) -> list[dict[str, Any]]:
        """Outputs of a test: none if it passed, one error if not. Nothing a student's code wrote is among them."""
        outcome = self.outcomes[step.name]
        if outcome.passed:
            return []
        if outcome.reason != "failed":
            return [_error(outcome.reason, WHY[outcome.reason])]
        error = self.errors[step.name]
        return [_error(error["ename"], error["evalue"], error["traceback"])]


def plan(notebook: dict[str, Any], limits: Limits) -> list[Step]:
    """The code cells to execute, in order; cells for the student's eyes only (`demo`) are left out."""
    steps = []
    for index, cell in enumerate(notebook["cells"]):
        own = cell["metadata"].get("seqcourse", {})
        if cell["cell_type"] != "code" or own.get("role") == "demo":
            continue
        nbgrader = cell["metadata"].get("nbgrader", {})
        name = nbgrader.get("grade_id") or f"cell {index + 1}"
        seconds = float(own.get("timeout", limits.cell_seconds))
        steps.append(Step(index, name, _kind(cell, nbgrader), _text(cell["source"]), seconds))
    return steps


def _kind(cell: dict[str, Any], nbgrader: dict[str, Any]) -> str:
    if nbgrader.get("solution"):
        return "answer"
    if not nbgrader.get("grade"):
        return "given"
    return "hidden" if HIDDEN in _text(cell["source"]) else "test"


def _text(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def _error(name: str, value: str, traceback: list[str] | None = None) -> dict[str, Any]:
    lines = traceback or [f"{name}: {value}"]
    return {"output_type": "error", "ename": name, "evalue": value, "traceback": lines}


def well_formed(answer: dict[str, Any], nonce: str, count: int) -> bool:
    """Whether a T's answer has the nonce of its question and exactly the fields and types of an answer."""
    results = answer.get("results")
    return (
        answer.get("nonce") == nonce
        and isinstance(results, list)
        and len(results) == count
        and all(isinstance(r, dict) and (r.get("passed") is True or _is_failure(r)) for r in results)
        and isinstance(answer.get("changes"), list)
        and isinstance(answer.get("redefined"), list)
    )


def _is_failure(result: dict[str, Any]) -> bool:
    texts = [result.get("ename"), result.get("evalue"), *(result.get("traceback") or [None])]
    return (
        result.get("passed") is False
        and all(isinstance(t, str) for t in texts)
        and sum(map(len, texts)) < 20_000
    )


def clean_outputs(outputs: Any, limit: int) -> list[dict[str, Any]]:
    """Outputs as S reported them, if they have the form and size that S gives them; else a remark."""
    kinds = {"stream", "display_data", "execute_result", "error"}
    right = isinstance(outputs, list) and all(
        isinstance(o, dict) and o.get("output_type") in kinds for o in outputs
    )
    if right and len(str(outputs)) < 20 * limit + 200_000:
        return outputs
    return [_error("output", "The outputs of this cell have no form that a notebook can show.")]
