"""Downloads from a local server that truncates, corrupts, stalls and refuses."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace

import data_server as behave
import pytest

from seqcourse.data.download import Patience
from seqcourse.data.fetch import CacheNotWritable, Store, WrongHash
from seqcourse.data.registry import Dataset, File
from seqcourse.data.source import DataUnavailable

QUICK = Patience(connect=1.0, read=0.3, attempts=3, backoff=0.01)
CONTENT = random.Random(0).randbytes(300_007)
PATH = "toy/one.bin"


def toy(*urls: str, content: bytes = CONTENT) -> Dataset:
    file = File(PATH, "plain", hashlib.sha256(content).hexdigest(), len(content), urls)
    return Dataset("toy", "about", "licence", "citation", "note", False, (file,))


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with behave.Server() as running:
        yield running


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", patience=QUICK)


def files_in(store: Store) -> set[str]:
    """What stands in the cache, without locks and the folder of unfinished files."""
    found = {p.relative_to(store.directory) for p in store.directory.rglob("*") if p.is_file()}
    return {str(p) for p in found if p.parts[0] not in (".locks", ".incoming", ".unreachable")}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def assert_resumed(server: behave.Server) -> None:
    """The second request asked for what was missing: half had come, of which whole chunks count."""
    start = int(server.ranges(PATH)[1].removeprefix("bytes=").removesuffix("-"))
    assert len(CONTENT) // 4 < start <= len(CONTENT) // 2


def test_downloads_once_and_then_reads_the_cache(server, store):
    dataset = toy(server.serve(PATH, CONTENT))
    assert store.state(dataset.files[0]) == "missing"
    path = store.obtain(dataset)[PATH]
    assert path.read_bytes() == CONTENT
    assert store.obtain(dataset) == {PATH: path}
    assert server.ranges(PATH) == [None]
    assert store.state(dataset.files[0]) == "cached"
    assert files_in(store) == {PATH}
    assert not any((store.directory / ".incoming").iterdir())


@pytest.mark.parametrize("in_lab", [True, False])
def test_progress_bar_shows_in_lab_and_stays_out_of_builds(server, store, monkeypatch, capfd, in_lab):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    if in_lab:
        monkeypatch.setenv("JPY_SESSION_NAME", "notebook.ipynb")
    store.obtain(toy(server.serve(PATH, CONTENT)))
    shown = capfd.readouterr()
    assert shown.out == ""
    assert ("one.bin" in shown.err and "100%" in shown.err) == in_lab
    assert bool(shown.err) == in_lab


def test_broken_download_resumes_where_it_stopped(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.truncated, behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT
    assert_resumed(server)


@pytest.mark.parametrize(
    ("second", "requests"),
    [(behave.ignores_range, 2), (behave.wrong_range, 3)],
    ids=["ignored", "another range"],
)
def test_broken_download_restarts_where_the_server_cannot_resume(server, store, second, requests):
    dataset = toy(server.serve(PATH, CONTENT, behave.truncated, second, behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT
    assert_resumed(server)
    assert len(server.requests) == requests


def test_half_a_file_never_gets_the_final_name_and_the_next_run_goes_on(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.truncated))
    with pytest.raises(DataUnavailable, match=r"3 attempts"):
        store.obtain(dataset)
    assert files_in(store) == set()
    assert len(server.ranges(PATH)) == QUICK.attempts
    server.serve(PATH, CONTENT, behave.good)
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT
    start = int(server.ranges(PATH)[-1].removeprefix("bytes=").removesuffix("-"))
    assert start > len(CONTENT) // 2  # three attempts brought a half, a quarter, an eighth


def test_wrong_hash_names_file_url_both_hashes_and_what_to_do(server, store):
    dataset = toy(url := server.serve(PATH, CONTENT, behave.corrupted))
    with pytest.raises(WrongHash) as caught:
        store.obtain(dataset)
    got = hashlib.sha256(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])).hexdigest()
    for part in (
        PATH,
        url,
        f"expected sha256: {dataset.files[0].sha256}",
        f"got sha256:      {got}",
        "What to do",
    ):
        assert part in str(caught.value)
    assert files_in(store) == set()
    assert server.ranges(PATH) == [None, None]  # one clean restart, then it is the publisher's file


def test_corruption_on_the_way_is_repaired_by_a_clean_restart(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.corrupted, behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 5], ids=["shorter", "whole", "longer"])
def test_left_over_part_of_another_file_does_no_harm(server, store, length):
    dataset = toy(server.serve(PATH, CONTENT))
    folder = store.directory / ".incoming" / "toy__one.bin"
    folder.mkdir(parents=True)
    (folder / "part").write_bytes(b"x" * length)
    (folder / "tmpabc").write_bytes(b"left by a killed process")
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


def test_stalled_connection_is_given_up_after_the_read_timeout(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.stalled))
    started = time.monotonic()
    with pytest.raises(DataUnavailable, match="broke off or stalled"):
        store.obtain(dataset)
    assert QUICK.read * QUICK.attempts < time.monotonic() - started < 10


def test_stalled_once_goes_on_from_there(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.stalled, behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT
    assert_resumed(server)


def test_refused_connection_fails_at_once_and_is_remembered(server, store):
    slow_to_retry = replace(store, patience=replace(QUICK, backoff=60.0))
    dataset = toy(f"http://127.0.0.1:{closed_port()}/{PATH}")
    started = time.monotonic()
    with pytest.raises(DataUnavailable, match="no connection"):
        slow_to_retry.obtain(dataset)
    assert time.monotonic() - started < 10  # no retry: one would have waited 60 s
    with pytest.raises(DataUnavailable, match="could not be reached"):
        slow_to_retry.obtain(dataset)


def test_remembered_host_is_left_alone_until_forgotten(server, store):
    dataset = toy(url := server.serve(PATH, CONTENT))
    store._remember_unreachable(url)
    with pytest.raises(DataUnavailable, match="seqcourse data fetch"):
        store.obtain(dataset)
    assert server.requests == []
    store.forget_failures()
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


def test_remembered_failure_expires(server, store):
    dataset = toy(url := server.serve(PATH, CONTENT))
    store._remember_unreachable(url)
    long_ago = time.time() - QUICK.remember - 1
    os.utime(store._marker(url), (long_ago, long_ago))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


@pytest.mark.parametrize(("code", "requests"), [(404, 1), (403, 1), (500, 3), (503, 3), (429, 3)])
def test_error_status_is_retried_only_where_it_may_pass(server, store, code, requests):
    dataset = toy(server.serve(PATH, CONTENT, behave.status(code)))
    with pytest.raises(DataUnavailable, match=f"answered {code}"):
        store.obtain(dataset)
    assert len(server.requests) == requests
    assert files_in(store) == set()


def test_passing_server_error_is_survived(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.status(500), behave.status(503), behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


@pytest.mark.parametrize(
    "behaviour", [behave.length_too_short, behave.length_too_long, behave.no_length], ids=lambda b: b.__name__
)
def test_wrong_content_length_is_no_obstacle(server, store, behaviour):
    dataset = toy(server.serve(PATH, CONTENT, behaviour, behave.good))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


def test_next_url_is_tried_when_the_first_fails(server, store):
    broken = server.serve("elsewhere.bin", b"", behave.status(404))
    dataset = toy(broken, server.serve(PATH, CONTENT))
    assert store.obtain(dataset)[PATH].read_bytes() == CONTENT


def test_damaged_cache_is_noticed_and_fetched_anew(server, store):
    dataset = toy(server.serve(PATH, CONTENT))
    path = store.obtain(dataset)[PATH]
    path.write_bytes(CONTENT[:-1] + b"!")
    assert store.verify(dataset.files[0]).startswith("damaged")
    with pytest.warns(UserWarning, match="damaged"):
        store.obtain(dataset)
    assert path.read_bytes() == CONTENT
    assert store.verify(dataset.files[0]) == "ok"


FETCH = """
import sys
from pathlib import Path
from test_data_fetch import toy
from seqcourse.data.fetch import Store
print("ready", flush=True)
Store(Path(sys.argv[1])).obtain(toy(sys.argv[2]))
"""


def fetcher(store: Store, url: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", FETCH, str(store.directory), url]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_killed_download_is_completed_by_the_next_run(server, store):
    url = server.serve(PATH, CONTENT, behave.stalled, behave.good)
    part = store.directory / ".incoming" / "toy__one.bin" / "part"
    process = fetcher(store, url)
    wait_until(lambda: part.exists() and part.stat().st_size > 0)
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait(10)
    process.communicate()
    assert files_in(store) == set()
    had = part.stat().st_size
    assert store.obtain(toy(url))[PATH].read_bytes() == CONTENT
    assert server.ranges(PATH) == [None, f"bytes={had}-"]
    assert not any((store.directory / ".incoming").iterdir())


def test_processes_at_once_download_one_time(server, store):
    url = server.serve(PATH, CONTENT, behave.slow)
    processes = [fetcher(store, url) for _ in range(3)]
    results = [(*process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, _, code in results] == [0, 0, 0], results
    assert server.ranges(PATH) == [None]
    assert store.path(toy(url).files[0]).read_bytes() == CONTENT


def test_threads_at_once_download_one_time(server, store):
    dataset = toy(server.serve(PATH, CONTENT, behave.slow))
    paths: list[str] = []
    threads = [threading.Thread(target=lambda: paths.append(store.obtain(dataset)[PATH])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert paths == [store.directory / PATH] * 4
    assert server.ranges(PATH) == [None]


def test_offline_asks_nobody_and_says_so(server, store):
    dataset = toy(server.serve(PATH, CONTENT))
    offline = replace(store, offline=True, mirror=server.url)
    with pytest.raises(DataUnavailable, match="SEQCOURSE_OFFLINE"):
        offline.obtain(dataset)
    assert server.requests == []


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_mirror_folder_serves_offline(tmp_path, server, store, form):
    dataset = toy(server.serve(PATH, CONTENT))
    (tmp_path / "mirror/toy").mkdir(parents=True)
    (tmp_path / "mirror" / PATH).write_bytes(CONTENT)
    mirrored = replace(store, offline=True, mirror=form.format(tmp_path / "mirror"))
    assert mirrored.state(dataset.files[0]) == "mirror"
    assert mirrored.obtain(dataset)[PATH].read_bytes() == CONTENT
    assert server.requests == []
    assert mirrored.path(dataset.files[0]) == tmp_path / "cache" / PATH


def test_mirror_url_is_asked_first(server, store):
    public = server.serve("public.bin", CONTENT)
    server.serve(f"some/mirror/{PATH}", CONTENT)
    mirrored = replace(store, mirror=f"{server.url}/some/mirror/")
    assert mirrored.obtain(toy(public))[PATH].read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == [f"some/mirror/{PATH}"]


@pytest.mark.parametrize("content", [None, b"damaged"], ids=["lacks", "damaged"])
def test_public_place_stands_in_for_a_bad_mirror(tmp_path, server, store, content):
    (tmp_path / "mirror/toy").mkdir(parents=True)
    if content:
        (tmp_path / "mirror" / PATH).write_bytes(content)
    mirrored = replace(store, mirror=str(tmp_path / "mirror"))
    assert mirrored.obtain(toy(server.serve(PATH, CONTENT)))[PATH].read_bytes() == CONTENT


def test_damaged_mirror_alone_is_a_wrong_hash(tmp_path, store):
    (tmp_path / "mirror/toy").mkdir(parents=True)
    (tmp_path / "mirror" / PATH).write_bytes(b"damaged")
    with pytest.raises(WrongHash, match=hashlib.sha256(b"damaged").hexdigest()):
        replace(store, offline=True, mirror=str(tmp_path / "mirror")).obtain(toy())


def test_cache_that_cannot_be_a_folder_gives_a_clear_error(tmp_path, server):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CacheNotWritable, match="SEQCOURSE_DATA_DIR"):
        Store(tmp_path / "file" / "cache", patience=QUICK).obtain(toy(server.serve(PATH, CONTENT)))
    assert server.requests == []


READ_ONLY = """
import os, sys
from pathlib import Path
from test_data_fetch import toy
from seqcourse.data.fetch import CacheNotWritable, Store
store = Store(Path(sys.argv[1]))
import filelock, pooch, requests  # while they can still be read
if os.name == "posix" and os.geteuid() == 0:
    os.setuid(65534)  # the superuser may write everywhere
try:
    store.obtain(toy(sys.argv[2]))
except CacheNotWritable as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="chmod makes no folder read-only on Windows")
def test_read_only_cache_gives_a_clear_error(server):
    url = server.serve(PATH, CONTENT)
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose parents only its owner may enter
        os.chmod(folder, 0o555)
        command = [sys.executable, "-c", READ_ONLY, folder, url]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        os.chmod(folder, 0o755)
    assert "SEQCOURSE_DATA_DIR" in result.stdout, result
    assert folder in result.stdout
    assert server.requests == []


def test_environment_describes_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQCOURSE_DATA_DIR", str(tmp_path / "a"))
    monkeypatch.setenv("SEQCOURSE_MIRROR", "http://mirror.example/data")
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "1")
    assert Store.from_environment() == Store(tmp_path / "a", "http://mirror.example/data", True)
    assert Store.from_environment(tmp_path / "b").directory == tmp_path / "b"
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "0")
    monkeypatch.delenv("SEQCOURSE_DATA_DIR")
    monkeypatch.delenv("SEQCOURSE_MIRROR")
    default = Store.from_environment()
    assert (default.mirror, default.offline) == ("", False)
    assert "seqcourse" in str(default.directory)
