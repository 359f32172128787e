"""Images to Gaussians by a trained encoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from gvit.data.images import open_image
from gvit.data.transforms import eval_transform
from gvit.errors import InputError, option
from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.gaussians.bounds import MOST_GAUSSIANS
from gvit.gaussians.shards import to_half
from gvit.gaussians.storage import Origin
from gvit.losses import MOST_PSNR, psnr
from gvit.models.base import evaluating
from gvit.models.gvit import GViT
from gvit.models.pretrained import weights_checksum
from gvit.rendering import render
from gvit.targets import Target

# of a photograph that an encoder alone draws whole, where nothing else is asked for: Gaussians, and pixels of the
# longer side as the encoder sees it
PHOTOGRAPH_COUNT, PHOTOGRAPH_SIDE = 1000, 768

_PIXELS_AT_ONCE = 2**22  # of images of full size: 64 photographs of a camera in floats are tens of gigabytes

_MOST_LOOKS, _MOST_SIDE = 10**4, 10**9  # looks: as in ``GViT.encode``

_Pixels: TypeAlias = Float[Tensor, "3 _ _"] | UInt8[Tensor, "3 _ _"]
_Failed = TypeVar("_Failed")


def encoder_origin(place: str, model: GViT, looks: int | None, max_side: int | None) -> Origin:
    """What decides, beside their number, which Gaussians an image gets; it is kept with them.

    Args:
        place: run folder, weights file or name that the model was loaded from.
        model: the model; ``looks`` that are not given are its own.
        looks: see ``ImageEncoder``.
        max_side: see ``ImageEncoder``.
    """
    own = getattr(model.encoder, "turns", None)
    return {
        "model": place,
        "sha256": weights_checksum(place)[:12],
        "looks": own if looks is None else looks,
        "max_side": max_side,
    }


@dataclass(frozen=True)
class EncodedImage:
    """One image as Gaussians.

    Attributes:
        gaussians: raw [K, 9], on the CPU.
        picture: drawn at the size of the image, [3, H, W] in [0, 1], on the CPU.
        encoded_size: height and width that the encoder saw, pixels.
        psnr: of the picture against the image, dB.
    """

    gaussians: Gaussians
    picture: Float[Tensor, "3 h w"]
    encoded_size: tuple[int, int]
    psnr: float


class EncodedRow(NamedTuple):
    """What is kept of an image among many: not its picture, of which a batch may hold gigabytes.

    Attributes:
        gaussians: raw [K, 9], on the CPU.
        size: height and width of the image, pixels.
        psnr: of the picture against the image, dB, at most ``MOST_PSNR``.
    """

    gaussians: Gaussians
    size: tuple[int, int]
    psnr: float

    @classmethod
    def of(cls, image: EncodedImage) -> EncodedRow:
        height, width = image.picture.shape[-2:]
        return cls(image.gaussians, (height, width), min(image.psnr, MOST_PSNR))


class ImageEncoder:
    """Images to Gaussians by a model's encoder, as it is used for files, for data sets and by other engines.

    Args:
        model: with an encoder; it is used on its device.
        num_gaussians: K, of each image; None for the model's own number.
        looks: how often the encoder looks at its picture; None for as often as in training.
        max_side: images are encoded as they are, those with a longer side reduced to it before, their aspect kept;
            what is drawn and measured has the image's own size all the same. None: images are cropped and resized as
            in the model's evaluation, and what is drawn and measured has that size.
        half: 16 bits for each of the numbers.

    Raises:
        InputError: the encoder does not take these numbers.
    """

    def __init__(
        self,
        model: GViT,
        num_gaussians: int | None = None,
        looks: int | None = None,
        max_side: int | None = None,
        half: bool = False,
    ) -> None:
        limits = (
            ("num_gaussians", num_gaussians, MOST_GAUSSIANS),
            ("looks", looks, _MOST_LOOKS),
            ("max_side", max_side, _MOST_SIDE),
        )
        for name, number, most in limits:
            if number is not None and not 1 <= number <= most:
                raise InputError(f"{option(name)} must be at least 1 and at most {most:,}, got {number}")
        encoder = model.encoder
        if not encoder.any_number:
            if num_gaussians not in (None, encoder.num_gaussians) or looks is not None:
                raise InputError(
                    f"{model.card.name} draws {encoder.num_gaussians} Gaussians at once: no other "
                    f"{option('num_gaussians')} and no {option('looks')}"
                )
            if max_side is not None:
                raise InputError(
                    f"{model.card.name} takes images of {model.img_size}x{model.img_size} pixels only: "
                    f"{option('view', 'crop')}"
                )
        self.model = model
        self.num_gaussians = num_gaussians
        self.looks = looks
        self.max_side = max_side
        self.half = half
        self.transform: Callable[[Image.Image], Tensor] = (
            _whole if max_side is not None else eval_transform(model.card.preprocessing)
        )

    @property
    def compact_transform(self) -> Callable[[Image.Image], Tensor]:
        """``transform``, but whole images stay in 8 bits, a quarter of the memory."""
        return self.transform if self.max_side is None else _eight_bits

    @property
    def no_gaussians(self) -> Gaussians:
        """Those of no image, raw [0, K, 9], with the bounds that all images have but for the aspect."""
        encoder = self.model.encoder
        return encoder.gaussians(torch.empty(0, self.num_gaussians or encoder.num_gaussians, NUM_FIELDS))

    def __call__(self, images: Sequence[_Pixels]) -> list[EncodedImage]:
        """The Gaussians of images as ``transform`` gives them, or of whole ones in 8 bits.

        Those of one size go through the encoder together.
        """
        found = dict(self.each(images))
        return [found[row] for row in range(len(images))]

    @torch.no_grad()
    def each(self, images: Sequence[_Pixels]) -> Iterator[tuple[int, EncodedImage]]:
        """The same one by one, each with its row, size after size: all pictures of a batch may be gigabytes."""
        for shape in dict.fromkeys(image.shape for image in images):
            rows = [row for row, image in enumerate(images) if image.shape == shape]
            yield from zip(rows, self._encode([images[row] for row in rows]), strict=True)

    def rows(self, images: Sequence[Tensor | _Failed]) -> list[EncodedRow | _Failed]:
        """What is kept of each of many images; in place of one that could not be read is what stands there."""
        good = [image for image in images if isinstance(image, Tensor)]
        encoded = {row: EncodedRow.of(image) for row, image in self.each(good)}
        rows = iter(range(len(good)))
        return [encoded[next(rows)] if isinstance(image, Tensor) else image for image in images]

    def _encode(self, images: Sequence[_Pixels]) -> Iterator[EncodedImage]:
        height, width = images[0].shape[-2:]
        device = next(self.model.parameters()).device
        at_once = max(1, _PIXELS_AT_ONCE // (height * width))
        parts = [slice(first, first + at_once) for first in range(0, len(images), at_once)]
        seen = torch.cat([self._reduce(_stack(images[part]).to(device)) for part in parts])
        with evaluating(self.model):
            gaussians = self.model.encode(seen, num_gaussians=self.num_gaussians, looks=self.looks)
        if self.half:
            gaussians = to_half(gaussians)
        on_cpu, encoded_size = gaussians.to("cpu"), (seen.shape[-2], seen.shape[-1])
        for part in parts:
            pictures = render(gaussians[part], height, width).clamp(0, 1)
            quality = psnr(pictures, _stack(images[part]).to(device)).tolist()
            for row, picture in enumerate(pictures):
                yield EncodedImage(on_cpu[part.start + row], picture.cpu(), encoded_size, quality[row])

    def _reduce(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 _ _"]:
        """What the encoder sees of them."""
        height, width = images.shape[-2:]
        if self.max_side is None or max(height, width) <= self.max_side:
            return images
        factor = self.max_side / max(height, width)
        size = [max(1, round(factor * side)) for side in (height, width)]
        return v2.functional.resize(images, size, v2.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)


def _stack(images: Sequence[_Pixels]) -> Float[Tensor, "b 3 h w"]:
    batch = torch.stack(list(images))
    return batch if batch.is_floating_point() else batch.float() / 255


def _whole(image: Image.Image) -> Float[Tensor, "3 h w"]:
    return _eight_bits(image).float() / 255


def _eight_bits(image: Image.Image) -> UInt8[Tensor, "3 h w"]:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class EncodedFile:
    """One image file as Gaussians.

    Attributes:
        target: where it came from and goes to.
        image: what came of it.
        seconds: without reading and writing.
    """

    target: Target
    image: EncodedImage
    seconds: float


def encode_files(encoder: ImageEncoder, targets: Sequence[Target]) -> Iterator[EncodedFile | InputError]:
    """Each image, in order, as the encoder draws it, or what is wrong with its file."""
    for target in (target.now() for target in targets):
        try:
            image = encoder.transform(open_image(target.source))
        except InputError as error:
            yield error
            continue
        begun = time.perf_counter()
        (encoded,) = encoder([image])
        yield EncodedFile(target, encoded, time.perf_counter() - begun)
