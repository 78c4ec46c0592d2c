"""Small repairs of the pages that neither the theme's options nor a stylesheet can make.

Pictures printed by a notebook without alternative text are a build warning, so an error under -W: say what
the reader should see with `seqcourse.plots.show(figure, alt=...)`, or in the cell's metadata with
`mystnb: {image: {alt: ...}}`.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util import logging
from sphinx.util.nodes import make_refnode
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


def demand_alternative_text(app: Sphinx, doctree: nodes.document) -> None:
    """Warn of each picture without alternative text (myst-nb puts the file's path there)."""
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "").strip()
        if not alt or alt == image["uri"] or "jupyter_execute" in alt:
            logger.warning("picture without alternative text: %s", image["uri"], location=image)


def drop_widget_state(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Leave out the saved state of widgets: no widget manager is on the page to read it."""
    scripts = context.get("script_files", [])
    scripts[:] = [
        script for script in scripts if getattr(script, "attributes", {}).get("type") != WIDGET_STATE
    ]


def visit_citation(self: HTML5Translator, node: nodes.citation) -> None:
    """An entry of the bibliography is a list item; docutils gives it a role that is deprecated."""
    if not isinstance(node.previous_sibling(), nodes.citation):
        self.body.append('<div role="list" class="citation-list">\n')
    self.body.append(self.starttag(node, "div", classes=["citation"], role="listitem"))


def depart_citation(self: HTML5Translator, node: nodes.citation) -> None:
    HTML5Translator.depart_citation(self, node)


def keep_properties_plain(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Before napoleon: keep a property's text, where napoleon would take "words: more words" for a type."""
    app.env.temp_data["property_text"] = list(lines) if what == "property" else None


def restore_properties(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """After napoleon: put the text back, read as that of a method."""
    text = app.env.temp_data.get("property_text")
    if text:
        lines[:] = GoogleDocstring(text, app.config, app, "method", name, obj, options).lines()


def drop_field_numbers(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Python documents the fields of a named tuple as "Alias for field number 0"."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()


def readable_defaults(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, args: str, returns: str
) -> Any:
    """A default without a Python spelling (`<factory>`, `<function f at 0x...>`) stops Sphinx reading on."""
    if not args or "<" not in args:
        return None
    args = re.sub(
        r"<function (?:[\w.]+\.)?(\w+|<lambda>) at 0x[0-9a-f]+>|<factory>", lambda m: m[1] or "...", args
    )
    return re.sub(r"~(?:\w+\.)*(\w+)", r"\1", args), returns


def resolve_short_names(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """A class or function named without its module is found if the package has only one of that name."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target or "." in target:
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith(f".{target}")]
    if len(found) != 1:
        return None
    entry = domain.objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, found[0])


def name_the_folds(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Give the menu's fold buttons a name that can be read out; the theme gives an icon alone."""
    menu = context.get("generate_toctree_html")
    if menu is not None:
        name = '<summary aria-label="Show the pages below">'
        context["generate_toctree_html"] = lambda *a, **k: str(menu(*a, **k)).replace("<summary>", name)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_node(nodes.citation, override=True, html=(visit_citation, depart_citation))
    app.connect("doctree-read", demand_alternative_text)
    app.connect("autodoc-process-docstring", keep_properties_plain, priority=400)  # napoleon: 500
    app.connect("autodoc-process-docstring", restore_properties, priority=600)
    app.connect("autodoc-process-docstring", drop_field_numbers)
    app.connect("autodoc-process-signature", readable_defaults)
    app.connect("missing-reference", resolve_short_names)
    app.connect("html-page-context", name_the_folds, priority=900)
    app.connect("html-page-context", drop_widget_state, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
