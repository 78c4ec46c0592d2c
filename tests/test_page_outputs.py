"""The book's notebooks run side by side, and Jupyter Book takes their outputs from the cache."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_cache import get_cache

from seqcourse.page_outputs import run_pages

PAGE = """---
jupytext:
  text_representation: {{extension: .md, format_name: myst}}
kernelspec: {{display_name: Python 3, language: python, name: python3}}
---

# {title}

```{{code-cell}} python3
{code}
```
"""
# Each page waits for the other to have begun, so that pages one after the other would both fail.
MEETING = """import pathlib, time
pathlib.Path("{own}.begun").touch()
end = time.monotonic() + 60
while not pathlib.Path("{other}.begun").exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.05)
print("token", time.time_ns())"""


@pytest.fixture
def book(tmp_path) -> Path:
    """Two notebooks that must run at the same time, one that fails, and a page without code."""
    folder = tmp_path / "book"
    folder.mkdir()
    for own, other in (("first", "second"), ("second", "first")):
        code = MEETING.format(own=own, other=other)
        (folder / f"{own}.md").write_text(PAGE.format(title=own, code=code), encoding="utf-8")
    (folder / "wrong.md").write_text(PAGE.format(title="Wrong", code="1 / 0"), encoding="utf-8")
    (folder / "plain.md").write_text("# Plain\n", encoding="utf-8")
    return folder


def tokens(cache_folder: Path) -> list[str]:
    """What the cached notebooks have printed."""
    cache = get_cache(cache_folder)
    bundles = [cache.get_cache_bundle(record.pk) for record in cache.list_cache_records()]
    return sorted(bundle.nb.cells[-1].outputs[0].text.strip() for bundle in bundles)


def test_pages_run_side_by_side_once_and_a_failing_one_is_not_kept(book, tmp_path):
    cache = tmp_path / "cache"
    assert run_pages(book, cache, cell_seconds=90, workers=2) == [book / "wrong.md"]
    found = tokens(cache)
    assert len(set(found)) == 2
    assert run_pages(book, cache, cell_seconds=90, workers=2) == [book / "wrong.md"]
    assert tokens(cache) == found  # the good ones did not run again


def test_a_cell_that_takes_too_long_fails(book, tmp_path):
    for page in book.glob("*.md"):
        page.unlink()
    slow = PAGE.format(title="Slow", code="import time\ntime.sleep(60)")
    (book / "slow.md").write_text(slow, encoding="utf-8")
    assert run_pages(book, tmp_path / "cache", cell_seconds=2) == [book / "slow.md"]


def test_jupyter_book_shows_these_outputs_and_runs_nothing_again(book, tmp_path):
    (book / "wrong.md").unlink()
    cache = tmp_path / "_build" / ".jupyter_cache"
    cache.parent.mkdir()
    assert run_pages(book, cache, cell_seconds=90, workers=2) == []
    (book / "_config.yml").write_text("execute: {execute_notebooks: cache}\n", encoding="utf-8")
    toc = {"format": "jb-book", "root": "plain", "chapters": [{"file": "first"}, {"file": "second"}]}
    (book / "_toc.yml").write_text(json.dumps(toc), encoding="utf-8")
    build = ("build", str(book), "--path-output", str(tmp_path))
    command = "from jupyter_book.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", command, *build], check=True, capture_output=True)
    pages = [tmp_path / "_build" / "html" / f"{name}.html" for name in ("first", "second")]
    shown = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert all(token in shown for token in tokens(cache))
