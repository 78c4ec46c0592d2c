"""The built site: complete, no failed cell, readable without pictures, nothing from elsewhere."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

pytestmark = pytest.mark.site

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
# What a browser fetches by itself. <a href> is for the reader to follow, <link rel=canonical> for crawlers.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "manifest"}
PAGE_BUDGET = 900_000  # bytes of one page's own HTML: text, code, figures, explorables
LOADED_BUDGET = (
    4_500_000  # bytes of all that one page loads, uncompressed, MathJax and the theme's scripts included
)
SITE_BUDGET = 40_000_000  # bytes of the whole site, to be kept as a zip


def toc_entries(node: object) -> list[str]:
    """Every file named in _toc.yml."""
    if isinstance(node, list):
        return [name for item in node for name in toc_entries(item)]
    if not isinstance(node, dict):
        return []
    own = [node[key] for key in ("root", "file") if key in node]
    return own + [name for value in node.values() for name in toc_entries(value)]


TOC = toc_entries(yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8")))
NOTEBOOKS = [
    name for name in TOC if "kernelspec:" in (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8")[:600]
]


class Page(HTMLParser):
    """The tags of a page, and what it fetches."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def of(self, *names: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    def fetched(self) -> list[str]:
        """Addresses that the browser loads to show the page."""
        found = [attributes.get(FETCHED[tag], "") for tag, attributes in self.tags if tag in FETCHED]
        links = [link["href"] for link in self.of("link") if set(link.get("rel", "").split()) & FETCHED_LINKS]
        return [address for address in found + links if address]


def pages() -> list[Path]:
    found = [path for path in sorted(SITE.rglob("*.html")) if "_static" not in path.relative_to(SITE).parts]
    assert found, f"no site in {SITE}: build it first (make book)"
    return found


@pytest.fixture(scope="module")
def parsed() -> list[Page]:
    return [Page(path) for path in pages()]


def test_every_page_of_the_contents_exists():
    assert len(TOC) >= 6
    assert NOTEBOOKS, "the book has no notebook"
    missing = [name for name in TOC if not (SITE / f"{name}.html").is_file()]
    assert not missing


def test_every_chapter_is_in_the_contents():
    sources = {
        path.relative_to(ROOT / "book").with_suffix("").as_posix() for path in (ROOT / "book").rglob("*.md")
    }
    assert sources == set(TOC), "a page is missing from _toc.yml, or the other way round"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_cell_failed(name):
    path = ROOT / "_build" / "jupyter_execute" / f"{name}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code, f"{name} has no code cell"
    assert not [
        cell["source"] for cell in code if cell["execution_count"] is None and "".join(cell["source"])
    ]
    failed = [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert not failed
    shown = (SITE / f"{name}.html").read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" not in shown


def test_no_leftovers_of_markup(parsed):
    """A directive or role that nobody understood shows as raw text."""
    raw = re.compile(r"\{(?:term|cite|cite:p|cite:t|doc|ref|eq|numref|math)\}`|^:::", re.M)
    for page in parsed:
        text = re.sub(
            r"<(script|style|pre|code).*?</\1>", "", page.path.read_text(encoding="utf-8"), flags=re.S
        )
        assert not raw.search(text), f"{page.path}: {raw.search(text)}"


def test_every_picture_has_alternative_text(parsed):
    for page in parsed:
        for picture in page.of("img"):
            decorative = "logo__image" in picture.get("class", "")  # the name stands beside it
            assert "alt" in picture and (picture["alt"].strip() or decorative), (
                f"{page.path}: {picture['src'][:80]}"
            )
            assert not re.search(r"\.(png|svg|jpe?g)$|^_images|jupyter_execute", picture["alt"]), picture[
                "alt"
            ]
        for drawing in page.of("svg"):
            named = drawing.get("aria-label") or drawing.get("aria-labelledby") or drawing.get("aria-hidden")
            assert named, f"{page.path}: <svg> without a name: {drawing}"


def test_nothing_is_fetched_from_elsewhere(parsed):
    for page in parsed:
        for address in page.fetched():
            parts = urlsplit(address)
            assert parts.scheme in ("", "data") and not parts.netloc, f"{page.path} fetches {address}"


def test_what_is_fetched_exists(parsed):
    for page in parsed:
        for address in page.fetched():
            if not address.startswith("data:"):
                assert local_file(page, address).is_file(), (
                    f"{page.path} fetches {address}, which is not there"
                )


def local_file(page: Page, address: str) -> Path:
    return (page.path.parent / unquote(urlsplit(address).path)).resolve()


def test_internal_links_lead_somewhere(parsed):
    for page in parsed:
        for link in page.of("a"):
            parts = urlsplit(link.get("href", ""))
            if parts.path and not parts.scheme and not parts.netloc:
                assert local_file(page, link["href"]).exists(), f"{page.path} links to {link['href']}"


def test_stylesheets_fetch_nothing_from_elsewhere():
    for path in SITE.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import)\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8"))
        assert not found, path


def test_weights(parsed):
    for page in parsed:
        own = page.path.stat().st_size
        loaded = own + sum(
            local_file(page, address).stat().st_size
            for address in set(page.fetched())
            if not address.startswith("data:")
        )
        assert own < PAGE_BUDGET, f"{page.path}: {own} bytes of HTML"
        assert loaded < LOADED_BUDGET, f"{page.path}: {loaded} bytes loaded"
    assert sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file()) < SITE_BUDGET


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_to_keep(name):
    """Downloadable, complete, with outputs, free of MyST directives, and offered on its page."""
    cells = json.loads((SITE / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert not re.search(
        r"^(`{3,}|:{3,})\{|\{(term|cite[:\w]*|doc|ref|eq|numref)\}`|^\([\w-]+\)=", text, re.M
    )
    assert any(cell.get("outputs") for cell in cells)
    address = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]
    assert f"git+{address}" in "".join(cells[1]["source"])
    links = {link.get("href", "") for link in Page(SITE / f"{name}.html").of("a")}
    colab = address.replace("https://github.com/", "https://colab.research.google.com/github/")
    assert f"{colab}/blob/gh-pages/notebooks/{name}.ipynb" in links
    assert any(link.endswith(f"notebooks/{name}.ipynb") and "://" not in link for link in links)


def test_package_code_shown_in_notebooks_is_there():
    """What a page includes from the package stands in the notebook to keep too, as code."""
    includes = re.compile(r"^`{3,}\{literalinclude\}[ ]+(\S+)$", re.M)
    for name in NOTEBOOKS:
        source = ROOT / "book" / f"{name}.md"
        cells = json.loads((SITE / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        blocks = [block.splitlines() for block in re.findall(r"^```python\n(.+?)^```$", text, re.M | re.S)]
        for path in includes.findall(source.read_text(encoding="utf-8")):
            known = {line.strip() for line in (source.parent / path).read_text(encoding="utf-8").splitlines()}
            found = [block for block in blocks if {line.strip() for line in block} <= known]
            assert found, f"{name}: nothing of {path} is in the notebook"
            blocks.remove(found[0])


def test_mathjax_is_local_and_slim():
    mathjax = SITE / "_static" / "mathjax"
    assert (mathjax / "tex-chtml.js").is_file()
    assert (mathjax / "output" / "chtml" / "fonts" / "woff-v2" / "MathJax_Main-Regular.woff").is_file()
    assert sum(path.stat().st_size for path in mathjax.rglob("*") if path.is_file()) < 3_000_000
