"""Training curves as numbers for SVG: a few hundred bytes each, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gvit.viewing.curves import Line, Panel, Records, find_panels, find_phases

WIDTH, HEIGHT = 340, 176  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 10, 16, 24
_MOST_POINTS = 240  # of a line; of more, each point is the mean of several


@dataclass(frozen=True)
class Dot:
    """A point of its own, and what it says."""

    x: str
    y: str
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: what it is called.
        points: for a polyline.
        dots: evaluations.
        last: the last value.
    """

    label: str
    points: str
    dots: Sequence[Dot]
    last: str


@dataclass(frozen=True)
class Band:
    """A phase of training."""

    name: str
    x: str
    width: str


@dataclass(frozen=True)
class Chart:
    """Curves over epochs, in a box of ``WIDTH`` x ``HEIGHT``.

    Attributes:
        title: quantity and unit.
        curves: one or more.
        columns: place and text of the ticks of the epochs.
        rows: place and text of the ticks of the quantity.
        bands: phases.
    """

    title: str
    curves: Sequence[Curve]
    columns: Sequence[tuple[str, str]]
    rows: Sequence[tuple[str, str]]
    bands: Sequence[Band]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True)
class _Scale:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"


def find_charts(records: Records) -> list[Chart]:
    """A chart for each quantity that there are records of; see ``find_panels``."""
    panels = [
        panel._replace(lines=lines)
        for panel in find_panels(records)
        if (lines := [line._replace(points=_finite(line)) for line in panel.lines if _finite(line)])
    ]
    if not panels:
        return []
    last = max(epoch for panel in panels for line in panel.lines for epoch, _ in line.points)
    across = _Scale(0.0, last or 1.0, float(_LEFT), float(WIDTH - _RIGHT))
    columns = [(across(tick), _text(tick)) for tick in _ticks(across.low, across.high, 6)]
    bands = [
        Band(span.name, across(span.start), f"{float(across(span.end)) - float(across(span.start)):.1f}")
        for span in find_phases(records)
    ]
    return [_chart(panel, across, columns, bands) for panel in panels]


def _chart(panel: Panel, across: _Scale, columns: Sequence[tuple[str, str]], bands: Sequence[Band]) -> Chart:
    values = [value for line in panel.lines for _, value in line.points]
    low, high = min(values), max(values)
    if math.isclose(low, high):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    upwards = _Scale(
        low - 0.05 * (high - low), high + 0.08 * (high - low), float(HEIGHT - _BOTTOM), float(_TOP)
    )
    rows = [(upwards(tick), _text(tick)) for tick in _ticks(upwards.low, upwards.high, 4)]
    curves = []
    for line in panel.lines:
        points = _thinned(line.points)
        dots = (
            [Dot(across(x), upwards(y), f"epoch {x:.4g}: {_text(y)}") for x, y in points]
            if line.of_tests
            else []
        )
        path = " ".join(f"{across(x)},{upwards(y)}" for x, y in points)
        curves.append(Curve(line.label, path, dots, _text(line.points[-1][1])))
    return Chart(panel.label, curves, columns, rows, bands)


def _finite(line: Line) -> list[tuple[float, float]]:
    """A run that diverged has others."""
    return [(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups
    ]


def _ticks(low: float, high: float, count: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(count).tick_values(low, high) if low <= tick <= high]


def _text(value: float) -> str:
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e").replace("-", "\N{MINUS SIGN}")
