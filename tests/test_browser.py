"""The built site in a browser: every page on a desktop and a phone, light and dark, served and from a file.

A missing browser is an error. SEQCOURSE_CHROMIUM names one, else the system's is taken, else Playwright's.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from test_site import SITE, TOC

from seqcourse import pretrained
from seqcourse.cells import LSTMCell
from seqcourse.explorables import AttentionMap, LSTMStep
from seqcourse.models.decoding import greedy
from seqcourse.tasks import find_browser
from seqcourse.translating import prepare

pytestmark = pytest.mark.browser

PAGES = [f"{name}.html" for name in TOC] + ["search.html"]
VIEWS = {
    f"{device}-{scheme}": {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    for device, (width, height) in {"desktop": (1280, 900), "phone": (390, 844)}.items()
    for scheme in ("light", "dark")
}
# Accessibility rules that the theme breaks and we cannot mend, with the reason. There are none: keep it so.
ALLOWED: dict[str, str] = {}
QUIET = ("--disable-background-networking", "--disable-component-update", "--no-first-run")

# Formulas are set, explorables have drawn themselves.
READY = """() => (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() =>
  [...document.querySelectorAll("div.explorable")].every((box) => box.querySelector("input")))"""
RAW_TEX = r"""() => [...document.querySelectorAll("main .math, main mjx-merror")]
  .filter((box) => box.localName === "mjx-merror" || !box.querySelector("mjx-container mjx-math"))
  .map((box) => box.textContent.slice(0, 80))"""
# Each colour of highlighted code is checked once per page, not at each of thousands of words (for minutes);
# what is drawn inside a picture with a text alternative is not read out.
THIN_OUT = """() => {
  const seen = new Set();
  for (const word of document.querySelectorAll(".highlight pre span, dt.sig span, code span")) {
    const box = word.closest(".highlight, dt.sig, code");
    const kind = [box.parentElement.className, box.className, word.className, !!word.closest("a")].join("/");
    if (seen.has(kind)) word.replaceWith(...word.childNodes);
    seen.add(kind);
  }
  document.querySelectorAll("svg[role=img] > :not(title)").forEach((drawn) => drawn.remove());
}"""
# `preload` would make axe fetch stylesheets itself, from addresses that it resolves wrongly.
AXE = "axe.run(document, {resultTypes: ['violations'], preload: false})"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Keep the test's output clean; a browser that goes to the next page breaks off downloads."""

    def log_message(self, *arguments: Any) -> None: ...

    def copyfile(self, source: Any, outputfile: Any) -> None:
        with suppress(ConnectionError):
            super().copyfile(source, outputfile)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    assert (SITE / "index.html").is_file(), f"no site in {SITE}: build it first (make book)"
    handler = functools.partial(QuietHandler, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        raise RuntimeError("no Chromium found: install one, or name it in SEQCOURSE_CHROMIUM")
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # Chromium's sandbox refuses root
    options = [*QUIET, *(["--no-sandbox"] if root else [])]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=options)
        yield running
        running.close()


class Visitor:
    """One browser page that goes from page to page and notes everything that goes wrong."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.base = base
        self.problems: list[str] = []
        local = rf"(?:{re.escape(base)}|data:|blob:)"
        context.route(re.compile(rf"^(?!{local})"), self._refuse)
        self.page: Page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        self.page.on("response", self._on_response)

    def _refuse(self, route: Any) -> None:
        self.problems.append(f"foreign request: {route.request.url}")
        route.abort()

    def _on_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"console: {message.text}")

    def _on_response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.url}")

    def go(self, name: str) -> Page:
        self.problems.clear()
        self.page.goto(self.base + name, wait_until="load")
        self.page.wait_for_function(READY, timeout=20_000)
        return self.page


@pytest.fixture(scope="module", params=list(VIEWS))
def visitor(request, browser, server) -> Iterator[Visitor]:
    context = browser.new_context(**VIEWS[request.param], reduced_motion="reduce")
    yield Visitor(context, server)
    context.close()


@pytest.fixture(scope="module")
def offline_visitor(browser) -> Iterator[Visitor]:
    context = browser.new_context(**VIEWS["desktop-light"], offline=True)
    yield Visitor(context, SITE.as_uri() + "/")
    context.close()


def violations(page: Page) -> list[str]:
    """What axe-core finds wrong, beyond the allowed. Changes the page: ask last."""
    page.evaluate(THIN_OUT)
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate(AXE)["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:120]}"
        for rule in found
        if rule["id"] not in ALLOWED
        for node in rule["nodes"][:3]
    ]


@pytest.mark.parametrize("name", PAGES)
def test_page(visitor, name):
    page = visitor.go(name)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], "overflows"
    assert page.evaluate(RAW_TEX) == []
    assert visitor.problems == []
    assert violations(page) == []


@pytest.mark.parametrize("name", PAGES)
def test_page_from_a_file(offline_visitor, name):
    page = offline_visitor.go(name)
    assert page.evaluate(RAW_TEX) == []
    assert page.locator("main h1").count() >= 1
    assert offline_visitor.problems == []


def test_the_system_chooses_light_or_dark(visitor):
    page = visitor.go("index.html")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red, green, blue = (int(part) for part in re.findall(r"\d+", background)[:3])
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert page.evaluate("document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert (red + green + blue < 3 * 64) if dark else (red + green + blue > 3 * 200)


def test_formulas_are_set(visitor):
    page = visitor.go("start/notation.html")
    assert page.locator("main mjx-container").count() > 20
    fonts = page.evaluate("[...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family)")
    assert any("MJX" in family for family in fonts)


def test_search_finds_a_page(visitor):
    page = visitor.go("search.html?q=forget")
    page.wait_for_selector("ul.search li")
    assert any(
        "glossary" in (link.get_attribute("href") or "") for link in page.locator("ul.search li a").all()
    )
    assert visitor.problems == []


def pages_with(explorable: str) -> list[str]:
    """Pages of the contents that show an explorable."""
    marked = re.compile(rf'<div class="explorable" id="explorable-{explorable}-\d+"')
    found = [name for name in PAGES if marked.search((SITE / name).read_text(encoding="utf-8"))]
    assert found, f"no page shows the explorable {explorable}"
    return found


def expected_step(values: LSTMStep) -> dict[str, float]:
    """What the course's own cell gives for the explorable's values."""
    cell = LSTMCell(1, 1, dtype=torch.float64)
    with torch.no_grad():
        for parameter, numbers in (
            (cell.weight_ih, [[w] for w in values.weight_ih]),
            (cell.weight_hh, [[w] for w in values.weight_hh]),
            (cell.bias_ih, values.bias),
            (cell.bias_hh, [0.0] * 4),
        ):
            parameter.copy_(torch.tensor(numbers, dtype=torch.float64))
    x, hidden, cell_state = (
        torch.tensor([[number]], dtype=torch.float64)
        for number in (values.x, values.hidden_state, values.cell_state)
    )
    gates = cell.gates(cell.project(x), (hidden, cell_state))._asdict()
    _, (hidden, cell_state) = cell(x, (hidden, cell_state))
    return {
        name: number.item()
        for name, number in (gates | dict(hidden_state=hidden, cell_state=cell_state)).items()
    }


def shown(box: Any, names: list[str]) -> dict[str, float]:
    return {name: float(box.locator(f'[data-shows="{name}"]').inner_text()) for name in names}


def check_explorable(page: Page) -> None:
    """Move sliders by keyboard: the numbers shown are those of LSTMCell, before and after."""
    box = page.locator("div.explorable").first
    values = LSTMStep(**json.loads(re.search(r"const values = (\{.*?\});", page.content())[1]))
    before = expected_step(values)
    assert shown(box, list(before)) == pytest.approx(before, abs=5.1e-4)
    press(box, "bias", 1, "ArrowRight", 3)  # the forget gate's bias, in steps of 0.5
    press(box, "x", "", "ArrowLeft", 4)  # the input, in steps of 0.1
    values.bias = [values.bias[0], values.bias[1] + 1.5, *values.bias[2:]]
    values.x = round(values.x - 0.4, 10)
    after = expected_step(values)
    assert shown(box, list(after)) == pytest.approx(after, abs=5.1e-4)
    assert after["forget_gate"] > before["forget_gate"] + 0.05
    page.wait_for_function(
        "([box, text]) => box.querySelector('[role=status]').textContent.includes(text)",
        arg=[box.element_handle(), f"c {after['cell_state']:.3f}"],
    )


def press(box: Any, name: str, place: int | str, key: str, times: int) -> None:
    slider = box.locator(f'input[data-name="{name}"][data-place="{place}"]')
    slider.focus()
    for _ in range(times):
        slider.press(key)


def test_explorable_moves(visitor):
    page = visitor.go(pages_with("lstmstep")[0])
    check_explorable(page)
    box = page.locator("div.explorable").first
    box.get_by_role("button", name="remember").click()
    assert float(box.locator('[data-shows="forget_gate"]').inner_text()) > 0.99
    box.locator("summary").first.click()
    assert visitor.problems == []
    assert violations(page) == []


def test_explorable_moves_from_a_file(offline_visitor):
    check_explorable(offline_visitor.go(pages_with("lstmstep")[0]))
    assert offline_visitor.problems == []


def test_explorable_stands_alone(browser, tmp_path):
    """Its HTML needs nothing of the book's: pasted into an empty page, it runs."""
    path = Path(tmp_path / "alone.html")
    path.write_text(f"<!doctype html><html lang=en><title>alone</title><main>{LSTMStep().page_copy()}</main>")
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 844})
    alone = Visitor(context, path.parent.as_uri() + "/")
    page = alone.go(path.name)
    check_explorable(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert alone.problems == []
    context.close()


# --- the attention map -------------------------------------------------------------------------------

TYPED = "Eine Katze liest die Zeitung."  # none of the list


def expected_map() -> tuple[str, list[float], list[float]]:
    """The typed sentence's translation; what the third token looks at in the source (last layer, head 2), and
    how much each token of the translation looked at the second of the source (the mean of all heads)."""
    trained = pretrained.load("translator-transformer")
    model, ids = trained.model, torch.tensor([trained.source_tokeniser.encode(prepare(TYPED))])
    (found,) = greedy(model, ids)
    read = torch.tensor([[model.begin_id, *found.tokens]])
    with torch.no_grad():
        weights = model.attention_maps(ids, read)[0, -1]  # (N, T, S)
    text = trained.target_tokeniser.decode(found.tokens).strip()
    return text, weights[1, 2].tolist(), weights.mean(dim=0)[:, 1].tolist()


def shares(box: Any, row: str) -> list[float]:
    """The numbers below the tokens of a row."""
    texts = box.locator(f'button[data-row="{row}"] .share').all_inner_texts()
    return [float(text.removesuffix("%")) / 100 for text in texts]


def check_attention_map(page: Page) -> None:
    """Type a sentence, go along it by keyboard, choose a head: texts and numbers are the model's."""
    box = page.locator("div.explorable").first
    text, from_third, to_second = expected_map()
    box.get_by_label("or type German").fill(TYPED)
    box.get_by_role("button", name="translate").press("Enter")
    assert box.locator(".result").inner_text() == text
    box.get_by_label("head").select_option(label="head 2")
    box.locator('button[data-row="target"]').first.focus()
    for key in ("ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert shares(box, "source") == pytest.approx(from_third, abs=0.0051)
    page.wait_for_function(
        "([box, text]) => box.querySelector('[role=status]').textContent.includes(text)",
        arg=[box.element_handle(), f"{max(from_third):.0%}".replace("%", " %")],
    )
    box.get_by_label("head").select_option(label="mean of all heads")
    box.locator('button[data-row="source"]').nth(1).click()
    assert shares(box, "target") == pytest.approx(to_second, abs=0.0051)
    assert box.locator('button[aria-pressed="true"]').count() == 1


def test_attention_map(visitor):
    page = visitor.go(pages_with("attentionmap")[0])
    check_attention_map(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert visitor.problems == []
    assert violations(page) == []


def test_attention_map_from_a_file(offline_visitor):
    check_attention_map(offline_visitor.go(pages_with("attentionmap")[0]))
    assert offline_visitor.problems == []


def test_attention_map_stands_alone(browser, tmp_path):
    shown = AttentionMap.of(pretrained.load("translator-transformer"))
    path = Path(tmp_path / "alone.html")
    path.write_text(
        "<!doctype html><html lang=en><meta charset=utf-8><title>alone</title><main>"
        f"{shown.page_copy()}</main>"
    )
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 844})
    alone = Visitor(context, path.parent.as_uri() + "/")
    page = alone.go(path.name)
    check_attention_map(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert alone.problems == []
    context.close()
