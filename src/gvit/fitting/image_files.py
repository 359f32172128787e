"""Fitting many image files, images of equal size together."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.data.images import read_pixels
from gvit.errors import InputError
from gvit.fitting.optimise import Fit
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.targets import ENDINGS, Target, write_results
from gvit.viewing.figures import fit_figure

FIT_ENDINGS = (*ENDINGS, "-fit.png")


@dataclass(frozen=True)
class FittedFile:
    """One fitted image.

    Attributes:
        target: where it came from and goes to.
        image: [3, H, W] in [0, 1], on the CPU.
        gaussians: raw [N, 9], on the CPU.
        psnr: dB.
        seconds: its share of the time that its batch took.
    """

    target: Target
    image: Float[Tensor, "3 h w"]
    gaussians: Gaussians
    psnr: float
    seconds: float


def write_fit(fitted: FittedFile) -> None:
    """The three files of a fitted image.

    Raises:
        InputError: they cannot be written.
    """
    drawn = render(fitted.gaussians, *fitted.image.shape[-2:])
    write_results(fitted.target, fitted.gaussians, drawn, fit_figure(fitted.image, fitted.gaussians))


def fit_files(
    targets: Sequence[Target],
    fit_images: Callable[[Tensor], Fit],
    batch_size: int = 8,
    device: str = "cpu",
) -> Iterator[FittedFile | InputError]:
    """Each image as it is fitted, ``batch_size`` images of equal size at a time, or what is wrong with a file.

    Args:
        targets: what to fit.
        fit_images: [B, 3, H, W] in [0, 1] to a fit of B images.
        batch_size: the most images at a time.
        device: where the images are put.
    """
    waiting: dict[tuple[int, ...], list[tuple[Target, Tensor]]] = defaultdict(list)
    for target in targets:
        try:
            image = read_pixels(target.source)
        except InputError as error:
            yield error
            continue
        group = waiting[tuple(image.shape)]
        group.append((target, image))
        if len(group) == batch_size:
            yield from _fit_group(waiting.pop(tuple(image.shape)), fit_images, device)
    for group in waiting.values():
        yield from _fit_group(group, fit_images, device)


def _fit_group(
    group: list[tuple[Target, Tensor]], fit_images: Callable[[Tensor], Fit], device: str
) -> Iterator[FittedFile | InputError]:
    begun = time.perf_counter()
    try:
        result = fit_images(torch.stack([image for _, image in group]).to(device))
    except InputError as error:  # SSIM of a tiny image: no reason to give up the others
        # the message as it was made: it still tells a Python user's wording from the command line's
        yield from (InputError(f"{target.source}: {error.args[0]}") for target, _ in group)
        return
    gaussians, psnrs = result.gaussians.to("cpu"), result.psnr.tolist()
    seconds = (time.perf_counter() - begun) / len(group)
    for number, (target, image) in enumerate(group):
        yield FittedFile(target, image, gaussians[number], psnrs[number], seconds)
