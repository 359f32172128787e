"""The derivative of the renderer written out: for graphs that are exported, which hold no backward pass.

By the reference renderer's formula and in its memory, O(B*K*H*W).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.gaussians import Gaussians
from gvit.gaussians.fields import pair
from gvit.rendering.operators import Constants
from gvit.rendering.reference import Layers, composite

_USUAL = Constants()


def picture(gaussians: Gaussians, height: int, width: int) -> Float[Tensor, "batch 3 height width"]:
    """What ``gvit.render`` gives, over black, as plain tensor operations."""
    drawn = gaussians.in_pixels(height, width)
    return composite(*drawn, drawn[2].new_zeros(drawn[2].shape[0], 3), height, width, _USUAL)[0]


def squared_error(
    gaussians: Gaussians, images: Float[Tensor, "batch 3 h w"]
) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch k 9"]]:
    """Picture minus image, and the gradient of each image's mean squared error at the Gaussians' raw numbers."""
    height, width = images.shape[-2:]
    centers, covariances, colors, opacities = gaussians.in_pixels(height, width)
    layers = Layers(centers, covariances, opacities, height, width, _USUAL, colors.dtype)
    weight = layers.before * layers.alpha
    error = torch.einsum("bkp,bkc->bcp", weight, colors) - images.flatten(2)
    pull = error * (2 / (3 * height * width))  # [B, 3, P]

    seen = torch.einsum("bcp,bkc->bkp", pull, colors)
    shown = weight * seen
    behind = shown.flip(1).cumsum(1).flip(1) - shown  # what the Gaussians after this one add
    by_alpha = torch.where(layers.free, layers.before * seen - behind / layers.visible, 0)
    by_sigma = -by_alpha * layers.alpha
    # sigma's own derivatives are those of a quadratic form: u and v are the inverse covariance times the offset
    u = (layers.yy * layers.dx - layers.xy * layers.dy) / layers.determinant
    v = (layers.xx * layers.dy - layers.xy * layers.dx) / layers.determinant
    by_center = -torch.stack(((by_sigma * u).sum(2), (by_sigma * v).sum(2)), -1)
    by_xx, by_yy = -(by_sigma * u * u).sum(2) / 2, -(by_sigma * v * v).sum(2) / 2
    by_xy = -(by_sigma * u * v).sum(2)
    by_opacity = (by_alpha * layers.falloff).sum(2)
    by_color = torch.einsum("bkp,bcp->bkc", weight, pull)

    # from pixels to raw numbers
    extent = pair(*gaussians.extent, centers)
    pixels = pair(width, height, centers) / (2 * extent)
    by_xx, by_xy, by_yy = by_xx * pixels[0] ** 2, by_xy * pixels[0] * pixels[1], by_yy * pixels[1] ** 2
    scales, angles = gaussians.scales, gaussians.angles
    cos, sin = angles.cos(), angles.sin()
    first, second = scales.unbind(-1)
    by_first = 2 * first * (by_xx * cos * cos + by_yy * sin * sin + by_xy * sin * cos)
    by_second = 2 * second * (by_xx * sin * sin + by_yy * cos * cos - by_xy * sin * cos)
    by_angle = (first.square() - second.square()) * (
        (by_yy - by_xx) * 2 * sin * cos + by_xy * (cos * cos - sin * sin)
    )
    raw = gaussians.raw
    gradient = torch.cat(
        (
            by_center * pixels * extent * (1 - raw[..., :2].tanh().square()),
            torch.stack((by_first, by_second), -1) * scales * (1 - raw[..., 2:4].sigmoid()),
            by_angle.unsqueeze(-1),
            by_color * colors * (1 - colors),
            (by_opacity * opacities * (1 - opacities)).unsqueeze(-1),
        ),
        -1,
    )
    return error.unflatten(-1, (height, width)), gradient
