"""Lists for people: CSV files that a spreadsheet opens without harm."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from seqcourse.grading.course import write_atomically


def write_csv(path: Path, rows: Iterable[dict], columns: list[str]) -> None:
    """Write rows as CSV, at once or not at all; `None` becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_atomically(path, text.getvalue())


def _cell(value: object) -> object:
    """A text that a spreadsheet would take for a formula gets an apostrophe: students choose file names."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value
