"""Runs the book's notebooks side by side, for the cache from which Jupyter Book takes their outputs.

Jupyter Book runs one page after the other, and most of a build is waiting for that. What it finds in its cache it
does not run. A page that fails here is left to it: it runs the page again and reports the error where it stands.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn, JupyterCacheAbstract
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.read import is_myst_markdown_notebook, myst_nb_reader_plugin
from nbformat import NotebookNode
from tqdm.auto import tqdm


def cpus() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_pages(book: Path, cache_folder: Path, cell_seconds: int, workers: int | None = None) -> list[Path]:
    """Run every notebook of a book whose outputs are not in the cache yet, and put them there.

    Args:
        book: the folder of its pages.
        cache_folder: of jupyter-cache; made if it does not exist.
        cell_seconds: a cell that takes longer fails.
        workers: notebooks at a time; by default one per core, at most four, for each may need a gigabyte.

    Returns:
        The pages that failed; nothing of them is in the cache.
    """
    cache = get_cache(cache_folder)
    waiting = list(_pages_to_run(book, cache))
    failed = []
    for page, result in _run_all(waiting, cell_seconds, workers or min(cpus(), 4)):
        if result.err is not None:
            failed.append(page)
            continue
        outputs = CacheBundleIn(result.nb, str(page), data={"execution_seconds": result.time})
        cache.cache_notebook_bundle(outputs, check_validity=False, overwrite=True)
    return sorted(failed)


def _pages_to_run(book: Path, cache: JupyterCacheAbstract) -> Iterator[tuple[Path, NotebookNode]]:
    for page in sorted(book.rglob("*.md")):
        if is_myst_markdown_notebook(page.read_text(encoding="utf-8")):
            notebook = myst_nb_reader_plugin(str(page))
            try:
                cache.match_cache_notebook(notebook)
            except KeyError:
                yield page, notebook


def _run_all(
    waiting: Sequence[tuple[Path, NotebookNode]], cell_seconds: int, workers: int
) -> Iterator[tuple[Path, ExecutionResult]]:
    """Each page with its outputs, as they end: a thread waits for each notebook's kernel, a process of its own."""

    def run(page: Path, notebook: NotebookNode) -> ExecutionResult:
        return single_nb_execution(notebook, str(page.parent), cell_seconds, allow_errors=False)

    with ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(run, page, notebook): page for page, notebook in waiting}
        for future in tqdm(
            as_completed(running), total=len(running), desc="notebooks", unit="page", disable=None
        ):
            yield running[future], future.result()


def main() -> None:
    """Run the pages of the book in the current folder for the cache of its build."""
    settings = yaml.safe_load(Path("_config.yml").read_text(encoding="utf-8"))["execute"]
    book, cache = Path("book").resolve(), Path("_build/.jupyter_cache").resolve()
    for page in run_pages(book, cache, settings["timeout"]):
        print(f"{page}: failed; the build runs it again and says where")
