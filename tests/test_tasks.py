"""`seqcourse test` tells the truth: a failed check fails the run, and a check that could not run is named."""

from __future__ import annotations

import click
import pytest

from seqcourse.tasks import Checks, checkout


@pytest.fixture
def checks() -> Checks:
    checks = Checks()
    checks.check("good", lambda: 0)
    return checks


def test_all_good_passes(checks, capsys):
    checks.report()
    assert "passed" in capsys.readouterr().out


def test_a_failed_check_fails_the_run_and_is_named(checks):
    checks.check("bad", lambda: 3)
    checks.check("after", lambda: 0)
    with pytest.raises(click.ClickException, match="bad"):
        checks.report()
    assert [name for name, _, _ in checks.results] == ["good", "bad", "after"], (
        "one failure must not hide the others"
    )


def test_a_missing_tool_is_named_and_fails_only_the_strict_run(checks, monkeypatch, capsys):
    checks.missing.append("the site in a browser")
    monkeypatch.delenv("SEQCOURSE_STRICT", raising=False)
    checks.report()
    assert "NOT CHECKED: the site in a browser" in capsys.readouterr().out
    monkeypatch.setenv("SEQCOURSE_STRICT", "1")
    with pytest.raises(click.ClickException, match="not everything"):
        checks.report()


def test_checkout_is_found_from_a_folder_below(monkeypatch):
    root = checkout()
    monkeypatch.chdir(root / "seqcourse" / "data")
    assert checkout() == root
