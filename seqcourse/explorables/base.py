"""The base class of explorables: one JavaScript module that runs in JupyterLab and, by itself, on a page."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import anywidget

FOLDER = Path(__file__).parent

# The copy on the page has no kernel. `model` stands in for the widget's: it keeps values, tells listeners.
_PAGE_COPY = """\
<style>{css}</style>
<div class="explorable" id="{id}" role="group" aria-label="{label}"><noscript>{alternative}</noscript></div>
<script type="module">
const values = {values};
const listeners = {{}};
const model = {{
  get: (name) => values[name],
  set: (name, value) => {{
    values[name] = value;
    (listeners["change:" + name] ?? []).forEach((listener) => listener());
  }},
  on: (event, listener) => {{ (listeners[event] ??= []).push(listener); }},
  save_changes: () => {{}},
}};
const {{ default: view }} = await import("data:text/javascript;base64,{module}");
view.render({{ model, el: document.getElementById("{id}") }});
</script>"""


class Explorable(anywidget.AnyWidget):
    """A widget that also prints itself as a piece of HTML which needs no kernel and no widget manager.

    A subclass names its JavaScript module in ``_esm``, its traits tagged ``sync=True``, a ``label`` and an
    ``alternative``: what a reader learns who cannot see or move it. Jupyter shows the widget; the page of the
    book shows the HTML; a printed page shows the alternative.

    Raises:
        TypeError: if a subclass has no label or no alternative.
    """

    _css = FOLDER / "explorables.css"
    label = ""
    alternative = ""
    _numbers: ClassVar[Counter[str]] = Counter()  # ids count up: the same notebook prints the same page

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not (cls.label.strip() and cls.alternative.strip()):
            raise TypeError(
                f"{cls.__name__} needs `label` and `alternative`: what it is, and what it shows, in words."
            )

    def shared_values(self) -> dict[str, Any]:
        """The values that Python and JavaScript share."""
        names = [name for name in self.traits(sync=True) if not name.startswith("_")]
        own = set(names) - set(anywidget.AnyWidget.class_trait_names())
        return {name: getattr(self, name) for name in names if name in own}

    def page_copy(self) -> str:
        """This explorable, as it stands now, as HTML that runs by itself."""
        kind = type(self).__name__.lower()
        Explorable._numbers[kind] += 1
        return _PAGE_COPY.format(
            id=f"explorable-{kind}-{Explorable._numbers[kind]}",
            label=html.escape(self.label),
            alternative=html.escape(self.alternative),
            css=Path(FOLDER / "explorables.css").read_text(encoding="utf-8"),
            values=json.dumps(self.shared_values(), ensure_ascii=False).replace("</", "<\\/"),
            module=base64.b64encode(self._esm.encode()).decode(),
        )

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict, dict] | None:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        data, metadata = bundle
        return {**data, "text/html": self.page_copy(), "text/plain": self.alternative}, metadata
