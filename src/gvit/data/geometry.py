"""What ``eval_transform`` and ``train_transform`` do to the pixels of an image, as affine maps for its Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms import v2

from gvit.data.loading import Augmentation
from gvit.models.card import Preprocessing

# Longer side of the grid of pixels that random crops are drawn on: what size the image had is not known any more.
CROP_GRID = 512


@dataclass(frozen=True)
class AffineMap:
    """``matrix @ point + shift`` in canvas units, see ``gvit.gaussians``; onto a square canvas.

    Attributes:
        matrix: [2, 2].
        shift: [2].
    """

    matrix: Tensor
    shift: Tensor

    def then(self, other: AffineMap) -> AffineMap:
        """This map first, the other one after it."""
        return AffineMap(other.matrix @ self.matrix, other.matrix @ self.shift + other.shift)


def eval_map(preprocessing: Preprocessing, extent: tuple[float, float]) -> AffineMap:
    """The geometry of ``eval_transform``, for a canvas of half width and half height ``extent``."""
    size = preprocessing.img_size
    # the share that is left after rounding to whole pixels, as there
    return _whole(preprocessing, extent, size / round(size / preprocessing.crop_pct))


def random_map(
    preprocessing: Preprocessing, augmentation: Augmentation, extent: tuple[float, float]
) -> AffineMap:
    """The geometry of ``train_transform``: the same draws, by the same code, in the same order.

    Args:
        preprocessing: of the model.
        augmentation: what is random.
        extent: half width and half height of the canvas.
    """
    if augmentation.min_crop < 1:
        placed = _random_crop(augmentation.min_crop, extent)
    else:
        placed = _whole(preprocessing, extent, 1.0)
    if augmentation.hflip and torch.rand(1) < 0.5:
        placed = placed.then(AffineMap(torch.diag(torch.tensor([-1.0, 1.0])), torch.zeros(2)))
    if augmentation.rotate or augmentation.translate or augmentation.zoom:
        placed = placed.then(_random_affine(augmentation, preprocessing.img_size))
    return placed


def _whole(preprocessing: Preprocessing, extent: tuple[float, float], crop_pct: float) -> AffineMap:
    if preprocessing.crop_mode == "squash":
        return _window((0.0, 0.0), extent)
    half = crop_pct * min(extent)
    return _window((0.0, 0.0), (half, half))


def _window(middle: tuple[float, float], half: tuple[float, float]) -> AffineMap:
    """A rectangle, by its middle and its half width and height, becomes the canvas."""
    size = torch.tensor(half)
    return AffineMap(torch.diag(1 / size), -torch.tensor(middle) / size)


def _random_crop(min_crop: float, extent: tuple[float, float]) -> AffineMap:
    width, height = (round(CROP_GRID * side / max(extent)) for side in extent)
    crop = v2.RandomResizedCrop(CROP_GRID, (min_crop, 1.0))
    drawn = crop.make_params([torch.empty(3, height, width, device="meta")])
    half = (drawn["width"] / width * extent[0], drawn["height"] / height * extent[1])
    left, top = 2 * drawn["left"] / width * extent[0], 2 * drawn["top"] / height * extent[1]
    return _window((left + half[0] - extent[0], top + half[1] - extent[1]), half)


def _random_affine(augmentation: Augmentation, img_size: int) -> AffineMap:
    affine = v2.RandomAffine(
        augmentation.rotate,
        (augmentation.translate, augmentation.translate),
        (1 - augmentation.zoom, 1 + augmentation.zoom),
    )
    drawn = affine.make_params([torch.empty(3, img_size, img_size, device="meta")])
    angle = math.radians(drawn["angle"])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return AffineMap(drawn["scale"] * turn, torch.tensor(drawn["translate"]) * (2 / img_size))
