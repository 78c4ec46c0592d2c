"""Outside the sandbox: start a zygote in bubblewrap, lend it to submissions, watch it, throw it away.

What a submission can see: Python, the course's package and data (all read-only), an empty /tmp. No network, no other
processes, no capabilities. Without bubblewrap the zygote runs with resource limits only, and says so.
"""

from __future__ import annotations

import atexit
import functools
import os
import secrets
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import seqcourse
from seqcourse.data.fetch import Store
from seqcourse.data.registry import datasets
from seqcourse.grading import channel, seccomp
from seqcourse.grading.limits import Limits

BUBBLEWRAP = "bubblewrap"
UNPROTECTED = (
    "NO SANDBOX: bubblewrap was not found or does not work here. Memory, time and output are limited, but a submission "
    "CAN read and write files of this user (solutions, gradebook, other students), use the network and signal other "
    "processes. Install bubblewrap, or demand it with --require-sandbox."
)
_START_SECONDS = 120.0  # importing torch from a cold disk
_PACKAGE, _DATA, _HOME = "/course", "/data", "/tmp/home"


class SandboxMissing(RuntimeError):
    """A sandbox was demanded, and this machine has none."""


class SandboxLost(Exception):
    """The zygote does not answer or broke a limit: the sandbox is of no use any more."""


class Sandbox:
    """One zygote. `start` forks the process of a submission, `wipe` removes all traces of it."""

    def __init__(self) -> None:
        self.protected = not problem()
        ours, theirs = socket.socketpair()
        self.control = ours
        self.process = _spawner.submit(_spawn, theirs).result()
        theirs.close()
        self.limits, self.available = Limits(), psutil.virtual_memory().available
        try:
            self._ask(None, _START_SECONDS)
        except SandboxLost as lost:
            self.close()
            raise SandboxMissing(f"the grading process did not start: {lost}") from lost

    @property
    def statement(self) -> str:
        """What protects the machine from submissions, or what does not."""
        return BUBBLEWRAP if self.protected else UNPROTECTED

    def start(self, limits: Limits) -> tuple[int, socket.socket]:
        """Fork the process of a submission: its pid and the socket it listens to."""
        self.limits, self.available = limits, psutil.virtual_memory().available
        ours, theirs = socket.socketpair()
        with theirs:
            pid = self._ask({"do": "start", "limits": limits.as_dict()}, 30.0, [theirs.fileno()])["pid"]
        ours.settimeout(limits.cell_seconds)  # who does not read must not stop the grader while it writes
        return pid, ours

    def kill(self, pid: int) -> None:
        """Kill one process of the submission."""
        self._ask({"do": "kill", "pid": pid}, 30.0)

    def wipe(self) -> dict[str, Any]:
        """Kill all processes of the submission and empty its folders: what was `killed`, what is `left`."""
        return self._ask({"do": "wipe"}, 30.0)

    def alive(self) -> bool:
        """Whether the zygote still runs."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the zygote and with it, as the kernel ends a pid namespace, every process inside."""
        self.control.close()
        # Not bubblewrap alone: its death reaches a zygote that is starved of time, or of another user, late or never.
        # Without a pid namespace every process has to be killed by itself.
        for process in family(self.process.pid)[: 2 if self.protected else None]:
            _quietly(process.kill)
        self.process.kill()
        self.process.wait()

    def watch(self) -> None:
        """Raise if the submission has too many processes or too much memory, or the zygote is gone.

        Raises:
            SandboxLost: Says which limit was broken; the sandbox is closed then.
        """
        if complaint := self._complaint():
            self.close()
            raise SandboxLost(complaint)

    def _complaint(self) -> str:
        if not self.alive():
            return "the sandbox ended"
        processes = family(self.process.pid)
        if len(processes) > self.limits.processes:
            return f"more than {self.limits.processes} processes"
        # Forks share their pages, and counting those of thirty waiting tests costs as much as a test. It is not
        # needed while the machine has lost less memory than a quarter of the limit since the submission began.
        if self.available - psutil.virtual_memory().available < self.limits.memory // 4:
            return ""
        used = memory(processes, self.limits.memory)
        return (
            f"more than {self.limits.memory / 2**20:.0f} MiB of memory" if used > self.limits.memory else ""
        )

    def _ask(
        self, message: dict[str, Any] | None, seconds: float, fds: list[int] | None = None
    ) -> dict[str, Any]:
        """Send a command to the zygote and wait for its answer."""
        if not self.alive():
            raise SandboxLost("the sandbox has ended")
        try:
            if message:
                channel.send(self.control, message, fds or [])
            return channel.receive(
                self.control, waiter(self.control, time.monotonic() + seconds, self.watch)
            )[0]
        except (channel.Closed, channel.Forged, TimeoutError) as error:
            raise SandboxLost(f"the zygote does not answer: {error or type(error).__name__}") from error


def waiter(sock: socket.socket, deadline: float, watch: Callable[[], None]) -> Callable[[], None]:
    """A function that waits until `sock` can be read and meanwhile watches the sandbox.

    It raises TimeoutError at the deadline, also when bytes trickle in one by one.
    """

    def wait() -> None:
        pause = 0.1  # short tests pay nothing for the watching
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                watch()  # a broken limit explains more than "too slow"
                raise TimeoutError
            if select.select([sock], [], [], min(left, pause))[0]:
                return
            pause = 0.2
            watch()

    return wait


# --- Watching from outside --------------------------------------------------------------------------------


def family(pid: int) -> list[psutil.Process]:
    """The process `pid` and everything below it."""
    try:
        first = psutil.Process(pid)
        return [first, *first.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory(processes: list[psutil.Process], limit: int) -> int:
    """Bytes of real memory of all processes; pages they share count once (slow, so only near the limit)."""
    rough = sum(_quietly(lambda p=process: p.memory_info().rss) for process in processes)
    if rough <= limit:
        return rough
    return sum(_quietly(lambda p=process: _proportional(p)) for process in processes)


def _proportional(process: psutil.Process) -> int:
    return process.memory_full_info().pss if sys.platform == "linux" else process.memory_info().rss


def _quietly(action: Callable[[], int | None]) -> int:
    """What `action` returns, or 0: a process may end, or belong to the kernel, while one looks at it."""
    try:
        return action() or 0
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return 0


# --- Starting ------------------------------------------------------------------------------------------------

# bubblewrap dies with the THREAD that started it, so one thread that lives as long as the program starts all.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="seqcourse-sandbox")


def _spawn(control: socket.socket) -> subprocess.Popen:
    """Start a zygote. Its file descriptors: the control socket, and for bubblewrap the filter of system calls."""
    options, _ = isolation()
    env = environment(options) | {"SEQCOURSE_CONTROL": str(control.fileno())}
    command = [sys.executable, "-m", "seqcourse.grading.runner"]
    if not options:
        return _popen(command, env, [control.fileno()], start_new_session=True)
    with _filter() as fd:
        return _popen(bubblewrap(options, env, fd, command), env, [control.fileno(), fd])


def _popen(command: list[str], env: dict[str, str], fds: list[int], **more: Any) -> subprocess.Popen:
    # Whatever student code may print below Python is dropped; the zygote's own complaints stay on stderr.
    null = subprocess.DEVNULL
    return subprocess.Popen(command, env=env, pass_fds=fds, cwd="/", stdin=null, stdout=null, **more)


@contextmanager
def _filter() -> Iterator[int]:
    """A file descriptor from which bubblewrap reads the filter."""
    read, write = os.pipe()
    os.write(write, seccomp.program())
    os.close(write)
    try:
        yield read
    finally:
        os.close(read)


# Ways to make the sandbox. As root the zygote takes on a user id of its own (see runner.become): the kernel exempts
# root from the limit on processes, and files of root's stay closed to it. Everybody else, and root in a container
# that may not do this, gets a user namespace.
_AS_ROOT = (
    "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup-try "
    "--cap-drop ALL --cap-add CAP_SETUID --cap-add CAP_SETGID"
)
_AS_USER = "--unshare-all --unshare-user --uid 1000 --gid 1000 --cap-drop ALL"
_FIRST_UID = 1_900_000_000
# Run in a trial sandbox: can the Python environment be read there?
_TRIAL = """
import os, importlib.util
uid = int(os.environ.get("SEQCOURSE_UID", 0))
if uid:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
open(importlib.util.find_spec("torch").origin).close()
open("/tmp/x", "w").close()
"""


@functools.cache
def isolation() -> tuple[str, str]:
    """bubblewrap's options that work here, or why none do."""
    if not hasattr(os, "fork"):
        raise SandboxMissing("grading forks processes, which this system cannot: on Windows, use WSL")
    if not shutil.which("bwrap"):
        return "", "the program bwrap (package bubblewrap) is not installed"
    complaint = ""
    for options in (_AS_ROOT, _AS_USER) if os.geteuid() == 0 else (_AS_USER,):
        with _filter() as fd:
            command = bubblewrap(options, environment(options), fd, [sys.executable, "-c", _TRIAL])
            tried = subprocess.run(command, pass_fds=[fd], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return options, ""
        complaint = tried.stderr.strip() or f"bwrap ended with {tried.returncode}"
    return "", complaint


def problem() -> str:
    """Why there is no sandbox on this machine; empty if there is one."""
    return isolation()[1]


def environment(options: str) -> dict[str, str]:
    """The environment of a zygote: nothing of the grader's own, so no password or token in it.

    Args:
        options: bubblewrap's, or empty without it.
    """
    common = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "student",
        "MPLBACKEND": "Agg",
        "PYTHONHASHSEED": "0",  # the same submission, the same mark
        "PYTHONSAFEPATH": "1",  # no module from the working folder in place of a real one
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_THREAD_LIMIT": "1",  # whatever set_num_threads says: a fork loses OpenMP's threads, and hangs
        "MKL_NUM_THREADS": "1",
        "SEQCOURSE_OFFLINE": "1",
    }
    if options:
        own = {"SEQCOURSE_UID": str(_FIRST_UID + secrets.randbelow(10**8))} if options == _AS_ROOT else {}
        return common | {"HOME": _HOME, "PYTHONPATH": _PACKAGE, "SEQCOURSE_DATA_DIR": _DATA} | own
    kept = ("HOME", "SEQCOURSE_DATA_DIR", "SEQCOURSE_MIRROR", "PYTHONPATH")
    return common | {name: os.environ[name] for name in kept if name in os.environ}


def bubblewrap(options: str, env: dict[str, str], filter_fd: int, program: list[str]) -> list[str]:
    """The command that runs `program` in the sandbox."""
    command = ["bwrap", *options.split(), "--hostname", "sandbox", "--new-session", "--die-with-parent"]
    # The zygote is process 1: the kernel lets nobody inside kill it, and when it ends, it ends all others.
    command += ["--as-pid-1"]
    command += ["--seccomp", str(filter_fd)] if seccomp.program() else []
    command += [
        "--proc",
        "/proc",
        *_kernel_settings(),
        "--dev",
        "/dev",
        *_scratch("/dev/shm"),
        *_scratch("/tmp"),
    ]
    command += _system() + _python() + _course() + _data()
    # Nothing but the two scratch folders can be written: not even the sandbox's own root.
    command += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp", "--clearenv"]
    command += [part for name, value in env.items() for part in ("--setenv", name, value)]
    return [*command, "--", *program]


def _scratch(folder: str) -> list[str]:
    return ["--perms", "1777", "--size", str(Limits().scratch), "--tmpfs", folder]


def _kernel_settings() -> list[str]:
    """Settings of the whole machine, read-only: a grader that is root could else be made to write them."""
    names = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi")
    return [part for name in names for part in ("--ro-bind-try", f"/proc/{name}", f"/proc/{name}")]


def _bind(source: str | Path, place: str | Path) -> list[str]:
    """Show `source`, if it exists, read-only at `place`; folders above can be entered and are empty otherwise."""
    above = [part for folder in list(Path(place).parents)[-2::-1] for part in ("--dir", str(folder))]
    return [*above, "--ro-bind-try", str(source), str(place)]


def _system() -> list[str]:
    """Libraries and programs, not the whole of /usr: nbgrader's exchange lies in /usr/local/share."""
    parts: list[str] = []
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        parts += _bind(f"/usr/{name}", f"/usr/{name}")
        top = Path("/", name)
        parts += ["--symlink", os.readlink(top), str(top)] if top.is_symlink() else _bind(top, top)
    return parts + _bind("/etc/ld.so.cache", "/etc/ld.so.cache")


def _python() -> list[str]:
    """The interpreter and its packages."""
    folders: list[str] = []
    for prefix in dict.fromkeys((sys.base_prefix, sys.prefix)):
        shared = prefix in ("/usr", "/usr/local")  # other things live there too
        folders += [f"{prefix}/{part}" for part in ("bin", "lib", "lib64")] if shared else [prefix]
    return [part for folder in folders for part in _bind(folder, folder)]


def _course() -> list[str]:
    """The package alone: beside it, in a checkout, lie solutions, tests and perhaps the gradebook."""
    return _bind(Path(seqcourse.__file__).parent, f"{_PACKAGE}/seqcourse")


def _data() -> list[str]:
    """The registry's files that cache or mirror have, one by one: nothing else of those folders."""
    store = Store.from_environment()
    mirror = store.mirror.removeprefix("file://")
    places = [store.directory, *([Path(mirror).expanduser()] if mirror and "://" not in mirror else [])]
    parts = ["--dir", _DATA]
    for path in (file.path for dataset in datasets().values() for file in dataset.content):
        found = next((place / path for place in places if (place / path).is_file()), None)
        parts += _bind(found, f"{_DATA}/{path}") if found else []
    return parts


# --- Lending -------------------------------------------------------------------------------------------------


class SandboxPool:
    """Keeps idle zygotes; as many as submissions are executed at once. Safe with threads."""

    def __init__(self) -> None:
        self._idle: list[Sandbox] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[Sandbox]:
        """A sandbox for one submission; whoever has doubts about it afterwards closes it."""
        sandbox = self._take() or Sandbox()
        try:
            yield sandbox
        except BaseException:
            sandbox.close()
            raise
        if sandbox.alive():
            with self._lock:
                self._idle.append(sandbox)

    def close(self) -> None:
        """End all idle zygotes."""
        with self._lock:
            idle, self._idle = self._idle, []
        for sandbox in idle:
            sandbox.close()

    def forget(self) -> None:
        """After a fork: the zygotes belong to the parent."""
        self._idle, self._lock = [], threading.Lock()

    def _take(self) -> Sandbox | None:
        with self._lock:
            while self._idle:
                sandbox = self._idle.pop()
                if sandbox.alive():
                    return sandbox
                sandbox.close()
        return None


sandboxes = SandboxPool()
atexit.register(sandboxes.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=sandboxes.forget)
