"""The plot of a target."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(content: Mapping[str, Any]) -> Figure:
    """Top-1 by setting, with the standard deviation over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=110)
    axes: Any = figure.subplots()
    rows = content["rows"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["series"], row["label"]), []).append(row)
    points = [
        (series, label, mine[0]["x"], [100 * row["top1"] for row in mine])
        for (series, label), mine in groups.items()
    ]
    if content["axis"]:
        for series in dict.fromkeys(point[0] for point in points):
            mine = [point for point in points if point[0] == series]
            means = [statistics.mean(values) for *_, values in mine]
            if mine[0][2] is None:
                axes.axhline(means[0], linestyle="--", color="grey", label=series)
                continue
            errors = [_deviation(values) for *_, values in mine]
            xs = [x for _, _, x, _ in mine]
            axes.errorbar(xs, means, errors, marker="o", capsize=3, label=series or None)
        axes.set_xlabel(content["axis"])
        if len({point[0] for point in points}) > 1:
            axes.legend(fontsize=8)
    else:
        names = [label for _, label, _, _ in points]
        means = [statistics.mean(values) for *_, values in points]
        errors = [_deviation(values) for *_, values in points]
        axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
    (axes.set_ylabel if content["axis"] else axes.set_xlabel)("top-1 %")
    axes.set_title(f"{content['title']} ({content['recipe']})", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
