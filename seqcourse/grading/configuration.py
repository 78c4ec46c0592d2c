"""Safe grading as nbgrader configuration: plain `nbgrader` commands and formgrader are protected too."""

from __future__ import annotations

from traitlets.config import Config


def configure(c: Config) -> None:
    """Set up nbgrader so that nothing of a hand-in but its answers counts, and nothing of it runs unprotected.

    Args:
        c: The configuration that `nbgrader_config.py` gets from `get_config()`.
    """
    # Imported here: reading the configuration of `nbgrader --help` should not load the grader.
    from nbconvert.preprocessors import ClearMetadataPreprocessor, CSSHTMLHeaderPreprocessor
    from nbgrader import preprocessors as stock

    from seqcourse.grading import preprocessors as safe

    c.Autograde.sanitize_preprocessors = [
        safe.RebuildFromRelease,
        stock.ClearOutput,
        stock.DeduplicateIds,
        stock.OverwriteKernelspec,
        stock.OverwriteCells,
        stock.CheckCellMetadata,
    ]
    c.Autograde.autograde_preprocessors = [
        safe.SandboxedExecute,
        stock.IgnorePattern,
        ClearMetadataPreprocessor,
        stock.LimitOutput,
        stock.SaveAutoGrades,
        stock.AssignLatePenalties,
        stock.CheckCellMetadata,
    ]
    c.Autograde.pre_convert_hook = safe.drop_links
    c.GenerateFeedback.preprocessors = [stock.GetGrades, safe.HideHidden, CSSHTMLHeaderPreprocessor]
    # Nothing but notebooks is ever copied out of the exchange: no torch.py that would hide torch.
    c.CourseDirectory.include = ["*.ipynb", "timestamp.txt"]
    c.ExchangeFactory.collect = "seqcourse.grading.plugins.InspectedCollect"
    c.ZipCollectApp.extractor_plugin = "seqcourse.grading.plugins.InspectedExtractor"
    # Formgrader shows what students wrote in the grader's own session: no script of theirs may run there.
    c.HTMLExporter.sanitize_html = True
    c.HTMLExporter.filters = {"markdown2html": "seqcourse.grading.markup.safe_markdown"}
