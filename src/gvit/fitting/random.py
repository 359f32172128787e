"""``random``: knows the size of the image and nothing else."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.fitting.blobs import SPREAD, Blobs, mean_spacing
from gvit.gaussians import build_covariances


def random_blobs(image: Float[Tensor, "3 h w"], count: int, generator: torch.Generator) -> Blobs:
    """Uniformly random centres, angles and colours; axes of 1/2 to 3/2 of the size that evenly spread blobs have."""
    height, width = image.shape[-2:]
    centers = torch.rand(count, 2, generator=generator) * torch.tensor((width, height))
    sizes = 0.5 + torch.rand(count, 2, generator=generator)
    angles = math.pi * torch.rand(count, generator=generator)
    covariances = build_covariances(sizes * (SPREAD * mean_spacing(height, width, count)), angles)
    return Blobs(centers, covariances, torch.rand(count, 3, generator=generator))
