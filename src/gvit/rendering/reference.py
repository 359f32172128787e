"""The definition of the renderer: dense PyTorch, any float dtype, any device, memory O(B*K*H*W).

The constants are those of gsplat 1.5; the compositing is that of 3D Gaussian splatting (Kerbl et al. 2023)
with all Gaussians at the same depth, drawn in index order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.rendering.operators import Constants, Gradients, Rendered, register
from gvit.rendering.values import can_be_drawn


def composite(
    centers: Float[Tensor, "batch k 2"],
    covariances: Float[Tensor, "batch k 2 2"],
    colors: Float[Tensor, "batch k channels"],
    opacities: Float[Tensor, "batch k"],
    background: Float[Tensor, "batch channels"],
    height: int,
    width: int,
    constants: Constants,
) -> tuple[Float[Tensor, "batch channels height width"], Float[Tensor, "batch height width"]]:
    """The image, and the transmittance that is left of the background in each pixel.

    Takes what ``gvit.rendering.rasterize`` takes, with one batch dimension.
    """
    columns = torch.arange(width, dtype=centers.dtype, device=centers.device) + 0.5
    rows = torch.arange(height, dtype=centers.dtype, device=centers.device) + 0.5
    dx = columns.repeat(height) - centers[..., 0, None]  # [B, K, H*W]
    dy = rows.repeat_interleave(width) - centers[..., 1, None]

    xx = covariances[..., 0, 0, None] + constants.blur
    yy = covariances[..., 1, 1, None] + constants.blur
    xy = (covariances[..., 0, 1, None] + covariances[..., 1, 0, None]) / 2
    sigma = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (2 * (xx * yy - xy * xy))

    alpha = (opacities.unsqueeze(-1) * torch.exp(-sigma)).clamp(max=constants.alpha_max)
    alpha = torch.where(alpha >= constants.alpha_min, alpha, 0)
    # a pixel stops for good at the first Gaussian that would take its transmittance to the minimum
    alpha = torch.where((1 - alpha).cumprod(1) > constants.transmittance_min, alpha, 0)
    visible = 1 - alpha
    before = torch.cat((torch.ones_like(visible[:, :1]), visible[:, :-1]), 1).cumprod(1)
    transmittance = visible.prod(1)

    image = torch.einsum("bkp,bkc->bcp", before * alpha, colors)
    image = image + background.unsqueeze(-1) * transmittance.unsqueeze(1)
    return image.unflatten(-1, (height, width)), transmittance.unflatten(-1, (height, width))


def _forward(
    centers: Tensor,
    covariances: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    height: int,
    width: int,
    constants: Constants,
) -> Rendered | None:
    if not can_be_drawn(centers, covariances, colors, opacities, background, constants.blur):
        return None
    image, transmittance = composite(
        centers, covariances, colors, opacities, background, height, width, constants
    )
    # the backward pass differentiates ``composite`` and needs no record of where the pixels stopped
    return image, 1 - transmittance, transmittance, torch.zeros_like(transmittance, dtype=torch.int32)


def _backward(
    grad_image: Tensor | None,
    grad_alpha: Tensor | None,
    centers: Tensor,
    covariances: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    transmittance: Tensor,
    stops: Tensor,
    constants: Constants,
) -> Gradients:
    height, width = transmittance.shape[-2:]

    def draw(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return composite(*tensors, height, width, constants)  # type: ignore[call-arg, arg-type]

    (image, _), pull_back = torch.func.vjp(draw, centers, covariances, colors, opacities, background)[:2]
    return pull_back(
        (
            torch.zeros_like(image) if grad_image is None else grad_image,
            torch.zeros_like(transmittance) if grad_alpha is None else -grad_alpha,
        )
    )


rasterize: Callable[..., Rendered] = register("reference", _forward, _backward)
