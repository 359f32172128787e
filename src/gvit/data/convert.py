"""Images in whatever form Python has them: files, Pillow images, arrays and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageColor, ImageOps
from torch import Tensor

from gvit.data.images import open_image, to_rgba
from gvit.errors import InputError, option, wording

# a file, or the image itself: [H, W], [H, W, C], or [C, H, W] with C channels: 1 (grey), 3 (RGB) or 4 (RGBA)
ImageLike = str | Path | Image.Image | np.ndarray | Tensor
Color = str | Sequence[float]

_ROUNDING = 1e-5  # of rendered pictures
_CHANNELS = (1, 3, 4)
_FORMS = "[H, W], [H, W, C] or [C, H, W] with C of 1 (grey), 3 (RGB) or 4 (RGBA)"


def list_images(images: Any) -> list[Any]:
    """One image, a batch in one array or tensor, or any iterable of images, as a list of images.

    Raises:
        InputError: there are none, or it is none of these.
    """
    if isinstance(images, (str, Path, Image.Image)):
        return [images]
    if isinstance(images, (np.ndarray, Tensor)):
        found = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, Iterable):
        found = list(images)
    else:
        raise InputError(f"expected images (files, Pillow images, arrays or tensors), got {_kind(images)}")
    if not found:
        raise InputError("no images given")
    return found


def as_pixels(image: ImageLike) -> Float[Tensor, "channels h w"]:
    """One image as [3, H, W] in [0, 1], or [4, H, W] where it has transparency; a tensor stays on its device.

    EXIF orientation is applied, to a file and to a Pillow image that still has it.
    8-bit and 16-bit numbers are divided by their largest value; floats are taken as they are, or cut to [0, 1] where
    they are beyond by a rounding error, as those of a rendered picture may be.

    Raises:
        InputError: a file that can't be read; a shape that is no image's, or that may be two; numbers outside of
            [0, 1], NaN, or of another type.
    """
    image = _upright(image)
    if isinstance(image, Image.Image):  # channels last, whatever its sides
        values = in_range(np.array(to_rgba(image))).permute(2, 0, 1)
    elif isinstance(image, (np.ndarray, Tensor)):
        values = _channels_first(in_range(image))
    else:
        raise InputError(f"expected an image (file, Pillow image, array or tensor), got {_kind(image)}")
    if len(values) == 4 and bool((values[3] == 1).all()):
        values = values[:3]
    return values.expand(3, -1, -1) if len(values) == 1 else values


def as_rgb(image: ImageLike, background: Color = "black") -> Image.Image:
    """One image as 8-bit RGB, upright as in ``as_pixels``, transparent pixels over ``background``.

    Raises:
        InputError: as ``as_pixels`` and ``parse_color``.
    """
    below = parse_color(background)
    image = _upright(image)
    if not isinstance(image, Image.Image):
        values = (as_pixels(image) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        image = Image.fromarray(values)
    image = to_rgba(image)
    if image.mode == "RGBA":
        solid = Image.new("RGBA", image.size, (*(round(255 * value) for value in below), 255))
        image = Image.alpha_composite(solid, image)
    return image.convert("RGB")


def _upright(image: ImageLike) -> ImageLike:
    """A file as ``open_image`` gives it, a Pillow image turned likewise; arrays and tensors as they are."""
    if isinstance(image, (str, Path)):
        return open_image(image, alpha=True)
    return ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image


def composite(
    pixels: Float[Tensor, "*batch channels h w"], background: Color = "black"
) -> Float[Tensor, "*batch 3 h w"]:
    """RGBA over ``background``; RGB as it is.

    Raises:
        InputError: as ``parse_color``.
    """
    below = torch.tensor(parse_color(background)).to(pixels)[:, None, None]
    if pixels.shape[-3] == 3:
        return pixels
    alpha = pixels[..., 3:, :, :]
    return alpha * pixels[..., :3, :, :] + (1 - alpha) * below


def parse_color(color: Color) -> tuple[float, float, float]:
    """Red, green and blue in [0, 1] of a name (``white``), a code (``#ff8800``), or three such numbers.

    Raises:
        InputError: it is none of these.
    """
    wanted = wording(
        "a colour's name (white), its code (#ff8800), or three numbers in [0, 1]",
        "a colour's name (white) or its code (#ff8800)",
    )
    if isinstance(color, str):
        try:
            red, green, blue = (value / 255 for value in ImageColor.getrgb(color))  # four of one with alpha
        except ValueError:
            raise InputError(f"{option('background')} must be {wanted}, got {color!r}") from None
        return red, green, blue
    try:
        values = [float(value) for value in color]
    except (TypeError, ValueError):
        raise InputError(f"{option('background')} must be {wanted}, got {color!r}") from None
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        raise InputError(f"{option('background')} must be {wanted}, got {values}")
    return values[0], values[1], values[2]


def in_range(values: np.ndarray | Tensor) -> Tensor:
    """Pixels in any shape as floats in [0, 1]; see ``as_pixels``.

    Raises:
        InputError: numbers outside of [0, 1], NaN, or of another type.
    """
    if isinstance(values, np.ndarray):
        # a copy in the machine's byte order: it may be in the other one, read-only, or run backwards
        values = np.array(values, values.dtype.newbyteorder("="))
        if values.dtype == np.uint16:  # of which torch knows little
            return torch.from_numpy(values.astype(np.float32) / 65535)
        if values.dtype == np.bool_ or values.dtype == np.uint8 or values.dtype.kind == "f":
            values = torch.from_numpy(values)
        else:
            raise InputError(_not_a_type(values.dtype))
    if values.dtype == torch.bool:
        return values.float()
    if values.dtype == torch.uint16:
        return values.float() / 65535
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.dtype.is_floating_point:
        raise InputError(_not_a_type(str(values.dtype).removeprefix("torch.")))
    values = values.detach().float()
    if not values.numel():
        return values
    if values.isnan().any():
        raise InputError("an image has pixels that are NaN")
    low, high = (bound.item() for bound in values.aminmax())
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        hint = (
            "; of numbers from 0 to 255, divide by 255 or give uint8" if 1 < high <= 255 and low >= 0 else ""
        )
        raise InputError(f"images must have values in [0, 1], got {low:.3g} to {high:.3g}{hint}")
    return values.clamp(0, 1) if low < 0 or high > 1 else values


def _not_a_type(dtype: Any) -> str:
    return f"an image of {dtype}: give uint8 or uint16, or floats in [0, 1]"


def _channels_first(values: Tensor) -> Tensor:
    shape = list(values.shape)
    if 0 in shape:
        raise InputError(f"an image of shape {shape} has no pixels")
    if values.ndim == 2:
        return values[None]
    if values.ndim != 3:
        raise InputError(f"an image must have shape {_FORMS}, got {shape}")
    first, last = shape[0] in _CHANNELS, shape[-1] in _CHANNELS
    if first and last:
        raise InputError(
            f"an image of shape {shape} may be [H, W, C] or [C, H, W]; give a Pillow image, or a batch [1, 3, H, W]"
        )
    if not first and not last:
        raise InputError(f"an image must have shape {_FORMS}, got {shape}; several images go in a list")
    return values if first else values.permute(2, 0, 1)


def _kind(value: Any) -> str:
    return type(value).__name__
