"""Gaussians as an SVG file: what the renderer draws, for browsers and for programs that people draw with.

A Gaussian is a unit circle with a radial gradient, stretched and turned to the ellipse at which its alpha falls below
``1 / 255``: it stays a Gaussian when it is moved, turned or stretched on. (An ellipse with a gradient in its own box
would be shorter; librsvg 2.54 draws such gradients round.) The renderer composites front to back and SVG back to
front, so that the first Gaussian stands last. Both blend the image's own values (sRGB, no gamma).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from gvit.gaussians import Gaussians
from gvit.viewing.ellipses import find_ellipses

# the constants of ``gvit.rendering.rasterize``
_BLUR, _ALPHA_MAX, _ALPHA_MIN = 0.3, 0.999, 1 / 255
MARK = "<!-- drawn by gvit -->"  # by which the file is known again
_STEPS = 12  # of a gradient: its straight pieces are within 0.01 of the Gaussian


def to_svg(
    gaussians: Gaussians, height: int, width: int, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
) -> str:
    """An SVG document of the picture at a size.

    It can be shown at any other; its Gaussians are as blurred as the renderer's are at this one.

    Args:
        gaussians: of one image, raw [K, 9].
        height: pixels.
        width: pixels.
        background: colour behind them, in [0, 1].
    """
    ellipses = find_ellipses(gaussians, height, width, _BLUR)
    opacities = ellipses.opacities.clamp(max=_ALPHA_MAX)
    # standard deviations to where alpha is at its minimum
    reach = (2 * (opacities / _ALPHA_MIN).clamp(min=1).log()).sqrt()
    radii = (ellipses.scales * reach.unsqueeze(-1)).tolist()
    # of a circle around it
    around = ellipses.scales[:, :1] * reach.unsqueeze(-1)
    size, centers = torch.tensor([width, height]), ellipses.centers
    seen = (reach > 0) & ((centers + around > 0) & (centers - around < size)).all(-1)
    angles, colors = ellipses.angles.rad2deg().tolist(), ellipses.colors.tolist()
    gradients, circles = [], []
    for index in reversed(seen.nonzero().flatten().tolist()):
        x, y = centers[index].tolist()
        color = _code(colors[index])
        stops = "".join(
            f'<stop offset="{step / _STEPS:.4g}" stop-color="{color}" stop-opacity="{alpha:.4f}"/>'
            for step, alpha in enumerate(_profile(opacities[index].item(), reach[index].item()))
        )
        gradients.append(
            f'<radialGradient id="g{index}" gradientUnits="userSpaceOnUse" cx="0" cy="0" r="1">{stops}</radialGradient>'
        )
        along, across = radii[index]
        circles.append(
            f'<circle r="1" fill="url(#g{index})" '
            f'transform="translate({x:.3f} {y:.3f}) rotate({angles[index]:.3f}) scale({along:.4f} {across:.4f})"/>'
        )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            MARK,
            "<defs>",
            *gradients,
            "</defs>",
            f'<rect width="{width}" height="{height}" fill="{_code(background)}"/>',
            *circles,
            "</svg>\n",
        ]
    )


def _code(color: Sequence[float]) -> str:
    return "#" + "".join(f"{round(255 * value):02x}" for value in color)


def _profile(opacity: float, reach: float) -> list[float]:
    """Alpha at evenly spaced distances from the centre to ``reach`` standard deviations."""
    return [opacity * math.exp(-((step / _STEPS * reach) ** 2) / 2) for step in range(_STEPS + 1)]
