"""The paper's pictures of Gaussians: Figures 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.analysis.attribution import cdam, project_on_grid
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.models.gvit import GViT
from gvit.rendering import render
from gvit.viewing.figures import as_picture, determinant_map, draw_ellipses

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def regimes_figure(images: Float[Tensor, "n c h w"], regimes: Mapping[str, Gaussians]) -> Figure:
    """A row per image: itself, then its Gaussians as ellipses at 2 standard deviations (GViT paper, Figure 4).

    Args:
        images: in [0, 1].
        regimes: by what stands above the column, Gaussians of all images, raw [N, K, 9].
    """
    height, width = images.shape[-2:]
    figure, grid = _panels(len(images), 1 + len(regimes), width / height)
    for row, image in enumerate(images):
        grid[row, 0].imshow(as_picture(image))
        for column, gaussians in enumerate(regimes.values(), 1):
            drawn = render(gaussians[row].detach(), height, width).clamp(0, 1)
            axes = grid[row, column]
            axes.imshow(as_picture(drawn * 0.35))
            draw_ellipses(axes, gaussians[row], height, width)
            axes.set_xlabel(f"{psnr(drawn, image).item():.1f} dB", fontsize=7, labelpad=1)
    for axes, title in zip(grid[0], ("original", *regimes), strict=True):
        axes.set_title(title, fontsize=8)
    _frame(grid, height, width)
    return figure


def explanation_figure(
    model: GViT, images: Float[Tensor, "n c h w"], labels: Sequence[int], cells: int = 16
) -> Figure:
    """A column per image: itself, det(Sigma), CDAM on a grid, reconstruction (GViT paper, Figures 5 and B.1).

    Args:
        model: a trained one.
        images: in [0, 1].
        labels: class index of each; the attribution is that of the predicted class, which stands above it.
        cells: of the grid, along each side.
    """
    height, width = images.shape[-2:]
    with torch.no_grad():
        gaussians = model.encode(images)
        predicted = model.classify(gaussians).argmax(-1)
        drawn = render(gaussians, height, width).clamp(0, 1)
        determinants = determinant_map(gaussians, height, width)
    maps = project_on_grid(cdam(model, gaussians, predicted), gaussians, cells)
    figure, grid = _panels(4, len(images), width / height)
    names = model.card.class_names or [str(index) for index in range(model.num_classes)]
    for column, image in enumerate(images):
        axes = grid[:, column]
        axes[0].imshow(as_picture(image))
        axes[0].set_title(f"is {names[labels[column]]}", fontsize=8)
        axes[1].imshow(determinants[column].numpy(), cmap="viridis")
        largest = maps[column].abs().max().clamp_min(1e-12).item()
        axes[2].imshow(
            maps[column].numpy(),
            cmap="coolwarm",
            vmin=-largest,
            vmax=largest,
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        )
        axes[2].set_title(f"for {names[int(predicted[column])]}", fontsize=8)
        axes[3].imshow(as_picture(drawn[column]))
        axes[3].set_title(f"{psnr(drawn[column], image).item():.1f} dB", fontsize=8)
    for axes, name in zip(grid[:, 0], ("original", "log10 det", "CDAM", "reconstruction"), strict=True):
        axes.set_ylabel(name, fontsize=8)
    _frame(grid, height, width)
    return figure


def _panels(rows: int, columns: int, aspect: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * aspect * columns + 0.5, 1.75 * rows + 0.3), layout="constrained", dpi=110)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _frame(grid: Any, height: int, width: int) -> None:
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
