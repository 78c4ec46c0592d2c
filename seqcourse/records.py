"""Records: what was measured, on what, how often and how widely it scattered.

A figure in the book is never typed: it is read from a record. A record holds one value per seed (or per
timing round), so that its spread is known, and everything needed to repeat it: protocol, data and its hash,
hardware, threads, library versions, the commit and the time it took. Verdicts on claims are computed from
records in :mod:`seqcourse.claims`.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

SCHEMA = 1  # raise it when a field changes its meaning; read() refuses files of another schema
NO_DATA = {"name": "no data", "generated": False}  # source of a count, which needs no data


class RecordError(ValueError):
    """A record, or a file of records, is not what the schema says; the message names file and field."""


# ------------------------------------------------------------------------------------------------ one record


@dataclass(frozen=True)
class Record:
    """One measured quantity with its spread and its provenance.

    Make one with :meth:`measured`, which fills in the machine, the versions, the commit and the date.

    Attributes:
        name: what was measured, unique in its file, such as ``"horizon/delayed recall/LSTM"``.
        claim: the rows of the claims ledger it speaks to, separated by blanks: ``"N05 N08"``; may be empty.
        metric: the quantity, such as ``"memory horizon"``.
        unit: its unit, such as ``"steps"``; ``"1"`` for a plain ratio or fraction.
        values: one finite number per seed, or per timing round.
        protocol: how it was measured; everything a reader needs to repeat it.
        source: the data: at least ``name`` and ``generated`` (see ``Source.as_dict``).
        hardware: processor, cores, memory, accelerator.
        threads: threads torch used.
        versions: versions of Python, torch and this package.
        commit: the commit of the code that measured, with ``+dirty`` if that code had uncommitted changes.
        duration_s: seconds of work behind the values.
        created: time of the measurement, ISO 8601 in UTC.

    Raises:
        RecordError: a field has the wrong type, there are no values, or a value is not finite.
    """

    name: str
    claim: str
    metric: str
    unit: str
    values: tuple[float, ...]
    protocol: dict[str, Any]
    source: dict[str, Any]
    hardware: dict[str, Any]
    threads: int
    versions: dict[str, str]
    commit: str
    duration_s: float
    created: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", _finite_numbers(self.name, self.values))
        for field_name, expected in _FIELD_TYPES.items():
            _check_type(self.name, field_name, getattr(self, field_name), expected)
        _check_source(self.name, self.source)

    @classmethod
    def measured(
        cls,
        name: str,
        *,
        metric: str,
        unit: str,
        values: Iterable[float],
        duration_s: float,
        claim: str = "",
        protocol: dict[str, Any] | None = None,
        source: Any = None,
        commit: str | None = None,
    ) -> Record:
        """A record of something measured on this machine, now.

        Args:
            source: a ``Source``, its dictionary, or None for a quantity that needs no data.
            commit: where the values come from, if that is not the code as it lies here.

        Raises:
            RecordError: see the class.
        """
        import torch

        from seqcourse.runtime import hardware, versions

        return cls(
            name=name,
            claim=claim,
            metric=metric,
            unit=unit,
            values=tuple(values),
            protocol=protocol or {},
            source=_source_dict(source),
            hardware=hardware(),
            threads=torch.get_num_threads(),
            versions=versions(),
            commit=commit or current_commit(),
            duration_s=float(duration_s),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def n(self) -> int:
        """How many seeds or rounds."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Arithmetic mean of the values."""
        return statistics.fmean(self.values)

    @property
    def median(self) -> float:
        """Median of the values."""
        return statistics.median(self.values)

    @property
    def std(self) -> float | None:
        """Sample standard deviation (n - 1); None for a single run, which has no spread."""
        return statistics.stdev(self.values) if self.n > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean by Student's t; None for a single run."""
        if self.n < 2:
            return None
        half_width = student_t(self.n - 1) * self.std / math.sqrt(self.n)
        return self.mean - half_width, self.mean + half_width

    @property
    def generated(self) -> bool:
        """True if the data were made by a program and are not real."""
        return bool(self.source["generated"])

    @property
    def claims(self) -> tuple[str, ...]:
        """The ids in ``claim`` as a tuple."""
        return tuple(self.claim.split())

    @property
    def spread_text(self) -> str:
        """The interval in words, or why there is none."""
        if self.interval is None:
            return "no spread: one run"
        low, high = self.interval
        return f"{format_number(low)} to {format_number(high)}"

    @property
    def data_text(self) -> str:
        """Name of the data, marked if they are generated."""
        return f"{self.source['name']} (generated data)" if self.generated else str(self.source["name"])

    def __str__(self) -> str:
        spread = f"95 % interval {self.spread_text}" if self.n > 1 else self.spread_text
        unit = "" if self.unit == "1" else f" {self.unit}"
        return (
            f"{self.name}: {self.metric} {format_number(self.mean)}{unit}"
            f" (n = {self.n}, {spread}; data: {self.data_text})"
        )


_FIELD_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "claim": str,
    "metric": str,
    "unit": str,
    "protocol": dict,
    "source": dict,
    "hardware": dict,
    "threads": int,
    "versions": dict,
    "commit": str,
    "duration_s": (int, float),
    "created": str,
}


def _check_type(name: Any, field_name: str, value: Any, expected: type | tuple[type, ...]) -> None:
    if isinstance(value, expected) and not isinstance(value, bool):
        return
    kinds = expected if isinstance(expected, tuple) else (expected,)
    wanted = " or ".join(kind.__name__ for kind in kinds)
    raise RecordError(
        f"record {name!r}: field '{field_name}' must be {wanted}, got {type(value).__name__} {value!r}"
    )


def _finite_numbers(name: Any, values: Any) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise RecordError(f"record {name!r}: field 'values' must be a list of numbers, got {values!r}")
    if not values:
        raise RecordError(f"record {name!r}: field 'values' is empty; a record needs at least one run")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RecordError(
                f"record {name!r}: field 'values' holds {value!r}, expected finite numbers;"
                " record a diverged run as a metric of its own (such as the share of runs that diverged)"
            )
    return tuple(float(value) for value in values)


def _check_source(name: Any, source: dict[str, Any]) -> None:
    if not isinstance(source.get("name"), str) or not isinstance(source.get("generated"), bool):
        raise RecordError(
            f"record {name!r}: field 'source' needs 'name' (text) and 'generated' (true or false),"
            f" got {source!r}"
        )


def _source_dict(source: Any) -> dict[str, Any]:
    if source is None:
        return dict(NO_DATA)
    return dict(source) if isinstance(source, dict) else source.as_dict()


def generated_source(name: str, note: str = "made by a program for this measurement") -> dict[str, Any]:
    """Source of a record whose data are made on purpose, such as a memory task or random input for timing."""
    return {"name": name, "generated": True, "note": note}


# --------------------------------------------------------------------------------------------- read and write


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> Path:
    """Writes records to a JSON file; a reader sees the old file or the new one, never half of one.

    Raises:
        RecordError: two records share a name.
    """
    path = Path(path)
    records = list(records)
    _check_unique_names(path, records)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "records": [asdict(record) for record in records]}
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # Write beside the target, then rename: the rename is atomic only within one file system.
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=path.name, suffix=".part", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)  # temporary files are private by default; records are for everyone
    os.replace(file.name, path)
    return path


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Reads a file of records, or all ``*.json`` files of a folder in the order of their names.

    Raises:
        FileNotFoundError: nothing there.
        RecordError: the file is corrupt, of another schema, or a record lacks a field or has a wrong one.
    """
    path = Path(path)
    if path.is_dir():
        return [record for file in sorted(path.glob("*.json")) for record in read(file)]
    if not path.exists():
        raise FileNotFoundError(
            f"no records at {path}; make them with 'seqcourse bench' (see 'seqcourse bench list')"
        )
    records = [_parse(path, item) for item in _record_items(path)]
    _check_unique_names(path, records)
    return records


def _record_items(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path}: not a readable JSON file ({error}); measure again or restore it"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("records"), list):
        raise RecordError(f"{path}: expected an object with the list 'records' at the top")
    if content.get("schema") != SCHEMA:
        raise RecordError(f"{path}: schema {content.get('schema')!r}, this version reads schema {SCHEMA}")
    return content["records"]


def _parse(path: Path, item: Any) -> Record:
    if not isinstance(item, dict):
        raise RecordError(f"{path}: a record must be an object, got {item!r}")
    known = {field.name for field in fields(Record)}
    name = item.get("name", "(no name)")
    if missing := sorted(known - item.keys()):
        raise RecordError(f"{path}: record {name!r} lacks {', '.join(missing)}")
    if unknown := sorted(item.keys() - known):
        raise RecordError(f"{path}: record {name!r} has unknown fields {', '.join(unknown)}")
    try:
        return Record(**item)
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None


def _check_unique_names(path: Path, records: list[Record]) -> None:
    names = [record.name for record in records]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecordError(f"{path}: records must have different names, repeated: {', '.join(twice)}")


def find(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Records whose fields, or protocol entries, all equal those given: ``find(records, metric="loss")``."""
    return [
        record
        for record in records
        if all(getattr(record, key, record.protocol.get(key)) == value for key, value in wanted.items())
    ]


# ------------------------------------------------------------------------------------------------- statistics


def student_t(degrees_of_freedom: int, confidence: float = 0.95) -> float:
    """The two-sided quantile of Student's t distribution (12.71 for one degree of freedom at 95 %).

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if degrees_of_freedom < 1:
        raise ValueError(f"Student's t needs at least one degree of freedom, got {degrees_of_freedom}")
    low, high = 0.0, 1e6
    for _ in range(100):  # bisection: the coverage grows with t
        middle = (low + high) / 2
        low, high = (middle, high) if t_coverage(middle, degrees_of_freedom) < confidence else (low, middle)
    return (low + high) / 2


def t_coverage(t: float, degrees_of_freedom: int) -> float:
    """P(-t < T < t) as a finite sum (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees_of_freedom))
    odd = degrees_of_freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(2 if not odd else 3, degrees_of_freedom + 1, 2):
        total += term
        term *= (k - 1) / k * math.cos(angle) ** 2
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


@dataclass(frozen=True)
class Comparison:
    """``a`` over ``b``: the ratio of two records and its 95 % interval (None if a record is a single run)."""

    a: str
    b: str
    ratio: float
    interval: tuple[float, float] | None
    generated: bool

    def __str__(self) -> str:
        spread = "no spread: one run"
        if self.interval is not None:
            spread = f"95 % interval {self.interval[0]:.3g} to {self.interval[1]:.3g}"
        mark = "; generated data" if self.generated else ""
        return f"{self.a} / {self.b} = {self.ratio:.3g} ({spread}{mark})"


def compare(a: Record, b: Record, *, paired: bool = False) -> Comparison:
    """The ratio ``a / b`` with a 95 % interval.

    Unpaired, it is the ratio of the means; the interval comes from the delta method on its logarithm, with
    Welch's degrees of freedom. Paired, value i of ``a`` belongs to value i of ``b`` (the same seed, or
    interleaved timing rounds): it is the mean of the ratios, with Student's interval.

    Raises:
        ValueError: metric or unit differ, a value to divide by is not positive, or pairs are missing.
    """
    _check_comparable(a, b, paired)
    if paired:
        ratios = [x / y for x, y in zip(a.values, b.values, strict=True)]
        ratio, interval = statistics.fmean(ratios), _mean_interval(ratios)
    else:
        ratio, interval = a.mean / b.mean, _ratio_interval(a, b)
    return Comparison(a.name, b.name, ratio, interval, a.generated or b.generated)


def _check_comparable(a: Record, b: Record, paired: bool) -> None:
    if (a.metric, a.unit) != (b.metric, b.unit):
        raise ValueError(
            f"cannot compare {a.metric!r} in {a.unit!r} with {b.metric!r} in {b.unit!r}:"
            " same metric and unit expected"
        )
    if min(a.values) < 0 or min(b.values) < 0 or a.mean == 0 or b.mean == 0 or (paired and 0 in b.values):
        raise ValueError(f"a ratio needs positive values, got {a.name}: {a.values} and {b.name}: {b.values}")
    if paired and a.n != b.n:
        raise ValueError(f"paired records need as many values: {a.name} has {a.n}, {b.name} has {b.n}")


def _mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    if len(values) < 2:
        return None
    half_width = student_t(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values) - half_width, statistics.fmean(values) + half_width


def _ratio_interval(a: Record, b: Record) -> tuple[float, float] | None:
    if a.n < 2 or b.n < 2:
        return None
    # Squared relative standard errors of both means; their sum is the variance of log(ratio) to first order.
    variance_a = (a.std / a.mean) ** 2 / a.n
    variance_b = (b.std / b.mean) ** 2 / b.n
    variance = variance_a + variance_b
    if variance == 0:
        return a.mean / b.mean, a.mean / b.mean
    degrees = variance**2 / (variance_a**2 / (a.n - 1) + variance_b**2 / (b.n - 1))
    factor = math.exp(student_t(max(1, math.floor(degrees))) * math.sqrt(variance))
    return a.mean / b.mean / factor, a.mean / b.mean * factor


# ------------------------------------------------------------------------------------------------- provenance


def current_commit() -> str:
    """The commit of the running code: a short hash, ``+dirty`` if the package differs from it.

    Only changes inside the package count: records just written do not make the code dirty.
    """
    package = Path(__file__).parent
    try:
        _git(
            package, "ls-files", "--error-unmatch", "records.py"
        )  # a wheel inside somebody's repository is not ours
        commit = _git(package, "rev-parse", "--short=12", "HEAD")
        changes = _git(package, "status", "--porcelain", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: not a git checkout"
    return f"{commit}+dirty" if changes else commit


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def default_folder() -> Path:
    """Where records live: ``book/records`` in a checkout, else the current folder."""
    root = Path(__file__).parents[1]
    in_checkout = (root / "pyproject.toml").exists() and (root / "book").is_dir()
    return root / "book" / "records" if in_checkout else Path.cwd()


# ----------------------------------------------------------------------------------------------------- tables


def format_number(value: float) -> str:
    """Four significant digits, thousands grouped, no exponent between 0.001 and ten million."""
    if value != 0 and not 1e-3 <= abs(value) < 1e7:
        return f"{value:.3e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Table:
    """A small table for notebooks: accessible HTML (caption, header scopes), and plain text elsewhere.

    Raises:
        ValueError: the caption or a column header is empty, or a row has another number of cells.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "rows", tuple(tuple(str(cell) for cell in row) for row in self.rows))
        if not self.caption.strip() or not all(column.strip() for column in self.columns):
            raise ValueError(f"a table needs a caption and a header for every column, got {self.columns}")
        if wrong := [row for row in self.rows if len(row) != len(self.columns)]:
            raise ValueError(
                f"a row has {len(wrong[0])} cells, the table {len(self.columns)} columns: {wrong[0]}"
            )

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(column)}</th>' for column in self.columns)
        body = "\n".join(f"<tr>{_row_html(row)}</tr>" for row in self.rows)
        return (
            # The frame scrolls on its own on a narrow screen; tabindex lets a keyboard reach the scroll bar.
            f'<div class="sc-table" role="region" aria-label="{escape(self.caption)}" tabindex="0"'
            ' style="overflow-x:auto">\n'
            f"<table>\n<caption>{escape(self.caption)}</caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.columns, tuple("-" * width for width in widths), *self.rows]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, *text])

    __repr__ = __str__


def _row_html(row: tuple[str, ...]) -> str:
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
    return f'<th scope="row">{escape(row[0])}</th>{cells}'


def table(records: Iterable[Record], caption: str = "Records") -> Table:
    """Records as a table: mean, spread, number of runs, and the data with a mark if they are generated."""
    columns = ("record", "metric", "unit", "mean", "95 % interval", "runs", "data")
    rows = [
        (
            record.name,
            record.metric,
            record.unit,
            format_number(record.mean),
            record.spread_text,
            str(record.n),
            record.data_text,
        )
        for record in records
    ]
    return Table(caption, columns, tuple(rows))
