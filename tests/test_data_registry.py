"""The registry, the source card and the `seqcourse data` commands."""

from __future__ import annotations

import hashlib
import importlib.resources
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

import seqcourse.data
from seqcourse.cli import main
from seqcourse.data.fetch import Store
from seqcourse.data.prepare import BUILDERS
from seqcourse.data.registry import dataset, datasets, digest_of
from seqcourse.data.source import Source

BOOK = Path(__file__).parents[1] / "book"

# --- registry --------------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", datasets().values(), ids=lambda entry: entry.name)
def test_every_file_can_be_found_and_checked(entry):
    assert entry.about and entry.licence and entry.citation
    paths = [file.path for file in entry.files]
    assert len(set(paths)) == len(paths)
    for file in entry.files:
        assert file.path.startswith(f"{entry.name}/") and ".." not in file.path
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.bytes > 0
        assert file.kind in ("plain", "archive", "prepared")
        assert all(url.startswith("https://") for url in file.urls)
        if file.kind == "prepared":
            assert re.fullmatch(r"[0-9a-f]{64}", file.uncompressed_sha256)
            assert entry.file(file.built_from).kind == "archive"
            assert entry.name in BUILDERS
        else:
            assert file.urls


def test_pinned_urls_name_a_commit():
    """A branch name would change under the pinned hash."""
    urls = [url for entry in datasets().values() for file in entry.files for url in file.urls]
    on_github = [url for url in urls if "raw.githubusercontent.com" in url]
    assert len(on_github) > 90
    assert all(re.search(r"/[0-9a-f]{40}/", url) for url in on_github)


def test_registry_names_no_place_on_this_machine():
    text = importlib.resources.files("seqcourse.data").joinpath("registry.json").read_text(encoding="utf-8")
    assert not re.search(r'"/|"~|/(work|home|tmp)/|file://|localhost|127\.0\.0\.1', text)


def test_book_data_sets_are_those_the_pages_load():
    pages = "".join(page.read_text(encoding="utf-8") for page in BOOK.rglob("*.md"))
    loaders = [getattr(seqcourse.data, name) for name in set(re.findall(r"\bdata\.(load_\w+)\(", pages))]
    sources = [inspect.getsource(loader) for loader in loaders]
    loaded = {re.search(r'real_or_generated\(\s*"(\w+)"', source).group(1) for source in sources}
    assert len(loaded) >= 5
    assert {entry.name for entry in datasets().values() if entry.book} == loaded


def test_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'tinyshakespeare'"):
        dataset("tinyshakspeare")


def test_digest_of_several_files_depends_on_each():
    files = dataset("multi30k").content
    lines = sorted(f"{file.path} {file.sha256}" for file in files)
    assert digest_of(files) == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest_of(files) == digest_of(tuple(reversed(files)))
    assert digest_of(files[1:]) != digest_of(files)
    prepared = dataset("fsdd").content
    assert digest_of(prepared) == prepared[0].uncompressed_sha256


# --- source card -----------------------------------------------------------------------------------

REAL = Source("toy", False, "a" * 64, "Someone <2020>", "CC & co", "A note.")
STAND_IN = Source("generated toy", True, "b" * 64, note="In place of 'toy'.")


class Text(HTMLParser):
    """Collects text and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("source", "words"), [(REAL, "Real data: toy"), (STAND_IN, "GENERATED stand-in, not the real data")]
)
def test_card_says_first_whether_the_data_are_real(source, words):
    page = Text(source._repr_html_())
    assert page.open == []
    assert page.text.startswith(words)
    for value in (source.citation, source.licence, source.note, source.sha256):
        assert value in page.text
        assert value in source._repr_markdown_()
        assert value in str(source)


def test_card_sets_no_colour_of_its_own():
    """Inherited colours read well on a light and on a dark page."""
    html = REAL._repr_html_() + STAND_IN._repr_html_()
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b|rgb|hsl|background|[^-]color:", html)
    assert "currentColor" in html


def test_source_as_dictionary_comes_back():
    assert Source(**STAND_IN.as_dict()) == STAND_IN


# --- commands --------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `seqcourse data ...` without a network, with its cache and an (empty) mirror below tmp_path."""
    monkeypatch.setenv("SEQCOURSE_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SEQCOURSE_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("SEQCOURSE_OFFLINE", "1")
    return lambda *arguments: CliRunner().invoke(main, ["data", *arguments])


@pytest.fixture
def offered(monkeypatch, tmp_path):
    """Two small data sets whose content is ours, and a mirror that has the first."""
    monkeypatch.setattr("seqcourse.cli_data.datasets", lambda: entries)
    monkeypatch.setattr("seqcourse.cli_data.dataset", lambda name: entries[name])
    entries = {name: _toy(name) for name in ("first", "second")}
    path = tmp_path / "mirror" / "first" / "file.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"content of first")


def _toy(name: str) -> seqcourse.data.registry.Dataset:
    content = f"content of {name}".encode()
    digest = hashlib.sha256(content).hexdigest()
    file = seqcourse.data.registry.File(f"{name}/file.txt", "plain", digest, len(content))
    return seqcourse.data.registry.Dataset(name, "about", f"licence of {name}", "", "", True, (file,))


def test_list_shows_every_data_set_with_its_state(run):
    result = run("list")
    assert result.exit_code == 0
    for entry in datasets().values():
        line = next(line for line in result.output.splitlines() if line.startswith(entry.name + " "))
        assert entry.licence in line
        assert "missing" in line
        assert ("*" in line.split("missing")[0]) == entry.book


def test_list_tells_cached_from_mirrored(run, offered):
    def state(name):
        return next(line for line in run("list").output.splitlines() if line.startswith(name)).split()[5]

    assert (state("first"), state("second")) == ("mirror", "missing")
    assert run("fetch", "first").exit_code == 0
    assert state("first") == "cached"


def test_fetch_then_verify_then_damage(run, offered, tmp_path):
    assert "first: complete and checked" in run("fetch", "first").output
    assert "1 files ok, 0 damaged, 1 not in the cache" in run("verify").output
    (tmp_path / "cache/first/file.txt").write_bytes(b"content of thirst")
    result = run("verify")
    assert result.exit_code == 1
    for part in ("first/file.txt", hashlib.sha256(b"content of thirst").hexdigest(), "1 damaged"):
        assert part in result.output
    assert run("verify", "second").exit_code == 0
    with pytest.warns(UserWarning, match="damaged"):
        assert run("fetch", "first").exit_code == 0
    assert run("verify").exit_code == 0


@pytest.mark.parametrize("option", ["--book", "--all"])
def test_fetch_names_what_is_missing_and_what_will_be_generated(run, offered, option):
    result = run("fetch", option)
    assert result.exit_code == 1
    assert "first: complete" in result.output
    assert "second: NOT available" in result.output
    assert "1 of 2 data sets are missing: second." in result.output
    allowed = run("fetch", option, "--allow-missing")
    assert allowed.exit_code == 0
    assert "GENERATED stand-ins will take their place" in allowed.output
    assert "second" in allowed.output


def test_fetch_tries_again_a_host_that_was_unreachable(run, offered):
    store = Store.from_environment()
    store._remember_unreachable("https://host.invalid/file")
    assert store._marker("https://host.invalid/file").exists()
    run("fetch", "first")
    assert not store._marker("https://host.invalid/file").exists()


@pytest.mark.parametrize("arguments", [("fetch",), ("fetch", "nonsense"), ("verify", "nonsense")], ids=str)
def test_wrong_use_is_told(run, arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "data set" in result.output


def test_list_imports_no_torch(run):
    code = (
        "import sys, seqcourse.cli_data, seqcourse.data.fetch; print({'torch', 'pandas'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == "set()", result
