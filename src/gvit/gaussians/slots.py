"""Gaussians that are taken out: what an index reaches, what stands where one was, and whether slots are free."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from gvit.errors import InputError
from gvit.gaussians.fields import NUM_FIELDS

# Raw opacity of a removed Gaussian: its sigmoid is 8e-7. Float16 and bfloat16 hold the number exactly.
_REMOVED_OPACITY = -14.0


def removed(like: Tensor) -> Float[Tensor, " fields"]:
    """The raw numbers of a Gaussian that draws nothing."""
    return F.pad(like.new_zeros(NUM_FIELDS - 1), (0, 1), value=_REMOVED_OPACITY)


def as_index(index: Any) -> Any:
    """The same index with copies of arrays: PyTorch warns of read-only ones, and takes none reversed."""
    if isinstance(index, tuple):
        return tuple(map(as_index, index))
    return index.copy() if isinstance(index, np.ndarray) else index


def reaches_gaussians(index: Any, ndim: int) -> bool:
    """Whether an index of raw numbers [..., K, 9] selects along K; in doubt it does."""
    items = index if isinstance(index, tuple) else (index,)
    indexed = 0
    for position, item in enumerate(items):
        if item is None or isinstance(item, bool):  # these add a dimension
            continue
        if item is Ellipsis and position == len(items) - 1:
            break
        if isinstance(item, (Tensor, np.ndarray)):
            indexed += item.ndim if item.dtype in (torch.bool, torch.uint8, np.bool_, np.uint8) else 1
        elif isinstance(item, (Integral, slice)) or (
            isinstance(item, list) and all(isinstance(entry, Integral) for entry in item)
        ):
            indexed += 1
        else:
            return True
    return indexed > ndim - 2


def check_slots(slots: Int64[Tensor, "*batch k"], count: int) -> None:
    """Raise ``InputError`` where a slot is not one of ``count``, or is taken twice in an image."""
    if not slots.numel():
        return
    low, high = (int(slot) for slot in slots.aminmax())
    if low < 0 or high >= count:
        wrong = low if low < 0 else high
        raise InputError(f"there is no slot {wrong} among {count}; slots must be 0 to {count - 1}")
    ordered = slots.sort(-1).values
    twice = ordered[..., 1:][ordered.diff(dim=-1) == 0]
    if twice.numel():
        raise InputError(f"slot {int(twice[0])} is taken twice; each Gaussian needs a slot of its own")
