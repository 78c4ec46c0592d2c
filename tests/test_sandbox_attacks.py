"""Every promise of the sandbox, attacked: what hostile submissions get, see and leave behind."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from grading_fixtures import NAMES, STEP, TOTAL, WRONG, mark, outputs, reasons

import seqcourse
import seqcourse.grading.sandbox as sandbox_module
from seqcourse.grading.limits import MEBIBYTE, Limits

PASSED = dict.fromkeys(NAMES, "passed")
TAMPERED = dict.fromkeys(NAMES, "tampered")
CHECKOUT = Path(seqcourse.__file__).parents[1]

# Runs each attack and prints as JSON what it gave, or the error that stopped it.
REPORT = """
import json as _json
_found = {{}}
for _name, _attack in _json.loads({attacks!r}).items():
    _names = {{}}
    try:
        exec(_attack, _names)
        _found[_name] = str(_names.get("got", "done"))[:200]
    except BaseException as _error:
        _found[_name] = f"stopped: {{type(_error).__name__}}: {{_error}}"[:200]
print("REPORT" + _json.dumps(_found) + "\\n")
"""


def attack(attacks: dict[str, str], **limits: int) -> dict[str, str]:
    """What each attack brought, run from an answer cell of an otherwise right submission."""
    done = mark(step=STEP + REPORT.format(attacks=json.dumps(attacks)), limits=Limits(**limits))
    assert reasons(done) == PASSED, (done.status, done.notes)
    text = next(c for c in done.notebook["cells"] if c["id"] == "step")["outputs"][0]["text"]
    return json.loads(text.split("REPORT")[1].splitlines()[0])


def assert_all_stopped(found: dict[str, str]) -> None:
    assert {name: got for name, got in found.items() if not got.startswith("stopped: ")} == {}


def assert_end_soon(pids: list[int]) -> None:
    """The kernel needs a moment to end a pid namespace, more on a busy machine."""
    deadline = time.monotonic() + 60
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(pids) >= 2 and [pid for pid in pids if runs(pid)] == []


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def sandbox_pids() -> list[int]:
    """Processes of the sandboxes that are idle now, as the machine sees them."""
    idle = sandbox_module.sandboxes._idle
    return [process.pid for sandbox in idle for process in sandbox_module.family(sandbox.process.pid)]


# --- network ---


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = attack(
            {
                "connect out": "import socket; socket.create_connection(('93.184.216.34', 80), 2)",
                "connect to this machine": f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
                "dns": "import socket; socket.getaddrinfo('example.org', 80)",
                "udp": "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('8.8.8.8', 53))",
                "ipv6": "import socket; socket.create_connection(('::1', 80), 2)",
                "listen": "import socket; socket.create_server(('127.0.0.1', 0))",
                "raw": "import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
                "netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
                "host of a virtual machine": "import socket; socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
                "kernel crypto": "import socket; socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET)",
                "http": "import urllib.request; urllib.request.urlopen('http://example.org', timeout=2)",
            }
        )
    assert_all_stopped(found)


# --- files ---


@pytest.fixture
def secrets(tmp_path):
    """A course folder with what no submission may see, and a file in the grader's own home."""
    paths = ["gradebook.db", "solutions/01/01.ipynb", "submitted/anna/01/01.ipynb", "home/.netrc"]
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("secret")
    return [str(tmp_path / path) for path in paths]


def test_no_files_of_the_machine_can_be_read(secrets):
    own = [str(Path.home()), str(CHECKOUT / "tests"), str(CHECKOUT / "solutions"), str(CHECKOUT / ".git")]
    paths = [
        *secrets,
        __file__,
        "/etc/shadow",
        "/etc/passwd",
        "/etc/hostname",
        "/root",
        "/home",
        "/var",
        "/sys",
        "/srv",
    ]
    attacks = {
        path: f"import os\ngot = open({path!r}).read() if os.path.isfile({path!r}) else os.listdir({path!r})"
        for path in [*paths, *own]
    }
    found = attack(attacks)
    allowed = {path for path in found if _leads_to_python(path) and "secret" not in found[path]}
    assert_all_stopped({path: got for path, got in found.items() if path not in allowed})
    for path in allowed:  # an empty folder on the way to Python: nothing but that way can be seen in it
        assert eval(found[path]) == [Path(_leads_to_python(path)).relative_to(path).parts[0]]


def _leads_to_python(folder: str) -> str:
    """A folder of Python's that lies below `folder`, if any."""
    prefixes = [sys.base_prefix, sys.prefix]
    return next(
        (prefix for prefix in prefixes if Path(prefix).is_relative_to(folder) and prefix != folder), ""
    )


def test_grader_environment_and_processes_cannot_be_seen(monkeypatch):
    monkeypatch.setenv("SEQCOURSE_TEST_TOKEN", "geheim")
    found = attack(
        {
            "environment": "import os; got = dict(os.environ)",
            "of the zygote": "got = open('/proc/1/environ').read()",
            "processes": "import os; got = [p for p in os.listdir('/proc') if p.isdigit()]",
        }
    )
    assert "geheim" not in str(found) and found["of the zygote"].startswith("stopped: PermissionError")
    assert len(eval(found["processes"])) <= 6


def test_nothing_can_be_written_but_scratch():
    package = "/course/seqcourse/checks.py"
    places = [
        "/x",
        "/dev/x",
        "/usr/lib/x",
        "/course/x",
        package,
        f"{sys.prefix}/x",
        "/data/x",
        "/run/x",
        "/etc/x",
    ]
    attacks = {place: f"open({place!r}, 'a').write('x')" for place in places}
    attacks |= {
        "kernel's settings": "open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')",
        "sysrq": "open('/proc/sysrq-trigger', 'w').write('b')",
        "own limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "remount": "import ctypes; l = ctypes.CDLL(None); assert l.mount(b'x', b'/', b'', 4128, 0) == 0, 'no'",
        "device": "import os; os.mknod('/tmp/d', 0o060666, os.makedev(8, 0))",
        "chroot": "import os; os.chroot('/tmp')",
        "root": "import os; os.setuid(0)",
        "full scratch": "f = open('/tmp/big', 'wb')\nfor _ in range(300): f.write(bytes(2**20))",
        "full shared memory": "f = open('/dev/shm/big', 'wb')\nfor _ in range(300): f.write(bytes(2**20))",
    }
    assert_all_stopped(attack(attacks))


def test_other_processes_and_the_kernel_are_out_of_reach():
    call = "import ctypes, os; c = ctypes.CDLL(None, use_errno=True)\n"
    check = "\nif r == -1: raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\ngot = r"
    attacks = {
        "memory of the zygote": "open('/proc/1/mem', 'rb')",
        "maps of the zygote": "open('/proc/1/maps').read()",
        "files of the zygote": "import os; os.listdir('/proc/1/fd')",
        "kill the zygote": (
            "import os, time; os.kill(1, 9); time.sleep(0.2); os.kill(1, 0); raise OSError('it lives')"
        ),
        "ptrace": call + "r = c.ptrace(16, 1, 0, 0)" + check,
        "process_vm_readv": call + "r = c.process_vm_readv(1, 0, 0, 0, 0, 0)" + check,
        "keyring": call + "r = c.syscall(248, b'user', b'k', b'v', 1, -4)" + check,
        "shared memory of System V": call + "r = c.shmget(7, 4096, 0o1666)" + check,
        "message queue": call + "r = c.msgget(7, 0o1666)" + check,
        "new namespace": call + "r = c.unshare(0x10000000)" + check,
        "bpf": call + "r = c.syscall(321, 0, 0, 0)" + check,
        "io_uring": call + "r = c.syscall(425, 8, 0)" + check,
        "kernel log": call + "b = ctypes.create_string_buffer(99); r = c.klogctl(3, b, 99)" + check,
    }
    assert_all_stopped(attack(attacks))


# --- memory, processes, time ---


def test_memory_of_one_process_is_limited():
    done = mark(step=f"{STEP}\nhoard = torch.ones(2**30)")
    assert (done.status, reasons(done)) == ("graded", PASSED)
    assert "not enough memory" in outputs(done) or "alloc" in outputs(done)


FORK_HOARDERS = """
import os, time
for _ in range(6):
    if not os.fork():
        hoard = bytearray(b"x" * 100 * 2**20)
        time.sleep(1000)
time.sleep(1000)
"""
FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


@pytest.mark.parametrize(
    "bomb, note", [(FORK_HOARDERS, "MiB of memory"), (FORK_BOMB, "more than 64 processes")]
)
def test_memory_and_number_of_all_processes_are_limited(bomb, note):
    mark()
    pids = sandbox_pids()
    done = mark(total=TOTAL + bomb, limits=Limits(memory=700 * MEBIBYTE, cell_seconds=20))
    assert done.status == "crashed"
    assert reasons(done) == PASSED | {"total-visible": "failed", "total-hidden": "failed"}
    assert any(note in remark for remark in done.notes), done.notes
    assert_end_soon(pids)


def test_many_threads_are_survived():
    bomb = "import threading, time\nfor _ in range(100):\n    "
    bomb += "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()"
    done = mark(step=f"{STEP}\n{bomb}")
    assert done.status == "graded" and reasons(done) == PASSED


# --- what stays behind ---

DAEMON = """
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        while True:
            open("/tmp/alive", "w").write(str(time.time()))
            time.sleep(0.05)
    os._exit(0)
"""


def test_daemons_files_and_shared_memory_end_with_the_submission(monkeypatch):
    """Also if nobody had taken the code for suspicious and the sandbox were used again."""
    monkeypatch.setattr("seqcourse.grading.execute.suspicions", lambda source: [])
    leave = (
        DAEMON + "\nopen('/tmp/note', 'w').write('for you'); open('/dev/shm/note', 'w').write('for you')\n"
    )
    leave += (
        "os.makedirs('/tmp/a/b'); open('/tmp/a/b/c', 'w'); os.chmod('/tmp/a/b', 0); os.chmod('/tmp/a', 0)\n"
    )
    leave += "time.sleep(0.3); print('ALIVE', os.path.exists('/tmp/alive'))"
    first = mark(step=STEP + leave)
    assert (first.status, reasons(first)) == ("graded", PASSED) and "ALIVE True" in outputs(first)
    used = {sandbox.process.pid for sandbox in sandbox_module.sandboxes._idle}
    look = "\nimport os\nprint('SEEN', os.listdir('/tmp'), os.listdir('/dev/shm'), "
    look += "[p for p in os.listdir('/proc') if p.isdigit()])"
    second = mark(step=STEP + look)
    assert used & {sandbox.process.pid for sandbox in sandbox_module.sandboxes._idle}, (
        "expected the same sandbox"
    )
    assert "SEEN ['home'] [] ['1', '" in outputs(second)
    assert outputs(second).count("'") and "for you" not in outputs(second)


def test_suspicious_submissions_do_not_share_a_sandbox():
    mark(step=STEP)
    before = {sandbox.process.pid for sandbox in sandbox_module.sandboxes._idle}
    done = mark(step="import ctypes\n" + STEP)
    after = {sandbox.process.pid for sandbox in sandbox_module.sandboxes._idle}
    assert done.status == "graded" and done.notes == ["suspicious: import ctypes (line 1 of the answers)"]
    assert len(before - after) == 1


def test_closing_the_pool_ends_all_processes():
    mark()
    pids = sandbox_pids()
    sandbox_module.sandboxes.close()
    assert_end_soon(pids)


# --- attacks on the grader's own processes ---

SABOTAGE = {
    "kill everything": "import os\nos.kill(-1, 9)",
    "kill the parent": "import os\nos.kill(os.getppid(), 9); os.kill(os.getppid(), 2)",
    "close all files": "import os\nos.closerange(0, 4096)",
}


@pytest.mark.parametrize("name", SABOTAGE)
def test_sabotage_harms_only_its_own_submission(name):
    """Who kills everything also kills hidden tests that wait their turn; what was decided before stands."""
    done = mark(total=f"{TOTAL}\n{SABOTAGE[name]}")
    assert done.status in ("graded", "crashed")
    assert done.cells["step-visible"].passed
    assert mark().status == "graded"


FORGE = """
import os, json, struct
def forge(message):
    data = json.dumps(message).encode()
    for fd in range(3, 256):
        try:
            os.write(fd, struct.pack(">I", len(data)) + data)
        except OSError:
            pass
"""
ANSWER = '{"nonce": "0" * 32, "results": [{"passed": True}], "changes": [], "redefined": []}'


@pytest.mark.parametrize(
    "when",
    [
        f"forge({ANSWER})",
        f"def step(x, h):\n    forge({ANSWER})\n    return x",
        "forge({'pid': 1})",
        "os.write(3, b'x' * 99)",
    ],
)
def test_forged_results_are_found(when):
    done = mark(step=f"{WRONG['step']}\n{FORGE}\n{when}")
    assert (done.status, reasons(done)) == ("tampered", TAMPERED)


# --- attacks on the tests ---

PATCHES = {
    "torch.allclose": "torch.allclose = lambda *a, **k: True",
    "torch.equal": "torch.equal = lambda *a, **k: True",
    "setattr": "setattr(torch, 'all' + 'close', lambda *a, **k: True)",
    "Tensor.__eq__": "torch.Tensor.__eq__ = lambda *a: True",
    "Tensor.item": "torch.Tensor.item = lambda self: 600.0",
    "builtins.abs": "import builtins\nbuiltins.abs = lambda x: 0",
    "builtins.all": "__builtins__.all = lambda x: True",
    "assert_close": "torch.testing.assert_close = lambda *a, **k: None",
    "check_close": "import seqcourse.checks\nseqcourse.checks.check_close = lambda *a, **k: None",
    "code of check_close": "check_close.__code__ = (lambda *a, **k: None).__code__",
    "a helper of the checks": "import seqcourse.checks\nseqcourse.checks._as_array = None",
    "a builtin hidden in the checks": "import seqcourse.checks\nseqcourse.checks.isinstance = lambda *a: True",
    "AST transformer": (
        "import ast\nclass Drop(ast.NodeTransformer):\n    def visit_Assert(self, node):\n"
        "        return ast.Pass()\nget_ipython().ast_transformers.append(Drop())"
    ),
    "input transformer": "get_ipython().input_transformers_post.append(lambda lines: [])",
    "run_cell": "get_ipython().run_cell = lambda *a, **k: None",
    "class of the shell": "type(get_ipython()).run_cell = lambda *a, **k: None",
    "kernel.do_execute": "get_ipython().kernel.do_execute = lambda *a, **k: None",
    "the runner": "import seqcourse.grading.runner as r\nr._exec = lambda *a: None",
    "the runner's method": "import seqcourse.grading.runner as r\nr.Test.run = lambda *a: {'passed': True}",
    "json.dumps": "import json\njson.dumps = lambda *a: '{}'",
    "the channel": "import seqcourse.grading.channel as c\nc._dumps = lambda m: '{}'",
    "the watchman": (
        "import seqcourse.grading.integrity as i\ni.Guard.changes = lambda self: []\n"
        "torch.allclose = lambda *a: True"
    ),
    "while a test runs": "def step(x, h):\n    torch.allclose = lambda *a, **k: True\n    return x",
}


@pytest.mark.parametrize("name", PATCHES)
def test_patched_machinery_gets_nothing_and_is_flagged(name):
    done = mark(step=f"{WRONG['step']}\nimport torch\n{PATCHES[name]}", total=WRONG["total"])
    assert (done.status, reasons(done)) == ("tampered", TAMPERED), done.notes
    assert any(note.startswith("tampering: ") for note in done.notes)


JUMPS = {
    "trace": (
        "import sys\ndef step(x, h):\n    def jump(frame, event, arg):\n        return jump\n"
        "    sys.settrace(jump)\n    return x"
    ),
    "end of the test": (
        "import sys\ndef step(x, h):\n    frame = sys._getframe()\n"
        "    while frame.f_code.co_filename != '<test>': frame = frame.f_back\n"
        "    def jump(f, event, arg):\n        f.f_lineno = f.f_lineno + 1\n        return jump\n"
        "    frame.f_trace = jump; sys.settrace(lambda *a: None)\n    return x"
    ),
    "exit": "import os\ndef step(x, h):\n    os._exit(0)",
    "exception": "def step(x, h):\n    raise SystemExit(0)",
    "generator": "def step(x, h):\n    raise StopIteration",
    "displayed number": "import sys\ndef step(x, h):\n    sys.displayhook(4.0)\n    return x",
}


@pytest.mark.parametrize("name", JUMPS)
def test_jumping_over_assertions_earns_nothing(name):
    done = mark(step=JUMPS[name], total=WRONG["total"])
    assert not any(outcome.passed for outcome in done.cells.values()), done.notes


def test_names_of_the_course_cannot_be_hidden():
    fake = "\ndef check_close(*a, **k): pass\nclass torch:\n    allclose = equal = staticmethod(lambda *a, **k: True)\n"
    done = mark(step=WRONG["step"] + fake + "abs = lambda x: 0\nall = lambda x: True", total=WRONG["total"])
    assert set(reasons(done).values()) == {"failed"}
    assert "an answer redefines 'check_close' of the course; tests used the course's own" in done.notes


# --- hidden tests stay hidden ---

SPY = """
import gc, glob, os, sys, traceback
def spy(*_):
    found = [str(o) for o in gc.get_objects() if type(o) in (str, dict, list)]
    frame = sys._getframe()
    while frame:
        found.append(str(frame.f_locals) + str(frame.f_globals))
        frame = frame.f_back
    open("/tmp/loot" + str(os.getpid()), "w").write("".join(found))
    print("LOOT", "".join(found))
    raise RuntimeError("LOOT" + "".join(found)[-1000:])
"""
PEEK = "\nimport glob\nprint('PEEK', [open(p, errors='replace').read() for p in glob.glob('/tmp/loot*')], In, Out)\n"


def test_hidden_tests_reach_nothing_that_a_student_sees():
    done = mark(step=SPY + "step = spy", total=TOTAL + PEEK)
    assert not any(outcome.passed for outcome in done.cells.values())
    shown = outputs(done, visible_only=True) + str(done.notes)
    assert "PEEK" in shown
    assert "secret_number" not in shown and "secret_message" not in shown


def test_hidden_tests_do_not_reach_the_next_student(monkeypatch):
    monkeypatch.setattr("seqcourse.grading.execute.suspicions", lambda source: [])
    mark(step=SPY + DAEMON + "step = spy")
    after = mark(step=STEP + PEEK)
    assert after.status == "graded"
    assert "secret" not in outputs(after)


def test_hidden_tests_are_not_in_the_process_of_the_cells():
    """A thread that searches memory and waits for what comes finds visible tests at most."""
    watch = (
        "\nimport threading, gc, time, os\ndef watch():\n    while True:\n"
        "        hits = [o for o in gc.get_objects() if isinstance(o, dict)\n"
        "            and 'secret_number' in str(o.get('source', ''))]\n"
        "        if hits: open('/tmp/hit', 'w').write('x')\n        time.sleep(0.05)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
    )
    done = mark(step=STEP + watch, total=TOTAL + "\nimport os; print('HIT', os.path.exists('/tmp/hit'))")
    assert "HIT False" in outputs(done)


# --- the grader stays well ---


def test_file_descriptors_and_processes_of_the_grader_do_not_pile_up():
    mark()
    before = psutil.Process().num_fds()
    for body in (STEP, "import os; os._exit(1)", "raise ValueError", FORGE + "forge({})"):
        mark(step=body)
    sandbox_module.sandboxes.close()
    assert psutil.Process().num_fds() <= before
    assert [child for child in psutil.Process().children() if child.name() == "bwrap"] == []


def test_a_killed_grader_takes_its_sandboxes_with_it():
    script = (
        "import os, time; from grading_fixtures import mark\n"
        "import seqcourse.grading.sandbox as s\n"
        "mark(); print([p.pid for b in s.sandboxes._idle for p in s.family(b.process.pid)], flush=True)\n"
        "time.sleep(100)"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    grader = psutil.Popen([sys.executable, "-c", script], env=env, stdout=-1, text=True)
    pids = json.loads(grader.stdout.readline())
    grader.kill()
    grader.wait()
    assert_end_soon(pids)


def test_a_flood_of_messages_does_not_stop_the_grader():
    flood = "\nimport os, threading\ndef flood():\n    while True:\n"
    flood += "        try: os.write(3, b'\\xff' * 4096)\n        except OSError: return\n"
    done = []
    thread = threading.Thread(
        target=lambda: done.append(mark(step=STEP + flood + "threading.Thread(target=flood).start()"))
    )
    thread.start()
    thread.join(90)
    assert done and done[0].status == "tampered"
