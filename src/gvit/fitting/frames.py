"""Animations: frame by frame, each fit from the one before, so that a Gaussian keeps its index."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from torch import Tensor

from gvit.data.convert import Color, ImageLike, as_pixels, composite
from gvit.data.images import opened, to_rgba
from gvit.errors import InputError, first_line, printable
from gvit.fitting.image_files import FittedFile, diverged
from gvit.fitting.optimise import Fit, fit, stack_pixels
from gvit.gaussians import Gaussians
from gvit.gaussians.storage import read_size
from gvit.targets import Target
from gvit.viewing.replaceable import check_replaceable

# From the frame before there is little left to do: see docs/fitting.md.
LATER_SHARE = 0.5
_LEAST = 38  # bytes of a frame of a PNG, which has a chunk that says where it lies
# the files of a frame, and nothing else in its folder
_FRAME = re.compile(r"(0[0-9]{4}|[1-9][0-9]{4,})(?:\.safetensors|\.png|-fit\.png)")
_ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")  # Pillow's names


def count_frames(path: str | Path) -> int:
    """Frames of an animated GIF, PNG, WebP, TIFF or AVIF file; 1 for any other file, readable or not.

    No more than its bytes could hold of a PNG, which may claim any number.
    """
    try:
        with opened(path) as file:
            if file.format not in _ANIMATED:  # a camera's JPEG (MPO) holds previews, which are no frames
                return 1
            count = len(_shown(file))
            return min(count, os.stat(path).st_size // _LEAST) if file.format == "PNG" else count
    except InputError:
        return 1


def _shown(file: Image.Image) -> range:
    """Numbers of the frames that an animation shows: a PNG may begin with a picture for who shows no animations."""
    return range(int(file.info.get("default_image") is True), int(getattr(file, "n_frames", 1)))


def open_frames(path: str | Path, first: int = 0) -> Iterator[Image.Image]:
    """The frames of a file as they are shown, 8-bit RGB or RGBA, one in memory at a time.

    Args:
        path: of the file.
        first: number of the frame to begin with, from 0.

    Raises:
        InputError: the file, or a frame, can't be read.
    """
    with opened(path) as file:
        for number, place in enumerate(_shown(file)[first:], first):
            try:
                file.seek(place)
                frame = to_rgba(ImageOps.exif_transpose(file))
            except Exception as error:  # as in ``opened``
                reason = first_line(error)
                raise InputError(
                    f"{printable(str(path))}: frame {number} cannot be read ({reason})"
                ) from error
            yield frame


def fit_frames(
    frames: Iterable[ImageLike],
    num_gaussians: int = 1000,
    steps: int = 500,
    init: str | Gaussians = "gradient",
    *,
    previous: Gaussians | None = None,
    adaptive: bool = True,
    background: Color = "black",
    **settings: Any,
) -> Iterator[Fit]:
    """The fit of each frame as soon as it is found: Gaussian i of one is where Gaussian i of the one before went.

    Args:
        frames: images of one size, each as ``fit`` takes it; those of an animated file are in ``open_frames``.
        num_gaussians: of each frame.
        steps: for the first frame; the others begin with what the one before ended with, and take half as many.
        init: of the first frame.
        previous: raw [1, K, 9], what the frame before the first one ended with, to go on with; ``init`` has no effect.
        adaptive: of the first frame; later, none may take another's place.
        background: see ``fit``.
        settings: other arguments of ``fit``.

    Raises:
        InputError: a file's name in place of frames, a frame of another size than the first one, or as ``fit``.
    """
    if isinstance(frames, (str, Path)):
        raise InputError(f"expected frames, got the name {str(frames)!r}; open_frames reads those of a file")
    later, size = max(1, round(LATER_SHARE * steps)), None
    for number, frame in enumerate(frames):
        images = stack_pixels(frame)
        size = _check_size(images, size, f"frame {number}")
        if previous is None:
            found = fit(
                images, num_gaussians, steps, init, adaptive=adaptive, background=background, **settings
            )
        else:
            kept = {"adaptive": False, "scale_factor": previous.scale_factor, "background": background}
            found = fit(images, len(previous), later, previous, **settings | kept)
        previous = found.gaussians
        yield found


def _check_size(pixels: Tensor, before: tuple[int, int] | None, name: str) -> tuple[int, int]:
    """Height and width of a frame.

    Raises:
        InputError: the frames before it, if there are any, have others.
    """
    height, width = pixels.shape[-2:]
    if before is not None and before != (height, width):
        raise InputError(
            f"{name} is {width}x{height} pixels, but the frames before it are {before[1]}x{before[0]}"
        )
    return height, width


def in_order(targets: Iterable[Target]) -> list[Target]:
    """Frames by the numbers in the names of their files: 2 before 10."""
    return sorted(
        targets,
        key=lambda target: [
            (part.isdecimal(), int(part) if part.isdecimal() else 0, part)
            for part in re.split(r"(\d+)", target.source.as_posix())
        ],
    )


def frame_targets(target: Target, count: int) -> list[Target]:
    """Files for each frame of an animation: ``NAME-frames/00000.safetensors`` and so on."""
    folder = target.name.with_name(f"{target.name.name}-frames")
    return [replace(target, name=folder / f"{number:05}") for number in range(count)]


def fit_animation(
    targets: Sequence[Target],
    done: int,
    device: str = "cpu",
    background: Color = "black",
    overwrite: bool = False,
    **settings: Any,
) -> Iterator[FittedFile]:
    """The frames of one file, or of one video of which every frame is a file, as they are fitted.

    Gaussians that are there of frames after ``done`` are removed as soon as the first of these is fitted: they may be
    of another fit, and an interruption would leave them to be taken for this one's.

    Args:
        targets: of all of its frames.
        done: so many are there already, of which the last one is gone on with.
        device: where it is computed.
        background: see ``fit``.
        overwrite: of an animation of one file, remove with them what gvit wrote of frames that it no longer has.
        settings: other arguments of ``fit_frames``.

    Raises:
        InputError: a frame can't be read or fitted, or has another size than the first one; it names the file.
    """
    previous, size = None, None
    if done:
        size = read_size(targets[done - 1].gaussians_file)
        last = Gaussians.load(targets[done - 1].gaussians_file).to(device)
        previous = last.replace_raw(last.raw[None])
    sources = [target.source for target in targets]
    one_file = len(set(sources)) == 1
    shown: list[Any] = []  # pixels and target of the frame that is being fitted

    def frames() -> Iterator[ImageLike]:
        nonlocal size
        images: Iterable[ImageLike] = open_frames(sources[0], done) if one_file else sources[done:]
        for target, image in zip((target.now() for target in targets[done:]), images, strict=False):
            pixels = as_pixels(image)
            size = _check_size(pixels, size, f"{printable(str(target.source))}:")
            shown[:] = [pixels, target]
            yield pixels[None].to(device)
            shown.clear()

    begun = time.perf_counter()
    try:
        fits = fit_frames(frames(), previous=previous, background=background, **settings)
        for number, found in enumerate(fits):
            if number == 0:
                if overwrite and one_file and len(targets) > 1:  # a video of one file shares its folder
                    _remove_frames(targets[0].name.parent, len(targets))
                _remove_gaussians(targets[done:])
            pixels, target = shown
            seconds, picture = time.perf_counter() - begun, composite(pixels, background)
            yield FittedFile(target, picture, found.gaussians.to("cpu")[0], found.psnr.item(), seconds)
            begun = time.perf_counter()
    except ValueError as error:
        if not shown:  # it could not be read, and is named
            raise
        if isinstance(error, InputError):  # as it was made: it still tells the two wordings from each other
            raise InputError(f"{shown[1].source}: {error.args[0]}") from error
        raise diverged(shown[1], error) from error


def _remove_gaussians(targets: Sequence[Target]) -> None:
    for target in targets:
        if target.gaussians_file.exists():
            target.gaussians_file.unlink()


def _remove_frames(folder: Path, first: int) -> None:
    """Remove what gvit wrote of frames with this number and later ones."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        frame = _FRAME.fullmatch(file.name)
        if frame and int(frame[1]) >= first:
            with suppress(InputError):  # somebody else's stays
                check_replaceable(file)
                file.unlink()
