"""The definition of the renderer: dense PyTorch, any float dtype, devices with float64, memory O(B*K*H*W).

The constants are those of gsplat 1.5; the compositing is that of 3D Gaussian splatting (Kerbl et al. 2023)
with all Gaussians at the same depth, drawn in index order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.gaussians.precision import full_precision
from gvit.rendering.memory import drawing, refuse_beyond_memory
from gvit.rendering.operators import Constants, Gradients, Rendered, register
from gvit.rendering.values import can_be_drawn

# at the least, of a Gaussian and a pixel
_BYTES_PER_PAIR, _BYTES_PER_PAIR_BACK = 50, 170


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
    dtype, exporting = colors.dtype, torch.compiler.is_exporting()
    if not exporting:
        # in double precision: in float32, squares of large numbers would be infinite, and the gradients no numbers
        centers, covariances, opacities = centers.double(), covariances.double(), opacities.double()
    layers = Layers(centers, covariances, opacities, height, width, constants, dtype)
    transmittance = _running_product(layers.visible)[:, -1] if exporting else layers.visible.prod(1)
    with full_precision(colors.device):
        image = torch.einsum("bkp,bkc->bcp", layers.before * layers.alpha, colors)
    image = image + background.unsqueeze(-1) * transmittance.unsqueeze(1)
    return image.unflatten(-1, (height, width)), transmittance.unflatten(-1, (height, width))


class Layers:
    """What each Gaussian puts on each pixel; all [B, K, H*W], from alpha on in ``dtype``.

    Attributes:
        dx: pixel minus centre, and ``dy``.
        falloff: ``exp(-sigma)``.
        alpha: what is drawn, 0 where nothing is.
        free: where alpha is not at its maximum, nor 0.
        visible: ``1 - alpha``.
        before: transmittance that is left for the Gaussian.
    """

    dx: Tensor
    dy: Tensor
    xx: Tensor
    yy: Tensor
    xy: Tensor
    determinant: Tensor
    falloff: Tensor
    alpha: Tensor
    free: Tensor
    visible: Tensor
    before: Tensor

    def __init__(
        self,
        centers: Float[Tensor, "batch k 2"],
        covariances: Float[Tensor, "batch k 2 2"],
        opacities: Float[Tensor, "batch k"],
        height: int,
        width: int,
        constants: Constants,
        dtype: torch.dtype,
    ) -> None:
        columns = torch.arange(width, dtype=centers.dtype, device=centers.device) + 0.5
        rows = torch.arange(height, dtype=centers.dtype, device=centers.device) + 0.5
        self.dx = dx = columns.repeat(height) - centers[..., 0, None]
        self.dy = dy = rows.repeat_interleave(width) - centers[..., 1, None]

        self.xx = xx = covariances[..., 0, 0, None] + constants.blur
        self.yy = yy = covariances[..., 1, 1, None] + constants.blur
        self.xy = xy = (covariances[..., 0, 1, None] + covariances[..., 1, 0, None]) / 2
        self.determinant = xx * yy - xy * xy
        sigma = (yy * dx * dx - 2 * xy * dx * dy + xx * dy * dy) / (2 * self.determinant)

        self.falloff = torch.exp(-sigma)
        full = (opacities.unsqueeze(-1) * self.falloff).to(dtype)
        alpha = full.clamp(max=constants.alpha_max)
        # an opacity of 0 draws nothing and has no gradient, also where alpha_min is 0
        least = max(constants.alpha_min, torch.finfo(dtype).tiny)
        alpha = torch.where(alpha >= least, alpha, 0)
        # a pixel stops for good at the first Gaussian that would take its transmittance to the minimum
        self.alpha = alpha = torch.where(_running_product(1 - alpha) > constants.transmittance_min, alpha, 0)
        self.free = (alpha > 0) & (full <= constants.alpha_max)
        self.visible = visible = 1 - alpha
        self.before = _running_product(torch.cat((torch.ones_like(visible[:, :1]), visible[:, :-1]), 1))


def _running_product(visible: Float[Tensor, "batch k p"]) -> Float[Tensor, "batch k p"]:
    if torch.compiler.is_exporting():  # ONNX has no cumulative product
        return visible.log().cumsum(1).exp()
    return visible.cumprod(1)


def _what(batch: int, height: int, width: int, count: int) -> str:
    return f"{drawing(batch, height, width)} with {count} Gaussians by the reference"


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
    batch, count = opacities.shape
    if centers.device.type == "cpu":
        # distances and exponents of every Gaussian at every pixel, in double precision
        need = _BYTES_PER_PAIR * batch * max(count, 1) * height * width
        refuse_beyond_memory(need, _what(batch, height, width, count))
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
    batch, count = opacities.shape
    height, width = transmittance.shape[-2:]
    if centers.device.type == "cpu":
        need = _BYTES_PER_PAIR_BACK * batch * max(count, 1) * height * width
        refuse_beyond_memory(need, f"the gradient of {_what(batch, height, width, count)}")

    def draw(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return composite(*tensors, height, width, constants)  # type: ignore[call-arg, arg-type]

    (image, _), pull_back = torch.func.vjp(draw, centers, covariances, colors, opacities, background)[:2]
    # of ``composite``, autocast would run the products of the way back in its own precision
    with full_precision(colors.device):
        gradients = pull_back(
            (
                torch.zeros_like(image) if grad_image is None else grad_image,
                torch.zeros_like(transmittance) if grad_alpha is None else -grad_alpha,
            )
        )
    largest = torch.finfo(image.dtype).max
    return tuple(gradient.clamp(-largest, largest) for gradient in gradients)


rasterize: Callable[..., Rendered] = register("reference", _forward, _backward)
