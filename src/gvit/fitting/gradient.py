"""``gradient``: many small blobs where the image changes, few large ones where it does not."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gvit.fitting.blobs import SPREAD, Blobs, draw_pixels, mean_spacing, round_blobs, scatter_within

# The share that is spread evenly, so that flat areas are covered, too.
UNIFORM_SHARE = 0.3


def gradient_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Centres drawn with a probability proportional to the gradient's magnitude, mixed with a uniform one.

    The idea is Image-GS's (Zhang et al., 2025). A blob is as large as the density of blobs around it asks for, the
    density being that of the distribution, averaged over a window of twice the mean distance between blobs.
    """
    height, width = image.shape[-2:]
    density = count * _probability(image)
    rows, columns = draw_pixels(density, count, generator)
    radius = max(1, round(mean_spacing(height, width, count)))
    window = 2 * min(radius, height, width) + 1
    smooth = density[None]
    for size in ((window, 1), (1, window)):  # a mean over a square, at the cost of two lines
        padding = size[0] // 2, size[1] // 2
        smooth = F.avg_pool2d(smooth, size, stride=1, padding=padding, count_include_pad=False)
    deviations = SPREAD * smooth[0, rows, columns].rsqrt()
    return round_blobs(image, scatter_within(rows, columns, generator), deviations)


def _probability(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "h w"]:
    """Of each pixel; the sum is 1."""
    # the edge is repeated: central differences need neighbours, also in an image of one row
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    magnitude = (dx.square() + dy.square()).sum(0).sqrt()
    even = torch.full_like(magnitude, 1 / magnitude.numel())
    total = magnitude.sum()
    if total == 0:
        return even
    return (1 - UNIFORM_SHARE) / total * magnitude + UNIFORM_SHARE * even
