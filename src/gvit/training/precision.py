"""In which number format the networks run; the models themselves know nothing of it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "bf16", "float64"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """The context that the networks are called in while training."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
