"""The rotary explorable computes what seqcourse.attention computes, and its sliders move in a browser."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, sync_playwright
from test_explorables import double, node

from seqcourse.attention import RotaryPositions, rotary_angles, scaled_dot_product, sinusoids
from seqcourse.explorables import RotaryScore
from seqcourse.tasks import find_browser

MODULE = Path(__file__).parents[1] / "seqcourse" / "explorables" / "rotary.mjs"
CLOSE = {"rel": 1e-12, "abs": 1e-12}


def evaluate(expression: str, argument: object) -> object:
    """Evaluate JavaScript that sees the explorable's module as `rotary` and the argument as `given`."""
    script = (
        f"import * as rotary from {json.dumps(MODULE.as_uri())};\n"
        "let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const given = JSON.parse(text);\nprocess.stdout.write(JSON.stringify({expression}));\n"
    )
    command = [node(), "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(argument), text=True, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def expected_score(query: list, key: list, at: int, from_: int, kind: str, base: float) -> float:
    """The same score by the course's own modules."""
    q, k = double([query]), double([key])  # (1, E)
    if kind == "rotary":
        rotary = RotaryPositions(base)
        q, k = rotary(q, start=at), rotary(k, start=from_)
    elif kind == "sinusoidal":
        table = sinusoids(max(at, from_) + 1, len(query), base).double()
        q, k = q + table[at], k + table[from_]
    return scaled_dot_product(q, k).item()


@pytest.fixture(scope="module")
def cases() -> list[dict]:
    draw = torch.Generator().manual_seed(5)
    vectors = torch.randn(60, 2, 8, generator=draw, dtype=torch.float64).tolist()
    places = torch.randint(0, 95, (60, 2), generator=draw).tolist()
    bases = [10.0, 100.0, 10_000.0]
    return [
        {"query": q, "key": k, "at": at, "from": from_, "base": bases[i % 3]}
        for i, ((q, k), (at, from_)) in enumerate(zip(vectors, places, strict=True))
    ]


# --- arithmetic --------------------------------------------------------------------------------------------


def test_turning_is_that_of_the_module(cases):
    shown = evaluate("given.map((c) => rotary.turn(c.query, c.at, c.base))", cases)
    for case, turned in zip(cases, shown, strict=True):
        expected = RotaryPositions(case["base"])(double([case["query"]]), start=case["at"])[0]
        assert turned == pytest.approx(expected.tolist(), **CLOSE)


def test_frequencies_and_codes_are_those_of_the_module():
    for base in (10.0, 10_000.0):
        assert evaluate("rotary.frequencies(8, given)", base) == pytest.approx(
            rotary_angles(2, 8, base)[1].tolist(), **CLOSE
        )
        codes = evaluate("[0, 1, 7, 40].map((t) => rotary.sinusoid(t, 8, given))", base)
        for code, t in zip(codes, (0, 1, 7, 40), strict=True):
            assert code == pytest.approx(sinusoids(41, 8, base)[t].tolist(), abs=1e-6)  # a float32 table


@pytest.mark.parametrize("kind", ["rotary", "sinusoidal", "none"])
def test_scores_are_those_of_attention(cases, kind):
    expression = "given.cases.map((c) => rotary.score(c.query, c.key, c.at, c.from, given.kind, c.base))"
    shown = evaluate(expression, {"cases": cases, "kind": kind})
    close = {"abs": 1e-5} if kind == "sinusoidal" else CLOSE
    for case, value in zip(cases, shown, strict=True):
        expected = expected_score(case["query"], case["key"], case["at"], case["from"], kind, case["base"])
        assert value == pytest.approx(expected, **close)


def test_only_the_rotary_score_follows_the_distance_alone(cases):
    case = cases[0] | {"base": 100.0}
    spread = evaluate(
        "rotary.KINDS.map((kind) => ['byShift', 'byKeyPosition'].map((series) => {"
        "  const places = series === 'byShift' ? [5, 2] : [5];"
        "  const values = rotary[series](given.query, given.key, ...places, kind, given.base);"
        "  return Math.max(...values) - Math.min(...values); }))",
        case,
    )
    (turned_shift, turned_key), (added_shift, added_key), none = spread
    assert turned_shift < 1e-12 and turned_key > 0.1
    assert added_shift > 0.1 and added_key > 0.1 and none == [0, 0]


@pytest.mark.parametrize(("preset", "distance"), [("same", 0), ("three back", 3)])
def test_presets_peak_where_they_say(preset, distance):
    peak = evaluate(
        "(() => { const { query, key } = rotary.PRESETS[given](100);"
        " const values = rotary.byKeyPosition(query, key, 20, 'rotary', 100);"
        " return values.indexOf(Math.max(...values)); })()",
        preset,
    )
    assert peak == 20 - distance


def test_page_copy_carries_module_and_values():
    explorable = RotaryScore(query_position=20, base_exponent=4.0)
    page = explorable.page_copy()
    module = base64.b64decode(re.search(r'"data:text/javascript;base64,([^"]+)"', page)[1]).decode()
    values = json.loads(re.search(r"const values = (\{.*?\});", page)[1])
    assert module == MODULE.read_text(encoding="utf-8")
    assert values["query_position"] == 20 and values["base_exponent"] == 4.0
    assert set(values) == {"query", "key", "query_position", "key_position", "shift", "base_exponent"}
    assert html.escape(explorable.alternative) in page
    assert "http" not in page.replace("http://www.w3.org", "")


# --- in a browser ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["light", "dark"])
def page(request, tmp_path_factory):
    """The explorable alone on an empty page, on a phone, without a network."""
    path = tmp_path_factory.mktemp("alone") / "alone.html"
    colours = "html { color-scheme: light dark } body { margin: 8px; font-family: sans-serif }"
    path.write_text(
        f"<!doctype html><html lang=en><title>alone</title><style>{colours}</style>"
        f"<main><h1>Alone</h1>{RotaryScore().page_copy()}</main>",
        encoding="utf-8",
    )
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    options = ["--no-sandbox"] if root else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=options)
        view = {"width": 390, "height": 844}
        context = browser.new_context(viewport=view, color_scheme=request.param, offline=True)
        opened = context.new_page()
        opened.problems = []
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.goto(path.as_uri())
        opened.wait_for_selector("div.explorable input")
        yield opened
        browser.close()


def shown(page: Page, name: str) -> float:
    return float(page.locator(f'[data-shows="{name}"]').inner_text())


def press(page: Page, name: str, key: str, times: int) -> None:
    slider = page.locator(f'input[data-name="{name}"]')
    slider.focus()
    for _ in range(times):
        slider.press(key)


def check_scores(page: Page, at: int, from_: int, shift: int, base: float) -> None:
    vectors = RotaryScore().query, RotaryScore().key
    for kind in ("rotary", "sinusoidal", "none"):
        now = expected_score(*vectors, at + shift, from_ + shift, kind, base)
        before = expected_score(*vectors, at, from_, kind, base)
        assert shown(page, f"{kind}-now") == pytest.approx(now, abs=5.1e-4)
        assert shown(page, f"{kind}-before") == pytest.approx(before, abs=5.1e-4)


@pytest.mark.browser
def test_sliders_move_by_keyboard_and_show_the_scores_of_attention(page):
    page.get_by_role("button", name="same").click()
    check_scores(page, 12, 8, 0, 100.0)
    press(page, "query_position", "ArrowRight", 3)
    press(page, "key_position", "ArrowLeft", 2)
    press(page, "shift", "ArrowRight", 5)
    press(page, "base_exponent", "ArrowRight", 2)
    check_scores(page, 15, 6, 5, 1000.0)
    assert shown(page, "rotary-now") == shown(page, "rotary-before")
    assert shown(page, "sinusoidal-now") != shown(page, "sinusoidal-before")
    page.wait_for_function(
        "document.querySelector('[role=status]').textContent.includes('Query at 20, key at 11, distance 9')"
    )
    assert page.locator('input[data-name="base_exponent"]').get_attribute("aria-valuetext") == "1000"


@pytest.mark.browser
def test_it_fits_a_phone_and_breaks_no_rule_of_accessibility(page):
    page.get_by_role("button", name="three back").click()
    assert "three positions before" in page.locator(".note").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("svg[role=img]").count() == 6
    assert all(picture.get_attribute("aria-label") for picture in page.locator("svg[role=img]").all())
    assert page.problems == []
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations'], preload: false})")["violations"]
    assert [(rule["id"], rule["nodes"][0]["html"][:100]) for rule in found] == []
