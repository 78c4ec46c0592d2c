"""One house style for figures: readable on light and dark pages, for colour-blind readers, and read aloud.

A figure becomes inline SVG with a transparent background. Text and axes are drawn in ``currentColor``, so
they follow the page from light to dark: no grey reaches a contrast of 4.5 on both white and near-black.
Lines differ in colour, dash and marker. A sentence of alternative text is required. Equal data, equal bytes.

A notebook ends a cell with one of these::

    plots.line({"RNN": rnn_norms, "LSTM": lstm_norms}, xlabel="lag", alt="The RNN's norm falls ...")

    fig, axes = plots.figure()
    axes.plot(losses, label="training")
    plots.show(fig, alt="Training loss falls steeply for 100 steps, then slowly.")
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.figure import Figure

from seqcourse.records import Record

INK = "#7a7a7a"  # stands for the page's text colour; becomes currentColor in the SVG
# Okabe and Ito's palette; violet replaces the three that are too pale on white. All reach 3:1 on both pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#875af0", INK)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "X")
DENSE = 300  # a line of more points is drawn solid: dashes on a jagged line look like gaps

STYLE: dict[str, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS) + cycler(linestyle=DASHES),
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 11,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "image.cmap": "cividis",
    "image.interpolation": "nearest",
    "path.simplify_threshold": 0.3,
    "svg.fonttype": "none",  # text stays text: searchable, and in the page's own font
    "svg.hashsalt": "seqcourse",  # ids repeat from run to run
}


# ------------------------------------------------------------------------------------------- style and figure


class style:  # lower case: it is used like a function
    """Sets the house style, at once; in a ``with`` block, until its end.

    Needed only for figures made without :func:`figure` and the helpers, which use it anyway.
    """

    def __init__(self) -> None:
        self._before = {key: matplotlib.rcParams[key] for key in STYLE}
        matplotlib.rcParams.update(STYLE)

    def __enter__(self) -> style:
        return self

    def __exit__(self, *_: object) -> None:
        matplotlib.rcParams.update(self._before)


def figure(
    rows: int = 1, columns: int = 1, *, width: float = 6.0, height: float = 3.2, alt: str = "", **options: Any
) -> tuple[Figure, Any]:
    """An empty figure in the house style, and its axes: one, or an array if there are several.

    It is not registered with pyplot, so a notebook shows it once, and only through :func:`show`.

    Args:
        width: inches, as ``height``; a figure scales down on a narrow screen.
        alt: the alternative text, if it is known already.
        options: for ``Figure.subplots``: ``sharex``, ``sharey``, ``width_ratios`` ...
    """
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(width, height), layout="constrained")
        axes = fig.subplots(rows, columns, **options)
    fig.alt = alt
    return fig, axes


def show(fig: Figure, alt: str = "", caption: str = "") -> ShownFigure:
    """The figure as accessible inline SVG; make it the last expression of a cell.

    Args:
        alt: what the figure shows, in a sentence or two, for readers who do not see it.
        caption: an optional line below the figure.

    Raises:
        ValueError: there is no alternative text.
    """
    alt = " ".join((alt or getattr(fig, "alt", "")).split())
    if not alt:
        raise ValueError("a figure needs alternative text: say in a sentence what it shows, alt='...'")
    return ShownFigure(to_svg(fig, alt), alt, caption)


class ShownFigure:
    """A finished figure. HTML shows the SVG; plain text (and PDF) shows the alternative text.

    Attributes:
        svg: the SVG element, ready to stand in a page.
        alt: its alternative text.
        caption: the line below it, may be empty.
    """

    def __init__(self, svg: str, alt: str, caption: str = "") -> None:
        self.svg, self.alt, self.caption = svg, alt, caption

    def _repr_html_(self) -> str:
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return f'<figure class="sc-figure" style="margin:0">{self.svg}{caption}</figure>'

    def __repr__(self) -> str:
        return f"Figure: {self.alt}"


# ------------------------------------------------------------------------------------------------------- SVG


def to_svg(fig: Figure, alt: str) -> str:
    """The figure as one ``<svg>`` element that follows the page's colour and width."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    for legend in filter(None, (axes.get_legend() for axes in fig.axes)):
        legend.set_frame_on(False)  # its white box would hide the text on a dark page
    with matplotlib.rc_context(STYLE):
        fig.savefig(buffer, format="svg", metadata=no_metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)  # its style would reach the page
    svg = re.sub(r'\b(d|x|y|width|height|transform|points)="([^"]*)"', _shorten_numbers, svg)
    # The page chooses the font; a rotation by nothing only costs bytes.
    svg = re.sub(r' font-family: [^;"]*;?| transform="rotate\(-0 [^"]*"', "", svg)
    svg = svg.replace(INK, "currentColor").replace("#000000", "currentColor")
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    return _own_ids(_accessible_root(svg, alt))


def _shorten_numbers(match: re.Match[str]) -> str:
    """Rounds coordinates to a hundredth of a point, in long paths to a tenth: small and repeatable."""
    name, value = match.group(1), " ".join(match.group(2).split())
    digits = 3 if name == "transform" else 1 if len(value) > 600 else 2
    if name == "d" and not re.search("[CQ]", value):
        value = value.replace(" L ", " ")  # after M, more points mean lines

    def shorten(number: re.Match[str]) -> str:
        return f"{float(number[0]):.{digits}f}".rstrip("0").rstrip(".")

    return f'{name}="{re.sub(r"-?[0-9]+[.][0-9]+(?![0-9e])", shorten, value)}"'


def _accessible_root(svg: str, alt: str) -> str:
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    pixels = round(float(width) * 96 / 72)
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        f' viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt)}"'
        f' style="width:{pixels}px;max-width:100%;height:auto;fill:currentColor;stroke-linejoin:round">'
    )
    return re.sub(r"<svg[^>]*>", lambda _: root, svg, count=1)


def _own_ids(svg: str) -> str:
    """Prefixes every id with a hash of the figure, so that several figures can stand in one page."""
    prefix = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'\bid="(?:figure|axes|patch|line2d|text|matplotlib|xtick|ytick|legend)[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = svg.replace("url(#", f"url(#{prefix}-")
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return re.sub(r"<g >", "<g>", svg)


def contrast(colour: str, background: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2, relative luminance)."""
    lighter, darker = sorted((_luminance(colour), _luminance(background)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = matplotlib.colors.to_rgb(colour)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


# -------------------------------------------------------------------------------------------------- the plots


def line(
    series: Mapping[str, Any],
    *,
    alt: str,
    x: Any = None,
    bands: Mapping[str, tuple[Any, Any]] | None = None,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    log_x: bool = False,
    log_y: bool = False,
    caption: str = "",
    **size: float,
) -> ShownFigure:
    """One line for each named series, told apart by colour, dash and marker.

    Args:
        series: name -> values (list, array or tensor).
        x: positions shared by all series, or a mapping name -> positions; default 0, 1, 2 ...
        bands: name -> (low, high), drawn as a shaded band: an interval.
        size: ``width`` and ``height`` in inches.

    Raises:
        ValueError: there is no series, or no alternative text.
    """
    if not series:
        raise ValueError("there is nothing to draw: series is empty")
    fig, axes = figure(alt=alt, **size)
    with matplotlib.rc_context(STYLE):
        for index, (name, values) in enumerate(series.items()):
            positions = x.get(name) if isinstance(x, Mapping) else x
            draw_line(axes, _numbers(values), x=_numbers(positions), label=name, index=index)
            if bands and name in bands:
                _draw_band(axes, positions, bands[name], index)
        _finish(axes, xlabel, ylabel, title, log_x, log_y)
        if len(series) > 1:
            axes.legend()
    return show(fig, caption=caption)


def draw_line(axes: Any, values: Any, *, x: Any = None, label: str = "", index: int = 0) -> None:
    """One line on given axes in the colour, dash and marker number ``index`` of the house style."""
    values = _numbers(values)
    positions = range(len(values)) if x is None else _numbers(x)
    look = index % len(COLOURS)
    axes.plot(
        positions,
        values,
        label=label or None,
        color=COLOURS[look],
        linestyle=DASHES[look] if len(values) <= DENSE else "-",
        marker=MARKERS[look],
        markevery=max(1, len(values) // 10),  # a dozen markers tell lines apart; hundreds hide them
    )


def _draw_band(axes: Any, x: Any, band: tuple[Any, Any], index: int) -> None:
    low, high = map(_numbers, band)
    positions = range(len(low)) if x is None else _numbers(x)
    axes.fill_between(positions, low, high, color=COLOURS[index % len(COLOURS)], alpha=0.2, linewidth=0)


def _finish(
    axes: Any, xlabel: str, ylabel: str, title: str, log_x: bool = False, log_y: bool = False
) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if log_x:
        axes.set_xscale("log")
    if log_y:
        axes.set_yscale("log")


def heatmap(
    values: Any,
    *,
    alt: str,
    xlabel: str = "",
    ylabel: str = "",
    title: str = "",
    xticks: Sequence[str] | None = None,
    yticks: Sequence[str] | None = None,
    limits: tuple[float, float] | None = None,
    signed: bool = False,
    colour_label: str = "",
    caption: str = "",
    **size: float,
) -> ShownFigure:
    """A matrix as colours, rows from top to bottom: attention weights, gates over time, hidden states.

    Args:
        values: matrix (rows, columns).
        limits: values at the ends of the colour scale; default the extremes, symmetric if signed.
        signed: a scale with a neutral middle at 0.

    Raises:
        ValueError: ``values`` is no matrix, or there is no alternative text.
    """
    values = _numbers(values)
    if values.ndim != 2:
        raise ValueError(f"a heatmap needs a matrix (rows, columns), got shape {tuple(values.shape)}")
    fig, axes = figure(alt=alt, **size)
    with matplotlib.rc_context(STYLE):
        _draw_heatmap(fig, axes, values, limits, signed, colour_label)
        _finish(axes, xlabel, ylabel, title)
        _name_ticks(axes, xticks, yticks)
    return show(fig, caption=caption)


def _draw_heatmap(fig: Figure, axes: Any, values: Any, limits: Any, signed: bool, colour_label: str) -> None:
    largest = float(abs(values).max())
    low, high = limits or ((-largest, largest) if signed else (float(values.min()), float(values.max())))
    image = axes.imshow(values, aspect="auto", vmin=low, vmax=high, cmap="PuOr" if signed else "cividis")
    axes.grid(False)
    fig.colorbar(image, ax=axes, label=colour_label)


def _name_ticks(axes: Any, xticks: Sequence[str] | None, yticks: Sequence[str] | None) -> None:
    if xticks is not None:
        crowded = len(xticks) > 12 and max(map(len, xticks)) > 1  # single characters stay upright
        axes.set_xticks(range(len(xticks)), xticks, rotation=90 if crowded else 0)
    if yticks is not None:
        axes.set_yticks(range(len(yticks)), yticks)


def gates(
    values: Mapping[str, Any],
    *,
    alt: str,
    tokens: Sequence[str] | None = None,
    caption: str = "",
    width: float = 6.0,
    height: float | None = None,
) -> ShownFigure:
    """Gates of one sequence over time, one panel each: units down, time to the right, colours from 0 to 1.

    Args:
        values: gate name -> (T, H), one sequence of a trace. Names that end in ``candidate`` or ``state``
            are drawn on a signed scale.
        tokens: names of the time steps.

    Raises:
        ValueError: there is no gate, a value is no matrix, or there is no alternative text.
    """
    matrices = {name: _numbers(value) for name, value in values.items()}
    if not matrices or any(matrix.ndim != 2 for matrix in matrices.values()):
        shapes = {name: tuple(matrix.shape) for name, matrix in matrices.items()}
        raise ValueError(f"gates need matrices (T, H) of one sequence, got {shapes or 'none'}")
    height = height or 0.6 + 1.3 * len(matrices)
    fig, axes = figure(len(matrices), 1, alt=alt, width=width, height=height, sharex=True, squeeze=False)
    with matplotlib.rc_context(STYLE):
        for panel, (name, matrix) in zip(axes[:, 0], matrices.items(), strict=True):
            signed = name.endswith(("candidate", "state"))
            _draw_heatmap(fig, panel, matrix.T, None if signed else (0.0, 1.0), signed, "")
            _finish(panel, "", "unit", name.replace("_", " "))
        axes[-1, 0].set_xlabel("time step")
        _name_ticks(axes[-1, 0], tokens, None)
    return show(fig, caption=caption)


def alignment_map(
    weights: Any,
    source: Sequence[str],
    target: Sequence[str],
    *,
    alt: str,
    title: str = "",
    caption: str = "",
    width: float | None = None,
    height: float | None = None,
) -> ShownFigure:
    """Where each target token looks in the source: target tokens down, source tokens across, on top.

    The colours run from 0 to 1, so that maps compare. The strongest link of every row is added to the
    alternative text: a reader who does not see the map can read it.

    Args:
        weights: (T, S), what each target token gives to each source token.
        source: S tokens.
        target: T tokens.

    Raises:
        ValueError: the weights do not fit the tokens or lie outside 0 to 1, or there is no alternative text.
    """
    weights = _numbers(weights)
    check_alignment(weights, source, target)
    alt = " ".join(alt.split()) and f"{alt} {strongest_links(weights, source, target)}"
    size = {"width": width or 1.9 + 0.33 * len(source), "height": height or 1.2 + 0.3 * len(target)}
    fig, axes = figure(alt=alt, **size)
    with matplotlib.rc_context(STYLE):
        image = draw_alignment(axes, weights, source, target, title)
        fig.colorbar(image, ax=axes, label="weight")
    return show(fig, caption=caption)


def check_alignment(weights: Any, source: Sequence[str], target: Sequence[str]) -> None:
    """Demand one row of weights per target token and one column per source token.

    Raises:
        ValueError: they do not fit, or a weight is not between 0 and 1.
    """
    if weights.shape != (len(target), len(source)):
        raise ValueError(
            f"expected weights of shape (target, source) = ({len(target)}, {len(source)}), "
            f"got {tuple(weights.shape)}"
        )
    if weights.size and not (weights.min() >= 0 and weights.max() <= 1 + 1e-4):
        raise ValueError(f"expected weights from 0 to 1, got {weights.min():.3g} to {weights.max():.3g}")


def strongest_links(weights: Any, source: Sequence[str], target: Sequence[str]) -> str:
    """Each target token with the source token it looks at most, as a sentence."""
    links = [
        f"{token.strip()} to {source[row.argmax()].strip()} ({row.max():.2f})"
        for token, row in zip(target, _numbers(weights), strict=True)
    ]
    return f"Strongest links: {', '.join(links)}."


def draw_alignment(
    axes: Any, weights: Any, source: Sequence[str], target: Sequence[str], title: str = ""
) -> Any:
    """An alignment map on given axes; returns the image, to which a colour bar can be attached."""
    image = axes.imshow(_numbers(weights), aspect="auto", vmin=0.0, vmax=1.0)
    axes.grid(False)
    axes.xaxis.tick_top()
    upright = max(map(len, source)) == 1  # single characters need not turn
    axes.set_xticks(range(len(source)), source, rotation=0 if upright else 90)
    axes.set_yticks(range(len(target)), target)
    if title:
        axes.set_title(title)
    return image


def dots(
    records: Sequence[Record], *, alt: str, names: Sequence[str] | None = None, **options: Any
) -> ShownFigure:
    """Records side by side: every run a dot, the mean with its 95 % interval; generated data are marked.

    Args:
        names: a short name for each record; default the last part of its own.
        options: ``caption``, ``title``, ``log_x``, ``width``, ``height``.

    Raises:
        ValueError: there are no records, they differ in unit, or there is no alternative text.
    """
    if len({(record.metric, record.unit) for record in records}) != 1:
        raise ValueError("records to draw must be at least one, and share metric and unit")
    names = names or [record.name.rsplit("/", 1)[-1] for record in records]
    fig, axes = figure(
        alt=alt, width=options.get("width", 6.0), height=options.get("height", 0.9 + 0.42 * len(records))
    )
    with matplotlib.rc_context(STYLE):
        for row, record in enumerate(records):
            _draw_record(axes, record, row)
        unit = "" if records[0].unit == "1" else f" ({records[0].unit})"
        mark = "; generated data" if any(record.generated for record in records) else ""
        xlabel = f"{records[0].metric}{unit}{mark}"
        _finish(axes, xlabel, "", options.get("title", ""), options.get("log_x", False))
        _name_ticks(axes, None, names)
        axes.set_ylim(len(records) - 0.5, -0.5)  # the first on top
        axes.grid(False, axis="y")
    return show(fig, caption=options.get("caption", ""))


def _draw_record(axes: Any, record: Record, row: int) -> None:
    if record.interval is not None:
        axes.plot(record.interval, [row, row], linestyle="-", marker="|", color=COLOURS[1])
    axes.plot([record.mean], [row], marker="D", markersize=8, color=COLOURS[1])
    axes.plot(record.values, [row] * record.n, linestyle="none", marker="o", markersize=4, color=COLOURS[0])


def _numbers(values: Any) -> Any:
    """A NumPy array of whatever was given; tensors are detached and brought to the CPU."""
    import numpy

    if values is None:
        return None
    return numpy.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)
