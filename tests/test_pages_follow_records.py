"""A figure on a page comes from its record: change the record, and the page changes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqcourse import records, tasks
from seqcourse.benchmarks import discover

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "book" / "records"
ORDER = "order-laptop.json"
# The marking of a page that shows both: the table of all records, and the verdicts.
PAGE = "# Page\n" + "".join(
    f"\n```{{{name}}} records\n```\n" for name in ("records-origin", "records", "claims-ledger")
)


def change(path: Path, value: float, **wanted: str) -> int:
    """Sets all values of the records with these protocol entries; returns how many records that were."""
    content = json.loads(path.read_text(encoding="utf-8"))
    chosen = [r for r in content["records"] if wanted.items() <= r["protocol"].items()]
    for record in chosen:
        record["values"] = [value] * len(record["values"])
    path.write_text(json.dumps(content), encoding="utf-8")
    return len(chosen)


@pytest.fixture
def copied(tmp_path) -> Path:
    """A folder with a copy of one file of records."""
    folder = tmp_path / "records"
    folder.mkdir()
    shutil.copy(RECORDS / ORDER, folder)
    return folder


def build(folder: Path) -> str:
    """The page's HTML, built (again) by Sphinx with the book's own directives."""
    (folder / "index.md").write_text(PAGE, encoding="utf-8")
    extensions = "extensions=myst_parser,record_table,claims_ledger"
    path = os.pathsep.join([str(ROOT / "book" / "_ext"), str(ROOT)])
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-C", "-D", extensions, str(folder), str(folder / "site")],
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return (folder / "site" / "index.html").read_text(encoding="utf-8")


def row_of(html: str, name: str) -> str:
    """The text of the table's row for a record."""
    rows = re.findall(r"<tr.*?</tr>", html, flags=re.S)
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
    (text,) = [text for text in texts if text.startswith(f"{name} ")]
    return text


def verdict_of(html: str, claim: str) -> str:
    return re.search(rf'id="claim-{claim.lower()}" data-kind="\w+" data-status="([\w ]+)"', html)[1]


def test_table_and_verdict_follow_the_record(copied):
    name = "order/which mark comes first/no positions/T 16"
    before = build(copied.parent)
    assert verdict_of(before, "C09") == "qualified"
    assert change(copied / ORDER, 0.875, model="no positions") > 0
    after = build(copied.parent)  # Sphinx has to notice by itself: the page's text is the same
    assert "0.875" in row_of(after, name) and "0.875" not in row_of(before, name)
    assert verdict_of(after, "C09") == "refuted"
    assert verdict_of(after, "M06") == verdict_of(before, "M06")  # nothing else moved


def test_the_origin_of_a_file_is_that_of_its_records(copied):
    content = json.loads((copied / ORDER).read_text(encoding="utf-8"))
    for record in content["records"]:
        record["created"] = "2031-05-06T07:08:09+00:00"
        record["hardware"]["cpu"] = "Abacus 7"
    (copied / ORDER).write_text(json.dumps(content), encoding="utf-8")
    row = row_of(build(copied.parent), "seqcourse bench order --profile laptop")
    assert str(len(content["records"])) in row and "Abacus 7" in row and "2031-05-06" in row
    assert discover()["order"].cost["laptop"] in row


# --- the notebooks ----------------------------------------------------------------------------------------


def cells(page: str) -> list[str]:
    """The code cells of a page of the book, without their options."""
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    found = re.findall(r"^```\{code-cell\} ipython3\n(.*?)^```", text, flags=re.M | re.S)
    return [re.sub(r"^:\w+:.*\n", "", cell, flags=re.M) for cell in found]


def shown_verdict(page: str, claim: str, folder: Path, monkeypatch) -> str:
    """What a page shows as verdict: its imports, its cell that reads the records, its cell that judges."""
    monkeypatch.setattr(records, "default_folder", lambda: folder)
    every = cells(page)
    (reading,) = [cell for cell in every if "load_records(" in cell and "import" not in cell]
    (judging,) = [cell for cell in every if cell.startswith(f'claims.verdict("{claim}"')]
    names: dict = {}
    exec("\n".join(cell for cell in every if re.match("import |from ", cell)), names)
    exec(reading, names)
    return str(eval(judging, names))


def test_a_chapter_shows_the_verdict_of_the_records_as_they_are(copied, monkeypatch):
    before = shown_verdict("attention/positions", "C09", copied, monkeypatch)
    assert change(copied / ORDER, 0.875, model="no positions") > 0
    after = shown_verdict("attention/positions", "C09", copied, monkeypatch)
    assert before.startswith("C09: qualified") and after.startswith("C09: refuted")
    assert "0.875" in after and "0.875" not in before


FOLLOWED = [
    ("work/forecasting", "N04", "forecasting-laptop.json", {"model": "LSTM"}),
    ("work/language-model", "N03", "language-laptop.json", {"model": "LSTM"}),
    ("work/language-model", "C12", "language-laptop.json", {"model": "RNN"}),
    ("work/sentiment", "N01", "sentiment-laptop.json", {"model": "LSTM"}),
    ("work/sentiment", "N02", "sentiment-laptop.json", {"model": "LSTM"}),
    ("work/sentiment", "C05", "pretraining-laptop.json", {"start": "from scratch"}),
    ("recurrence/debugging", "A04", "ablation-laptop.json", {"norm": "batch"}),
]


@pytest.mark.parametrize(("page", "claim", "file", "wanted"), FOLLOWED)
def test_the_verdict_of_a_benchmark_moves_with_its_record(page, claim, file, wanted, tmp_path, monkeypatch):
    shutil.copy(RECORDS / file, tmp_path)
    before = shown_verdict(page, claim, tmp_path, monkeypatch)
    assert change(tmp_path / file, 0.001, **wanted) > 0
    after = shown_verdict(page, claim, tmp_path, monkeypatch)
    assert before.startswith(f"{claim}: ") and "not testable" not in before
    assert after != before


def test_outputs_in_the_cache_do_not_outlive_a_record(tmp_path, copied, monkeypatch):
    """Executed pages are cached by their cells alone; the key beside the cache knows the records, too."""
    (tmp_path / "book").mkdir()
    shutil.move(copied, tmp_path / "book" / "records")
    (tmp_path / "seqcourse").mkdir()
    (tmp_path / "constraints.txt").write_text("", encoding="utf-8")
    monkeypatch.setattr(tasks, "checkout", lambda: tmp_path)
    monkeypatch.setattr(tasks, "data_states", lambda: [])
    cache = tmp_path / "_build" / ".jupyter_cache"
    tasks.drop_stale_outputs()
    cache.mkdir(parents=True)
    tasks.drop_stale_outputs()
    assert cache.is_dir()
    change(tmp_path / "book" / "records" / ORDER, 0.875, model="no positions")
    tasks.drop_stale_outputs()
    assert not cache.exists()
