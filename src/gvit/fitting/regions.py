"""From a segmentation to blobs: what k-means, Felzenszwalb and Kanezaki share."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvit.fitting.blobs import Blobs
from gvit.fitting.random import random_blobs

# Of a square pixel of side 1, along each axis: a region of one pixel has this variance, not none.
_PIXEL_VARIANCE = 1 / 12


def region_blobs(
    image: Float[Tensor, "3 h w"], labels: Int[np.ndarray, "h w"], count: int, generator: torch.Generator
) -> Blobs:
    """``count`` blobs with the centres, covariances and mean colours of the regions.

    Of more regions than ``count``, the largest are taken. Of fewer, the region with the greatest moment of inertia
    (pixels times variance along the long axis) is cut in two across its long axis, again and again; when there is
    nothing left to cut, because each pixel has its blob, random blobs are added.

    Args:
        image: in [0, 1].
        labels: the region of each pixel, any integers.
        count: of blobs.
        generator: for the random blobs.
    """
    width = labels.shape[1]
    order = labels.ravel().argsort(kind="stable")
    starts = np.flatnonzero(np.diff(labels.ravel()[order], prepend=labels.min() - 1))
    regions = sorted(np.split(order, starts[1:]), key=len, reverse=True)[:count]
    regions = _split(regions, count, width)
    colors = image.double().flatten(1).numpy()
    moments = [_moments(pixels, width) for pixels in regions]
    blobs = Blobs(
        torch.from_numpy(np.stack([mean for mean, _ in moments])).float(),
        torch.from_numpy(np.stack([covariance for _, covariance in moments])).float(),
        torch.from_numpy(np.stack([colors[:, pixels].mean(1) for pixels in regions])).float(),
    )
    if len(regions) == count:
        return blobs
    return blobs.concatenate(random_blobs(image, count - len(regions), generator))


def _split(regions: list[np.ndarray], count: int, width: int) -> list[np.ndarray]:
    """At most ``count`` regions, given as indices of pixels, by cutting those of the greatest inertia."""
    # heapq pops the smallest; the running number settles ties
    heap = [(-_inertia(pixels, width), number, pixels) for number, pixels in enumerate(regions)]
    heapq.heapify(heap)
    number = len(heap)
    while len(heap) < count and heap[0][0] < 0:
        _, _, pixels = heapq.heappop(heap)
        mean, covariance = _moments(pixels, width)
        axis = np.linalg.eigh(covariance)[1][:, -1]
        along = (_positions(pixels, width) - mean) @ axis
        # the median in rank: each half gets a pixel, also where rounding blurs which side they are on
        ranked = pixels[along.argsort(kind="stable")]
        for half in np.split(ranked, [len(ranked) // 2]):
            heapq.heappush(heap, (-_inertia(half, width), number, half))
            number += 1
    return [pixels for _, _, pixels in sorted(heap, key=lambda entry: entry[1])]


def _inertia(pixels: np.ndarray, width: int) -> float:
    """Pixels times the variance along the long axis; 0 for one pixel, which can't be cut."""
    if len(pixels) == 1:
        return 0.0
    return len(pixels) * np.linalg.eigvalsh(_moments(pixels, width)[1])[-1]


def _positions(pixels: np.ndarray, width: int) -> np.ndarray:
    return np.stack((pixels % width, pixels // width), -1) + 0.5


def _moments(pixels: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean [2] and covariance [2, 2] of the area that the pixels cover."""
    positions = _positions(pixels, width)
    mean = positions.mean(0)
    offsets = positions - mean
    return mean, offsets.T @ offsets / len(pixels) + _PIXEL_VARIANCE * np.eye(2)
