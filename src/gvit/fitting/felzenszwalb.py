"""``felzenszwalb``: one blob per segment of Felzenszwalb and Huttenlocher (2004)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvit.fitting.blobs import Blobs
from gvit.fitting.regions import region_blobs

# Segmentations that are tried to come near the wanted number of segments.
_TRIALS = 8


def felzenszwalb_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Moments of scikit-image's segments.

    The algorithm's ``scale`` (the larger, the fewer segments) is found by bisection: the segmentation with the
    most segments that are not more than ``count``, of the eight tried; the largest segments are cut up to make
    ``count``.
    """
    from skimage.segmentation import felzenszwalb

    pixels = image.permute(1, 2, 0).numpy().astype(np.float64)
    low, high = -2.0, 5.0  # exponents of 10
    best = None
    for _ in range(_TRIALS):
        middle = (low + high) / 2
        labels = felzenszwalb(pixels, scale=10**middle, sigma=0.5, min_size=1)
        segments = labels.max() + 1
        if segments > count:
            low = middle
            continue
        high = middle
        if best is None or segments > best.max() + 1:
            best = labels
    return region_blobs(image, labels if best is None else best, count, generator)
