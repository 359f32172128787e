"""Image files: finding them, and opening whatever people have as 8-bit RGB."""

from __future__ import annotations

import glob
import io
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

from gvit.errors import InputError, first_line, printable

EXTENSIONS = frozenset(
    {
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
    }
    # not every Pillow can
    | ({".avif"} if features.check("avif") else set())
)

# of what holds images, too, but is not read
UNREAD = (
    frozenset(
        {
            *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".jxr"),
            *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
            *(".exr", ".hdr", ".dcm", ".fits", ".psd", ".xcf", ".tga", ".ico"),
            *(".ai", ".eps", ".pdf", ".svg", ".svgz"),
            *(".avi", ".mkv", ".mov", ".mp4", ".webm"),
        }
    )
    - EXTENSIONS
)

# nothing else is tried: of an EPS file that is called .jpg, Pillow would have Ghostscript run what is in it
_FORMATS = sorted({kind for ending, kind in Image.registered_extensions().items() if ending in EXTENSIONS})

_logger = logging.getLogger("gvit")
_ROUNDING = 1e-3  # of floats from 0 to 1
_SMALL = 2**22  # pixels, which the memory of any machine holds


def find_images(sources: Sequence[str | Path], extensions: frozenset[str] = EXTENSIONS) -> list[Path]:
    """Image files named by files, folders (searched recursively) and shell-style patterns, each once, in order.

    ``extensions`` are what is looked for in folders; those of Gaussians are in ``gvit.data.sources.gaussians``.

    Raises:
        InputError: a source that does not exist, a folder or pattern without images, a folder that cannot be read.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if os.path.isdir(path):  # pathlib's raises at a path that is too long
            shown = shown_files(path, strict=False)
            files: Iterable[Path] = [path / file for file in shown if suffix_of(file) in extensions]
            what = "images" if extensions == EXTENSIONS else "Gaussians"
            missing = f"{path}: no {what} in this folder (looked for {', '.join(sorted(extensions))})"
        elif os.path.exists(path):
            files, missing = [path], ""
        else:
            files = sorted(p for p in map(Path, glob.glob(str(source), recursive=True)) if p.is_file())
            missing = f"{path}: no such file, folder or pattern"
        before = len(found)
        found.update(dict.fromkeys(files))
        if len(found) == before and not any(True for _ in files):
            raise InputError(missing)
    return list(found)


def shown_files(folder: Path, strict: bool = True) -> list[str]:
    """Paths below a folder, which may not be there, in order: a folder's own name before what is in it.

    What is hidden is left out, and links to folders are followed; see ``walk_shown``.

    Args:
        folder: which one.
        strict: raise for a folder within it that cannot be read, too; otherwise it is left out, with a warning.

    Raises:
        InputError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        message = f"{error.filename}: cannot be read ({error.strerror})"
        if strict or Path(error.filename) == folder:
            raise InputError(message) from error
        _logger.warning("gvit: warning: %s: left out", printable(message))

    return sorted(walk_shown(folder, refuse), key=lambda path: path.split(os.sep))


def walk_shown(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Paths below a folder, as ``shown_files``, in no order.

    Links to folders are followed after everything else, and a folder that has been visited, or that ``folder`` itself
    lies in, is not visited again: links that lead in a circle end.

    Args:
        folder: which one.
        on_error: is told of folders that cannot be read; None passes over them.
    """
    visited = set(map(str, Path(os.path.realpath(folder)).parents))
    starts = [str(folder)]
    for start in starts:
        for place, folders, files in os.walk(start, onerror=on_error):
            real = os.path.realpath(place)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(filter(is_shown, folders))
            starts += [link for name in folders if os.path.islink(link := os.path.join(place, name))]
            below = os.path.relpath(place, folder)
            yield from (os.path.normpath(os.path.join(below, name)) for name in files if is_shown(name))


def suffix_of(file: str) -> str:
    return os.path.splitext(file)[1].lower()


def is_shown(name: str) -> bool:
    """Not hidden, nor what a Mac's archives add."""
    return not name.startswith(".") and name != "__MACOSX"


def open_image(path: str | Path, content: bytes | None = None, *, alpha: bool = False) -> Image.Image:
    """An image file as 8-bit RGB, upright; ``content``: its bytes, where ``path`` is only what it is called.

    With ``alpha``, as RGBA where it has transparency.

    EXIF orientation is applied; 16-bit values and floats from 0 to 1 are scaled to 8 bits; transparent pixels are laid
    over black, the renderer's default background; of an animation, the first frame.

    Raises:
        InputError: the file is missing, is not an image, is damaged, holds other numbers, or has too many pixels; see
            ``opened``.
    """
    with opened(path, content) as file:
        file.load()
        ImageOps.exif_transpose(file, in_place=True)  # which copies nothing that is upright
        return to_rgba(file) if alpha else to_rgb(file)


class _OutOfRange(InputError):
    """Numbers that nothing says the range of."""


@contextmanager
def opened(path: str | Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """An image file whose header has been read; whatever is wrong with it, then and within the block, is told.

    ``content``: its bytes, where ``path`` is only what it is called.

    A header that claims more pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` is refused before anything is decoded, and
    what is no file, a pipe say, before it is opened.

    Raises:
        InputError: in one line, with the path, whose control characters are escaped.
    """
    small = False
    try:
        if content is None and not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{printable(str(path))}: cannot be read as an image (not a file)")
        with warnings.catch_warnings():
            # Pillow refuses what is twice its limit, and only warns of what is above it
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
        small = file.width * file.height < _SMALL
        with file:
            yield file
    except _OutOfRange as error:
        raise InputError(f"{printable(str(path))}: {error.args[0]}") from error
    except InputError:
        raise
    except MemoryError as error:
        if not small:
            raise
        # a chunk of the file says that it is gigabytes long
        raise InputError(
            f"{printable(str(path))}: cannot be read as an image (a length in it is damaged)"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(f"{printable(str(path))}: not an image file{_guess(path, content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{printable(str(path))}: {_too_large(error)}") from error
    except Exception as error:  # what decoders raise at damaged bytes is of any kind
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(f"{printable(str(path))}: cannot be read as an image ({reason})") from error


def _too_large(error: Exception) -> str:
    claimed = re.search(r"\d+", str(error))
    pixels = f"{int(claimed[0]):,}" if claimed else "too many"
    limit = f"the limit of {Image.MAX_IMAGE_PIXELS:,} (PIL.Image.MAX_IMAGE_PIXELS)"
    return f"claims {pixels} pixels, above {limit}; make a smaller copy of it"


def _guess(path: str | Path, content: bytes | None) -> str:
    """What a file that is no image seems to be."""
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
        start = file.read(512).lstrip().lower()
    if not start:
        return ": it is empty"
    suffix = Path(path).suffix.lower()
    if suffix in {*Image.registered_extensions(), *UNREAD} - EXTENSIONS:
        return f" of a format that is read; convert {suffix} to .png"
    return ": it is a web page" if start.startswith((b"<!doctype html", b"<html")) else ""


def read_pixels(path: str | Path) -> Tensor:
    """An image file as it is, [3, H, W] in [0, 1]; see ``open_image``."""
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1).float() / 255


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; see ``open_image``.

    Raises:
        InputError: integers above 65535, or floats that are not in [0, 1].
    """
    image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Numbers of more bits as 8-bit grey, with alpha where one of them stands for transparency."""
    if image.mode == "F":
        values = np.asarray(image)
        _check_range(values, 1)
        return Image.fromarray((values * 255).round().clip(0, 255).astype(np.uint8))
    if not image.mode.startswith("I"):  # 16 bits, which some formats deliver as 32
        return image
    values = np.asarray(image).astype(np.float64)
    _check_range(values, 65535)
    grey = Image.fromarray((values / 257).round().astype(np.uint8))
    if "transparency" in image.info:
        grey.putalpha(
            Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8))
        )
    return grey


def _check_range(values: np.ndarray, most: int) -> None:
    if not (values.min() >= -_ROUNDING and values.max() <= most + _ROUNDING):  # NaN is neither
        raise _OutOfRange(
            f"has numbers from {values.min():g} to {values.max():g}, which are read from 0 to {most}; scale them, or "
            "save 8 bits"
        )


def to_rgba(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGBA where it has transparency, else as ``to_rgb`` gives it."""
    image = _eight_bits(image)
    return image.convert("RGBA") if image.has_transparency_data else to_rgb(image)
