"""Small repairs of the theme's pages that neither its options nor a stylesheet can make.

Pictures that a notebook printed without alternative text are a build warning, so an error under -W: say what the
reader should see (`seqcourse.plots.show(figure, alt=...)`, or `mystnb: {image: {alt: ...}}` in the cell's metadata).
"""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def demand_alternative_text(app: Sphinx, doctree: nodes.document) -> None:
    """Warn of each picture without alternative text (myst-nb puts the file's path there, which helps nobody)."""
    for image in doctree.findall(nodes.image):
        alt = image.get("alt", "")
        if not alt.strip() or alt.strip() == image["uri"] or "jupyter_execute" in alt:
            logger.warning(
                "picture without alternative text: %s",
                image["uri"],
                location=image,
                type="course",
                subtype="alt",
            )


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", demand_alternative_text)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
