"""Numbers that a lower precision would spoil, whatever precision the caller's networks run in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast on a device: matrix products, too, are computed in the precision of what they are given."""
    # where only shapes are computed, and where a graph is recorded
    if not torch.amp.is_autocast_available(device.type) or torch.compiler.is_exporting():
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Floating point of 32 bits or more; integers, whose range is another, stay."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
