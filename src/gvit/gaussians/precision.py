"""Numbers that a lower precision would spoil, whatever precision the caller's networks run in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)

_lock = threading.Lock()
_inside = 0  # how many are in ``_exact_products``, of all threads
_give_back: list[Callable[[], None]] = []


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products are computed in the precision of what they are given: without autocast, TF32 or bfloat16.

    While a model is compiled or exported, the caller's choice of TF32 stays. It is one for all threads and devices:
    others compute without TF32, too, while this lasts.
    """
    # where only shapes are computed, and where a graph is recorded
    if not torch.amp.is_autocast_available(device.type) or torch.compiler.is_exporting():
        return nullcontext()
    without_autocast = torch.autocast(device.type, enabled=False)
    return without_autocast if torch.compiler.is_compiling() else _exact_products(without_autocast)


@contextmanager
def _exact_products(without_autocast: AbstractContextManager[object]) -> Iterator[None]:
    """The setting is of all threads: the first one in changes it, the last one out gives it back."""
    global _inside
    with _lock:
        if _inside == 0:
            _give_back.extend(_ask_for_exact_products())
        _inside += 1
    try:
        with without_autocast:
            yield
    finally:
        with _lock:
            _inside -= 1
            while _inside == 0 and _give_back:
                _give_back.pop()()


def _ask_for_exact_products() -> list[Callable[[], None]]:
    """What gives back what was changed."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # was chosen backend by backend, which PyTorch does not let be mixed with this
        of_all: Any = torch.backends
        chosen = []
        for backend, above in ((of_all.cuda, of_all), (of_all.mkldnn, of_all.mkldnn)):
            own = backend.matmul.fp32_precision
            # "none" follows the setting above it
            chosen.append((backend.matmul, "none" if own == above.fp32_precision else own))
        for setting, _ in chosen:
            setting.fp32_precision = "ieee"
        return [partial(setattr, setting, "fp32_precision", precision) for setting, precision in chosen]
    if before == "highest":
        return []
    torch.set_float32_matmul_precision("highest")
    return [partial(torch.set_float32_matmul_precision, before)]


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the one dtype that holds them, of 32 bits or more."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)
