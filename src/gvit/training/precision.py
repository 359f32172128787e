"""In which number format the networks run; the models themselves know nothing of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gvit.gaussians import Gaussians

Precision = Literal["float32", "bf16", "float64"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context that the networks are called in while training."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def keep_float32(*modules: nn.Module) -> None:
    """These modules compute in float32 even under autocast, whatever they are given.

    For the ends of the networks where Gaussians are numbers: in bf16 a centre is off by half a pixel at 224 px.
    """
    for module in modules:
        module.forward = MethodType(_forward_in_float32, module)


def _forward_in_float32(self: nn.Module, *inputs: Tensor | Gaussians, **kwargs: Any) -> Any:
    first = inputs[0]
    device = first.device if isinstance(first, Tensor) else first.raw.device
    with torch.autocast(device.type, enabled=False):
        return type(self).forward(self, *(given.to(torch.float32) for given in inputs), **kwargs)
