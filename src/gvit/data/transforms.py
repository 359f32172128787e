r"""What happens to an image before a model reads it: to its pixels, and the same to its Gaussians as affine maps.

=============  ===================  ==============
\              pixels               Gaussians
=============  ===================  ==============
in evaluation  ``eval_transform``   ``eval_map``
in training    ``train_transform``  ``random_map``
=============  ===================  ==============
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gvit.models.card import Preprocessing

# Longer side of the grid of pixels that random crops are drawn on: what size the image had is not known any more.
CROP_GRID = 512

# from what Source.load gives, an image or its Gaussians
Transform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        hflip: mirror half of the images.
        min_crop: smallest share of the area that a random crop keeps; 1 turns cropping off.
        rotate: largest rotation, degrees.
        translate: largest shift, share of the side.
        zoom: largest relative change of size.
    """

    hflip: bool = True
    min_crop: float = 0.5
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0

    @property
    def repeats(self) -> bool:
        """Whether an image comes again and again as it is, or mirrored."""
        return replace(self, hflip=False) == Augmentation(hflip=False, min_crop=1.0)


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


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """The fixed way from an RGB image to [3, H, W] in [0, 1]."""
    resized = round(preprocessing.img_size / preprocessing.crop_pct)
    return v2.Compose([*_resize(preprocessing, resized), *_to_tensor()])


def eval_map(preprocessing: Preprocessing, extent: tuple[float, float]) -> AffineMap:
    """The geometry of ``eval_transform``, for a canvas of half width and half height ``extent``."""
    size = preprocessing.img_size
    # the share that is left after rounding to whole pixels, as there
    return _whole(preprocessing, extent, size / round(size / preprocessing.crop_pct))


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """The random way from an RGB image to [3, H, W] in [0, 1]; draws from torch's global generator."""
    geometry: list[torch.nn.Module] = []
    if augmentation.min_crop < 1:
        geometry.append(_random_crop(preprocessing, augmentation))
    else:
        geometry += _resize(preprocessing, preprocessing.img_size)
    if augmentation.hflip:
        geometry.append(v2.RandomHorizontalFlip())
    if augmentation.rotate or augmentation.translate or augmentation.zoom:
        geometry.append(_random_affine(augmentation))
    return v2.Compose([*geometry, *_to_tensor()])


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
        placed = _drawn_crop(_random_crop(preprocessing, augmentation), extent)
    else:
        placed = _whole(preprocessing, extent, 1.0)
    if augmentation.hflip and torch.rand(1) < 0.5:
        placed = placed.then(AffineMap(torch.diag(torch.tensor([-1.0, 1.0])), torch.zeros(2)))
    if augmentation.rotate or augmentation.translate or augmentation.zoom:
        placed = placed.then(_drawn_affine(_random_affine(augmentation), preprocessing.img_size))
    return placed


def _resize(preprocessing: Preprocessing, shorter: int) -> list[torch.nn.Module]:
    """The whole image, squashed, or a square from its middle when its shorter side has ``shorter`` pixels."""
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        return [v2.Resize((size, size), mode, antialias=True)]
    return [v2.Resize(shorter, mode, antialias=True), v2.CenterCrop(size)]


def _whole(preprocessing: Preprocessing, extent: tuple[float, float], crop_pct: float) -> AffineMap:
    if preprocessing.crop_mode == "squash":
        return _window((0.0, 0.0), extent)
    half = crop_pct * min(extent)
    return _window((0.0, 0.0), (half, half))


def _random_crop(preprocessing: Preprocessing, augmentation: Augmentation) -> v2.RandomResizedCrop:
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    scale = (augmentation.min_crop, 1.0)
    return v2.RandomResizedCrop((size, size), scale, interpolation=mode, antialias=True)


def _drawn_crop(crop: v2.RandomResizedCrop, extent: tuple[float, float]) -> AffineMap:
    width, height = (round(CROP_GRID * side / max(extent)) for side in extent)
    drawn = crop.make_params([torch.empty(3, height, width, device="meta")])
    half = (drawn["width"] / width * extent[0], drawn["height"] / height * extent[1])
    left, top = 2 * drawn["left"] / width * extent[0], 2 * drawn["top"] / height * extent[1]
    return _window((left + half[0] - extent[0], top + half[1] - extent[1]), half)


def _random_affine(augmentation: Augmentation) -> v2.RandomAffine:
    return v2.RandomAffine(
        augmentation.rotate,
        (augmentation.translate, augmentation.translate),
        (1 - augmentation.zoom, 1 + augmentation.zoom),
        interpolation=InterpolationMode.BILINEAR,
    )


def _drawn_affine(affine: v2.RandomAffine, img_size: int) -> AffineMap:
    drawn = affine.make_params([torch.empty(3, img_size, img_size, device="meta")])
    angle = math.radians(drawn["angle"])
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return AffineMap(drawn["scale"] * turn, torch.tensor(drawn["translate"]) * (2 / img_size))


def _window(middle: tuple[float, float], half: tuple[float, float]) -> AffineMap:
    """A rectangle, by its middle and its half width and height, becomes the canvas."""
    size = torch.tensor(half)
    return AffineMap(torch.diag(1 / size), -torch.tensor(middle) / size)


def _to_tensor() -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
