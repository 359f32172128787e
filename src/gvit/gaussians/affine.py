"""Gaussians under an affine map of the plane."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from gvit.gaussians.batch import Gaussians
from gvit.gaussians.precision import full_precision
from gvit.gaussians.shapes import map_axes


def transform_gaussians(
    gaussians: Gaussians,
    matrix: Float[Tensor, "*#batch 2 2"],
    shift: Float[Tensor, "*#batch 2"],
    *,
    scale_factor: float | None = None,
    nominal_count: int | None = None,
    aspect: float | None = None,
) -> Gaussians:
    """Gaussians under an affine map of the plane: of ``picture(p)`` they become ``picture(matrix^-1 (p - shift))``.

    Centres become ``matrix @ centre + shift``, covariances ``matrix @ covariance @ matrix^T``; colours and opacities
    stay. Two things the bounds can't hold. Standard deviations above the bound on the scales are cut to it. A
    Gaussian whose centre leaves the canvas gets an opacity of almost 0 and is not drawn: ``tanh`` would keep it at
    the border, where it never was. Such of it as lay inside is lost.

    The first axis stays the one nearest to where the map takes it, and the angle moves by no more than a quarter
    turn (it has period pi), so that raw numbers, too, change as little as they can. The identity leaves those that
    lie well within their bounds.

    Args:
        gaussians: any number of batch dimensions.
        matrix: invertible, canvas units to canvas units (x right, y down, the origin in the middle); one for all
            images, or one for each.
        shift: canvas units.
        scale_factor: of the result; None keeps it.
        nominal_count: of the result; None keeps it.
        aspect: of the result's canvas; None keeps it.

    Returns:
        Gaussians with the same slots. No warning is given of scales that were cut.
    """
    lifted = gaussians._lifted()
    matrix, shift = matrix.to(lifted.raw), shift.to(lifted.raw)
    bounds = gaussians._bounds.replace(scale_factor, nominal_count, aspect)
    with full_precision(matrix.device):
        centers = lifted.centers @ matrix.mT + shift.unsqueeze(-2)
    scales, angles = map_axes(lifted.covariances, lifted.scales, lifted.angles, matrix)
    outside = (centers.abs() > centers.new_tensor(bounds.extent)).any(-1)
    opacities = lifted.opacities.masked_fill(outside, 0)
    raw = bounds.to_raw(centers, scales, angles, lifted.colors, opacities)
    return gaussians._under(bounds).replace_raw(raw.to(gaussians.raw.dtype))
