"""The whole ledger of claims: what the course's sources assert, judged where a rule and a record exist.

:mod:`seqcourse.claims` holds the claims that have a rule. Here are the others too, so that the ledger shows what
has not been measured yet beside what has. A claim that gets a rule moves over there, and is taken out here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from seqcourse.benchmarks import record_files
from seqcourse.claims import CLAIMS, Claim, verdict
from seqcourse.records import Record, read

NOT_YET = "not measured yet"
KINDS = {"N": "number", "C": "comparison", "M": "mechanism", "A": "advice", "S": "system"}
ORDER = ("confirmed", "qualified", "refuted", "not testable", NOT_YET)

# In our words; the letters are the sources' (see the bibliography). Empty: in several, and not noted in which.
WITHOUT_RULE: dict[str, tuple[str, str]] = {
    "N10": ("BERT learnt from 3.3 billion words in 4 days; an LSTM would have taken weeks.", "B"),
    "N11": (
        "A chatbot's users are satisfied in 60 % of cases with an RNN and 85 % with an LSTM; on medical data the"
        " two are right in 78 % and 89 %.",
        "E",
    ),
    "C06": ("Words outside the vocabulary break recurrent pipelines.", "A"),
    "C08": ("RNNs are better on streams and where memory is small.", ""),
    "C10": ("Context from both sides helps tagging and classification.", ""),
    "A05": ("Change to Transformers for long text, many tasks and big data.", "A"),
}
# Their figures come from data that nobody else has: they cannot be repeated, by anyone.
UNREPEATABLE = {"N11": "The source publishes neither data nor model."}


class Evidence(NamedTuple):
    """The records in one file that speak to a claim."""

    file: str
    records: list[Record]

    def __str__(self) -> str:
        metrics = ", ".join(dict.fromkeys(record.metric for record in self.records))
        number = "1 record" if len(self.records) == 1 else f"{len(self.records)} records"
        return f"{number} of {metrics}; {', '.join(dict.fromkeys(r.data_text for r in self.records))}"


@dataclass(frozen=True)
class Entry:
    """A row of the ledger."""

    id: str
    text: str
    source: str
    status: str
    rule: str
    reason: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def kind(self) -> str:
        """Number, comparison, mechanism, advice or system."""
        return KINDS[self.id[0]]


def ledger(folder: str | os.PathLike[str] | None = None) -> list[Entry]:
    """Every claim, by kind and number, judged by the records in a folder (default: the course's own)."""
    files = {path.name: read(path) for path in record_files(folder)}
    ids = sorted({*CLAIMS, *WITHOUT_RULE}, key=lambda id: (list(KINDS).index(id[0]), id))
    return [_judged(CLAIMS[id], files) if id in CLAIMS else _unjudged(id) for id in ids]


def _judged(claim: Claim, files: Mapping[str, list[Record]]) -> Entry:
    evidence = tuple(
        Evidence(name, speaking) for name, records in files.items() if (speaking := claim.evidence(records))
    )
    found = verdict(claim, [record for part in evidence for record in part.records])
    status, reason = found.status, f"{found.reason} {found.data_text}".strip()
    if not evidence:
        status, reason = NOT_YET, "The rule is written down, and waits for its record."
    return Entry(claim.id, claim.text, claim.source, status, claim.rule_text, reason, evidence)


def _unjudged(id: str) -> Entry:
    text, source = WITHOUT_RULE[id]
    if id in UNREPEATABLE:
        return Entry(id, text, source, "not testable", "None is possible.", UNREPEATABLE[id])
    return Entry(id, text, source, NOT_YET, "Not written yet.", "There is no experiment yet.")


def counts(entries: list[Entry]) -> dict[str, int]:
    """How many claims have each status, the statuses in their usual order."""
    found = Counter(entry.status for entry in entries)
    return {status: found[status] for status in ORDER if found[status]}


# --- as HTML ----------------------------------------------------------------------------------------------


def to_html(entries: list[Entry], bibliography: str, records: str) -> str:
    """A list whose items open; without a script it is complete, with ``site.js`` it can be filtered.

    Args:
        bibliography: address of the page with the sources, whose headings are ``source-a``, ``source-b`` ...
        records: address of the page with all records.
    """
    total = ", ".join(f"{number} {status}" for status, number in counts(entries).items())
    items = "\n".join(_item(entry, bibliography, records) for entry in entries)
    return (
        f'<div class="claims-ledger">\n<p>{len(entries)} claims: {escape(total)}.</p>\n'
        f"<ul>\n{items}\n</ul>\n</div>"
    )


def _item(entry: Entry, bibliography: str, records: str) -> str:
    letters = re.findall(r"[A-Z]", entry.source)
    links = [f'<a href="{bibliography}#source-{letter.lower()}">[{letter}]</a>' for letter in letters]
    evidence = "".join(
        f'<li><a href="{records}#{_anchor(part.file)}">{escape(part.file)}</a>: {escape(str(part))}</li>'
        for part in entry.evidence
    )
    details = {
        "Kind": entry.kind,
        "Source": ", ".join(links) or "not noted",
        "Rule": escape(entry.rule),
        "Because": escape(entry.reason),
        "Records": f"<ul>{evidence}</ul>" if evidence else "none",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in details.items())
    return (
        f'<li id="claim-{entry.id.lower()}" data-kind="{entry.kind}" data-status="{entry.status}"><details>'
        f"<summary><b>{entry.id}</b> {escape(entry.text)} <strong>{entry.status}</strong></summary>"
        f"<dl>{rows}</dl></details></li>"
    )


def _anchor(file: str) -> str:
    """The name that Sphinx gives to a table with this caption."""
    return file.lower().replace(".", "-").replace("_", "-")
