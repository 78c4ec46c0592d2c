"""Records: statistics against textbook values, files that break, and what a reader sees."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from dataclasses import replace

import pytest

from seqcourse import records
from seqcourse.records import Record, RecordError, Table, compare, find, read, table, write


def make(name="a", values=(1.0, 2.0, 3.0), generated=False, **changes) -> Record:
    given = {
        "name": name,
        "claim": "N05 N08",
        "metric": "time",
        "unit": "s",
        "values": values,
        "protocol": {"model": "RNN", "steps": [1, 2]},
        "source": {"name": "toy", "generated": generated},
        "hardware": {"cpu": "some"},
        "threads": 1,
        "versions": {"torch": "2"},
        "commit": "abc",
        "duration_s": 2.5,
        "created": "2026-01-01T00:00:00+00:00",
    }
    return Record(**{**given, **changes})


# -------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042)]
)
def test_student_t_is_that_of_the_printed_tables(degrees, quantile):
    assert records.student_t(degrees) == pytest.approx(quantile, abs=5e-4)


def test_student_t_at_another_confidence_and_without_freedom():
    assert records.student_t(5, confidence=0.99) == pytest.approx(4.032, abs=5e-4)
    with pytest.raises(ValueError, match="at least one degree"):
        records.student_t(0)


def test_spread_of_several_runs():
    record = make(values=(4.0, 6.0, 11.0))
    assert (record.n, record.mean, record.median) == (3, 7.0, 6.0)
    assert record.std == pytest.approx(math.sqrt(13))  # (9 + 1 + 16) / 2
    half_width = 4.3027 * math.sqrt(13 / 3)
    assert record.interval == pytest.approx((7 - half_width, 7 + half_width), rel=1e-4)


def test_a_single_run_has_no_spread():
    record = make(values=(3,))
    assert record.std is None and record.interval is None
    assert record.spread_text == "no spread: one run"
    assert "no spread: one run" in str(record)


def test_compare_means_agrees_with_simulation():
    import random

    generator = random.Random(0)
    a, b = make("a", (9.0, 10.0, 11.0, 10.0)), make("b", (4.5, 5.0, 5.5, 5.0))
    comparison = compare(a, b)
    assert comparison.ratio == 2.0
    low, high = comparison.interval
    assert low < 2 < high
    assert low * high == pytest.approx(4.0)  # symmetric for the logarithm
    # The interval is one of 95 %: new pairs of samples cover the true ratio about as often.
    covered = 0
    for _ in range(400):
        first = make("a", [generator.gauss(10, 1) for _ in range(4)])
        second = make("b", [generator.gauss(5, 0.5) for _ in range(4)])
        low, high = compare(first, second).interval
        covered += low <= 2 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_compare_pairs_removes_what_both_share():
    a, b = make("a", (10.0, 20.0, 40.0)), make("b", (5.0, 10.0, 20.0))  # drifting machine, constant ratio
    assert compare(a, b, paired=True).interval == pytest.approx((2.0, 2.0))
    low, high = compare(a, b).interval
    assert high > 4 and low < 1


def test_compare_states_a_missing_spread_and_generated_data():
    comparison = compare(make("a", (6.0,), generated=True), make("b", (2.0, 2.0)))
    assert comparison.interval is None
    assert str(comparison) == "a / b = 3 (no spread: one run; generated data)"


def test_compare_of_constant_records_has_an_interval_without_width():
    assert compare(make("a", (6.0, 6.0)), make("b", (2.0, 2.0))).interval == (3.0, 3.0)


@pytest.mark.parametrize(
    ("changes", "paired", "message"),
    [
        ({"unit": "ms"}, False, "same metric and unit"),
        ({"values": (0.0, 0.0)}, False, "positive values"),
        ({"values": (0.0, 1.0, 2.0)}, True, "positive values"),
        ({"values": (1.0, 2.0)}, True, "has 2"),
    ],
)
def test_compare_refuses_what_has_no_ratio(changes, paired, message):
    with pytest.raises(ValueError, match=message):
        compare(make("a"), make("b", **changes), paired=paired)


# ------------------------------------------------------------------------------------------------- files


def test_records_survive_the_file_exactly(tmp_path):
    values = (0.1, 1 / 3, 1e-300, 123456789.123456789, 5e-324)
    original = [make("a", values), make("b", (7.0,), generated=True)]
    path = write(tmp_path / "new" / "file.json", original)
    assert read(path) == original
    assert oct(path.stat().st_mode & 0o777) == "0o644" or os.name == "nt"


def test_a_folder_is_read_file_by_file(tmp_path):
    write(tmp_path / "b.json", [make("second")])
    write(tmp_path / "a.json", [make("first")])
    assert [record.name for record in read(tmp_path)] == ["first", "second"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a readable JSON file"),
        (lambda text: "[]", "the list 'records'"),
        (lambda text: text.replace('"schema": 1', '"schema": 99'), "schema 99"),
        (lambda text: text.replace('"unit": "s",', ""), "record 'a' lacks unit"),
        (lambda text: text.replace('"unit": "s",', '"unit": "s", "mood": "good",'), "unknown fields mood"),
        (
            lambda text: text.replace('"threads": 1', '"threads": "one"'),
            "'threads' must be int, got str 'one'",
        ),
        (lambda text: text.replace('"threads": 1', '"threads": true'), "'threads' must be int, got bool"),
        (lambda text: text.replace("2.0", '"2.0"'), "expected finite numbers"),
        (lambda text: text.replace("2.0", "NaN"), "expected finite numbers"),
        (lambda text: text.replace('"generated": false', '"generated": "no"'), "'generated'"),
        (lambda text: json.dumps({"schema": 1, "records": [5]}), "must be an object"),
        (lambda text: json.dumps({"schema": 1, "records": json.loads(text)["records"] * 2}), "repeated: a"),
    ],
)
def test_a_broken_file_is_refused_and_named(tmp_path, damage, message):
    path = write(tmp_path / "broken.json", [make("a")])
    text = path.read_text()
    assert damage(text) != text  # the damage is real
    path.write_text(damage(text))
    with pytest.raises(RecordError, match=re.escape(message)) as caught:
        read(path)
    assert "broken.json" in str(caught.value)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="seqcourse bench"):
        read(tmp_path / "none.json")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = write(tmp_path / "file.json", [make("a")])
    with pytest.raises(RecordError, match="repeated: b"):
        write(path, [make("b"), make("b")])
    with pytest.raises(TypeError):
        write(path, [make("c", protocol={"tensor": object()})])
    assert [record.name for record in read(path)] == ["a"]
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("values", [(), (math.nan,), (math.inf, 1.0), ("1",), (True,), "12"])
def test_values_are_finite_numbers(values):
    with pytest.raises(RecordError, match="values"):
        make(values=values)


def test_find_looks_into_fields_and_protocol():
    found = [make("a"), make("b", protocol={"model": "LSTM"}), make("c", metric="loss")]
    assert [record.name for record in find(found, metric="time", model="RNN")] == ["a"]
    assert find(found, model="GRU") == []


# -------------------------------------------------------------------------------------------- provenance


def test_measured_fills_in_where_and_when():
    record = Record.measured("x", metric="loss", unit="nats", values=[1.5], duration_s=2)
    assert record.hardware["cpu"] and record.versions["torch"] and record.threads >= 1
    assert record.created.endswith("+00:00")
    assert not record.generated and record.source["name"] == "no data"
    assert record.commit == records.current_commit()


def test_measured_takes_a_source_card():
    from seqcourse.data.source import Source

    card = Source("verse", generated=True, sha256="00")
    record = Record.measured("x", metric="loss", unit="nats", values=[1.5], duration_s=2, source=card)
    assert record.generated and record.source["sha256"] == "00"


def test_commit_of_a_checkout_and_elsewhere(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    module = tmp_path / "package" / "records.py"
    module.parent.mkdir()
    module.write_text("one = 1\n")
    monkeypatch.setattr(records, "__file__", str(module))
    assert records.current_commit() == "unknown: not a git checkout"
    git("init", "-q")
    assert records.current_commit() == "unknown: not a git checkout"  # in a repository, but not part of it
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = records.current_commit()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    (tmp_path / "record.json").write_text("{}")
    assert records.current_commit() == clean
    module.write_text("one = 2\n")
    assert records.current_commit() == f"{clean}+dirty"


# ------------------------------------------------------------------------------------------------ tables


def test_table_is_accessible_and_marks_generated_data():
    html = table([make("x<y"), make("z", (1.0,), generated=True)], caption="Times & more")._repr_html_()
    assert "<caption>Times &amp; more</caption>" in html
    assert html.count('<th scope="row">') == 2 and '<th scope="row">x&lt;y</th>' in html
    headers = re.findall(r'<th scope="col">(.*?)</th>', html)
    assert len(headers) == 7 and all(headers)
    assert html.count("generated data") == 1
    assert "no spread: one run" in html


def test_table_in_plain_text_lines_up():
    lines = str(table([make("short"), make("a longer name", generated=True)])).splitlines()
    starts = [line.index("time") for line in lines[3:]]
    assert len(set(starts)) == 1
    assert "toy (generated data)" in lines[4]


def test_a_table_without_header_or_caption_is_refused():
    with pytest.raises(ValueError, match="header for every column"):
        Table("caption", ("a", ""), ())
    with pytest.raises(ValueError, match="caption"):
        Table(" ", ("a",), ())
    with pytest.raises(ValueError, match="1 cells, the table 2"):
        Table("caption", ("a", "b"), (("x",),))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.12345, "0.1235"),
        (12, "12"),
        (123456.7, "123,457"),
        (1e-5, "1.000e-05"),
        (-2.5e9, "-2.500e+09"),
    ],
)
def test_format_number(value, text):
    assert records.format_number(value) == text


def test_text_of_a_record_marks_generated_data():
    record = make("x", (1.0, 1.0), generated=True)
    assert str(record) == "x: time 1 s (n = 2, 95 % interval 1 to 1; data: toy (generated data))"
    assert "generated" not in str(replace(record, source={"name": "toy", "generated": False}))
