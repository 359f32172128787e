"""Image files: finding them, and opening whatever people have as 8-bit RGB."""

from __future__ import annotations

import glob
import io
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gvit.errors import InputError

EXTENSIONS = frozenset(
    {
        *(
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
        ),
        *(".pgm", ".avif"),
    }
)
# Images, too, but not for Pillow: phones' and cameras' own formats, drawings, documents.
UNREADABLE = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"),
        *(".svg", ".xcf"),
    }
)

_logger = logging.getLogger(__name__)


def find_images(sources: Sequence[str | Path], extensions: frozenset[str] = EXTENSIONS) -> list[Path]:
    """Image files named by files, folders (searched recursively) and shell-style patterns, each once, in order.

    ``extensions`` are what is looked for in folders; those of Gaussians are in ``gvit.data.sources.gaussians``.
    Images of other formats in a folder are counted in a warning (``left_out``).

    Raises:
        InputError: a source that does not exist, a folder or pattern without images.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            inside = [p for p in path.rglob("*") if not p.name.startswith(".")]
            files: Iterable[Path] = sorted(p for p in inside if p.suffix.lower() in extensions)
            if extensions == EXTENSIONS:
                for note in left_out(path, Counter(p.suffix.lower() for p in inside)):
                    _logger.warning(note)
            what = "images" if extensions == EXTENSIONS else "Gaussians"
            missing = f"{path}: no {what} in this folder (looked for {', '.join(sorted(extensions))})"
        elif path.exists():
            files, missing = [path], ""
        else:
            files = sorted(p for p in map(Path, glob.glob(str(source), recursive=True)) if p.is_file())
            missing = f"{path}: no such file, folder or pattern"
        before = len(found)
        found.update(dict.fromkeys(files))
        if len(found) == before and not any(True for _ in files):
            raise InputError(missing)
    return list(found)


def left_out(folder: Path, suffixes: Mapping[str, int]) -> tuple[str, ...]:
    """A line that counts a folder's images of formats that Pillow can't read; none where there are none.

    Args:
        folder: what it is about.
        suffixes: how many files have each suffix, in small letters; those of ``UNREADABLE`` are told.
    """
    found = [f"{count} {suffix}" for suffix, count in sorted(suffixes.items()) if suffix in UNREADABLE]
    if not found:
        return ()
    return (f"{folder}: left out what can't be read: {', '.join(found)}; convert them to JPEG or PNG",)


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """An image file as 8-bit RGB, upright; ``content``: its bytes, where ``path`` is only what it is called.

    EXIF orientation is applied; 16-bit and float values are scaled to 8 bits; transparent pixels are laid over
    black, the renderer's default background; of an animation, the first frame.

    Raises:
        InputError: the file is missing, is not an image, or is damaged.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as file:
            file.load()
            return to_rgb(ImageOps.exif_transpose(file))
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not an image file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path}: cannot be read as an image ({reason})") from error


def read_pixels(path: str | Path) -> Tensor:
    """An image file as it is, [3, H, W] in [0, 1]; see ``open_image``."""
    return torch.from_numpy(np.array(open_image(path))).permute(2, 0, 1).float() / 255


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB; see ``open_image``."""
    if image.mode.startswith("I"):  # 16 bits, which some formats deliver as 32
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    elif image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        image = Image.fromarray((values * 255).round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return image.convert("RGB")
