"""Scores of Gaussians as pictures at full resolution: each Gaussian's score, wherever it is seen."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.analysis.attribution import check_scores
from gvit.errors import InputError
from gvit.gaussians import VISIBLE_OPACITY, Gaussians
from gvit.rendering import rasterize


def splat_scores(
    scores: Float[Tensor, "batch k"], gaussians: Gaussians, height: int, width: int
) -> Float[Tensor, "batch h w"]:
    """Scores drawn by the renderer: at each pixel, the sum over the Gaussians of score times blending weight.

    The weight is what the Gaussian's colour is multiplied by in ``gvit.render``: its alpha, times what those in front
    of it let through. So a score of 1 among zeros lights the pixels that its Gaussian colours, and no other; and one
    that is hidden behind others shows nowhere. Nothing is clipped: the map has the scores' signs and unit.

    Args:
        scores: any finite numbers.
        gaussians: raw [B, K, 9].
        height: of the map, pixels.
        width: of the map, pixels; another aspect than the Gaussians' own stretches it.

    Raises:
        InputError: there is not one score per Gaussian.
        ValueError: a score is not finite, or height or width is below 1.
    """
    check_scores(scores, gaussians)
    centers, covariances, colors, opacities = gaussians.in_pixels(height, width)
    values, _ = rasterize(centers, covariances, scores.to(colors).unsqueeze(-1), opacities, height, width)
    return values[:, 0]


def above_least(scores: Float[Tensor, " k"], gaussians: Gaussians) -> tuple[Float[Tensor, " k"], float]:
    """Scores without a sign above the least one that is drawn, and that one, for a map whose darkest is the least.

    Args:
        scores: of one image.
        gaussians: raw [K, 9].
    """
    drawn = scores[gaussians.opacities >= VISIBLE_OPACITY]
    least = drawn.min().item() if len(drawn) else 0.0
    return (scores - least).clamp(min=0), least


def collect_map(values: Float[Tensor, "batch h w"], gaussians: Gaussians) -> Float[Tensor, "batch k"]:
    """The way back: for each Gaussian, the sum over the pixels of blending weight times value.

    Args:
        values: a map, in any unit.
        gaussians: raw [B, K, 9].

    Raises:
        InputError: there is not one map per image.
    """
    if gaussians.raw.shape[:-2] != values.shape[:1]:
        raise InputError(
            f"there must be one map per image, got {list(values.shape)} for {list(gaussians.raw.shape[:-1])}"
        )
    centers, covariances, colors, opacities = gaussians.in_pixels(*values.shape[1:])
    with torch.enable_grad():
        # the drawn colours are linear in the Gaussians' own: the slope is the blending weight
        grey = torch.zeros_like(colors[..., :1]).requires_grad_()
        drawn, _ = rasterize(centers, covariances, grey, opacities, *values.shape[1:])
        (sums,) = torch.autograd.grad(drawn, grey, values.to(drawn).unsqueeze(1))
    return sums[..., 0]
