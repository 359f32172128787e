"""``grid``: evenly spread, in the image's colours."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.fitting.blobs import SPREAD, Blobs, mean_spacing, round_blobs


def grid_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Round blobs on as square a grid as ``count`` allows; where it has no such factors, some rows have one less."""
    height, width = image.shape[-2:]
    spacing = mean_spacing(height, width, count)
    num_rows = min(count, max(1, round(height / spacing)))
    bounds = [row * count // num_rows for row in range(num_rows + 1)]
    rows = []
    for row in range(num_rows):
        in_row = bounds[row + 1] - bounds[row]
        x = (torch.arange(in_row) + 0.5) * (width / in_row)
        rows.append(torch.stack((x, torch.full_like(x, (row + 0.5) * height / num_rows)), -1))
    return round_blobs(image, torch.cat(rows), SPREAD * spacing)
