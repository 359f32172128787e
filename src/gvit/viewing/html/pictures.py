"""Pictures, score maps and ellipses as what stands in a page: data URIs, and numbers for SVG."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gvit.analysis.scoremap import above_least, splat_scores
from gvit.gaussians import VISIBLE_OPACITY, Gaussians
from gvit.viewing.ellipses import find_ellipses

DEVIATIONS = 2.0  # of an outline
_PIXELATED = 96  # a picture with a longer side below this is enlarged pixel by pixel, and kept without loss
_QUALITY = 84  # of WebP
_THUMBNAIL = 112  # pixels of the shorter side
_MAP_SIDE = 160  # pixels, at least, of the longer side of a score map, which has no pixels of its own
_FOR, _AGAINST = (234, 88, 12), (59, 130, 246)  # as in style.css


def is_pixelated(height: int, width: int) -> bool:
    """Whether a picture is so small that its pixels are to be seen."""
    return max(height, width) < _PIXELATED


def picture_uri(image: Float[Tensor, "3 h w"]) -> str:
    """An image with values in [0, 1]: PNG where it is small, else WebP."""
    return _uri(_as_pillow(image), lossless=is_pixelated(*image.shape[-2:]))


def thumbnail_uri(image: Float[Tensor, "3 h w"]) -> str:
    """The same, reduced."""
    factor = _THUMBNAIL / min(image.shape[-2:])
    if factor >= 1:
        return picture_uri(image)
    height, width = (round(factor * side) for side in image.shape[-2:])
    return _uri(_as_pillow(image).resize((width, height), Image.Resampling.LANCZOS))


def _as_pillow(image: Float[Tensor, "3 h w"]) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


@dataclass(frozen=True)
class ScoreMap:
    """Scores as a transparent picture to lie over another.

    Attributes:
        uri: the picture. It is as opaque as its value there is large.
        low: value of what is drawn in full in the colour of the left end of the scale; where that is clear, of what
            shows nothing.
        high: value of what is drawn in full in the colour of the right end.
    """

    uri: str
    low: float
    high: float


def score_map(
    scores: Float[Tensor, " k"], gaussians: Gaussians, height: int, width: int, signed: bool
) -> ScoreMap:
    """Scores of one image through the renderer, in units of the map's own largest value.

    Args:
        scores: one per Gaussian.
        gaussians: raw [K, 9].
        height: of the picture that it lies over, pixels.
        width: the same.
        signed: two colours, which meet at 0; otherwise one, and the smallest score of what is drawn shows nothing.
    """
    scores = scores.detach().to(gaussians.raw)
    least = 0.0
    if not signed:
        scores, least = above_least(scores, gaussians)
    factor = max(1.0, _MAP_SIDE / max(height, width))
    values = splat_scores(scores[None], gaussians[None], round(factor * height), round(factor * width))[0]
    top = values.abs().max().item()
    color = torch.where((values < 0).unsqueeze(-1), torch.tensor(_AGAINST), torch.tensor(_FOR))
    alpha = (255 * values.abs() / (top or 1.0)).round().unsqueeze(-1)
    pixels = torch.cat((color.to(alpha), alpha), -1).byte().cpu().numpy()
    return ScoreMap(_uri(Image.fromarray(pixels)), -top if signed else least, least + top)


@dataclass(frozen=True)
class Outline:
    """A Gaussian as an ellipse at ``DEVIATIONS`` standard deviations, in pixels; texts, short ones.

    Attributes:
        number: of the Gaussian, from 0, front to back.
        cx: centre from the left.
        cy: centre from the top.
        rx: half the longer axis.
        ry: half the shorter axis.
        turn: degrees from +x towards +y (down) of the longer axis.
        color: as a code.
        stroke: the same, lifted, or dark ones would vanish on a dark picture.
        opacity: in [0, 1].
        stroke_opacity: the same, faint ones lifted, too.
        scores: one for each method.
    """

    number: int
    cx: str
    cy: str
    rx: str
    ry: str
    turn: str
    color: str
    stroke: str
    opacity: str
    stroke_opacity: str
    scores: str


def find_outlines(
    gaussians: Gaussians, scores: list[Float[Tensor, " k"]], height: int, width: int
) -> list[Outline]:
    """Those Gaussians (raw [K, 9]) that are drawn, large ones first, so that small ones lie above them."""
    found = find_ellipses(gaussians, height, width)
    per_method = [values.detach().cpu().tolist() for values in scores]
    order = found.scales.prod(-1).argsort(descending=True, stable=True).tolist()
    outlines = []
    for k in order:
        opacity = found.opacities[k].item()
        if opacity < VISIBLE_OPACITY:
            continue
        (x, y), (along, across) = found.centers[k].tolist(), (DEVIATIONS * found.scales[k]).tolist()
        color = found.colors[k]
        outlines.append(
            Outline(
                number=k,
                cx=_short(x),
                cy=_short(y),
                rx=_short(along),
                ry=_short(across),
                turn=f"{found.angles[k].rad2deg().item():.0f}",
                color=_code(color),
                stroke=_code(0.25 + 0.75 * color),
                opacity=f"{opacity:.2f}",
                stroke_opacity=f"{max(0.15, opacity):.2g}",
                # seven digits are what float32 has: fewer would make ranks of the page's own
                scores=" ".join(f"{values[k]:.7g}" for values in per_method),
            )
        )
    return outlines


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _code(color: Float[Tensor, 3]) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in color.tolist())


def _uri(image: Image.Image, lossless: bool = False) -> str:
    content, kind = io.BytesIO(), "png" if lossless else "webp"
    image.save(content, format=kind, **({"optimize": True} if lossless else {"quality": _QUALITY}))
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
