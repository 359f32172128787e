"""Image files: finding them, and opening whatever people have as 8-bit RGB."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gvit.errors import InputError

EXTENSIONS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)


def find_images(sources: Sequence[str | Path], extensions: frozenset[str] = EXTENSIONS) -> list[Path]:
    """Image files named by files, folders (searched recursively) and shell-style patterns, each once, in order.

    ``extensions`` are what is looked for in folders; those of Gaussians are in ``gvit.data.sources.gaussians``.

    Raises:
        InputError: a source that does not exist, a folder or pattern without images.
    """
    found: dict[Path, None] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            files: Iterable[Path] = sorted(p for p in path.rglob("*") if p.suffix.lower() in extensions)
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
