"""The project's own tasks, the same on every system: build the book, serve it, check everything.

Each works in a checkout of the repository (`make book` and `make test` call them). A check that cannot run
because something is missing is named at the end, and fails the run when `SEQCOURSE_STRICT` is set: nothing is
skipped unseen.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# One thread per process: the models are small, outputs repeat exactly, and two test processes fill two cores.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def checkout() -> Path:
    """The root of the checkout that contains the current folder.

    Raises:
        click.ClickException: outside a checkout.
    """
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "_config.yml").is_file() and (folder / "seqcourse").is_dir():
            return folder
    raise click.ClickException(
        "expected to be inside a checkout of seqcourse (a folder with _config.yml and seqcourse/), "
        f"but this is {Path.cwd()}. Clone the repository and run the command there."
    )


def run(*command: str | Path, **environment: str) -> int:
    """Run a command in the checkout with this Python's scripts first on the path; return its exit code."""
    scripts = Path(sys.executable).parent
    path = os.pathsep.join([str(scripts), os.environ.get("PATH", "")])
    arguments = [str(part) for part in command]
    click.secho(
        "$ " + " ".join(Path(arguments[0]).name if i == 0 else a for i, a in enumerate(arguments)), bold=True
    )
    return subprocess.run(
        arguments, cwd=checkout(), env={**os.environ, "PATH": path, **environment}
    ).returncode


def python(*arguments: str | Path, **environment: str) -> int:
    """Run this Python with arguments, as `run` does."""
    return run(sys.executable, *arguments, **environment)


# --- the book ----------------------------------------------------------------------------------------


def site() -> Path:
    """The folder of the built site."""
    return checkout() / "_build" / "html"


def executed_notebooks() -> list[Path]:
    """The notebooks with the outputs that the book shows."""
    return sorted((checkout() / "_build" / "jupyter_execute").rglob("*.ipynb"))


def outputs_key() -> str:
    """A hash of what outputs depend on besides their own cells: package, versions, records, data."""
    root = checkout()
    digest = hashlib.sha256()
    package = [
        path for kind in ("py", "mjs", "css", "json") for path in (root / "seqcourse").rglob(f"*.{kind}")
    ]
    for path in sorted([*package, *(root / "book" / "records").rglob("*.json"), root / "constraints.txt"]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    for name, state in data_states():
        digest.update(f"{name}={state}".encode())
    return digest.hexdigest()


def data_states() -> list[tuple[str, str]]:
    """Which of the book's data are here, so that outputs from generated data do not outlive a download."""
    from seqcourse.data.fetch import Store
    from seqcourse.data.registry import datasets

    store = Store.from_environment()
    return [
        (file.path, store.state(file))
        for entry in datasets().values()
        if entry.book
        for file in entry.content
    ]


def drop_stale_outputs() -> None:
    """Remove cached outputs if the package changed: the cache's own key is the notebook's cells alone."""
    build = checkout() / "_build"
    stamp, key = build / "outputs-key", outputs_key()
    if not stamp.is_file() or stamp.read_text() != key:
        shutil.rmtree(build / ".jupyter_cache", ignore_errors=True)
    # Sphinx reports a warning only when it reads the page, so all pages are read anew. What takes time is
    # execution, and that is cached.
    for folder in (".doctrees", "html", "jupyter_execute"):
        shutil.rmtree(build / folder, ignore_errors=True)
    build.mkdir(exist_ok=True)
    stamp.write_text(key)


def build_book() -> int:
    """Fetch the data, run the notebooks, build the site with warnings as errors."""
    code = python("-m", "seqcourse", "data", "fetch", "--book", "--allow-missing")
    if code:
        return code
    drop_stale_outputs()
    # The data are here by now or cannot be had: no notebook should try the network again.
    offline = {"SEQCOURSE_OFFLINE": "1", **ONE_THREAD}
    run_pages = "from seqcourse.page_outputs import main; main()"
    code = python("-c", run_pages, **offline) or python(
        "-c", "from jupyter_book.cli.main import main; main()",
        "build", "book", "--path-output", ".", "-W", "-n", "--keep-going", **offline,
    )  # fmt: skip
    # An exit code alone proves no page: other versions of Jupyter Book have ended well without writing one.
    return code or int(not (site() / "index.html").is_file())


@click.command()
def book() -> None:
    """Fetch the data, run the notebooks, build the site in _build/html."""
    started = time.monotonic()
    if build_book():
        raise click.ClickException("the book has errors: see the messages above.")
    index = site() / "index.html"
    click.secho(
        f"\nThe book is ready ({time.monotonic() - started:.0f} s). Open {index.as_uri()}", fg="green"
    )
    click.echo("or run `make serve` (`seqcourse serve`) and open http://localhost:8000")


@click.command()
@click.option("--port", default=8000, show_default=True)
def serve(port: int) -> None:
    """Serve _build/html on this machine only."""
    if not (site() / "index.html").is_file():
        raise click.ClickException(f"no site in {site()}: run `make book` (`seqcourse book`) first.")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site())
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        click.echo(f"http://localhost:{server.server_port} (stop with Ctrl+C)")
        server.serve_forever()


@click.command()
def clean() -> None:
    """Remove everything that was built; the environment and the data cache stay."""
    for name in ("_build", ".pytest_cache", ".ruff_cache"):
        shutil.rmtree(checkout() / name, ignore_errors=True)


# --- the checks --------------------------------------------------------------------------------------


@dataclass
class Checks:
    """What ran, how it ended and how long it took; and what could not run."""

    results: list[tuple[str, int, float]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def check(self, name: str, task: Callable[[], int]) -> None:
        click.secho(f"\n== {name}", bold=True)
        started = time.monotonic()
        self.results.append((name, task(), time.monotonic() - started))

    @property
    def failed(self) -> list[str]:
        return [name for name, code, _ in self.results if code]

    def report(self) -> None:
        """Print the summary; raise if a check failed, or if one could not run and the run is strict."""
        click.secho("\n== Summary", bold=True)
        for name, code, seconds in self.results:
            click.echo(f"{'failed' if code else 'passed':8} {seconds:6.0f} s  {name}")
        for name in self.missing:
            click.secho(f"NOT CHECKED: {name}", fg="red")
        if self.failed:
            raise click.ClickException(f"failed: {', '.join(self.failed)}")
        if self.missing and os.environ.get("SEQCOURSE_STRICT"):
            raise click.ClickException(
                "not everything could be checked, and SEQCOURSE_STRICT asks for everything."
            )


def find_browser() -> str | None:
    """The path of a Chromium: named by SEQCOURSE_CHROMIUM, on the system, or Playwright's own download."""
    named = os.environ.get("SEQCOURSE_CHROMIUM")
    system = [named] if named else [shutil.which(name) for name in BROWSER_NAMES]
    candidates = itertools.chain(system, playwright_browser())  # the last is asked only if need be
    return next((path for path in candidates if path and Path(path).is_file()), None)


def playwright_browser() -> Iterator[str]:
    """Where Playwright would have put its own Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    yield path


def bring_browser() -> str | None:
    """A Chromium, installed if need be: Debian's package when root, else Playwright's own download."""
    if find_browser() is None:
        install_from_debian("chromium")
    if find_browser() is None:
        python("-m", "playwright", "install", "chromium")
    return find_browser()


def bring_bubblewrap() -> str | None:
    """The sandbox of the grader, installed if need be and if this is root on Debian or Ubuntu."""
    if shutil.which("bwrap") is None and sys.platform == "linux":
        install_from_debian("bubblewrap")
    return shutil.which("bwrap")


def install_from_debian(package: str) -> None:
    """Install a Debian package where that can be done without asking anybody: as root, with apt-get."""
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        _ = run("apt-get", "update", "-qq", **quiet) or run(
            "apt-get", "install", "-y", "-qq", package, **quiet
        )


def unit_tests() -> int:
    marked = "not site and not browser" + ("" if shutil.which("bwrap") else " and not sandbox")
    return python(
        "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-m", marked,
        "--cov", "--cov-report=term:skip-covered", **ONE_THREAD,
    )  # fmt: skip


def rerun_notebooks() -> int:
    """Run the executed notebooks again with nbval: every output must come out the same."""
    found = executed_notebooks()
    if not found:
        click.echo("no executed notebooks in _build/jupyter_execute: the book has not been built")
        return 1
    return python(
        "-m", "pytest", "-q", "--nbval", "--nbval-sanitize-with", "tests/nbval_sanitise.cfg",
        "--nbval-cell-timeout=300", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile", *found,
        SEQCOURSE_OFFLINE="1", **ONE_THREAD,
    )  # fmt: skip


def check_exercises() -> int:
    """Releases fresh and failing where they must, solutions running, graders catching what they must."""
    return (
        seqcourse("release", "--check", "--run")
        or run_solutions()
        or seqcourse("mutants", "--check")  # are the published kill matrices those of these exercises?
        or seqcourse("mutants", "--quick", "--cover")  # all of them take an hour: the weekly workflow
    )


def seqcourse(*arguments: str) -> int:
    """Run a command of this package, as a user would."""
    return python("-m", "seqcourse", *arguments, **ONE_THREAD)


def run_solutions() -> int:
    """Run every solution notebook with nbval: no cell may fail, demonstrations included."""
    from seqcourse.grading.authoring import nbval_solutions

    parallel = ("-n", "2", "--dist", "loadfile")
    return python("-m", "pytest", "-q", *parallel, *nbval_solutions(checkout()), **ONE_THREAD)


def check_style() -> int:
    """Ruff over the modules, and over the notebooks' cells; no typed figures in the book."""
    return (
        run("ruff", "check", ".")
        or run("ruff", "format", "--check", ".")
        or check_notebook_style()
        or check_typed_figures()
    )


def check_typed_figures() -> int:
    """A benchmark figure on a page comes from a record; see :mod:`seqcourse.typed_figures`."""
    from seqcourse.typed_figures import check_book

    found = check_book(checkout() / "book")
    for message in found:
        click.echo(message)
    if found:
        click.echo(
            "Print a measured figure from its record; above one that is none, say why: % typed figure: ..."
        )
    return int(bool(found))


def check_notebook_style() -> int:
    """The notebooks are MyST text; ruff reads them as .ipynb."""
    import jupytext

    root = checkout()
    converted = root / "_build" / "lint"
    shutil.rmtree(converted, ignore_errors=True)
    converted.mkdir(parents=True)
    for page in sorted([*(root / "book").rglob("*.md"), *(root / "solutions").glob("*.md")]):
        if "kernelspec:" in page.read_text(encoding="utf-8")[:600]:
            jupytext.write(jupytext.read(page), converted / f"{page.stem}.ipynb")
    settings = ("--config", "pyproject.toml", "--config", "extend-exclude = []")
    return run("ruff", "check", "--no-respect-gitignore", *settings, converted)


def check_site(browser: str | None) -> int:
    markers = "site or browser" if browser else "site and not browser"
    return python("-m", "pytest", "-q", "-n", "2", "-m", markers, "tests", SEQCOURSE_CHROMIUM=browser or "")


@click.command()
def lint() -> None:
    """Check style, in modules and in notebooks."""
    sys.exit(check_style())


@click.command()
def notebooks() -> None:
    """Run every notebook of the built book again and compare its outputs."""
    if not executed_notebooks() and build_book():
        raise click.ClickException("the book has errors: see the messages above.")
    sys.exit(rerun_notebooks())


@click.command()
def test() -> None:
    """Everything CI checks: style, unit tests, exercises, book, notebooks, the site in a browser."""
    checks = Checks()
    browser = bring_browser()
    if browser is None:
        checks.missing.append("the site in a browser: no Chromium, and none could be installed")
    if bring_bubblewrap() is None:
        checks.missing.append("attacks on the grader's sandbox: no bubblewrap, and it could not be installed")
    checks.check("style", check_style)
    checks.check("unit tests", unit_tests)
    checks.check("exercises", check_exercises)
    checks.check("book", build_book)
    checks.check("notebooks", rerun_notebooks)
    checks.check("site", lambda: check_site(browser))
    checks.report()
