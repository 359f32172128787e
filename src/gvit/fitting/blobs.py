"""Where a fit starts from: blobs in pixels, and how they become ``Gaussians``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvit.gaussians import Gaussians

# In units of the distance between neighbours. Half of it lets evenly spread Gaussians meet without a gap.
SPREAD = 0.5
# Thinner than this the renderer's blur of 0.3 square pixels decides what is seen.
MIN_DEVIATION = 0.3


@dataclass(frozen=True)
class Blobs:
    """What an initialiser proposes for one image: float32, on the CPU, in no particular order.

    Attributes:
        centers: (x, y) in pixels; the first pixel's centre is (0.5, 0.5).
        covariances: square pixels.
        colors: in [0, 1].
    """

    centers: Float[Tensor, "n 2"]
    covariances: Float[Tensor, "n 2 2"]
    colors: Float[Tensor, "n 3"]

    def __len__(self) -> int:
        return len(self.centers)

    def concatenate(self, other: Blobs) -> Blobs:
        """These and then those."""
        return Blobs(
            torch.cat((self.centers, other.centers)),
            torch.cat((self.covariances, other.covariances)),
            torch.cat((self.colors, other.colors)),
        )

    def to_gaussians(
        self, height: int, width: int, opacity: float, scale_factor: float, nominal_count: int
    ) -> Gaussians:
        """As raw numbers [N, 9] on the canvas of the image, small ones first.

        The renderer composites front to back in index order: a large Gaussian that came first would hide the small
        ones, and what is hidden gets no gradient.
        """
        variances, directions = torch.linalg.eigh(self.covariances.double())
        order = variances.prod(-1).argsort(stable=True)
        variances, directions = variances[order], directions[order]
        pixel = 2 / max(height, width)  # in canvas units
        # well below the bound: on it, a raw scale is far out and takes long to come back
        largest = 0.9 * scale_factor * mean_spacing(height, width, nominal_count)
        deviations = variances.sqrt().clamp(min(MIN_DEVIATION, largest), largest).float()
        extent = torch.tensor((width, height)) * (pixel / 2)
        return Gaussians.from_values(
            self.centers[order] * pixel - extent,
            deviations.flip(-1) * pixel,  # the long axis first
            torch.atan2(directions[:, 1, 1], directions[:, 0, 1]).float(),
            self.colors[order],
            torch.full((len(self),), opacity),
            scale_factor=scale_factor,
            nominal_count=nominal_count,
            aspect=height / width,
        )


def round_blobs(
    image: Float[Tensor, "3 h w"], centers: Float[Tensor, "n 2"], deviations: Float[Tensor, " n"] | float
) -> Blobs:
    """Round blobs in the colours that the image has at their centres; centres and deviations in pixels."""
    height, width = image.shape[-2:]
    column = centers[:, 0].long().clamp(0, width - 1)
    row = centers[:, 1].long().clamp(0, height - 1)
    variances = torch.as_tensor(deviations).square().expand(len(centers))
    return Blobs(centers, variances[:, None, None] * torch.eye(2), image[:, row, column].T.contiguous())


def mean_spacing(height: int, width: int, count: int) -> float:
    """Distance in pixels between ``count`` blobs laid out evenly."""
    return math.sqrt(height * width / count)


def draw_pixels(
    weights: Float[Tensor, "h w"], count: int, generator: torch.Generator
) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Rows and columns of pixels drawn with replacement, with a probability proportional to their weight."""
    # torch.multinomial refuses more than 2^24 pixels
    cumulative = weights.flatten().double().cumsum(0)
    drawn = torch.rand(count, dtype=torch.float64, generator=generator) * cumulative[-1]
    pixels = torch.searchsorted(cumulative, drawn, right=True).clamp_max(weights.numel() - 1)
    return pixels // weights.shape[1], pixels % weights.shape[1]


def scatter_within(
    rows: Int[Tensor, " n"], columns: Int[Tensor, " n"], generator: torch.Generator
) -> Float[Tensor, "n 2"]:
    """A random place within each of these pixels, (x, y)."""
    return torch.stack((columns, rows), -1) + torch.rand(len(rows), 2, generator=generator)
