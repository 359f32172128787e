"""Scores of Gaussians beside what they are of: the image, the drawing, and each method's two maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.analysis.attribution import project_on_grid
from gvit.analysis.explanation import METHODS
from gvit.analysis.scoremap import above_least, splat_scores
from gvit.errors import InputError, printable
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.rendering import render
from gvit.viewing.figures import as_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = 2.4  # inches, of the longer side
_COLUMNS = 5  # of methods, before there are more rows


def scores_figure(
    gaussians: Gaussians,
    scores: Mapping[str, Float[Tensor, " k"]],
    height: int,
    width: int,
    image: Float[Tensor, "3 h w"] | None = None,
    title: str = "",
) -> Figure:
    """Scores of one image's Gaussians as maps over the greyed picture, a column for each method.

    Above, the paper's grid: 16 x 16 cells, each the sum of the scores of the Gaussians whose centres lie in it. Below,
    the scores drawn by the renderer, pixel by pixel. Red is for the class and blue against it, 0 is clear, and each map
    reaches to its own largest value. Methods that know no class go from dark to bright, least to most. The first column
    has the image and its drawing.

    Args:
        gaussians: raw [K, 9].
        scores: by names of ``gvit.analysis.explanation.METHODS``, at least one.
        height: of the maps and the drawing, pixels.
        width: of the maps and the drawing, pixels.
        image: in [0, 1], of which the Gaussians are, of ``height`` x ``width``; None where there is none to show.
        title: above all.

    Raises:
        InputError: there are no scores, or not one for each Gaussian.
    """
    from matplotlib.figure import Figure

    if not scores:
        raise InputError("there must be the scores of a method to show, got none")
    gaussians = gaussians.detach()
    drawn = render(gaussians, height, width).clamp(0, 1)
    panel = _PANEL / max(height, width)
    columns = min(_COLUMNS, len(scores))
    bands = -(-len(scores) // columns)
    size = ((1 + columns) * (panel * width + 0.75), 2 * bands * (panel * height + 0.35) + 0.35)
    figure = Figure(figsize=size, layout="constrained", dpi=110)
    grid: Any = figure.subplots(2 * bands, 1 + columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    quality = "" if image is None else f", {psnr(drawn, image).item():.1f} dB"
    _show(grid[1, 0], drawn, f"drawn, {len(gaussians)} Gaussians{quality}")
    if image is not None:
        _show(grid[0, 0], image, "image")
    behind = (drawn if image is None else image).mean(0, keepdim=True).expand(3, -1, -1) * 0.5 + 0.25
    for number, (name, values) in enumerate(scores.items()):
        values, least = values.detach(), 0.0
        signed = name not in METHODS or METHODS[name].signed
        if not signed:  # the darkest is what has least of it, or where nothing is
            values, least = above_least(values, gaussians)
        cells = project_on_grid(values, gaussians) + least
        pixels = splat_scores(values.unsqueeze(0), gaussians[None], height, width)[0] + least
        upper = 2 * (number // columns)
        both = grid[upper : upper + 2, 1 + number % columns]
        for axes, shown, what in zip(both, (cells, pixels), ("16 x 16", "drawn"), strict=True):
            _show(axes, behind, f"{name}, {what}")
            _lay_over(axes, shown, signed, height, width)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.suptitle(printable(title), fontsize=9, parse_math=False)
    return figure


def _show(axes: Axes, picture: Float[Tensor, "3 h w"], title: str) -> None:
    axes.set_axis_on()
    axes.imshow(as_picture(picture))
    axes.set_title(title, fontsize=8)


def _lay_over(axes: Axes, values: Float[Tensor, "h w"], signed: bool, height: int, width: int) -> None:
    values = values.cpu().double()
    largest = values.abs().max().item() or 1.0
    low, high = (-largest, largest) if signed else (values.min().item(), values.max().item())
    # small values let the picture through
    clear = 0.9 * (values.abs() / largest).sqrt() if signed else torch.full_like(values, 0.85)
    drawn = axes.imshow(
        values.numpy(),
        cmap="bwr" if signed else "viridis",
        vmin=low,
        vmax=high if high > low else low + 1,
        alpha=clear.numpy(),
        # cells cover the image to its edges, half a pixel beyond the centres of the outer pixels
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    figure: Any = axes.figure
    figure.colorbar(drawn, ax=axes, shrink=0.9, pad=0.02).ax.tick_params(labelsize=6)
