"""Alignment maps: the right way round, readable aloud, and nothing drawn that does not fit."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from seqcourse import plots

SOURCE, TARGET = ["ein", "Hund", "läuft"], ["a", "dog"]
WEIGHTS = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05]])
ALT = 'Two <rows> & "three" columns.'


def made(weights=WEIGHTS, source=SOURCE, target=TARGET, **options):
    return plots.alignment_map(weights, source, target, **({"alt": ALT} | options))


def labels(svg):
    """Texts of the figure in the order they are drawn: first the source axis, then the target axis."""
    root = ElementTree.fromstring(svg)
    return [element.text for element in root.iter() if element.tag.endswith("}text")]


def test_the_alternative_text_reads_the_map_aloud():
    figure = made()
    assert figure.alt == f"{ALT} Strongest links: a to ein (0.70), dog to Hund (0.90)."
    assert ElementTree.fromstring(figure.svg).get("aria-label") == figure.alt


def test_another_map_reads_differently():
    assert made(WEIGHTS.flip(1)).alt.endswith("a to läuft (0.70), dog to Hund (0.90).")


def test_source_tokens_stand_across_on_top_and_target_tokens_down():
    svg = made().svg
    texts = labels(svg)
    assert texts[:5] == [*SOURCE, *TARGET]
    assert len(re.findall(r"rotate\(-90", svg)) == len(SOURCE) + 1  # the source, and the colour bar's label
    root = ElementTree.fromstring(svg)
    (picture,) = (e for e in root.iter() if e.tag.endswith("}image") and float(e.get("width")) > 30)
    tops = {e.text: position(e)[1] for e in root.iter() if e.tag.endswith("}text")}
    middle = float(root.get("viewBox").split()[3]) / 2
    assert picture is not None and tops["ein"] < middle  # above the map
    assert tops["a"] < tops["dog"]  # the first target token on top


def position(element):
    """Where a text stands, from its transform or its x and y."""
    moved = re.search(r"translate\(([-\d.]+) ([-\d.]+)\)", element.get("transform", ""))
    return tuple(map(float, moved.groups() if moved else (element.get("x"), element.get("y"))))


def test_single_characters_stay_upright():
    turned = made(torch.eye(3), list("abc"), list("cba")).svg
    assert len(re.findall(r"rotate\(-90", turned)) == 1  # only the colour bar's label


def test_text_follows_the_page_and_the_bytes_repeat():
    svg = made().svg
    assert plots.INK not in svg and "#000000" not in svg and "font-family" not in svg
    assert svg == made().svg and svg != made(WEIGHTS.flip(1)).svg
    assert "max-width:100%" in svg and len(svg.encode()) < 60_000


def test_the_colours_mean_the_same_in_every_map():
    faint, strong = (made(torch.full((2, 3), value)).svg for value in (0.2, 0.8))
    pictures = [re.findall(r'href="(data:image/png[^"]+)"', svg)[0] for svg in (faint, strong)]
    assert pictures[0] != pictures[1]  # a scale fitted to each map would draw both alike


def test_several_maps_can_share_a_figure():
    fig, panels = plots.figure(1, 2, alt=ALT)
    for axes, name in zip(panels, ("dot", "additive"), strict=True):
        plots.draw_alignment(axes, WEIGHTS, SOURCE, TARGET, name)
    texts = labels(plots.show(fig).svg)
    assert texts.count("Hund") == 2 and "dot" in texts and "additive" in texts


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: made(WEIGHTS.T), r"\(target, source\) = \(2, 3\), got \(3, 2\)"),
        (lambda: made(WEIGHTS[0]), r"got \(3,\)"),
        (lambda: made(WEIGHTS.log()), "weights from 0 to 1"),
        (lambda: made(WEIGHTS * float("nan")), "weights from 0 to 1"),
        (lambda: made(alt=" "), "alternative text"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
