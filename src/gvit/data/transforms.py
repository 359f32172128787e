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
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from gvit.models.card import Preprocessing

# Longer side of the grid of pixels that random crops are drawn on: what size the image had is not known any more.
CROP_GRID = 512

# Longer side in units of the shorter one that is read: of a line of pixels, the whole would be gigabytes when it is as
# high as a model wants it.
_LONGEST = 8

# from what Source.load gives, an image or its Gaussians
Transform = Callable[[Any], Tensor]

# two inputs [2, 3, H, W] and their classes [2] to the two mixed ones and the shares of the classes in each [2, classes]
Mixing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

_Step = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        hflip: mirror half of the images.
        min_crop: smallest share of the area that a random crop keeps; 1 turns cropping off.
        rotate: largest rotation, degrees.
        translate: largest shift, share of the side.
        zoom: largest relative change of size.
        randaugment: magnitude of two random changes of colour or shape; None for none.
        random_erase: share of the images of which a random rectangle is made black.
        mixup: alpha of the Beta distribution by whose draws images are mixed in pairs; 0 for no mixing.
        cutmix: the same for a rectangle of one image that is put into the other.
    """

    hflip: bool = True
    min_crop: float = 0.5
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    randaugment: int | None = None
    random_erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def of_pixels(self) -> list[str]:
        """What is asked for that changes pixels, and cannot be done to Gaussians."""
        off = Augmentation()
        names = ("randaugment", "random_erase", "mixup", "cutmix")
        return [name for name in names if getattr(self, name) != getattr(off, name)]

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


@dataclass(frozen=True)
class ImageTransform:
    """The fixed way from an RGB image to [3, H, W] in [0, 1].

    Attributes:
        side: H and W.
        steps: from image to image.
    """

    side: int
    steps: Sequence[_Step]

    def __call__(self, image: Image.Image) -> Tensor:
        return _to_tensor(self._image(image))

    def write(self, image: Image.Image, into: np.ndarray) -> None:
        """The same into float32 [3, H, W], which may be part of a batch: nothing is copied into that then."""
        _write_planes(self._image(image), into)

    def _image(self, image: Image.Image) -> Image.Image:
        for step in self.steps:
            image = step(image)
        return image


def eval_transform(preprocessing: Preprocessing) -> ImageTransform:
    """The fixed way from an RGB image to [3, H, W] in [0, 1]."""
    return ImageTransform(preprocessing.img_size, _resize(preprocessing, preprocessing.resized))


def eval_map(preprocessing: Preprocessing, extent: tuple[float, float]) -> AffineMap:
    """The geometry of ``eval_transform``, for a canvas of half width and half height ``extent``."""
    size = preprocessing.img_size
    # the share that is left after rounding to whole pixels, as there
    return _whole(preprocessing, extent, size / preprocessing.resized)


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """The random way from an RGB image to [3, H, W] in [0, 1]; draws from torch's global generator."""
    steps: list[_Step] = []
    if augmentation.min_crop < 1:
        steps.append(_drawing(_random_crop(preprocessing, augmentation)))
    else:
        steps += _resize(preprocessing, preprocessing.img_size)
    if augmentation.hflip:
        steps.append(_mirror_half)
    if augmentation.rotate or augmentation.translate or augmentation.zoom:
        steps.append(_drawing(_random_affine(augmentation)))
    repaint, erase = _randaugment(augmentation, preprocessing.img_size), _random_erase(augmentation)
    return partial(_apply, steps, repaint, erase)


def _apply(
    steps: Sequence[_Step], repaint: _Step | None, erase: Transform | None, image: Image.Image
) -> Tensor:
    for step in steps:
        image = step(image)
    if repaint is None and erase is None:
        return _to_tensor(image)
    # timm draws from the generators of Python and NumPy
    with seeded_elsewhere(int(torch.randint(2**32, (1,)))):
        pixels = _to_tensor(image if repaint is None else repaint(image))
        return pixels if erase is None else erase(pixels)


def mixing(augmentation: Augmentation, num_classes: int) -> Mixing | None:
    """How images are mixed in pairs, by timm; None where they are not. Draws from NumPy's global generator."""
    if not augmentation.mixup and not augmentation.cutmix:
        return None
    from timm.data import Mixup

    mix: Mixing = Mixup(augmentation.mixup, augmentation.cutmix, label_smoothing=0.0, num_classes=num_classes)
    return mix


@contextmanager
def seeded_elsewhere(seed: int) -> Iterator[None]:
    """The global generators of Python and NumPy start from ``seed``, below 2**32, and are as before afterwards."""
    numpy: Any = (
        np.random
    )  # its stubs lack what follows, which takes a fraction of the time that states would
    states = random.getstate(), numpy.get_bit_generator()
    random.seed(seed)
    numpy.set_bit_generator(np.random.PCG64(seed))
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.set_bit_generator(states[1])


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


def _drawing(transform: v2.Transform) -> _Step:
    """One of torchvision's, without its search for images in whatever it is given, which takes longer than they do."""
    return partial(_draw, transform)


def _draw(transform: v2.Transform, image: Image.Image) -> Image.Image:
    return transform.transform(image, transform.make_params([image]))


def _mirror_half(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image


def _randaugment(augmentation: Augmentation, img_size: int) -> _Step | None:
    """timm's, with the settings of DeiT; what comes into the picture is black, as elsewhere here."""
    if augmentation.randaugment is None:
        return None
    from timm.data.auto_augment import rand_augment_transform

    settings = {
        "translate_const": int(0.45 * img_size),
        "img_mean": (0, 0, 0),
        "magnitude_max": 9.99,  # at 10 timm would keep no bit of a colour, which Pillow refuses
    }
    step: _Step = rand_augment_transform(f"rand-m{augmentation.randaugment}-mstd0.5-inc1", settings)
    return step


def _random_erase(augmentation: Augmentation) -> Transform | None:
    """timm's. Black: a rectangle of noise, its other mode, would be a picture that Gaussians are to draw."""
    if not augmentation.random_erase:
        return None
    from timm.data.random_erasing import RandomErasing

    erase: Transform = RandomErasing(augmentation.random_erase, mode="const", device="cpu")
    return erase


def _resize(preprocessing: Preprocessing, shorter: int) -> list[_Step]:
    """The whole image, squashed, or a square from its middle when its shorter side has ``shorter`` pixels."""
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        return [_drawing(v2.Resize((size, size), mode, antialias=True))]
    return [_shorten, _drawing(v2.Resize(shorter, mode, antialias=True)), _drawing(v2.CenterCrop(size))]


def _shorten(image: Image.Image) -> Image.Image:
    """Without the ends of a very long image, as much of one as of the other."""
    width, height = image.size
    end = (max(width, height) - _LONGEST * min(width, height)) // 2
    if end <= 0:
        return image
    left, top = (end, 0) if width > height else (0, end)
    return image.crop((left, top, width - left, height - top))


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


def _to_tensor(image: Image.Image) -> Tensor:
    """[3, H, W] in [0, 1]."""
    planes = np.empty((3, image.height, image.width), np.float32)
    _write_planes(image, planes)
    return torch.from_numpy(planes)


def _write_planes(image: Image.Image, into: np.ndarray) -> None:
    # NumPy turns it in one pass, which takes a half of torch's time
    np.multiply(np.asarray(image).transpose(2, 0, 1), np.float32(1 / 255), out=into, dtype=np.float32)
