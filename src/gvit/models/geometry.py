"""Modules that compute with Gaussians as numbers, in float32 whatever runs around them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gvit.gaussians import Gaussians


def keep_float32(*modules: nn.Module) -> None:
    """These modules compute in float32 even under autocast, whatever they are given; without autocast as before.

    For the ends of the networks where Gaussians are numbers: bf16 would move them by a visible part of a pixel.
    """
    for module in modules:
        # not a method: copies of the module and pickles have to get their own
        module.forward = partial(_forward_in_float32, module)


def _forward_in_float32(module: nn.Module, *inputs: Tensor | Gaussians, **kwargs: Any) -> Any:
    forward = type(module).forward
    first = inputs[0]
    device = first.device if isinstance(first, Tensor) else first.raw.device
    if not torch.is_autocast_enabled(device.type):
        return forward(module, *inputs, **kwargs)
    with torch.autocast(device.type, enabled=False):
        return forward(module, *(given.to(torch.float32) for given in inputs), **kwargs)
