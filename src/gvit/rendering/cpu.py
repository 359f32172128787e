"""The CPU backend: Numba."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gvit.rendering import cpu_kernels as kernels
from gvit.rendering.operators import Constants, Gradients, Rendered, register

_pool: ThreadPoolExecutor | None = None
_pid = 0


def _executor() -> ThreadPoolExecutor:
    global _pool, _pid
    if _pool is None or _pid != os.getpid():
        _pool, _pid = ThreadPoolExecutor(os.cpu_count(), "gvit-render"), os.getpid()
    return _pool


def _spread(kernel: Any, arguments: tuple[Any, ...], tasks: int) -> None:
    threads = torch.get_num_threads()
    chunks = min(tasks, threads * 4) if threads > 1 else 1
    edges = [tasks * i // chunks for i in range(chunks + 1)]
    jobs = iter(zip(edges[:-1], edges[1:], strict=True))

    def work() -> None:
        for first, last in jobs:
            kernel(*arguments, first, last)

    futures = [_executor().submit(work) for _ in range(min(threads, chunks) - 1)]
    work()
    for future in futures:
        future.result()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _prepare(centers, covariances, opacities, height, constants):
    params = np.empty((*opacities.shape, 8))
    rows = np.empty((*opacities.shape, 2), np.int32)
    kernels.prepare(
        centers, covariances, opacities, constants.blur, constants.alpha_min, height, params, rows
    )
    return params, rows


def _forward(
    centers: Tensor,
    covariances: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    height: int,
    width: int,
    constants: Constants,
) -> Rendered:
    batch, _, channels = colors.shape
    image = torch.empty(batch, channels, height, width)
    transmittance = torch.empty(batch, height, width)
    stops = torch.empty(batch, height, width, dtype=torch.int32)
    params, rows = _prepare(_array(centers), _array(covariances), _array(opacities), height, constants)
    blocks = -(-height // kernels.ROWS)
    _spread(
        kernels.forward,
        (
            params,
            rows,
            _array(colors),
            _array(background),
            image.numpy(),
            transmittance.numpy(),
            stops.numpy(),
            *(np.float32(value) for value in constants[1:]),
        ),
        batch * blocks,
    )
    return image, transmittance, stops


def _backward(
    grad_image: Tensor,
    grad_transmittance: Tensor,
    centers: Tensor,
    covariances: Tensor,
    colors: Tensor,
    opacities: Tensor,
    background: Tensor,
    transmittance: Tensor,
    stops: Tensor,
    constants: Constants,
) -> Gradients:
    batch, count, channels = colors.shape
    height = transmittance.shape[-2]
    params, rows = _prepare(_array(centers), _array(covariances), _array(opacities), height, constants)
    blocks = -(-height // kernels.ROWS)
    groups = max(1, min(blocks, -(-32 // max(batch, 1))))
    partial = np.empty((batch * groups, count + 1, 6 + channels))
    _spread(
        kernels.backward,
        (
            _array(grad_image),
            _array(grad_transmittance),
            params,
            rows,
            _array(colors),
            _array(background),
            _array(transmittance),
            _array(stops),
            np.float32(constants.alpha_max),
            np.float32(constants.alpha_min),
            groups,
            partial,
        ),
        batch * groups,
    )
    gradients = tuple(
        torch.empty(tensor.shape) for tensor in (centers, covariances, colors, opacities, background)
    )
    kernels.finish(
        partial,
        groups,
        _array(covariances),
        _array(opacities),
        constants.blur,
        params,
        *(gradient.numpy() for gradient in gradients),
    )
    return gradients


rasterize = register("cpu", _forward, _backward)
