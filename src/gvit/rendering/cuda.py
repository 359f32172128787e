"""The CUDA backend: Triton kernels over (image, tile), deterministic, without atomics.

No global sort is needed: each tile lists, in index order, the Gaussians whose ellipse meets it. Gradients are
kept per (tile, Gaussian) entry and added up in order. Runs under Triton's interpreter on a CPU for testing.
"""

from __future__ import annotations

import functools
import math
import os
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from gvit.rendering.operators import Constants, Gradients, Rendered, register
from gvit.rendering.values import can_be_drawn

_GAUSSIANS_PER_PROGRAM = 64
_HALF_LOG2_E = 0.5 / math.log(2.0)
# float32 has no smaller number than 2^-149, so alpha_min = 0 asks for no more than that
_LOWEST = -149.0


@functools.cache
def _kernels() -> ModuleType:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ValueError("backend 'cuda' needs triton: pip install triton") from error
    from gvit.rendering import cuda_kernels

    return cuda_kernels


def check_device(device: torch.device) -> None:
    """Raise a ValueError where this backend can't draw."""
    _kernels()
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend 'cuda' needs tensors on a CUDA device (and a build of PyTorch for CUDA), got {device}"
        )


def _geometry(centers: Tensor, covariances: Tensor, opacities: Tensor, blur: float) -> tuple[Tensor, ...]:
    """cx, cy, slope, fall_y, fall and log2(opacity), in float64: see ``cuda_kernels``."""
    centers, covariances, opacities = centers.double(), covariances.double(), opacities.double()
    xx, yy = covariances[..., 0, 0] + blur, covariances[..., 1, 1] + blur
    xy = (covariances[..., 0, 1] + covariances[..., 1, 0]) / 2
    det = xx * yy - xy * xy
    # nothing is drawn at opacity 0, and no gradient may become infinite there
    top = torch.where(opacities > 0, opacities, torch.finfo(torch.float32).tiny ** 2).log2()
    return (*centers.unbind(-1), xy / yy, _HALF_LOG2_E / yy, _HALF_LOG2_E * yy / det, top)


class _Entries(NamedTuple):
    params: Tensor  # float32 [B, K, 7]
    met: Tensor  # int8 [B, tiles, K]: does the Gaussian meet the tile?
    gaussians: Tensor  # int32 [entries]: index of the Gaussian
    ends: Tensor  # int32 [B, tiles]: number after the tile's last entry
    tiles_x: int
    tiles: int


def _find_entries(geometry: tuple[Tensor, ...], height: int, width: int, constants: Constants) -> _Entries:
    kernels = _kernels()
    cx, cy, slope, fall_y, fall, top = geometry
    remainder = slope - slope.float().double()
    params = torch.stack((cx, cy, slope, remainder, fall_y, fall, top), -1).float().contiguous()
    batch, count = cx.shape
    tiles_x, tiles_y = -(-width // kernels.TILE), -(-height // kernels.TILE)
    tiles = tiles_x * tiles_y
    met = torch.zeros(batch, tiles, count, dtype=torch.int8, device=cx.device)
    low = max(math.log2(constants.alpha_min), _LOWEST) if constants.alpha_min > 0 else _LOWEST
    if met.numel():
        grid = (tiles, batch, -(-count // _GAUSSIANS_PER_PROGRAM))
        kernels.find_entries[grid](params, met, count, tiles_x, low, kernels.TILE, _GAUSSIANS_PER_PROGRAM)
    gaussians = met.nonzero()[:, 2].int()
    ends = met.sum(-1).flatten().cumsum(0).int()
    return _Entries(params, met, gaussians, ends, tiles_x, tiles)


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
    check_device(centers.device)
    if not can_be_drawn(centers, covariances, colors, opacities, background, constants.blur):
        return None
    kernels = _kernels()
    batch, count, channels = colors.shape
    geometry = _geometry(centers, covariances, opacities, constants.blur)
    entries = _find_entries(geometry, height, width, constants)
    image = colors.new_empty(batch, channels, height, width)
    alpha, transmittance = (colors.new_empty(batch, height, width) for _ in range(2))
    stops = colors.new_empty(batch, height, width, dtype=torch.int32)
    if batch:
        kernels.forward[(entries.tiles, batch)](
            *(entries.params, colors.contiguous(), background.contiguous(), entries.gaussians, entries.ends),
            *(image, alpha, transmittance, stops),
            *(count, height, width, entries.tiles_x),
            *constants[1:],
            *(kernels.TILE, channels, _power_of_two(channels)),
        )
    return image, alpha, transmittance, stops


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
    kernels = _kernels()
    batch, count, channels = colors.shape
    height, width = transmittance.shape[-2:]

    def of_inputs(*tensors: Tensor) -> tuple[Tensor, ...]:
        return _geometry(*tensors, constants.blur)  # type: ignore[call-arg, arg-type]

    if grad_image is None:
        grad_image = colors.new_zeros(batch, channels, height, width)
    if grad_alpha is None:
        grad_alpha = torch.zeros_like(transmittance)
    geometry, pull_back = torch.func.vjp(of_inputs, centers, covariances, opacities)[:2]
    entries = _find_entries(geometry, height, width, constants)
    fields = kernels.NUM_MOMENTS + channels
    sums = colors.new_empty(len(entries.gaussians), fields)
    totals = colors.new_zeros(batch, count, fields)
    grad_background = colors.new_zeros(batch, entries.tiles, channels)
    if batch:
        kernels.backward[(entries.tiles, batch)](
            *(entries.params, colors.contiguous(), background.contiguous(), entries.gaussians, entries.ends),
            *(grad_image.contiguous(), grad_alpha.contiguous()),
            *(transmittance.contiguous(), stops.contiguous(), sums, grad_background),
            *(count, height, width, entries.tiles_x, constants.alpha_max, constants.alpha_min),
            *(kernels.TILE, channels, _power_of_two(channels)),
        )
    if totals.numel():
        numbers = entries.met.flatten().cumsum(0).int() - 1
        kernels.collect[(-(-count // _GAUSSIANS_PER_PROGRAM), batch)](
            *(sums, numbers, entries.met, totals, count, entries.tiles),
            *(fields, _power_of_two(fields), _GAUSSIANS_PER_PROGRAM),
        )
    v, v_dy, v_dy2, v_u, v_dy_u, v_u2 = totals[..., : kernels.NUM_MOMENTS].double().unbind(-1)
    _, _, slope, fall_y, fall, _ = geometry
    # from the gradient of log(alpha) to that of the exponent of two
    ln2 = math.log(2.0)
    grad_x = 2 * ln2 * fall * v_u
    grad_geometry = (
        grad_x,
        2 * ln2 * fall_y * v_dy - slope * grad_x,
        2 * ln2 * fall * v_dy_u,
        -ln2 * v_dy2,
        -ln2 * v_u2,
        ln2 * v,
    )
    grad_centers, grad_covariances, grad_opacities = pull_back(grad_geometry)
    return (
        grad_centers,
        grad_covariances,
        totals[..., kernels.NUM_MOMENTS :].contiguous(),
        grad_opacities,
        grad_background.sum(1),
    )


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


rasterize = register("cuda", _forward, _backward)
