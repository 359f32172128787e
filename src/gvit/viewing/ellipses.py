"""Gaussians as ellipses on a grid of pixels, and as rows of numbers that people read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.gaussians import Gaussians

COLUMNS = ("x", "y", "scale1", "scale2", "angle", "red", "green", "blue", "opacity")


class Ellipses(NamedTuple):
    """Gaussians of one image in pixels, in float64 on the CPU.

    Attributes:
        centers: (x, y) from the upper left corner of the image.
        scales: standard deviations along the two axes, the longer one first.
        angles: radians from +x towards +y (down) of the longer axis, in (-pi/2, pi/2].
        colors: red, green, blue in [0, 1].
        opacities: in [0, 1].
    """

    centers: Float[Tensor, "k 2"]
    scales: Float[Tensor, "k 2"]
    angles: Float[Tensor, " k"]
    colors: Float[Tensor, "k 3"]
    opacities: Float[Tensor, " k"]


def find_ellipses(gaussians: Gaussians, height: int, width: int, blur: float = 0.0) -> Ellipses:
    """The Gaussians of one image at a size.

    Args:
        gaussians: raw [K, 9].
        height: pixels.
        width: pixels.
        blur: added to the variances, square pixels.
    """
    centers, _, colors, opacities = (
        tensor.detach().cpu().double() for tensor in gaussians.in_pixels(height, width)
    )
    # in float64 from the start: in a covariance of float32, the width of a thin Gaussian drowns
    _, covariances, _, _ = gaussians.detach().to("cpu", torch.float64).in_pixels(height, width)
    variances, axes = torch.linalg.eigh(covariances + blur * torch.eye(2, dtype=torch.float64))
    angles = torch.atan(axes[:, 1, 1] / axes[:, 0, 1])  # ascending: the last axis is the long one
    return Ellipses(centers, variances.flip(-1).clamp(min=0).sqrt(), angles, colors, opacities)


def to_rows(gaussians: Gaussians, height: int, width: int) -> list[list[float]]:
    """A row of ``COLUMNS`` for each Gaussian, front to back: pixels, degrees, and colours and opacity in [0, 1]."""
    found = find_ellipses(gaussians, height, width)
    numbers = (
        found.centers,
        found.scales,
        found.angles.rad2deg()[:, None],
        found.colors,
        found.opacities[:, None],
    )
    # seven digits are what float32 has
    return [[float(f"{value:.7g}") for value in row] for row in torch.cat(numbers, -1).tolist()]
