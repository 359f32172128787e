"""Fitting many image files: what each is called, which are done, and images of equal size together."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.data.images import find_images, read_pixels
from gvit.errors import InputError, option, wording
from gvit.files import check_writable
from gvit.fitting.optimise import Fit
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.viewing.figures import fit_figure, save_figure, save_picture


@dataclass(frozen=True)
class Target:
    """An image file and the three files that its fit is written to.

    Attributes:
        source: the image file.
        name: path without suffix, in the folder for results.
    """

    source: Path
    name: Path

    @property
    def gaussians_file(self) -> Path:
        return self._file(".safetensors")

    @property
    def picture_file(self) -> Path:
        return self._file(".png")

    @property
    def figure_file(self) -> Path:
        return self._file("-fit.png")

    def _file(self, ending: str) -> Path:
        return self.name.with_name(self.name.name + ending)


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


def plan_targets(sources: Sequence[str | Path], out: Path) -> list[Target]:
    """Image files named by files, folders and patterns, each with its own files in ``out``.

    Images of a folder keep their place in it: ``gvit fit photos`` makes ``out/cat/1.png`` of ``photos/cat/1.jpg``.
    Where ``out`` lies in that folder, what is in it is left alone.

    Raises:
        InputError: nothing is found, results would replace each other or an image, or cannot be written.
    """
    targets: dict[Path, Target] = {}
    for source in sources:
        folder = Path(source)
        inside = folder.is_dir()
        if inside and folder.resolve() == out.resolve():
            raise InputError(f"{out} holds the images; choose another {option('out')} folder for the results")
        for file in find_images([source]):
            if inside and out.resolve() in file.resolve().parents:
                continue
            place = file.relative_to(folder) if inside else Path(file.name)
            targets.setdefault(file.resolve(), Target(file, out / place.with_suffix("")))
    check_writable(out)
    owners: dict[Path, Path] = {}
    for target in targets.values():
        for file in (target.gaussians_file, target.picture_file, target.figure_file):
            if file.is_dir():
                raise InputError(
                    f"{file} is a folder, where a result has to go; choose another {option('out')} folder"
                )
            if file.resolve() in targets:
                raise InputError(
                    f"{file} is an image and would be replaced; choose another {option('out')} folder"
                )
            other = owners.setdefault(file, target.source)
            if other != target.source:
                raise InputError(
                    f"{other} and {target.source} would both be written to {file}; "
                    f"fit them with two {option('out')} folders"
                )
    return list(targets.values())


def is_fitted(target: Target, num_gaussians: int) -> bool:
    """Whether an image has been fitted already.

    Raises:
        InputError: with another number of Gaussians, or what is there is damaged.
    """
    file = target.gaussians_file
    if not file.exists():
        return False
    again = f"{wording('overwrite=True', '--overwrite')} fits it again"
    try:
        count = len(Gaussians.load(file))
    except ValueError as error:
        raise InputError(f"{error}; {again}") from error
    if count != num_gaussians:
        raise InputError(
            f"{file} has {count} Gaussians, not {num_gaussians}: {option('num_gaussians', count)} goes on, "
            f"{again}, {option('out', 'FOLDER')} writes elsewhere"
        )
    return True


def write_fit(fitted: FittedFile) -> None:
    """The three files of a fitted image.

    Raises:
        InputError: they cannot be written.
    """
    target, gaussians = fitted.target, fitted.gaussians
    try:
        target.name.parent.mkdir(parents=True, exist_ok=True)
        save_picture(render(gaussians, *fitted.image.shape[-2:]), target.picture_file)
        save_figure(fit_figure(fitted.image, gaussians), target.figure_file)
        # the last one: where it is, the others are, too
        gaussians.save(target.gaussians_file)
    except OSError as error:
        raise InputError(f"{target.name.parent}: cannot write results here ({error.strerror})") from error


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
