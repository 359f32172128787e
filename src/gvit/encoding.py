"""Gaussians of image files by a trained encoder, without any training or fit."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import v2

from gvit.data.images import read_pixels
from gvit.errors import InputError, option
from gvit.gaussians import Gaussians
from gvit.gaussians.storage import Origin
from gvit.losses import psnr
from gvit.models.base import evaluating
from gvit.models.gvit import GViT
from gvit.models.pretrained import locate
from gvit.rendering import render
from gvit.targets import Target


def encoder_origin(place: str, model: GViT, looks: int | None, max_side: int) -> Origin:
    """What decides, beside their number, which Gaussians an image gets; it is kept with them.

    Args:
        place: run folder, weights file or name that the model was loaded from.
        model: the model; ``looks`` that are not given are its own.
        looks: see ``encode_files``.
        max_side: see ``encode_files``.
    """
    digest = hashlib.sha256(locate(place).read_bytes()).hexdigest()
    own = getattr(model.encoder, "turns", None)
    return {
        "model": place,
        "sha256": digest[:12],
        "looks": own if looks is None else looks,
        "max_side": max_side,
    }


@dataclass(frozen=True)
class EncodedFile:
    """One image as Gaussians.

    Attributes:
        target: where it came from and goes to.
        gaussians: raw [K, 9], on the CPU.
        picture: drawn at the image's own size, [3, H, W] in [0, 1], on the CPU.
        encoded_size: height and width that the encoder saw, pixels.
        psnr: of the picture against the image at its own size, dB.
        seconds: without reading and writing.
    """

    target: Target
    gaussians: Gaussians
    picture: Float[Tensor, "3 h w"]
    encoded_size: tuple[int, int]
    psnr: float
    seconds: float


def encode_files(
    model: GViT, targets: Sequence[Target], num_gaussians: int, looks: int | None = None, max_side: int = 768
) -> Iterator[EncodedFile | InputError]:
    """Each image, in order, as the model's encoder draws it, or what is wrong with its file.

    Args:
        model: its encoder draws any number of Gaussians, of images of any size.
        targets: what to encode.
        num_gaussians: K, of each image.
        looks: how often the encoder looks at its picture; None for as often as in training.
        max_side: images with a longer side are reduced to it before they are encoded, their aspect kept; what is drawn
            and measured has the image's own size all the same.

    Raises:
        InputError: the encoder does not take these numbers.
    """
    for name, number in (("num_gaussians", num_gaussians), ("looks", looks), ("max_side", max_side)):
        if number is not None and number < 1:
            raise InputError(f"{option(name)} must be at least 1, got {number}")
    for target in targets:
        try:
            image = read_pixels(target.source)
        except InputError as error:
            yield error
            continue
        yield _encode(model, target, image, num_gaussians, looks, max_side)


@torch.no_grad()
def _encode(
    model: GViT,
    target: Target,
    image: Float[Tensor, "3 h w"],
    num_gaussians: int,
    looks: int | None,
    max_side: int,
) -> EncodedFile:
    begun = time.perf_counter()
    height, width = image.shape[-2:]
    image = image[None].to(next(model.parameters()).device)
    factor = min(1.0, max_side / max(height, width))
    seen = image
    if factor < 1:
        size = [max(1, round(factor * side)) for side in (height, width)]
        seen = v2.functional.resize(image, size, v2.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    with evaluating(model):
        gaussians = model.encode(seen, num_gaussians=num_gaussians, looks=looks)
    picture = render(gaussians, height, width).clamp(0, 1)
    return EncodedFile(
        target,
        gaussians.to("cpu")[0],
        picture[0].cpu(),
        (seen.shape[-2], seen.shape[-1]),
        psnr(picture, image).item(),
        time.perf_counter() - begun,
    )
