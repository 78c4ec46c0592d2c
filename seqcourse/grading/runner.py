"""Inside the sandbox: the zygote, the processes of submissions (S) and of tests (T).

The zygote imports torch once and forks an S for every submission. S runs the cells that the grader, outside, sends
one by one. For a test S forks a T, which gets the test's source over its own socket, so no test text is ever in the
process that runs the student's cells. A T may be left waiting: hidden tests get their source only when every visible
cell is done and S is dead.

What T says is believed only with the nonce that came with the source. A student's code runs in T too, when the test
calls it: what it could do there is what canaries and `integrity` are for.
"""

from __future__ import annotations

import ast
import builtins
import ctypes
import gc
import importlib
import importlib.util
import os
import platform
import random
import re
import resource
import signal
import socket
import sys
import traceback
import types
from pathlib import Path
from typing import Any, NoReturn

from seqcourse.grading import channel
from seqcourse.grading.canaries import canary
from seqcourse.grading.capture import Shell, Stream, build_shell, clean
from seqcourse.grading.integrity import Guard

# What exercises import: paid for once per zygote, not once per submission.
PRELOADED = (
    "numpy",
    "torch",
    "torch.nn.functional",
    "torch.testing",
    "torch.optim",
    "seqcourse.runtime",
    "seqcourse.checks",
    "seqcourse.data",
    "seqcourse.data.text",
    "seqcourse.recurrent",
    "seqcourse.training",
)
CONTROL = "SEQCOURSE_CONTROL"
WRITABLE = ("/tmp", "/dev/shm")
# Captured before student code exists: replacing os.fork or builtins.exec later changes nothing here.
_fork, _exit, _getpid = os.fork, os._exit, os.getpid
_compile, _exec, _parse = compile, exec, ast.parse
_BUILTINS = dict(vars(builtins))
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 1, 4, 36


def main() -> None:
    """Be the zygote: load everything, then fork and clean up on command until the grader hangs up."""
    control = socket.socket(fileno=int(os.environ.pop(CONTROL)))
    become(int(os.environ.pop("SEQCOURSE_UID", "0")))
    shield()
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.makedirs(os.path.expanduser("~"), exist_ok=True)
    preload()
    shell = build_shell()
    guard = Guard(shell)
    gc.collect()
    gc.freeze()  # children do not touch, hence do not copy, what is loaded here
    channel.send(control, {"ready": True})
    commands = {"start": lambda message, fds: start(control, fds[0], message["limits"], shell, guard)}
    commands |= {"kill": lambda message, _: kill(message["pid"]), "wipe": lambda *_: wipe()}
    while True:
        try:
            message, fds = channel.receive(control, max_fds=1)
        except channel.Closed:
            _exit(0)  # at once: the kernel then ends all other processes of the sandbox
        channel.send(control, commands[message["do"]](message, fds))


def preload() -> None:
    """Import what exercises need, one thread each: a fork keeps only the thread that forks."""
    for name in PRELOADED:
        if importlib.util.find_spec(name.partition(".")[0]) and importlib.util.find_spec(name):
            importlib.import_module(name)
    rehearse()
    random.seed(0)


def rehearse() -> None:
    """Do once what is slow only the first time, and make sure that tests that must fail do fail here."""
    import torch

    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)], lr=1.0)
    torch.optim.Adam([torch.zeros(1)], lr=1.0)
    for source in canary():
        try:
            exec(source, {})
        except Exception:
            continue
        raise RuntimeError(f"this passed, and should not: {source}")


def become(uid: int) -> None:
    """Started by root: turn into a user of one's own, without any rights, for good."""
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)


def die_with_parent() -> None:
    """Again, for a change of user cancels what bubblewrap has asked for."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def shield() -> None:
    """No other process of the same user may read or change this one's memory (ptrace, /proc/PID/mem)."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) or libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl failed")


# --- The zygote's commands -----------------------------------------------------------------------------


def start(
    control: socket.socket, fd: int, limits: dict[str, Any], shell: Shell, guard: Guard
) -> dict[str, Any]:
    """Fork the process of a submission; it talks over `fd` and has no other file open."""
    pid = _fork()
    if pid:
        os.close(fd)
        return {"pid": pid}
    try:
        control.close()  # else student code could give the zygote commands
        Submission(socket.socket(fileno=_alone(fd)), limits, shell, guard).serve()
    finally:
        _exit(0)


def kill(pid: int) -> dict[str, Any]:
    """Kill one process that a submission named; pid 1, the zygote itself, the kernel protects."""
    if pid > 1 and pid in descendants():
        os.kill(pid, signal.SIGKILL)
    reap(block=False)
    return {"killed": pid}


def wipe() -> dict[str, Any]:
    """Kill every process of the submission and remove what it wrote; says what was found or could not be removed."""
    daemons = [pid for pid in descendants() if not is_zombie(pid)]
    while processes := descendants():
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        reap(block=True)
    return {"killed": len(daemons), "left": [*left_files(), *left_ipc()]}


def descendants() -> list[int]:
    """All other processes of the sandbox. In a pid namespace everything; else the zygote's family."""
    everyone = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    if _getpid() == 1:
        return [pid for pid in everyone if pid != 1]
    parents = {pid: parent(pid) for pid in everyone}
    family, size = {_getpid()}, 0
    while len(family) > size:
        size = len(family)
        family |= {pid for pid, up in parents.items() if up in family}
    return sorted(family - {_getpid()})


def parent(pid: int) -> int:
    """The parent of a process; 0 if it has just ended."""
    return int(_stat(pid)[1]) if _stat(pid) else 0


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits to be reaped."""
    return not _stat(pid) or _stat(pid)[0] == "Z"


def _stat(pid: int) -> list[str]:
    """State and parent of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return []


def reap(block: bool) -> None:
    """Take leave of children that have ended; the zygote inherits every orphan."""
    try:
        while os.waitpid(-1, 0 if block else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # no children left


def left_files() -> list[str]:
    """Empty the writable folders, and name what resisted."""
    if _getpid() != 1:
        return []  # without a sandbox /tmp is everybody's; nothing is shared but what the statement says
    complaints = []
    for folder in WRITABLE:
        try:
            empty(folder, mounts())
        except (OSError, RecursionError) as error:
            complaints.append(f"{folder}: {error}")
    return complaints


def mounts() -> frozenset[str]:
    """Where something is mounted; a checkout below /tmp is shown read-only at its own place in the scratch."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return frozenset(line.split()[1].replace("\\040", " ") for line in lines)


def empty(folder: str, mounted: frozenset[str] = frozenset()) -> None:
    """Remove all that is in a folder, also where its permissions were taken away; not what is mounted there."""
    for entry in os.scandir(folder):
        if entry.path in mounted:
            continue
        if any(place.startswith(f"{entry.path}/") for place in mounted):
            empty(entry.path, mounted)
        elif entry.is_dir(follow_symlinks=False):
            os.chmod(entry.path, 0o700)
            empty(entry.path)
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)


def left_ipc() -> list[str]:
    """System V shared memory, semaphores and queues, which outlive the processes that made them."""
    if _getpid() != 1:
        return []
    tables = [Path("/proc/sysvipc") / kind for kind in ("shm", "sem", "msg")]
    return [str(table) for table in tables if table.exists() and len(table.read_text().splitlines()) > 1]


# --- S: the process of a submission ----------------------------------------------------------------------


class Submission:
    """Runs what the grader sends: cells here, tests in forks."""

    def __init__(self, sock: socket.socket, limits: dict[str, Any], shell: Shell, guard: Guard) -> None:
        self.sock, self.limits, self.shell, self.guard = sock, limits, shell, guard
        self.tests: list[int] = []  # pids, to be reaped: also what has ended counts as a process until then
        self.given: dict[str, Any] = {}  # what the course's own cells defined
        restrict(limits)
        work = Path(os.environ.get("HOME", "/tmp")) / "work"
        work.mkdir(parents=True, exist_ok=True)
        os.chdir(work)

    def serve(self) -> None:
        """Obey until the grader hangs up."""
        while True:
            message, fds = channel.receive(self.sock, max_fds=1)
            if message["do"] == "test":
                self.fork_test(fds[0])
            else:
                outputs = self.run(message["source"], message["given"])
                channel.send(self.sock, {"nonce": message["nonce"], "outputs": outputs})

    def run(self, source: str, given: bool) -> list[dict[str, Any]]:
        """Run a cell; remember what a cell of the course defines, for a student may redefine it."""
        before = dict(self.shell.user_ns)
        with_streams(self.shell)
        try:
            outputs = self.shell.run(source, self.limits["output"])
        except SystemExit:
            raise RuntimeError("the cell left the shell") from None
        if given:
            after = self.shell.user_ns.items()
            new = {k: v for k, v in after if not k.startswith("_") and before.get(k, self) is not v}
            self.given.update({k: v for k, v in new.items() if k not in ("In", "Out")})
        return outputs

    def fork_test(self, fd: int) -> None:
        """Fork a T, which keeps only its own socket, and go on at once."""
        if pid := _fork():
            os.close(fd)
            self.tests = [test for test in [*self.tests, pid] if not _ended(test)]
            return
        try:
            self.sock.close()
            Test(socket.socket(fileno=_alone(fd)), self).serve()
        finally:
            _exit(0)


def _ended(pid: int) -> bool:
    """Whether a child has ended, and then reap it."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True  # student code reaped it


def with_streams(shell: Shell) -> None:
    """Point the standard streams at the collector, again before every cell."""
    sys.stdout, sys.stderr = Stream("stdout", shell.collector), Stream("stderr", shell.collector)


def restrict(limits: dict[str, Any]) -> None:
    """Limits of one process; sums over processes are watched from outside."""
    wanted = {
        "RLIMIT_AS": limits["address_space"],
        "RLIMIT_CPU": int(limits["total_seconds"]) + 1,
        "RLIMIT_FSIZE": limits["scratch"],
        "RLIMIT_NOFILE": limits["open_files"],
        "RLIMIT_MSGQUEUE": 0,  # POSIX queues would outlive the submission
        "RLIMIT_CORE": 0,
        "RLIMIT_NPROC": most_tasks(limits),
    }
    for name, value in wanted.items():
        if hasattr(resource, name):
            resource.setrlimit(getattr(resource, name), (value, value))


def most_tasks(limits: dict[str, Any]) -> int:
    """Processes and threads together. Counted for this sandbox alone, except before Linux 5.14 in a user namespace."""
    release = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    alone = _getpid() == 1 or os.getppid() == 1
    return 2 * limits["processes"] if alone and (os.getuid() > 1000 or release >= (5, 14)) else 4096


def _alone(fd: int) -> int:
    """Close every other file, and let the standard streams of C code lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, fd)
    os.closerange(fd + 1, 4096)
    return fd


# --- T: the process of a test ------------------------------------------------------------------------------


class Test:
    """Runs test source on the names of a submission and reports what came of it."""

    def __init__(self, sock: socket.socket, submission: Submission) -> None:
        self.sock, self.guard = sock, submission.guard
        self.namespace = submission.shell.user_ns
        self.given = submission.given

    def serve(self) -> None:
        """Say that the fork worked, wait for source, run it, answer with its nonce."""
        shield()
        sys.settrace(None)  # a trace function could jump over assertions
        sys.setprofile(None)
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        channel.send(self.sock, {"pid": _getpid()})
        message, _ = channel.receive(self.sock)
        changes = self.guard.changes()
        redefined = self.restore()
        results = [self.run(source) for source in message["sources"]]
        changes += self.guard.changes()  # again: a function under test could have replaced something just now
        answer = {"nonce": message["nonce"], "results": results}
        channel.send(self.sock, answer | {"changes": sorted(set(changes))[:20], "redefined": redefined[:20]})

    def restore(self) -> list[str]:
        """Give the names of the course's cells back their values; say which a student had redefined."""
        redefined = [name for name, value in self.given.items() if self.namespace.get(name) is not value]
        self.namespace.update(self.given)
        return redefined

    def run(self, source: str) -> dict[str, Any]:
        """Run one test, statement by statement: a frame that jumps to its end skips one statement, not all."""
        try:
            for statement in self.statements(source):
                _exec(_compile(statement, "<test>", "exec", dont_inherit=True), self.namespace)
        except BaseException as error:  # also SystemExit and KeyboardInterrupt: none of them is a passed test
            return {"passed": False} | describe(error, source)
        return {"passed": True}

    def statements(self, source: str) -> list[ast.Module]:
        """The statements of a test, with the true builtins even where a student's cell defines such a name."""
        tree = _parse(source)
        hidden = {name for name in _BUILTINS.keys() & self.namespace.keys() if not name.startswith("_")}
        own = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        tree = _TrueBuiltins(hidden - own - self.given.keys(), self.namespace).visit(tree)
        return [ast.Module([statement], []) for statement in tree.body]


class _TrueBuiltins(ast.NodeTransformer):
    """Renames `len` to a name that holds the builtin; the student's functions keep seeing their own `len`."""

    def __init__(self, names: set[str], namespace: dict[str, Any]) -> None:
        self.names, self.namespace = names, namespace

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """Rename one use of a builtin."""
        if node.id not in self.names:
            return node
        alias = f"_builtin_{node.id}"
        self.namespace[alias] = _BUILTINS[node.id]
        return ast.copy_location(ast.Name(alias, node.ctx), node)


def describe(error: BaseException, source: str) -> dict[str, Any]:
    """Name, message and place of an error, as an output of a notebook shows it."""
    name = type(error).__name__
    try:
        value = clean(str(error), 2000)
    except BaseException as worse:  # a student's exception class with a broken __str__
        value = f"(its message cannot be shown: {type(worse).__name__})"
    lines = source.splitlines()
    places = [_place(frame, line, lines) for frame, line in traceback.walk_tb(error.__traceback__)]
    return {
        "ename": clean(name, 100),
        "evalue": value,
        "traceback": [*filter(None, places[-12:]), f"{name}: {value}"],
    }


def _place(frame: types.FrameType, line: int, test: list[str]) -> str:
    """One line of a traceback; frames of the grader itself are left out."""
    code = frame.f_code
    if code.co_filename == __file__:
        return ""
    if code.co_filename == "<test>":
        text = test[line - 1].strip() if 0 < line <= len(test) else ""
        return f"test, line {line}: {clean(text, 200)}"
    return f"{clean(os.path.basename(code.co_filename), 100)}, line {line}, in {clean(code.co_name, 100)}"


def _run() -> NoReturn:
    main()
    sys.exit(0)


if __name__ == "__main__":
    # As a module with its real name, so that `integrity` takes its picture of what really runs.
    importlib.import_module("seqcourse.grading.runner")._run()
