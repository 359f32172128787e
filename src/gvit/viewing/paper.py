"""Figures 4, 5 and B.1 of the GViT paper, for any images and models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.analysis.attribution import cdam, project_on_grid
from gvit.errors import InputError, printable
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.models.base import ImageClassifier
from gvit.rendering import render
from gvit.viewing.figures import as_picture, determinant_map, draw_ellipses

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Side of a panel, inches, where nothing smaller is asked for.
_PANEL = 1.9


def regimes_figure(images: Float[Tensor, "n 3 h w"], regimes: Mapping[str, Gaussians]) -> Figure:
    """Where each way of getting them puts its Gaussians: the paper's Figure 4.

    A row per image: the original, then for each regime the ellipses at 2 standard deviations, in the Gaussians' own
    colours, lifted, over what they draw, dimmed. Below: the PSNR of what they draw.

    Args:
        images: in [0, 1].
        regimes: title of the column -> Gaussians with raw [N, K, 9] of these images; K may differ. In the paper:
            fitted by SGD, predicted without guidance, predicted with gradient guidance.

    Raises:
        InputError: a regime has Gaussians of another number of images, or there is nothing to show.
    """
    from matplotlib.figure import Figure

    count, _, height, width = images.shape
    if not count or not regimes:
        raise InputError(f"there must be an image and a regime to show, got {count} and {len(regimes)}")
    for name, gaussians in regimes.items():
        if gaussians.raw.ndim != 3 or len(gaussians.raw) != count:
            raise InputError(f"{name}: raw must have shape [{count}, K, 9], got {list(gaussians.raw.shape)}")

    figure = Figure(figsize=_size(count, 1 + len(regimes), height / width), layout="constrained", dpi=150)
    grid: Any = figure.subplots(count, 1 + len(regimes), squeeze=False)
    grid[0, 0].set_title("Original", fontsize=9)
    for row in range(count):
        grid[row, 0].imshow(as_picture(images[row]))
    for column, (name, gaussians) in enumerate(regimes.items(), 1):
        gaussians = gaussians.detach()
        with torch.inference_mode():
            drawn = render(gaussians, height, width).clamp(0, 1)
            quality = psnr(drawn, images)
        grid[0, column].set_title(name, fontsize=9)
        for row in range(count):
            grid[row, column].imshow(as_picture(drawn[row] * 0.35))
            draw_ellipses(grid[row, column], gaussians[row], height, width)
            label = f"{gaussians.raw.shape[1]} Gaussians, {quality[row]:.1f} dB"
            grid[row, column].set_xlabel(label, fontsize=7)
    _frame(grid, height, width)
    return figure


def explain_figure(
    model: ImageClassifier,
    images: Float[Tensor, "n 3 h w"],
    labels: Sequence[int],
    classes: Sequence[int] | None = None,
) -> Figure:
    """What the Gaussians tell of a decision: the paper's Figures 5 and B.1. A column per image.

    Rows: (a) the image; (b) log10 of det(Sigma), pixels to the fourth power, on one scale for all; (c) CDAM on 16 x 16
    cells over the image, greyed, red for the class and blue against it, each image in units of its own largest cell;
    (d) what the Gaussians draw.

    Args:
        model: one that makes Gaussians of images, in evaluation mode; with class names for the titles.
        images: in [0, 1], of the model's size, on its device.
        labels: true classes.
        classes: for which the CDAM is drawn; the predicted ones when None.

    Raises:
        InputError: the model makes no Gaussians, there are not as many labels as images, or a class is not the
            model's.
        ValueError: images of another size.
    """
    from matplotlib.figure import Figure

    count, _, height, width = images.shape
    if not count or len(labels) != count:
        raise InputError(f"there must be a label per image, got {len(labels)} for {count}")
    if model.encoder is None:
        raise InputError(
            f"{model.card.name or 'the model'} makes no Gaussians of images; take one with an encoder, gvit_*"
        )
    names = model.card.class_names or tuple(str(number) for number in range(model.num_classes))
    with torch.inference_mode():
        gaussians = model.encoder.gaussians(model.encoder(images))
        probabilities = model.classifier.classify(gaussians).softmax(-1)
        drawn = render(gaussians, height, width).clamp(0, 1)
        quality = psnr(drawn, images)
        determinants = determinant_map(gaussians, height, width)
    chosen = probabilities.argmax(-1).tolist() if classes is None else list(classes)
    evidence = project_on_grid(cdam(model, gaussians, chosen), gaussians)
    evidence = evidence / evidence.abs().amax((1, 2), keepdim=True).clamp_min(
        torch.finfo(evidence.dtype).tiny
    )
    finite = determinants[determinants.isfinite()]
    low, high = (finite.quantile(0.02).item(), finite.quantile(0.98).item()) if len(finite) else (0.0, 1.0)

    figure = Figure(figsize=_size(4, count, height / width, margin=0.9), layout="constrained", dpi=150)
    grid: Any = figure.subplots(4, count, squeeze=False)
    # cells cover the image to its edges, half a pixel beyond the centres of the outer pixels
    cells = (-0.5, width - 0.5, height - 0.5, -0.5)
    for column in range(count):
        axes = grid[:, column]
        axes[0].imshow(as_picture(images[column]))
        # a class may be called $
        axes[0].set_title(printable(names[labels[column]]), fontsize=9, parse_math=False)
        sizes = axes[1].imshow(determinants[column].cpu().numpy(), cmap="viridis", vmin=low, vmax=high)
        greyed = images[column].mean(0, keepdim=True).expand(3, -1, -1) * 0.5 + 0.15
        axes[2].imshow(as_picture(greyed))
        shares = evidence[column].cpu().numpy()
        heat = axes[2].imshow(
            shares,
            cmap="bwr",
            vmin=-1,
            vmax=1,
            alpha=0.9 * abs(shares) ** 0.5,
            extent=cells,
            interpolation="nearest",
        )
        predicted = chosen[column] == int(probabilities[column].argmax())
        axes[2].set_title(
            f"for {printable(names[chosen[column]])}, {100 * probabilities[column, chosen[column]]:.0f} %",
            fontsize=8,
            color="firebrick" if predicted and chosen[column] != labels[column] else "black",
            parse_math=False,
        )
        axes[3].imshow(as_picture(drawn[column]))
        axes[3].set_title(f"{quality[column]:.1f} dB", fontsize=8)
    for row, name in enumerate(("(a) image", "(b) log10 det", "(c) CDAM", "(d) drawn")):
        grid[row, 0].set_ylabel(name, fontsize=9)
    for shown, row, unit in ((sizes, 1, "log10 px⁴"), (heat, 2, "share of the largest")):
        bar = figure.colorbar(shown, ax=list(grid[row]), shrink=0.9, pad=0.01)
        bar.ax.tick_params(labelsize=7)
        bar.set_label(unit, fontsize=7)
    _frame(grid, height, width)
    return figure


def _size(rows: int, columns: int, aspect: float, margin: float = 0.1) -> tuple[float, float]:
    """Width and height of a figure, inches: panels get smaller, not the figure endless."""
    panel = min(_PANEL, 24 / columns)
    return panel * columns + margin, (panel * aspect + 0.25) * rows


def _frame(grid: Any, height: int, width: int) -> None:
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
