"""The directive `records`: a table of every record in a folder, read from the files when the book is built.

Usage: ```{records} ../records``` with a path relative to the page. Nothing in the table is typed by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from seqcourse.records import Record

COLUMNS = ("What", "Claim", "Quantity", "Mean [95 % interval]", "Runs", "Data", "Made with")


def number(value: float) -> str:
    return f"{value:.4g}"


def mean_with_interval(record: Record) -> str:
    low_high = record.interval
    interval = f" [{number(low_high[0])}, {number(low_high[1])}]" if low_high else " (one run: no interval)"
    return number(record.mean) + interval


def data_name(record: Record) -> str:
    """A stand-in says so wherever its figures are shown."""
    name = str(record.source["name"])
    return f"GENERATED stand-in: {name}" if record.source["generated"] else name


def made_with(record: Record) -> str:
    hardware = record.hardware.get("gpu") or record.hardware.get("cpu") or "unknown hardware"
    return f"{hardware}, {record.threads} thread{'s' if record.threads != 1 else ''}; commit {record.commit[:12]}; {record.created[:10]}"


def cells(record: Record) -> list[str]:
    quantity = record.metric if record.unit == "1" else f"{record.metric} ({record.unit})"
    return [
        record.name,
        record.claim or "none",
        quantity,
        mean_with_interval(record),
        str(record.n),
        data_name(record),
        made_with(record),
    ]


def table_row(texts: list[str] | tuple[str, ...]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in texts))


def table(caption: str, rows: list[list[str]]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in COLUMNS), cols=len(COLUMNS))
    group += nodes.thead("", table_row(COLUMNS))
    group += nodes.tbody("", *map(table_row, rows))
    return nodes.table("", nodes.title("", caption), group, classes=["records"])


class RecordTables(SphinxDirective):
    """One table per file of records."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        files = sorted(folder.resolve().glob("*.json"))
        if not files:
            return [nodes.paragraph("", "No records have been made yet.")]
        return [self._file_table(path) for path in files]

    def _file_table(self, path: Path) -> nodes.Node:
        from seqcourse import records

        self.env.note_dependency(str(path))
        found = table(path.name, [cells(record) for record in records.read(path)])
        self.set_source_info(found)
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("records", RecordTables)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
