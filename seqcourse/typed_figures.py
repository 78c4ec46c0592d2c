"""Benchmark figures typed into the book's prose: a page that has one fails the lint.

A measured figure belongs in a record and is printed by a cell; a typed one stays when the record changes. The
check reads what a reader reads: prose, and the alternative texts and captions in cells; no code, no formulas.
It reports, line by line (the book has one sentence per line),

- a number with a unit of measurement: ``24 BLEU``, ``1.52 nats``, ``310 MB``, ``40 tokens per second``;
- a ratio of cost: ``3.2 times faster``, ``2x slower``, ``20 % less memory``;
- a decimal number or a percentage in a line that names a metric: accuracy, perplexity, RMSE, F1 ...

A line passes that asks a question, cites a work or names a source of the claims (``source [E]``): there the figure
is a supposition, or somebody else's. Any other figure that is no measurement (a definition, arithmetic, an
example made up) is let through by a comment with the reason: ``% typed figure: counted by hand`` in the line above
its paragraph, ``# typed figure: ...`` in its cell.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

NUMBER = r"(?<![\w.,/^-])\d[\d,]*(?:\.\d+)?"
UNITS = (
    r"BLEU|chrF|ROUGE|nats?|bits? per character|[kMG]i?B|ms|milliseconds?|microseconds?|µs"
    r"|tokens (?:per|a) second|index points|points of (?:BLEU|accuracy|F1)|[GT]FLOPS?"
)
COST = r"fast|slow|quick|cheap|memory|expensive|the time|the memory|the tokens"
METRICS = (
    r"accurac(?:y|ies)|perplexit(?:y|ies)|BLEU|chrF|ROUGE|F1|RMSE|squared errors?|nats|cross-entropy"
    r"|bits per character|(?:training|validation|test) loss|error rate|throughput|latency|peak memory"
)
RESULT = rf"{NUMBER} ?(?:%|per cent)|(?<![\w.,/^-])\d[\d,]*\.\d+"
FIGURES = (
    re.compile(rf"{NUMBER}[ -]?(?:{UNITS})\b"),
    re.compile(rf"{NUMBER} ?(?:x|×|times|%|per cent)(?: (?:as|more|less))? (?:{COST})\w*"),
    re.compile(rf"(?:(?<=perplexity )|(?<=perplexity of )|(?<=BLEU of )){NUMBER}"),
)
METRIC, RESULT = re.compile(rf"\b(?:{METRICS})\b"), re.compile(RESULT)
PASSES = re.compile(r"\?\s*$|\{cite|\bsource \[[A-E]\]")
NAMED = (
    r"\b(?:[Ss]ection|[Ff]igure|[Tt]able|[Cc]hapter|[Ee]xercise|[Vv]ersion|Python|PyTorch) \d[\d.]*\b"
    r"|\d+ ?% (?:confidence )?intervals?"
)
ALLOWANCE = re.compile(r"^\s*[%#] typed figure:(?P<reason>.*)$", re.M)
FENCE = re.compile(r"^\s*(?P<mark>`{3,}|:{3,})(?:\{(?P<kind>[\w:-]+)\})?(?P<rest>.*)$")
NOT_PROSE = re.compile(r"code|literalinclude|math|eval-rst|bibliography|records|kill-matrix|claims-ledger")
SHOWN_TEXT = ("alt", "caption", "title")


class TypedFigure(NamedTuple):
    """A figure that should come from a record: where it stands, what it is, and the line around it."""

    line: int
    figure: str
    context: str

    def __str__(self) -> str:
        return f"{self.line}: typed figure {self.figure!r} in: {self.context.strip()[:120]}"


def typed_figures(page: str) -> list[TypedFigure]:
    """All typed benchmark figures of a page, given as MyST text."""
    prose, cells = _split(page)
    shown = [line for start, code in cells for line in _shown_texts(start, code)]
    return list(_figures(sorted(_without_allowed(prose) + shown)))


def check_book(folder: Path) -> list[str]:
    """One message per typed figure in the pages below a folder."""
    pages = sorted(folder.rglob("*.md"))
    return [
        f"{page.relative_to(folder.parent)}:{figure}"
        for page in pages
        for figure in typed_figures(page.read_text(encoding="utf-8"))
    ]


# --- what a line says -------------------------------------------------------------------------------------


def _figures(lines: list[tuple[int, str]]) -> Iterator[TypedFigure]:
    for number, line in lines:
        text = _as_read(line)
        if PASSES.search(line):
            continue
        patterns = (*FIGURES, RESULT) if METRIC.search(text) else FIGURES
        spans = {match.span() for pattern in patterns for match in pattern.finditer(text)}
        seen = 0
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            if begin >= seen:  # one number may be found twice: with its unit it counts
                yield TypedFigure(number, text[begin:end], line)
                seen = end


def _as_read(line: str) -> str:
    """The line without formulas, inline code, link targets and numbers that are names; of a role, its text."""
    line = re.sub(r"\{[\w:]+\}`([^`<]*?)(?: ?<[^>`]*>)?`", r"\1", line)
    return re.sub(rf"`[^`]*`|\$[^$]*\$|\]\([^)]*\)|<!--.*?-->|^\s*\d+\. |{NAMED}", " ", line)


# --- what of a page is prose ------------------------------------------------------------------------------


def _split(page: str) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Numbered lines of prose, and code cells with the number of their first line."""
    prose, cells, fences, formula = [], [], [], False
    lines = page.splitlines()
    first = lines.index("---", 1) + 1 if lines[:1] == ["---"] else 0
    for number, line in enumerate(lines[first:], first + 1):
        fence = FENCE.match(line)
        if fence and _closes(fence, fences):
            fences.pop()
        elif fence and not _within_code(fences):
            fences.append((fence["mark"], fence["kind"] or "code"))
            if fence["kind"] == "code-cell":
                cells.append((number + 1, ""))
            prose.append((number, fence["rest"]))  # the title of an admonition
        elif fences and fences[-1][1] == "code-cell":
            cells[-1] = cells[-1][0], f"{cells[-1][1]}{line}\n"
        elif line.strip().startswith("$$"):
            formula = not formula and not re.search(r"\$\$.*\$\$", line)
        elif not _within_code(fences) and not formula and not re.match(r"\s*:[\w-]+:", line):
            prose.append((number, line))
    return prose, cells


def _closes(fence: re.Match, fences: list[tuple[str, str]]) -> bool:
    mark = fence["mark"]
    same = bool(fences) and fences[-1][0][0] == mark[0] and len(mark) >= len(fences[-1][0])
    return same and not fence["kind"] and not fence["rest"].strip()


def _within_code(fences: list[tuple[str, str]]) -> bool:
    return bool(fences) and bool(NOT_PROSE.match(fences[-1][1]))


def _without_allowed(prose: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Without the paragraphs (to the next empty line) that an allowance with a reason precedes."""
    kept, allowed = [], False
    for number, line in prose:
        allowance = ALLOWANCE.match(line)
        allowed = (allowed and bool(line.strip())) or bool(allowance and allowance["reason"].strip())
        if not allowed and not (allowance and allowance["reason"].strip()):
            kept.append((number, line))
    return kept


def _shown_texts(start: int, code: str) -> list[tuple[int, str]]:
    """Texts that a cell shows to readers as they were typed: alternative text, caption, title."""
    allowance = ALLOWANCE.search(code)
    if allowance and allowance["reason"].strip():
        return []
    plain = re.sub(r"^:[\w-]+:.*$", "", code, flags=re.M)  # options of the cell
    plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", plain, flags=re.M)  # magics are no Python
    shown = [
        keyword
        for call in ast.walk(ast.parse(plain))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg in SHOWN_TEXT
    ]
    return [(start + keyword.value.lineno - 1, _typed_part(keyword.value)) for keyword in shown]


def _typed_part(value: ast.expr) -> str:
    """The words of a string; what an f-string computes is left out."""
    pieces = (part.value for part in ast.walk(value) if isinstance(part, ast.Constant))
    return " … ".join(piece for piece in pieces if isinstance(piece, str))
