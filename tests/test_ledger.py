"""The ledger of claims: complete, honest about what is missing, and filterable without a kernel."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from seqcourse import claims, ledger
from seqcourse.ledger import NOT_YET, WITHOUT_RULE, Entry, counts, to_html

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "book" / "records"
SCRIPT = ROOT / "book" / "_assets" / "site.js"
LAST = {"N": 11, "C": 13, "M": 6, "A": 5}


def by_id(folder: Path) -> dict[str, Entry]:
    return {entry.id: entry for entry in ledger.ledger(folder)}


def test_every_claim_of_the_course_has_one_row_in_order():
    ids = [entry.id for entry in ledger.ledger(RECORDS)]
    wanted = [f"{kind}{number:02}" for kind, last in LAST.items() for number in range(1, last + 1)]
    assert [name for name in ids if name[0] in LAST] == wanted
    assert set(ids) == set(claims.CLAIMS) | set(WITHOUT_RULE)
    assert not set(claims.CLAIMS) & set(WITHOUT_RULE), "a claim with a rule stands in one place only"
    assert len(ids) == len(set(ids))


def test_verdicts_are_those_of_the_rules(tmp_path):
    shutil.copy(RECORDS / "order-laptop.json", tmp_path)
    entry = by_id(tmp_path)["C09"]
    known = ledger.read(tmp_path / "order-laptop.json")
    assert entry.status == claims.verdict("C09", known).status
    assert entry.reason.startswith(claims.verdict("C09", known).reason)
    (evidence,) = entry.evidence
    assert evidence.file == "order-laptop.json"
    assert evidence.records == [record for record in known if "C09" in record.claims]


def test_a_smaller_profile_does_not_speak_beside_a_fuller_one(tmp_path):
    for profile in ("laptop", "full"):
        shutil.copy(RECORDS / "order-laptop.json", tmp_path / f"order-{profile}.json")
    assert [part.file for part in by_id(tmp_path)["C09"].evidence] == ["order-full.json"]


def test_what_is_not_measured_says_so(tmp_path, monkeypatch):
    empty = by_id(tmp_path)
    assert empty["C09"].status == NOT_YET and "waits for its record" in empty["C09"].reason
    assert empty["C09"].rule == claims.CLAIMS["C09"].rule_text
    assert {entry.status for entry in empty.values()} == {NOT_YET, "not testable"}
    assert [name for name, entry in empty.items() if entry.status == "not testable"] == ["N11"]
    monkeypatch.setattr(ledger, "CLAIMS", {})
    assert by_id(tmp_path)["A05"].reason == "There is no experiment yet."


def test_a_claim_that_gets_a_rule_leaves_the_waiting_list(tmp_path, monkeypatch):
    ruled = claims.Claim("A05", "text", "A", "rule", lambda records: ("confirmed", "because"))
    monkeypatch.setattr(ledger, "CLAIMS", {"A05": ruled})
    assert by_id(tmp_path)["A05"].rule == "rule"


def test_counts_add_up_in_the_usual_order():
    entries = [Entry("N01", "t", "E", status, "r", "b") for status in (NOT_YET, "refuted", "refuted")]
    assert list(counts(entries).items()) == [("refuted", 2), (NOT_YET, 1)]


def test_html_escapes_and_links(tmp_path):
    shutil.copy(RECORDS / "order-laptop.json", tmp_path)
    html = to_html([by_id(tmp_path)["C09"]], "bibliography.html", "records.html")
    assert '<a href="bibliography.html#source-b">[B]</a>' in html
    assert '<a href="records.html#order-laptop-json">order-laptop.json</a>' in html
    assert html.count("<details>") == html.count("</details>") == 1
    unsafe = Entry("N01", "a < b", "A, C", "refuted", "<script>", "x & y")
    html = to_html([unsafe], "b.html", "r.html")
    assert "a &lt; b" in html and "&lt;script&gt;" in html and "x &amp; y" in html
    assert html.index("#source-a") < html.index("#source-c")


def test_every_source_letter_is_in_the_bibliography():
    page = (ROOT / "book" / "reference" / "bibliography.md").read_text(encoding="utf-8")
    letters = {letter for entry in ledger.ledger(RECORDS) for letter in re.findall(r"[A-Z]", entry.source)}
    assert letters == set(re.findall(r"^### \[([A-Z])\]", page, flags=re.M))
    assert all(f"(source-{letter.lower()})=\n### [{letter}]" in page for letter in letters)


# --- in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The real ledger with the site's script, opened from a file without a network."""
    from playwright.sync_api import sync_playwright

    from seqcourse.tasks import find_browser

    page = tmp_path_factory.mktemp("ledger") / "ledger.html"
    body = to_html(ledger.ledger(RECORDS), "bibliography.html", "records.html")
    script = SCRIPT.read_text(encoding="utf-8")
    page.write_text(
        f"<!doctype html><html lang=en><title>Ledger</title><main>{body}</main><script>{script}</script></html>",
        encoding="utf-8",
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        yield browser, page.as_uri()
        browser.close()


def shown(tab) -> list[str]:
    return tab.eval_on_selector_all(
        ".claims-ledger > ul > li", "rows => rows.filter(row => row.checkVisibility()).map(row => row.id)"
    )


@pytest.mark.browser
def test_without_a_script_every_row_is_there(opened):
    browser, address = opened
    tab = browser.new_context(java_script_enabled=False, offline=True).new_page()
    tab.goto(address)
    assert tab.locator(".claims-ledger > ul > li:visible").count() == len(ledger.ledger(RECORDS))
    assert tab.locator(".ledger-controls").count() == 0  # no control that does nothing


@pytest.mark.browser
def test_the_keyboard_filters_and_opens(opened):
    browser, address = opened
    tab = browser.new_context(offline=True).new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(address)
    entries = ledger.ledger(RECORDS)
    everything = [f"claim-{entry.id.lower()}" for entry in entries]
    assert shown(tab) == everything
    tab.keyboard.press("Tab")
    tab.keyboard.type("s&p 500")
    assert shown(tab) == ["claim-n04"]
    assert tab.get_by_role("status").inner_text() == f"1 of {len(everything)} shown"
    tab.keyboard.press("Control+A")
    tab.keyboard.press("Delete")
    tab.keyboard.press("Tab")
    tab.keyboard.type("mech")  # picks "mechanism" in the list
    assert shown(tab) == [name for name in everything if name.startswith("claim-m")]
    tab.get_by_label("Verdict").select_option(NOT_YET)
    waiting = [f"claim-{e.id.lower()}" for e in entries if e.kind == "mechanism" and e.status == NOT_YET]
    assert shown(tab) == waiting
    tab.get_by_label("Kind").select_option("")
    tab.get_by_label("Verdict").select_option("")
    assert shown(tab) == everything
    tab.locator("#claim-n01 summary").focus()
    tab.keyboard.press("Enter")
    assert tab.locator("#claim-n01 dl").is_visible()
    assert problems == []


@pytest.mark.browser
def test_a_link_to_a_claim_opens_it(opened):
    browser, address = opened
    tab = browser.new_context(offline=True).new_page()
    tab.goto(f"{address}#claim-c09")
    assert tab.locator("#claim-c09 dl").is_visible()
    assert not tab.locator("#claim-c01 dl").is_visible()
