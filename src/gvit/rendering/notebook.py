"""How Gaussians look in a notebook: the first few of a batch, drawn small."""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
import torch
from PIL import Image

from gvit.errors import first_line
from gvit.gaussians import Gaussians
from gvit.rendering.api import render

_FIRST = 6  # images of a batch that are drawn
_SIDE_OF_ONE, _SIDE = 256, 128  # pixels of the longer side: of a single image, of each of several
_GAP = 4  # transparent pixels between them


def png(gaussians: Gaussians) -> bytes | None:
    """The first few images, side by side, as a PNG file; None where there is nothing that can be drawn."""
    return _draw(gaussians)[0]


def html(gaussians: Gaussians) -> str:
    """The same as HTML, with number, aspect and bounds; the reason in words where nothing can be drawn."""
    *batch, count, _ = gaussians.raw.shape
    total = int(np.prod(batch))
    of_images = f"{' x '.join(map(str, batch))} image{'' if total == 1 else 's'} of " if batch else ""
    told = (
        f"{of_images}{count:,} Gaussians, aspect {gaussians.aspect:g}, scale factor {gaussians.scale_factor:g}, "
        f"nominal count {gaussians.nominal_count}"
    )
    drawn, why_not = _draw(gaussians)
    if drawn is None:
        return f"<div>{told}{why_not}</div>"
    those = f" (the first {_FIRST})" if total > _FIRST else ""
    uri = f"data:image/png;base64,{base64.b64encode(drawn).decode('ascii')}"
    return f'<div><img src="{uri}" alt="{told}"><br>{told}{those}</div>'


def _draw(gaussians: Gaussians) -> tuple[bytes | None, str]:
    """A PNG file, or None and why there is none."""
    if not gaussians.raw.numel():
        return None, ""
    side = _SIDE if gaussians.raw.ndim > 2 else _SIDE_OF_ONE
    height, width = (max(1, round(side * half)) for half in reversed(gaussians.extent))
    try:
        with torch.no_grad():
            few = gaussians.raw.flatten(0, -3)[:_FIRST] if gaussians.raw.ndim > 2 else gaussians.raw[None]
            raw = few.detach().to("cpu", torch.float32)
            # the few have lost their batch dimensions, which slots would have to match
            bare = Gaussians(raw, gaussians.scale_factor, gaussians.nominal_count, gaussians.aspect)
            pictures = render(bare, height, width).clamp(0, 1)
    # whatever it is (NaN, a device without data, no memory): the rest of the cell's result is shown all the same
    except Exception as error:
        return None, f" (cannot be drawn: {escape(first_line(error))})"
    strip = np.zeros((height, len(pictures) * (width + _GAP) - _GAP, 4), np.uint8)
    for number, picture in enumerate((pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        left = number * (width + _GAP)
        strip[:, left : left + width] = np.dstack((picture, np.full((height, width), 255, np.uint8)))
    file = io.BytesIO()
    Image.fromarray(strip).save(file, format="png")
    return file.getvalue(), ""
