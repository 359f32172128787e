"""What a hand does to Gaussians: pure functions of those of one image, in the pixels of the picture that it sees.

Each changes the chosen Gaussians alone; the raw numbers of the others stay bit by bit.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gvit.gaussians import Gaussians, transform_gaussians
from gvit.gaussians.fields import pair

Chosen = Bool[Tensor, " k"]


def move(gaussians: Gaussians, chosen: Chosen, dx: float, dy: float, height: int, width: int) -> Gaussians:
    """Moved by pixels of a picture of ``height`` x ``width``; what is pushed off the canvas stays at its border.

    Args:
        gaussians: raw [K, 9].
        chosen: those to change.
        dx: pixels to the right.
        dy: pixels down.
        height: of the picture, pixels.
        width: of the picture, pixels.
    """
    extent = pair(*gaussians.extent, gaussians.raw)
    shift = pair(dx, dy, gaussians.raw) * 2 * extent / pair(width, height, gaussians.raw)
    centers = (gaussians.centers + shift).clamp(-extent, extent)
    return _only(chosen, gaussians.replace(centers=centers), gaussians)


def turn_and_scale(gaussians: Gaussians, chosen: Chosen, factor: float, degrees: float) -> Gaussians:
    """Scaled and turned (clockwise) as one shape, about the mean of the chosen centres.

    Standard deviations above the bound are cut to it; a centre that is pushed off the canvas stays at its border.
    """
    if not chosen.any():
        return gaussians
    angle = math.radians(degrees)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    matrix = gaussians.raw.new_tensor([[cos, -sin], [sin, cos]])
    middle = gaussians.centers[chosen].mean(0)
    changed = transform_gaussians(gaussians, matrix, middle - matrix @ middle)
    # whose centre was pushed off has it at the border now, but draws nothing any more
    return _only(chosen, changed.replace(opacities=gaussians.opacities), gaussians)


def paint(gaussians: Gaussians, chosen: Chosen, color: tuple[float, float, float]) -> Gaussians:
    """In one colour: red, green, blue in [0, 1]."""
    return _only(chosen, gaussians.replace(colors=color), gaussians)


def fade(gaussians: Gaussians, chosen: Chosen, opacity: float) -> Gaussians:
    """With an opacity in [0, 1]."""
    return _only(chosen, gaussians.replace(opacities=opacity), gaussians)


def _only(chosen: Chosen, changed: Gaussians, gaussians: Gaussians) -> Gaussians:
    raw: Float[Tensor, "k 9"] = torch.where(chosen.unsqueeze(-1), changed.raw, gaussians.raw)
    return gaussians.replace_raw(raw)
