"""The check that no benchmark figure is typed into the book: it finds them, and lets through what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqcourse import tasks
from seqcourse.typed_figures import check_book, typed_figures

BOOK = Path(__file__).resolve().parents[1] / "book"

WRONG = {
    "number and unit": ("The Transformer reaches 36.4 BLEU.", ["36.4 BLEU"]),
    "whole number and unit": ("It needs 310 MB.", ["310 MB"]),
    "loss": ("After that it has 1.52 nats per character.", ["1.52 nats"]),
    "unit with a hyphen": ("It is a 310-MB model.", ["310-MB"]),
    "thousands": ("It reads 12,500 tokens per second.", ["12,500 tokens per second"]),
    "percentage": ("The LSTM's accuracy is 91.8 %.", ["91.8 %"]),
    "percentage in words": ("An accuracy of 92 per cent.", ["92 per cent"]),
    "decimal in brackets": ("The better RMSE (9.7) is the LSTM's.", ["9.7"]),
    "metric first": ("Its perplexity of 98 is lower.", ["98"]),
    "two in one line": ("The RNN has a perplexity of 145.6, the LSTM 98.3.", ["145.6", "98.3"]),
    "speed-up": ("It is 3.2 times faster.", ["3.2 times faster"]),
    "speed-up with x": ("Ours is 2x slower.", ["2x slower"]),
    "saving": ("It takes 20 % less memory.", ["20 % less memory"]),
    "role": ("Its {term}`BLEU` is 27.3.", ["27.3"]),
    "list": ("Results:\n\n- accuracy: 0.918\n- size: large", ["0.918"]),
    "table": ("| model | BLEU |\n| --- | --- |\n| GRU | 27.3 BLEU |", ["27.3 BLEU"]),
    "admonition": ("```{note}\nThe loss is 1.47 nats.\n```", ["1.47 nats"]),
    "title of an admonition": ("```{admonition} Down to 1.47 nats\nSee below.\n```", ["1.47 nats"]),
    "after code": ("```python\nx = 1\n```\n\nIt has 1.47 nats.", ["1.47 nats"]),
    "after a formula": ("$$\nx = 1\n$$\n\nIt has 1.47 nats.", ["1.47 nats"]),
    "alternative text": (
        "```{code-cell} ipython3\n:tags: [hide-input]\n%matplotlib inline\n"
        'draw(\n    x, alt="BLEU falls to 27.3."\n)\n```',
        ["27.3"],
    ),
    "beside what is computed": (
        '```{code-cell} ipython3\ndraw(x, caption=f"{name}: " "an accuracy of 0.918")\n```',
        ["0.918"],
    ),
    "allowance without a reason": ("% typed figure:\nThe loss is 1.47 nats.", ["1.47 nats"]),
    "after an allowed paragraph": ("% typed figure: an example\nIt has 1 nat.\n\nIt has 2 nats.", ["2 nats"]),
}

RIGHT = {
    "no figure": "The Transformer is faster, and its BLEU is higher.",
    "size": "A layer of 64 units reads 512 tokens, 32 texts at a time.",
    "definition": "{term}`BLEU` lies between 0 and 100.",
    "formula": r"Guessing costs $\ln 10 \approx 2.3$ nats.",
    "displayed formula": "$$\nL = 2.3 \\text{ nats}\n$$",
    "one-line formula": "$$ L = 2.3 $$\n\nNothing more.",
    "inline code": "`Budget(threshold=0.95)` sets the accuracy.",
    "code": "```python\nprint('1.47 nats')\n```",
    "cell": "```{code-cell} ipython3\n# 1.47 nats\nprint('BLEU', 27.3)\n```",
    "computed": '```{code-cell} ipython3\ndraw(x, caption=f"a loss of {loss:.2f} nats")\n```',
    "question": "What will the accuracy be: 50 %, or the same?",
    "cited": "A published model has about 1.47 nats {cite:p}`karpathy2022`.",
    "the claim itself": "The course's source [E] says that the RMSE is 12.4.",
    "version or section": "Accuracy (section 3.2) was measured with Python 3.11 and PyTorch 2.13.",
    "interval": "The accuracies, with their 95 % intervals.",
    "link": "[its accuracy](https://example.org/a-0.918)",
    "numbered list": "1. Accuracy is a share.\n2. Perplexity is not.",
    "front matter": "---\ntitle: 1.47 nats\n---\nText.",
    "allowed": "% typed figure: counted by hand\nIt needs 74 MB,\nand 4.7 GB for all.",
    "allowed in a cell": '```{code-cell} ipython3\n# typed figure: an example\ndraw(x, alt="1.47 nats")\n```',
}


@pytest.mark.parametrize(("page", "expected"), WRONG.values(), ids=WRONG)
def test_typed_figures_are_found(page, expected):
    assert [found.figure for found in typed_figures(page)] == expected


@pytest.mark.parametrize("page", RIGHT.values(), ids=RIGHT)
def test_what_is_no_measurement_passes(page):
    assert typed_figures(page) == []


@pytest.mark.parametrize(
    ("page", "line"), [("A.\n\nIt has 1.47 nats.", 3), (WRONG["alternative text"][0], 5)]
)
def test_the_line_is_named(page, line):
    assert typed_figures(page)[0].line == line


def test_a_wrong_page_fails_the_check_of_the_book(tmp_path):
    (tmp_path / "book" / "part").mkdir(parents=True)
    (tmp_path / "book" / "good.md").write_text("# Good\n\nNothing typed.\n", encoding="utf-8")
    (tmp_path / "book" / "part" / "bad.md").write_text("# Bad\n\nIt has 1.47 nats.\n", encoding="utf-8")
    (message,) = check_book(tmp_path / "book")
    assert message.startswith("book/part/bad.md:3: typed figure '1.47 nats'")


def test_lint_fails_and_says_what_to_do(tmp_path, monkeypatch, capsys):
    (tmp_path / "book").mkdir()
    page = tmp_path / "book" / "bad.md"
    page.write_text("It has 1.47 nats.\n", encoding="utf-8")
    monkeypatch.setattr(tasks, "checkout", lambda: tmp_path)
    assert tasks.check_typed_figures() == 1
    assert "'1.47 nats'" in (told := capsys.readouterr().out) and "% typed figure:" in told
    page.write_text("% typed figure: a definition\nIt has 1.47 nats.\n", encoding="utf-8")
    assert tasks.check_typed_figures() == 0


def test_the_book_has_no_typed_figure():
    assert list(BOOK.rglob("*.md"))
    assert check_book(BOOK) == []
