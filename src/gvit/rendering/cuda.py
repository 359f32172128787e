"""The CUDA backend: Triton kernels over (image, tile), deterministic, without atomics.

No global sort is needed: each tile lists, in index order, the Gaussians whose ellipse meets it. Gradients are
kept per entry of such a list and added up in order. Runs under Triton's interpreter on a CPU for testing.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvit.rendering.operators import Constants, Gradients, Rendered, register

_GAUSSIANS_PER_PROGRAM = 64
_LISTED_AT_ONCE = 128
_COLLECTED_PER_PROGRAM = 32
# A warp does a tile; small ones where large ones would be too few to fill a GPU.
_TILE, _SMALL_TILE, _FEW_TILES = 16, 8, 8192
# Lists with a place for every Gaussian need no length, which the CPU would have to wait for; up to so many places.
_ROOMY = 4_000_000
_MOST_PLACES = 2**31 - 1
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


def _check_numbers(batch: int, count: int, channels: int, height: int, width: int) -> None:
    """Raise a ValueError where the kernels' 32 bits can't number pixels, or the Gaussians' parameters or colours."""
    if height * width > _MOST_PLACES:
        raise ValueError(
            f"an image of {width} x {height} pixels has more of them than the 'cuda' backend can number, {_MOST_PLACES}"
        )
    numbers = batch * count * max(_kernels().NUM_PARAMS, channels)
    if numbers > _MOST_PLACES:
        raise ValueError(
            f"{batch} images of {count} Gaussians with {channels} channels have {numbers} numbers, and the 'cuda' "
            f"backend takes no more than {_MOST_PLACES}: draw fewer images or Gaussians at a time"
        )


def _check_places(places: int, recording: bool) -> None:
    """Raise a ValueError where 32 bits can't number the places in all the tiles' lists."""
    if places > _MOST_PLACES:
        needed = (
            f"while a CUDA graph is recorded, each tile has a place for every Gaussian, {places} in all"
            if recording
            else f"the Gaussians meet {places} tiles in all"
        )
        raise ValueError(
            f"{needed}, and no more than {_MOST_PLACES} can be numbered: draw fewer images at a time"
        )


class _Scene(NamedTuple):
    """What both passes read, contiguous, and its size."""

    centers: Tensor
    covariances: Tensor
    colors: Tensor
    opacities: Tensor
    background: Tensor
    height: int
    width: int
    constants: Constants

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, Gaussians, channels."""
        batch, count, channels = self.colors.shape
        return batch, count, channels

    @property
    def tile(self) -> int:
        """Its side, pixels."""
        large = self.shape[0] * -(-self.height // _TILE) * -(-self.width // _TILE)
        return _SMALL_TILE if large < _FEW_TILES else _TILE

    @property
    def tiles_x(self) -> int:
        return -(-self.width // self.tile)

    @property
    def tiles_y(self) -> int:
        return -(-self.height // self.tile)

    @property
    def low(self) -> float:
        """The logarithm of the smallest alpha that is drawn, to the base of two."""
        alpha_min = self.constants.alpha_min
        return max(math.log2(alpha_min), _LOWEST) if alpha_min > 0 else _LOWEST


def _scene(tensors: tuple[Tensor, ...], height: int, width: int, constants: Constants) -> _Scene:
    batch, count, channels = tensors[2].shape
    _check_numbers(batch, count, channels, height, width)
    centers, covariances, colors, opacities, background = (tensor.contiguous() for tensor in tensors)
    return _Scene(centers, covariances, colors, opacities, background, height, width, constants)


class _Entries(NamedTuple):
    """See ``cuda_kernels``."""

    parameters: Tensor  # float32 [B, K, 9]
    gaussians: Tensor  # int32 [entries]: index of the Gaussian
    starts: Tensor  # int32 [B * tiles]
    ends: Tensor  # int32 [B * tiles]


def _find_entries(scene: _Scene, check: bool) -> _Entries | None:
    """None where ``check`` finds a number that can't be drawn."""
    kernels = _kernels()
    batch, count, channels = scene.shape
    device, tiles = scene.colors.device, scene.tiles_x * scene.tiles_y
    parameters = scene.colors.new_empty(batch, count, kernels.NUM_PARAMS)
    bad = torch.zeros(1, dtype=torch.int32, device=device)
    if batch and count:
        kernels.prepare[(-(-count // _GAUSSIANS_PER_PROGRAM) * batch,)](
            *scene[:5],
            *(parameters, bad, count, scene.constants.blur, channels, check, _GAUSSIANS_PER_PROGRAM),
            num_warps=1,
        )

    def list_entries(starts: Tensor, ends: Tensor, gaussians: Tensor, write: bool) -> None:
        if batch:
            kernels.list_entries[(tiles * batch,)](
                *(parameters, starts, ends, gaussians, count, scene.tiles_x, tiles, scene.low),
                *(scene.tile, write, _LISTED_AT_ONCE),
                num_warps=1,
            )

    ends = torch.empty(batch * tiles, dtype=torch.int32, device=device)
    places = batch * tiles * count
    # a graph that is being recorded can't wait, neither for a length nor for the verdict
    recording = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if places <= _ROOMY or recording:
        if check and not recording and bad.item():
            return None
        _check_places(places, recording)
        starts = torch.arange(batch * tiles, dtype=torch.int32, device=device) * count
    else:
        list_entries(ends, ends, ends, write=False)
        counts, sums = ends, ends.cumsum(0)
        found, places = torch.cat((bad, sums[-1:])).tolist()
        if check and found:
            return None
        _check_places(places, recording)
        ends = sums.int()
        starts = ends - counts
    gaussians = torch.empty(places, dtype=torch.int32, device=device)
    list_entries(starts, ends, gaussians, write=True)
    return _Entries(parameters, gaussians, starts, ends)


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
    kernels = _kernels()
    scene = _scene((centers, covariances, colors, opacities, background), height, width, constants)
    batch, count, channels = scene.shape
    entries = _find_entries(scene, check=True)
    if entries is None or not (count or scene.background.isfinite().all()):
        return None
    tiles = scene.tiles_x * scene.tiles_y
    image = colors.new_empty(batch, channels, height, width)
    alpha, transmittance = (colors.new_empty(batch, height, width) for _ in range(2))
    stops = colors.new_empty(batch, height, width, dtype=torch.int32)
    if batch:
        kernels.forward[(tiles * batch, -(-channels // kernels.GROUP))](
            *(entries.parameters, scene.colors, scene.background, *entries[1:]),
            *(image, alpha, transmittance, stops),
            *(count, height, width, scene.tiles_x, tiles, *constants.for_float32()[1:]),
            *(scene.tile, channels),
            num_warps=1,
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
    height, width = transmittance.shape[-2:]
    scene = _scene((centers, covariances, colors, opacities, background), height, width, constants)
    batch, count, channels = scene.shape
    if grad_image is None:
        grad_image = colors.new_zeros(batch, channels, scene.height, scene.width)
    if grad_alpha is None:
        grad_alpha = torch.zeros_like(transmittance)
    entries = _find_entries(scene, check=False)
    assert entries is not None
    tiles, groups = scene.tiles_x * scene.tiles_y, -(-channels // kernels.GROUP)
    places = len(entries.gaussians)
    sums = colors.new_empty(groups, places, kernels.NUM_FIELDS)
    grad_background = colors.new_zeros(batch, tiles, channels)
    gradients = tuple(torch.empty_like(x) for x in scene[:4])
    if batch:
        kernels.backward[(tiles * batch, groups)](
            *(entries.parameters, scene.colors, scene.background, *entries[1:]),
            *(grad_image.contiguous(), grad_alpha.contiguous()),
            *(transmittance.contiguous(), stops.contiguous(), sums, grad_background),
            *(
                count,
                scene.height,
                scene.width,
                scene.tiles_x,
                tiles,
                constants.alpha_max,
                constants.alpha_min,
            ),
            *(places, scene.tile, channels),
            num_warps=1,
        )
    if batch and count:
        kernels.collect[(-(-count // _COLLECTED_PER_PROGRAM) * batch,)](
            *(entries.parameters, scene.covariances, scene.opacities, *entries[1:], sums, *gradients),
            *(count, scene.tiles_x, scene.tiles_y, scene.low, places, count.bit_length()),
            *(constants.blur, scene.tile, channels, groups, _COLLECTED_PER_PROGRAM),
            num_warps=1,
        )
    return *gradients, grad_background.sum(1)  # type: ignore[return-value]


def _on_their_device(work: Callable[..., Any]) -> Callable[..., Any]:
    """Triton starts kernels on the current device, which need not be the tensors' own."""

    @functools.wraps(work)
    def guarded(*arguments: Any) -> Any:
        with torch.cuda.device_of(next(x for x in arguments if isinstance(x, Tensor))):
            return work(*arguments)

    return guarded


rasterize: Callable[..., Rendered] = register("cuda", _on_their_device(_forward), _on_their_device(_backward))
