"""Every notebook page as a file to keep: `notebooks/NAME.ipynb` beside the page, with outputs.

Jupyter and Colab know nothing of MyST directives, so their content is put in plain Markdown: package code
that the page includes becomes a code block, admonitions become quotations, citations become author and
year, links lead to the site. A first cell installs the course's package where it is missing. The page's
buttons offer the file and its Colab link.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from nbformat.v4 import new_code_cell, new_markdown_cell
from sphinx.application import Sphinx
from sphinx.directives.code import LiteralIncludeReader
from sphinx.util.osutil import relative_uri

DIRECTIVE = re.compile(
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:.-]+)\}[ \t]*(?P<argument>[^\n]*)\n"
    r"(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.M | re.S,
)
OPTION = re.compile(r"^:([\w-]+):[ \t]*(.*)$")
ROLE = re.compile(r"\{([\w:.-]+)\}`([^`]+)`")
TITLE_AND_TARGET = re.compile(r"^(.*?)\s*<([^<>]+)>$", re.S)
LABEL = re.compile(r"^\([\w:.-]+\)=[ \t]*\n", re.M)
EQUATION_LABEL = re.compile(r"^\$\$[ \t]*\([\w:.-]+\)[ \t]*$", re.M)
PAGE_LINK = re.compile(r"\]\((?!https?:|mailto:|attachment:)([^)\s]*?)(?:\.md)?(#[\w-]+)?\)")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def is_notebook(app: Sphinx, docname: str) -> bool:
    return "kernelspec" in app.env.metadata.get(docname, {})


def repository(app: Sphinx) -> str:
    return app.config.html_theme_options["repository_url"].rstrip("/")


def page_address(app: Sphinx, docname: str) -> str:
    return app.config.html_baseurl.rstrip("/") + f"/{docname}.html"


def colab_address(app: Sphinx, docname: str) -> str:
    """Colab opens no Markdown: the link leads to the exported file on the branch of the published site."""
    path = repository(app).removeprefix("https://github.com/")
    branch = app.config.notebook_export_branch
    return f"https://colab.research.google.com/github/{path}/blob/{branch}/notebooks/{docname}.ipynb"


# --- MyST to plain Markdown -----------------------------------------------------------------------


class PlainMarkdown:
    """Rewrites the Markdown of one page."""

    def __init__(self, app: Sphinx, docname: str) -> None:
        self.app = app
        self.docname = docname
        self.folder = Path(app.env.doc2path(docname)).parent

    def convert(self, text: str) -> str:
        text = DIRECTIVE.sub(self._directive, LABEL.sub("", text))
        text = ROLE.sub(self._role, EQUATION_LABEL.sub("$$", text))
        return self._without_macros(PAGE_LINK.sub(self._page_link, text))

    def _directive(self, match: re.Match[str]) -> str:
        options, body = split_options(match["body"])
        name, argument = match["name"], match["argument"].strip()
        if name == "literalinclude":
            return self._included_code(argument, options)
        if name in ("code", "code-block", "sourcecode"):
            return f"```{argument}\n{body}\n```"
        if name == "math":
            return f"$$\n{body}\n$$"
        if name in ("figure", "image"):
            return self._picture(argument, options, body)
        if name in ("bibliography", "footbibliography", "tableofcontents", "contents"):
            return f"See {page_address(self.app, self.docname)}."
        return quotation(name, argument, self.convert(body))

    def _included_code(self, argument: str, options: dict[str, str]) -> str:
        path = (self.folder / argument).resolve()
        known: dict[str, Any] = {
            key: int(value) if value.isdigit() else value or None  # `:dedent:` without a value
            for key, value in options.items()
        }
        code, _ = LiteralIncludeReader(str(path), known, self.app.config).read()
        return f"```{options.get('language', 'python')}\n{code.rstrip()}\n```"

    def _picture(self, argument: str, options: dict[str, str], body: str) -> str:
        name = Path(argument).name
        address = f"{self.app.config.html_baseurl.rstrip('/')}/_images/{name}"
        return "\n\n".join(
            part for part in (f"![{options.get('alt', name)}]({address})", self.convert(body).strip()) if part
        )

    def _role(self, match: re.Match[str]) -> str:
        role, content = match.groups()
        titled = TITLE_AND_TARGET.match(content)
        title, target = titled.groups() if titled else ("", content)
        if role.startswith("cite"):
            return self._citation(role, content)
        if role in ("doc", "ref", "numref", "eq"):
            return self._reference(role, title, target)
        if role == "math":
            return f"${content}$"
        if role == "abbr" and titled:
            return f"{title} ({target})"
        if role.startswith("py:"):
            return f"`{title or target.removeprefix('~')}`"
        return title or target

    def _reference(self, role: str, title: str, target: str) -> str:
        """A link to the place on the site: to a page, to a label, or to an equation with its number."""
        env = self.app.env
        if role == "doc":
            docname = self._docname(target)
            return f"[{title or env.titles[docname].astext()}]({page_address(self.app, docname)})"
        if role == "eq":
            docname, number = env.get_domain("math").equations[target]
            return f"[({number})]({page_address(self.app, docname)}#equation-{target})"
        docname, anchor, name = env.get_domain("std").labels[target.lower()]
        return f"[{title or name}]({page_address(self.app, docname)}#{anchor})"

    def _citation(self, role: str, keys: str) -> str:
        entries = self.app.env.get_domain("cite").bibdata.data.entries
        cited = [author_and_year(entries[key.strip()]) for key in keys.split(",")]
        if role.endswith(":t"):
            return ", ".join(f"{author} ({year})" for author, year in cited)
        return "(" + "; ".join(f"{author}, {year}" for author, year in cited) + ")"

    def _docname(self, target: str) -> str:
        docname, _ = self.app.env.relfn2path(target, self.docname)
        return docname.removesuffix(".md")

    def _page_link(self, match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        label = self.app.env.get_domain("std").anonlabels.get(anchor.removeprefix("#"))
        if not target and label:
            return f"]({page_address(self.app, label[0])}#{label[1]})"
        docname = self._docname(target) if target else self.docname
        return f"]({page_address(self.app, docname)}{anchor})"

    def _without_macros(self, text: str) -> str:
        """Write out the book's own TeX macros: outside the book nobody defines them."""
        for name, meaning in self.app.config.mathjax3_config["tex"]["macros"].items():
            text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, meaning=meaning: meaning, text)
        return text


def split_options(body: str) -> tuple[dict[str, str], str]:
    """Take the `:name: value` lines off the head of a directive's body."""
    options, lines = {}, body.strip("\n").split("\n")
    while lines and (found := OPTION.match(lines[0])):
        options[found[1]] = found[2].strip()
        lines.pop(0)
    return options, "\n".join(lines).strip("\n")


def quotation(name: str, title: str, body: str) -> str:
    """An admonition as a quotation with its title in bold."""
    heading = title if name in ("admonition", "dropdown", "card", "topic") and title else name.capitalize()
    content = "\n\n".join(part for part in ("" if heading == title else title, body.strip()) if part)
    return "\n".join(f"> {line}".rstrip() for line in [f"**{heading}**", "", *content.split("\n")])


def author_and_year(entry: Any) -> tuple[str, str]:
    names = [" ".join(person.last_names) for person in entry.persons["author"]]
    author = names[0] if len(names) == 1 else " and ".join(names) if len(names) == 2 else f"{names[0]} et al."
    return author, entry.fields["year"]


# --- the files ------------------------------------------------------------------------------------


def first_cells(app: Sphinx, docname: str) -> list[Any]:
    """Where the notebook comes from, and a cell that gets the package where it is missing."""
    about = (
        f"This notebook is the page {page_address(app, docname)} of *{app.config.project}*, with its "
        "outputs. To run it, start with the next cell."
    )
    install = (
        "# Gets the course's package if it is not here yet (on Colab it is not).\n"
        "try:\n    import seqcourse\nexcept ModuleNotFoundError:\n"
        f'    %pip install --quiet "seqcourse[book] @ git+{repository(app)}"'
    )
    cells = [new_markdown_cell(about), new_code_cell(install)]
    for number, cell in enumerate(cells):
        cell["id"] = f"course-{number}"  # not random: the same page gives the same file
    return cells


def plain_notebook(app: Sphinx, docname: str, notebook: Any) -> Any:
    """The executed notebook in plain Markdown, with its first cells, without views of dead widgets."""
    markdown = PlainMarkdown(app, docname)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = markdown.convert(cell.source)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET_VIEW, None)
    notebook.metadata.pop("widgets", None)
    notebook.cells = first_cells(app, docname) + notebook.cells
    return notebook


def complete_outputs(app: Sphinx, path: Path) -> Any:
    """The notebook with the outputs of its execution, which are in the cache.

    myst-nb leaves them out of its own file where they come from the cache. Where they do not, it has joined
    printed pieces for the page there, and left the pieces beside them.
    """
    notebook = nbformat.read(path, as_version=4)
    with suppress(KeyError):  # not in the cache: the notebook failed, and the build with it
        cache = get_cache(app.env.mystnb_config.execution_cache_path)
        _, notebook = cache.merge_match_into_notebook(notebook)
        nbformat.write(notebook, path)
    return notebook


def export_notebooks(app: Sphinx, exception: Exception | None) -> None:
    """Write the files once the site is built."""
    if exception is not None or app.builder.name != "html":
        return
    outdir = Path(app.outdir)
    for docname in filter(lambda name: is_notebook(app, name), sorted(app.env.found_docs)):
        executed = outdir.parent / "jupyter_execute" / f"{docname}.ipynb"
        target = outdir / "notebooks" / f"{docname}.ipynb"
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(plain_notebook(app, docname, complete_outputs(app, executed)), target)


def add_buttons(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """The download menu offers the notebook first; a second menu opens it in Colab."""
    buttons = context.get("header_buttons")
    if not buttons or not is_notebook(app, pagename):
        return
    address = relative_uri(app.builder.get_target_uri(pagename), f"notebooks/{pagename}.ipynb")
    notebook = {
        "type": "link",
        "url": address,
        "text": ".ipynb",
        "icon": "fas fa-code",
        "tooltip": "Download this page as a notebook",
    }
    for button in buttons:
        if button.get("label") == "download-buttons":
            kept = [item for item in button["buttons"] if item["text"] != ".ipynb"]
            button["buttons"] = [notebook | {"label": "download-notebook-button"}, *kept]
    colab = {
        "type": "link",
        "url": colab_address(app, pagename),
        "text": "Colab",
        "icon": "fas fa-rocket",
        "label": "colab-button",
    }
    buttons.insert(0, colab | {"text": "", "tooltip": "Open this page's notebook in Google Colab"})


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value("notebook_export_branch", "gh-pages", "env")
    app.connect("html-page-context", add_buttons, priority=502)  # after the theme's own buttons (501)
    app.connect("build-finished", export_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
