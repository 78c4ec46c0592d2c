"""Figures: readable on both pages, by colour-blind readers, by screen readers, and equal bytes every time."""

from __future__ import annotations

import functools
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy
import pytest
import torch

from seqcourse import plots
from seqcourse.records import Record

LIGHT, DARK = "#ffffff", "#121212"
ALT = 'Loss "falls" & <rises>.'


def curve(n=50, seed=0):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).cumsum(0)


def record(name, values, generated=False):
    source = {"name": "toy", "generated": generated}
    return Record(name, "", "horizon", "steps", values, {}, source, {}, 1, {}, "c", 1.0, "d")


FIGURES = {
    "line": lambda: plots.line({"RNN": curve(), "LSTM": curve(seed=1)}, alt=ALT, xlabel="lag", ylabel="norm"),
    "heatmap": lambda: plots.heatmap(curve(60).reshape(6, 10), alt=ALT, signed=True, colour_label="value"),
    "gates": lambda: plots.gates(
        {"forget_gate": curve(40).sigmoid().reshape(8, 5), "cell_state": curve(40).reshape(8, 5)}, alt=ALT
    ),
    "dots": lambda: plots.dots([record("RNN", (5, 10, 10)), record("LSTM", (20,))], alt=ALT),
}


@functools.cache
def made(name) -> plots.ShownFigure:
    """Each figure is drawn once for all the tests that only look at it."""
    return FIGURES[name]()


each_figure = pytest.mark.parametrize("name", FIGURES)


# ------------------------------------------------------------------------------------------------ colours


def test_contrast_is_that_of_the_standard():
    assert plots.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert plots.contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)  # the known limit for text


@pytest.mark.parametrize("colour", plots.COLOURS)
def test_lines_stand_out_on_both_pages(colour):
    assert plots.contrast(colour, LIGHT) >= 3
    assert plots.contrast(colour, DARK) >= 3


def test_no_single_grey_would_do_for_text():
    # The reason for currentColor: if this ever fails, a fixed grey is simpler.
    greys = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]
    assert not [grey for grey in greys if min(plots.contrast(grey, LIGHT), plots.contrast(grey, DARK)) >= 4.5]


# Machado, Oliveira & Fernandes (2009), severity 1.0, applied to linear RGB.
COLOUR_BLIND = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("kind", COLOUR_BLIND)
def test_two_lines_never_share_colour_and_dash_and_marker_for_a_colour_blind_reader(kind):
    rgb = numpy.array(
        [matplotlib.colors.to_rgb(colour) for colour in plots.COLOURS[:-1]]
    )  # ink is the page's
    seen = numpy.clip((rgb**2.2) @ numpy.array(COLOUR_BLIND[kind]).T, 0, 1) ** (1 / 2.2)
    distances = [numpy.abs(a - b).sum() for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 0.12  # colours alone are apart, if little
    assert len(set(map(str, plots.DASHES))) == len(set(plots.MARKERS)) == len(plots.COLOURS)


# ------------------------------------------------------------------------------------- what the page gets


@each_figure
def test_svg_is_well_formed_and_has_its_alternative_text(name):
    figure = made(name)
    root = ElementTree.fromstring(figure.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == ALT
    assert repr(figure) == f"Figure: {ALT}"


@each_figure
def test_svg_follows_the_page(name):
    svg = made(name).svg
    root = ElementTree.fromstring(svg)
    assert "max-width:100%" in root.get("style") and root.get("width") is None
    assert plots.INK not in svg and "#000000" not in svg and "<style" not in svg and "<!" not in svg
    texts = [element for element in root.iter() if element.tag.endswith("}text")]
    assert texts
    for text in texts:
        fills = re.findall("fill: ([^;]+)", text.get("style", ""))
        assert not fills or fills == ["currentColor"], text.text
    assert "font-family" not in svg


@each_figure
def test_svg_is_small(name):
    assert len(made(name).svg.encode()) < 60_000


def test_three_noisy_curves_of_a_thousand_points_stay_small():
    noise = {str(seed): torch.rand(1000, generator=torch.Generator().manual_seed(seed)) for seed in range(3)}
    assert len(plots.line(noise, alt=ALT).svg.encode()) < 60_000


@each_figure
def test_same_data_same_bytes_and_other_data_other_bytes(name):
    assert made(name)._repr_html_() == FIGURES[name]()._repr_html_()
    other = plots.line({"RNN": curve(), "LSTM": curve(seed=2)}, alt=ALT)
    assert other.svg != made(name).svg


def test_bytes_repeat_in_another_process():
    code = "from seqcourse import plots; print(plots.line({'a': [1, 3, 2]}, alt='x').svg)"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1 and "<svg" in runs.pop()


def test_two_figures_in_a_page_share_no_id():
    first, second = (re.findall(r'\bid="([^"]+)"', made(name).svg) for name in ("line", "heatmap"))
    assert first and second and not set(first) & set(second)
    svg = made("line").svg
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', svg)
    assert used and set(used) <= set(first)


# -------------------------------------------------------------------------------------------- the helpers


def test_alternative_text_is_required():
    fig, axes = plots.figure()
    axes.plot([1, 2])
    with pytest.raises(ValueError, match="alternative text"):
        plots.show(fig)
    with pytest.raises(ValueError, match="alternative text"):
        plots.line({"a": [1, 2]}, alt=" \n ")
    assert plots.show(fig, alt="Two\n points.").alt == "Two points."


def test_own_drawing_is_readable_without_the_style():
    fig, axes = plots.figure(alt="own")
    axes.plot([1, 2], label="training")
    axes.annotate("here", (0, 1))
    axes.legend()
    shown = plots.show(fig, caption="A < B")
    assert "#ffffff" not in shown.svg  # no white box behind the legend
    assert "<figcaption>A &lt; B</figcaption>" in shown._repr_html_()


def test_the_style_ends_with_its_block_and_figures_leave_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    FIGURES["line"]()
    assert dict(matplotlib.rcParams) == before
    with plots.style():
        assert matplotlib.rcParams["text.color"] == plots.INK
    assert dict(matplotlib.rcParams) == before


def test_line_draws_each_series_with_its_own_look_and_a_band():
    svg = plots.line({"a": [1, 2], "b": [2, 1]}, alt=ALT, bands={"a": ([0, 1], [2, 3])}).svg
    assert plots.COLOURS[0] in svg and plots.COLOURS[1] in svg and "stroke-dasharray" in svg
    assert ">a<" in svg and ">b<" in svg  # the legend, as text
    assert svg.count("opacity: 0.2") >= 1


def test_positions_may_differ_from_series_to_series():
    svg = plots.line({"a": [1, 2], "b": [1, 2, 3]}, x={"a": [0, 700], "b": [0, 1, 2]}, alt=ALT).svg
    assert ">700<" in svg


def test_dots_mark_generated_data():
    real, made = (plots.dots([record("RNN", (5, 10), generated)], alt=ALT).svg for generated in (False, True))
    assert "generated data" in made and "generated data" not in real


def test_single_characters_under_an_axis_stay_upright_and_longer_names_turn():
    values, letters = curve(60).reshape(3, 20), "abcdefghijklmnopqrst"
    upright = plots.heatmap(values, alt=ALT, xticks=list(letters)).svg
    turned = plots.heatmap(values, alt=ALT, xticks=[letter * 2 for letter in letters]).svg
    assert len(re.findall(r"rotate\(-90", turned)) - len(re.findall(r"rotate\(-90", upright)) == len(letters)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.line({}, alt=ALT), "series is empty"),
        (lambda: plots.heatmap(torch.zeros(3), alt=ALT), r"got shape \(3,\)"),
        (lambda: plots.gates({}, alt=ALT), "got none"),
        (lambda: plots.gates({"forget_gate": torch.zeros(2, 3, 4)}, alt=ALT), r"\(2, 3, 4\)"),
        (lambda: plots.dots([], alt=ALT), "at least one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
