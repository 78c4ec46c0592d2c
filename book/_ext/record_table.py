"""The directive `records`: a table of every record in a folder, read from the files when the book is built.

Usage: ```{records} ../records``` with a path relative to the page, of a folder or of one file. Nothing in the
table is typed by hand. The directive `records-origin` says with which command, on what and when each file was
made, and `kill-matrix` shows what becomes of an exercise's wrong answers.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from seqcourse.records import Record

ORIGIN_COLUMNS = ("Command", "Records", "Machine", "Versions", "Cost of a run", "Made")
COLUMNS = ("What", "Claim", "Quantity", "Mean (95 % interval)", "Runs", "Data", "Made with")


def mean_with_interval(record: Record) -> str:
    from seqcourse.records import format_number

    return f"{format_number(record.mean)} ({record.spread_text})"


def machine(record: Record) -> str:
    hardware = record.hardware.get("gpu") or record.hardware.get("cpu") or "unknown hardware"
    threads = "1 thread" if record.threads == 1 else f"{record.threads} threads"
    return f"{hardware}, {threads}"


def made_with(record: Record) -> str:
    return f"{machine(record)}; commit {record.commit[:12]}; {record.created[:10]}"


def origin(path: Path) -> list[str | nodes.Node]:
    """A row of ``ORIGIN_COLUMNS`` for one file, which is named after benchmark and profile."""
    from seqcourse import records
    from seqcourse.benchmarks import discover

    found = records.read(path)
    benchmark, _, profile = path.stem.rpartition("-")
    newest = max(found, key=lambda record: record.created)
    versions = ", ".join(f"{name} {version}" for name, version in newest.versions.items())
    command = f"seqcourse bench {benchmark} --profile {profile}"  # as code, or -- becomes a dash
    return [
        nodes.literal(command, command),
        str(len(found)),
        machine(newest),
        versions,
        discover()[benchmark].cost[profile],
        newest.created[:10],
    ]


def cells(record: Record) -> list[str]:
    quantity = record.metric if record.unit == "1" else f"{record.metric} ({record.unit})"
    figures = [mean_with_interval(record), str(record.n)]
    return [record.name, record.claim or "none", quantity, *figures, record.data_text, made_with(record)]


def table_row(texts: list[str | nodes.Node] | tuple[str, ...]) -> nodes.row:
    inner = (nodes.Text(text) if isinstance(text, str) else text for text in texts)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", node)) for node in inner))


def table(
    caption: str, rows: list[list[str | nodes.Node]], columns: tuple[str, ...] = COLUMNS
) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in columns), cols=len(columns))
    group += nodes.thead("", table_row(columns))
    group += nodes.tbody("", *map(table_row, rows))
    return nodes.table("", nodes.title("", caption), group, classes=["records"], ids=[nodes.make_id(caption)])


class RecordTables(SphinxDirective):
    """One table per file of records."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = (Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]).resolve()
        files = [path] if path.is_file() else sorted(path.glob("*.json"))
        if not files:
            return [nodes.paragraph("", "No records have been made yet.")]
        for path in files:
            self.env.note_dependency(str(path))
        found = self.tables(files)
        for made in found:
            self.set_source_info(made)
        return found

    def tables(self, files: list[Path]) -> list[nodes.Node]:
        from seqcourse import records

        return [table(path.name, [cells(record) for record in records.read(path)]) for path in files]


class RecordsOrigin(RecordTables):
    """One table for all files: how each can be made again, and what that costs."""

    def tables(self, files: list[Path]) -> list[nodes.Node]:
        return [table("How the files were made", [origin(path) for path in files], ORIGIN_COLUMNS)]


class KillMatrices(SphinxDirective):
    """What the graders of one exercise catch: a table of its cells, and one to open for each answer."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        from seqcourse.grading.mutants import kill_matrix, record_path

        course, exercise = Path(self.env.srcdir).parent, self.arguments[0]
        self.env.note_dependency(str(record_path(exercise, course)))
        if not record_path(exercise, course).is_file():
            return [nodes.paragraph("", "The graders of this exercise have not been run yet.")]
        cells, *answers = kill_matrix(exercise, course)
        opened = [
            f"<details><summary>{escape(table.caption)}</summary>{table._repr_html_()}</details>"
            for table in answers
        ]
        return [nodes.raw("", html, format="html") for html in (cells._repr_html_(), *opened)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("records", RecordTables)
    app.add_directive("records-origin", RecordsOrigin)
    app.add_directive("kill-matrix", KillMatrices)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
