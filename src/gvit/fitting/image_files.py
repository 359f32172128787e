"""Fitting many image files, images of equal size together."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.data.convert import Color, as_pixels, composite, parse_color
from gvit.data.images import opened
from gvit.errors import InputError, first_line, option
from gvit.fitting.optimise import Fit
from gvit.gaussians import Gaussians
from gvit.losses import ms_ssim
from gvit.rendering import render
from gvit.targets import ENDINGS, Target, write_results
from gvit.viewing.figures import fit_figure

FIT_ENDINGS = (*ENDINGS, "-fit.png")


@dataclass(frozen=True)
class FittedFile:
    """One fitted image.

    Attributes:
        target: where it came from and goes to.
        image: [3, H, W] in [0, 1], over the background, on the CPU.
        gaussians: raw [N, 9], on the CPU.
        psnr: dB.
        seconds: its share of the time that its batch took.
    """

    target: Target
    image: Float[Tensor, "3 h w"]
    gaussians: Gaussians
    psnr: float
    seconds: float


@dataclass(frozen=True)
class Measured:
    """How good the files of a fitted image are, and how large.

    Attributes:
        source: the image file.
        gaussians: the file of its Gaussians.
        num_gaussians: in it.
        psnr: dB.
        ms_ssim: None where a side is shorter than 176 pixels.
        bytes: of that file.
        bits_per_pixel: of that file.
        seconds: that the fit took.
    """

    source: str
    gaussians: str
    num_gaussians: int
    psnr: float
    ms_ssim: float | None
    bytes: int
    bits_per_pixel: float
    seconds: float

    def to_json(self) -> str:
        """One line; a PSNR without bound is null, for which JSON has no number."""
        psnr = self.psnr if math.isfinite(self.psnr) else None
        return json.dumps(asdict(self) | {"psnr": psnr})

    def __str__(self) -> str:
        similarity = "" if self.ms_ssim is None else f"  MS-SSIM {self.ms_ssim:.4f}"
        size = f"{self.bits_per_pixel:.3g} bits a pixel"
        return (
            f"{self.source}  {self.psnr:.2f} dB{similarity}  {size}  {self.seconds:.1f} s  {self.gaussians}"
        )


def write_fit(fitted: FittedFile, background: Color = "black", bits: int | None = None) -> Measured:
    """The three files of a fitted image.

    Args:
        fitted: the image and its Gaussians.
        background: what it was fitted over.
        bits: what it was fitted for, as in ``fit``.

    Raises:
        InputError: they cannot be written.
    """
    below = torch.tensor(parse_color(background))
    height, width = fitted.image.shape[-2:]
    drawn = render(fitted.gaussians, height, width, background=below)
    figure = fit_figure(fitted.image, fitted.gaussians, drawn)
    write_results(fitted.target, fitted.gaussians, drawn, figure, bits=bits)
    similarity = ms_ssim(drawn, fitted.image)
    file = fitted.target.gaussians_file
    size = file.stat().st_size
    return Measured(
        str(fitted.target.source),
        str(file),
        len(fitted.gaussians),
        fitted.psnr,
        None if similarity is None else similarity.item(),
        size,
        8 * size / (height * width),
        fitted.seconds,
    )


def fit_files(
    targets: Sequence[Target],
    fit_images: Callable[[Tensor], Fit],
    batch_size: int = 8,
    device: str = "cpu",
    background: Color = "black",
) -> Iterator[FittedFile | InputError]:
    """Each image as it is fitted, ``batch_size`` images of equal size at a time, or what is wrong with a file.

    Sizes are read first, from the files' headers. No more images than a batch are held in memory, however many files
    and sizes there are.

    Args:
        targets: what to fit.
        fit_images: [B, 3, H, W], or with alpha [B, 4, H, W], in [0, 1] to a fit of B images.
        batch_size: the most images at a time.
        device: where the images are put.
        background: what transparent pixels lie over, as for ``fit_images``.
    """
    waiting: dict[tuple[int, int] | None, list[Target]] = defaultdict(list)
    for target in targets:
        size = _size(target)
        waiting[size].append(target)
        if len(waiting[size]) == batch_size:
            yield from _fit_group(waiting.pop(size), fit_images, device, background)
    for group in waiting.values():
        yield from _fit_group(group, fit_images, device, background)


def _size(target: Target) -> tuple[int, int] | None:
    """Width and height by the header; None where there is none, of which reading the file tells more."""
    try:
        with opened(target.source) as file:
            return file.size
    except InputError:
        return None


def _fit_group(
    group: Sequence[Target], fit_images: Callable[[Tensor], Fit], device: str, background: Color
) -> Iterator[FittedFile | InputError]:
    """Those that can be read; some may lie on their side, or have alpha, which the header does not tell."""
    alike: dict[tuple[int, ...], list[tuple[Target, Tensor]]] = defaultdict(list)
    for target in (target.now() for target in group):
        try:
            image = as_pixels(target.source)
        except InputError as error:
            yield error
            continue
        alike[tuple(image.shape)].append((target, image))
    for same in alike.values():
        yield from _fit_batch(same, fit_images, device, background)


def diverged(target: Target, error: ValueError) -> InputError:
    """What there is to say of a fit whose numbers are not finite."""
    return InputError(
        f"{target.source}: the fit diverged ({first_line(error)}); lower {option('ssim_weight')}"
    )


def _fit_batch(
    batch: list[tuple[Target, Tensor]],
    fit_images: Callable[[Tensor], Fit],
    device: str,
    background: Color,
) -> Iterator[FittedFile | InputError]:
    begun = time.perf_counter()
    try:
        result = fit_images(torch.stack([image for _, image in batch]).to(device))
    except InputError as error:  # SSIM of a tiny image: no reason to give up the others
        # the message as it was made: it still tells a Python user's wording from the command line's
        yield from (InputError(f"{target.source}: {error.args[0]}") for target, _ in batch)
        return
    except ValueError as error:
        yield from (diverged(target, error) for target, _ in batch)
        return
    gaussians, psnrs = result.gaussians.to("cpu"), result.psnr.tolist()
    seconds = (time.perf_counter() - begun) / len(batch)
    for number, (target, image) in enumerate(batch):
        yield FittedFile(target, composite(image, background), gaussians[number], psnrs[number], seconds)
