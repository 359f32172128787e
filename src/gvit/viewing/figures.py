"""Figures: what a model sees, drawn with matplotlib, which is imported on first use."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvit.errors import printable
from gvit.files import replacing
from gvit.gaussians import VISIBLE_OPACITY, Gaussians
from gvit.losses import psnr
from gvit.models.gvit import GViT
from gvit.rendering import rasterize, render
from gvit.viewing.curves import Span, find_panels, find_phases
from gvit.viewing.ellipses import find_ellipses

_PIXELS_AT_ONCE = 2**22
_LARGEST = 40.0  # inches, of a figure that grows with the classes: of a thousand, each has some 4 pixels
AUTHOR = {"Software": "gvit"}  # in each PNG file, by which it is known again

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def determinant_map(gaussians: Gaussians, height: int, width: int) -> Float[Tensor, "*batch h w"]:
    """log10 of det(Sigma), pixels to the fourth power, at each pixel: the mean over the Gaussians drawn there.

    Every Gaussian is drawn in its log-determinant instead of its colour, and the picture is divided by the
    coverage. NaN where nothing is drawn. Small values mark where the model spends detail (GViT paper, Figure 5).
    """
    centers, covariances, _, opacities = gaussians.in_pixels(height, width)
    # in float64 from the start: in a covariance of float32, the width of a thin Gaussian drowns
    _, exact, _, _ = gaussians.to(torch.float64).in_pixels(height, width)
    log_det = torch.linalg.det(exact).clamp_min(1e-12).log10().to(centers.dtype)
    values, alpha = rasterize(centers, covariances, log_det.unsqueeze(-1), opacities, height, width)
    return torch.where(alpha > VISIBLE_OPACITY, values[..., 0, :, :] / alpha, torch.nan)


def draw_ellipses(axes: Axes, gaussians: Gaussians, height: int, width: int, deviations: float = 2.0) -> None:
    """Outline each Gaussian of one image at ``deviations`` standard deviations, as opaque as it is, in its colour.

    Args:
        axes: with an image of ``height`` x ``width`` pixels drawn by ``imshow``.
        gaussians: of one image, raw [K, 9].
        height: pixels.
        width: pixels.
        deviations: size of the ellipses.
    """
    from matplotlib.collections import EllipseCollection

    found = find_ellipses(gaussians, height, width)
    lengths = 2 * deviations * found.scales
    # faint Gaussians stay faint; dark ones are lifted, or they vanish on a dark picture
    rgba = torch.cat((0.25 + 0.75 * found.colors, found.opacities.clamp(0.15, 1).unsqueeze(-1)), -1)
    axes.add_collection(
        EllipseCollection(
            lengths[:, 0].numpy(),
            lengths[:, 1].numpy(),
            found.angles.rad2deg().numpy(),
            units="xy",
            offsets=found.centers.numpy() - 0.5,  # imshow has the centre of the first pixel at 0
            offset_transform=axes.transData,
            facecolors="none",
            edgecolors=rgba.numpy(),
            linewidths=0.8,
        )
    )


def report_figure(model: GViT, images: Float[Tensor, "n c h w"], labels: Sequence[int]) -> Figure:
    """One column per image: original, reconstruction, ellipses at 2 standard deviations, det(Sigma) map."""
    from matplotlib.figure import Figure

    class_names = model.card.class_names
    height, width = images.shape[-2:]
    with torch.inference_mode():
        gaussians = model.encode(images)
        probabilities = model.classify(gaussians).softmax(-1)
        drawn = render(gaussians, height, width).clamp(0, 1)
        quality = psnr(drawn, images)
        determinants = determinant_map(gaussians, height, width)
    count = len(images)
    rows = ("image", "drawn", "ellipses, 2 std", "log10 det")
    figure = Figure(figsize=(1.25 * count + 0.6, 5.6), layout="constrained", dpi=110)
    grid: Any = figure.subplots(len(rows), count, squeeze=False)
    finite = determinants[determinants.isfinite()]
    low, high = (finite.quantile(0.02).item(), finite.quantile(0.98).item()) if len(finite) else (0.0, 1.0)
    for column in range(count):
        axes = grid[:, column]
        axes[0].imshow(as_picture(images[column]))
        axes[1].imshow(as_picture(drawn[column]))
        axes[2].imshow(as_picture(drawn[column] * 0.35))
        draw_ellipses(axes[2], gaussians[column], height, width)
        shown = axes[3].imshow(determinants[column].cpu().numpy(), cmap="viridis", vmin=low, vmax=high)
        probability, predicted = probabilities[column].max(-1)
        wrong = int(predicted) != labels[column]
        # a class may be called $
        axes[0].set_title(f"is {printable(class_names[labels[column]])}", fontsize=8, parse_math=False)
        axes[1].set_title(f"{quality[column]:.1f} dB", fontsize=8)
        if model.card.encoder_only:  # nothing has learned to answer
            continue
        axes[2].set_title(
            f"{printable(class_names[int(predicted)])}: {100 * probability:.0f} %",
            fontsize=8,
            color="firebrick" if wrong else "black",
            parse_math=False,
        )
    for row, name in enumerate(rows):
        grid[row, 0].set_ylabel(name, fontsize=8)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.colorbar(shown, ax=list(grid[3]), shrink=0.9, pad=0.01).ax.tick_params(labelsize=7)
    return figure


def fit_figure(image: Float[Tensor, "3 h w"], gaussians: Gaussians, drawn: Float[Tensor, "3 h w"]) -> Figure:
    """Side by side: an image, what its Gaussians (raw [K, 9]) draw, and their ellipses at 2 standard deviations."""
    from matplotlib.figure import Figure

    height, width = image.shape[-2:]
    # panels as large as can be read, whatever the aspect
    panel = np.array((width, height)) * (5 / max(height, width))
    figure = Figure(figsize=(3 * panel[0] + 0.4, panel[1] + 0.5), layout="constrained", dpi=110)
    grid: Any = figure.subplots(1, 3)
    titles = ("image", f"drawn, {psnr(drawn, image):.1f} dB", f"{len(gaussians)} Gaussians, 2 std")
    for axes, title, shown in zip(grid, titles, (image, drawn, drawn * 0.35), strict=True):
        axes.imshow(as_picture(shown))
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    draw_ellipses(grid[2], gaussians, height, width)
    return figure


def save_picture(image: Float[Tensor, "3 h w"], path: Path) -> None:
    """Write an image with values in [0, 1] as a PNG file of 8 bits, whole or not at all."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    # some rows at a time: of a large image, each copy in float32 takes as much memory as itself
    rows = max(1, _PIXELS_AT_ONCE // image.shape[-1])
    parts = [(part.clamp(0, 1) * 255).round().byte().permute(1, 2, 0) for part in image.split(rows, -2)]
    pixels = torch.cat(parts).cpu().numpy()
    author = PngInfo()
    for name, value in AUTHOR.items():
        author.add_text(name, value)
    with replacing(path) as partial:
        Image.fromarray(pixels).save(partial, format="png", pnginfo=author)


def confusion_figure(
    confusion: Sequence[Sequence[int]], class_names: Sequence[str], title: str = ""
) -> Figure:
    """Counts of predicted (columns) against true classes (rows), coloured by share of the row."""
    from matplotlib.figure import Figure

    counts = np.asarray(confusion)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    size = min(_LARGEST, max(3.0, 0.42 * len(class_names) + 1.2))
    figure = Figure(figsize=(size, size), layout="constrained", dpi=110)
    axes: Any = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(class_names) <= 30:
        shown = [printable(name) for name in class_names]
        for (row, column), count in np.ndenumerate(counts):
            if count:
                shade = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", fontsize=7, color=shade)
        axes.set_xticks(range(len(shown)), shown, fontsize=7, rotation=90, parse_math=False)
        axes.set_yticks(range(len(shown)), shown, fontsize=7, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(title, fontsize=9, wrap=True, parse_math=False)
    return figure


def mistakes_figure(
    pictures: Sequence[Float[Tensor, "3 h w"]], captions: Sequence[str], title: str = ""
) -> Figure:
    """A sheet of pictures, each with its caption below a title."""
    from matplotlib.figure import Figure

    columns = max(1, min(6, len(pictures)))
    rows = max(1, -(-len(pictures) // columns))
    figure = Figure(figsize=(1.9 * columns + 0.2, 2.3 * rows + 0.5), layout="constrained", dpi=110)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        axes.imshow(as_picture(picture))
        lines = (printable(line) for line in caption.split("\n"))
        axes.set_title("\n".join(lines), fontsize=8, parse_math=False)  # a class may be called $
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def curves_figure(records: Sequence[Mapping[str, Any]]) -> Figure:
    """A run over its epochs: training losses, accuracies, pictures' PSNR and learning rates, those there are.

    Args:
        records: what ``metrics.jsonl`` holds; phases are shaded in turn, and named.
    """
    from matplotlib.figure import Figure

    panels, phases = find_panels(records), find_phases(records)
    count = max(1, len(panels))
    figure = Figure(figsize=(7, 1.5 * count + 0.4), layout="constrained", dpi=110)
    grid: Any = figure.subplots(count, 1, sharex=True, squeeze=False)
    for axes, panel in zip(grid[:, 0], panels, strict=False):
        for line in panel.lines:
            axes.plot(
                *zip(*line.points, strict=True),
                label=line.label,
                marker="o" if line.of_tests else None,
                markersize=3,
                linewidth=1,
            )
        axes.set_ylabel(panel.label, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        if len(panel.lines) > 1:
            axes.legend(fontsize=7)
        _shade(axes, phases)
    grid[-1, 0].set_xlabel("epoch", fontsize=8)
    grid[-1, 0].set_xlim(left=0)
    return figure


def _shade(axes: Axes, phases: Sequence[Span]) -> None:
    for number, phase in enumerate(phases):
        if number % 2:
            axes.axvspan(phase.start, phase.end, color="black", alpha=0.05, linewidth=0)
        axes.text(
            phase.start, 1.0, f" {phase.name}", transform=axes.get_xaxis_transform(), fontsize=6, va="top"
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    with replacing(path) as partial, warnings.catch_warnings():
        # of names in scripts that the font lacks: they are in the tables beside
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(partial, format="png", metadata=AUTHOR)


def as_picture(image: Float[Tensor, "c h w"]) -> Any:
    """An image with values in [0, 1] as the array [H, W, C] that ``imshow`` takes."""
    return image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
