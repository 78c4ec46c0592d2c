"""The directive `claims-ledger`: every claim with its rule, verdict and records, judged when the book is built.

Usage: ```{claims-ledger} ../records``` with a path relative to the page. Without a script everything is there;
`site.js` adds the filters.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class ClaimsLedger(SphinxDirective):
    """The ledger of claims, from a folder of records."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from seqcourse import benchmarks, ledger

        folder = (Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]).resolve()
        for path in benchmarks.record_files(folder):
            self.env.note_dependency(str(path))
        html = ledger.to_html(ledger.ledger(folder), "bibliography.html", "records.html")
        return [nodes.raw("", html, format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("claims-ledger", ClaimsLedger)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
