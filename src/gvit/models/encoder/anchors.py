"""Where Gaussians begin: evenly, or closer together where an image has more detail."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

_NEIGHBOURHOOD = 5  # pixels a side: detail is how far a pixel is from its neighbourhood's mean


def anchors(
    images: Float[Tensor, "batch c h w"], count: int, detail: float
) -> tuple[Float[Tensor, "batch count 2"], Float[Tensor, "batch count 2"]]:
    """Centres of cells that fill the canvas, row by row, and hold equally much of an image's detail.

    There are as many rows as make the distances along and between them most alike; where ``count`` has no such factors,
    some rows have one cell more. A row is a band of the whole width, with as large a share of the detail as of cells.
    Detail is a pixel's distance from the mean of its neighbourhood, smoothed over half a cell.

    Args:
        images: with values in [0, 1].
        count: how many.
        detail: share of it in what is divided equally, the rest being area: 0 for cells of equal area.

    Returns:
        The cells' centres, in units of the canvas' half width and half height, and their widths and heights in units
        of an even cell's side.
    """
    height, width = images.shape[-2:]
    weight = _detail(images, count)
    weight = detail * weight / weight.mean((1, 2), keepdim=True).clamp_min(1e-6) + (1 - detail)
    sizes = _row_sizes(count, height / width)
    shares = torch.tensor([0, *sizes], device=images.device).cumsum(0).to(weight) / count
    bands = _quantiles(weight.sum(2), shares)  # [B, rows + 1]
    above = F.pad(weight.cumsum(1), (0, 0, 1, 0))  # summed from the top to each row of pixels
    within = _rows_between(above, bands).diff(dim=1)  # [B, rows, W]
    # as many cells in each row as in the longest; what is too many has no width, and is left out
    most = max(sizes)
    ends = torch.arange(most + 1, device=images.device) / torch.tensor(sizes, device=images.device)[:, None]
    sides = _quantiles(within, ends.clamp(max=1))  # [B, rows, most + 1]
    middles, heights = (bands[:, :-1] + bands[:, 1:]) / 2, bands.diff()
    places = _pairs((sides[..., :-1] + sides[..., 1:]) / 2, middles)
    cells = _pairs(sides.diff(), heights)
    if min(sizes) < most:
        kept = [row * most + cell for row, size in enumerate(sizes) for cell in range(size)]
        index = torch.tensor(kept, device=images.device)
        places, cells = places[:, index], cells[:, index]
    # an even cell's sides: those of a square in pixels
    even = images.new_tensor([math.sqrt(height / width / count), math.sqrt(width / height / count)])
    return 2 * places - 1, cells / even


def coarse(picture: Float[Tensor, "batch c h w"], count: int) -> Float[Tensor, "batch c rows columns"]:
    """Means over squares of about a sixth of the distance between so many Gaussians; the picture where that is a pixel.

    A fixed number of samples then sees as much of a Gaussian's surroundings, whatever its size in pixels.
    """
    height, width = picture.shape[-2:]
    side = max(1, round(math.sqrt(height * width / count) / 6))
    return (
        picture
        if side == 1
        else F.adaptive_avg_pool2d(picture, (max(1, height // side), max(1, width // side)))
    )


def sample(picture: Float[Tensor, "batch c h w"], places: Float[Tensor, "batch m k 2"]) -> Tensor:
    """Bilinear samples at places in units of the half canvas: [B, K, C], or [B, K, C, M] where there are several."""
    found = F.grid_sample(picture, places, align_corners=False, padding_mode="border")  # [B, C, M, K]
    found = found.permute(0, 3, 1, 2)
    return found[..., 0] if places.shape[1] == 1 else found


def _row_sizes(count: int, aspect: float) -> list[int]:
    rows = max(1, min(count, round(math.sqrt(count * aspect))))
    return [end - start for start, end in pairwise(count * row // rows for row in range(rows + 1))]


def _detail(images: Float[Tensor, "batch c h w"], count: int) -> Float[Tensor, "batch h w"]:
    grey = images.mean(1, keepdim=True)
    found = (grey - _smooth(grey, _NEIGHBOURHOOD)).abs()
    half_cell = 2 * max(1, round(math.sqrt(grey.shape[2] * grey.shape[3] / count) / 4)) + 1
    return _smooth(found, half_cell)[:, 0]


def _smooth(picture: Float[Tensor, "batch 1 h w"], side: int) -> Float[Tensor, "batch 1 h w"]:
    padded = F.pad(picture, (side // 2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, (side, 1), 1), (1, side), 1)


def _quantiles(
    weight: Float[Tensor, "*rows n"], shares: Float[Tensor, "*some q"]
) -> Float[Tensor, "*rows q"]:
    """Where, in [0, 1], so much of the weight lies before; weight is even within an element."""
    ends = weight.cumsum(-1)
    ends = F.pad(ends / ends[..., -1:], (1, 0))  # [..., n + 1], from 0 to 1
    wanted = shares.to(ends).expand(*ends.shape[:-1], -1).contiguous()
    if torch.compiler.is_exporting():  # ONNX has no binary search
        last = (ends.unsqueeze(-2) < wanted.unsqueeze(-1)).sum(-1).clamp(1, weight.shape[-1])
    else:
        last = torch.searchsorted(ends, wanted).clamp(1, weight.shape[-1])
    low, high = ends.gather(-1, last - 1), ends.gather(-1, last)
    return (last - 1 + ((wanted - low) / (high - low)).clamp(0, 1)) / weight.shape[-1]


def _rows_between(above: Float[Tensor, "batch rows w"], places: Float[Tensor, "batch q"]) -> Tensor:
    """What lies above heights in [0, 1], linear between rows of pixels: [B, Q, W]."""
    positions = places * (above.shape[1] - 1)
    rows = positions.long().clamp(0, above.shape[1] - 2)
    batch = torch.arange(above.shape[0], device=above.device).unsqueeze(1)
    return above[batch, rows].lerp(above[batch, rows + 1], (positions - rows).unsqueeze(2))


def _pairs(along: Float[Tensor, "batch rows n"], of_rows: Float[Tensor, "batch rows"]) -> Tensor:
    """What each cell has for itself, and what it has in common with its row: [B, rows * N, 2]."""
    return torch.stack((along, of_rows.unsqueeze(2).expand_as(along)), -1).flatten(1, 2)
