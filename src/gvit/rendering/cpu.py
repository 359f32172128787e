"""The CPU backend: Numba kernels over blocks of rows, on ``torch.get_num_threads()`` threads.

The threads are Python's own, kernels run without the interpreter's lock: unlike Numba's thread pools these
can be used from several threads at once and in a forked process (a data loader's worker, for which PyTorch
sets one thread).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import os
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from gvit.errors import InputError
from gvit.rendering.memory import drawing, refuse_beyond_memory
from gvit.rendering.operators import Constants, Gradients, Rendered, register

_logger = logging.getLogger("gvit")
_import_lock = threading.Lock()

# below this many (row, Gaussian) pairs, 0.1 ms of work, waking a thread costs more than it saves
_SPANS_PER_THREAD = 2_000
# an image is differentiated in this many parts if it is alone: more than any number of threads worth having
# here
_GROUPS = 32
_WIDEST = 2**24  # float32 knows each column up to it


def _writable(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            return True
    except OSError:
        return False


def _cache_directory() -> Path:
    """Where compiled kernels are kept: named by their source, for Numba looks at one file's date alone."""
    here = Path(__file__).parent
    sources = (here / name for name in ("cpu_kernels.py", "spans.py", "simd.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    name = f"gvit-kernels-{digest[:16]}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    base = Path(chosen) if chosen else user_cache_path("gvit", appauthor=False)
    if _writable(base / name):
        return base / name
    # what is loaded from here is executed: it must be nobody else's
    shared = Path(tempfile.gettempdir()) / f"{name}-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    if _writable(shared) and (not hasattr(os, "getuid") or shared.lstat().st_uid == os.getuid()):
        return shared
    return Path(tempfile.mkdtemp(prefix=name))


@functools.cache
def _load() -> ModuleType:
    try:
        import numba  # noqa: F401
        from numba.core import config, event
    except ImportError as error:
        raise InputError("backend 'cpu' needs numba: pip install numba") from error
    # Numba's stubs don't know its settings
    settings: Any = config
    if settings.DISABLE_JIT:
        raise InputError(
            "backend 'cpu' needs Numba's compiler, which NUMBA_DISABLE_JIT=1 turns off: unset it, or draw with "
            "backend='reference'"
        )

    class Announcer(event.Listener):
        told = False

        def on_start(self, event: Any) -> None:
            if not self.told:
                self.told = True
                _logger.warning("gvit compiles its CPU renderer, once per machine: some ten seconds")

        def on_end(self, event: Any) -> None:
            pass

    announcer = Announcer()
    default = settings.CACHE_DIR
    event.register("numba:compile", announcer)
    settings.CACHE_DIR = str(_cache_directory())
    try:
        from gvit.rendering import cpu_kernels
    finally:
        settings.CACHE_DIR = default
        event.unregister("numba:compile", announcer)
    return cpu_kernels


def _kernels() -> ModuleType:
    with _import_lock:
        return _load()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), "gvit-render")


def _forget_pool() -> None:
    global _import_lock
    _import_lock = threading.Lock()
    _pool.cache_clear()


# a forked process has none of its parent's threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _spread(kernel: Any, arguments: tuple[Any, ...], tasks: int, spans: int) -> None:
    """Run ``kernel(*arguments, first, last)`` over all tasks on the threads there are."""
    threads = min(torch.get_num_threads(), tasks, 1 + spans // _SPANS_PER_THREAD)
    if threads == 1:
        kernel(*arguments, 0, tasks)
        return
    # several portions per thread, since they differ in work
    portions = min(tasks, 8 * threads)
    turn = itertools.count()

    def work() -> None:
        while (portion := next(turn)) < portions:
            kernel(*arguments, tasks * portion // portions, tasks * (portion + 1) // portions)

    others: list[Future[None]] = []
    with suppress(RuntimeError):  # the interpreter is ending: this thread does all of it
        others.extend(_pool().submit(work) for _ in range(threads - 1))
    work()
    for other in others:
        if not other.cancel():
            other.result()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _prepare(
    inputs: tuple[np.ndarray, ...], height: int, constants: Constants
) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Parameters and row ranges of the Gaussians, number of (row, Gaussian) pairs; None: not to be drawn."""
    kernels = _kernels()
    shape = inputs[3].shape
    params, rows = np.empty((*shape, kernels.NUM_PARAMS)), np.empty((*shape, 2), np.int32)
    spans = np.empty(shape[0], np.int64)
    arguments = (*inputs, constants.blur, constants.alpha_min, height, params, rows, spans)
    _spread(kernels.prepare, arguments, shape[0], rows.size // 2)
    return None if (spans < 0).any() else (params, rows, int(spans.sum()))


def _check_room(batch: int, height: int, width: int, channels: int, others: int) -> None:
    """Raise an InputError for an image that is too wide, or does not fit into memory with what each thread needs."""
    if width > _WIDEST:
        raise InputError(f"the 'cpu' backend draws images of up to {_WIDEST} pixels in a row, got {width}")
    numbers = channels + others  # of a pixel; a thread keeps a block of rows, as wide as the image
    threads = min(torch.get_num_threads(), batch * -(-height // _kernels().BLOCK))
    kept = height * batch + _kernels().BLOCK * threads
    refuse_beyond_memory(4 * numbers * kept * width, drawing(batch, height, width))


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
    batch, _, channels = colors.shape
    _check_room(batch, height, width, channels, 3)
    image = colors.new_empty(batch, channels, height, width)
    alpha, transmittance = (colors.new_empty(batch, height, width) for _ in range(2))
    stops = colors.new_empty(batch, height, width, dtype=torch.int32)
    inputs = tuple(map(_array, (centers, covariances, colors, opacities, background)))
    prepared = _prepare(inputs, height, constants)
    if prepared is None:
        return None
    params, rows, spans = prepared
    _spread(
        _kernels().forward,
        (
            *(params, rows, inputs[2], inputs[4]),
            *(tensor.numpy() for tensor in (image, alpha, transmittance, stops)),
            *map(np.float32, constants.for_float32()[1:]),
        ),
        batch * -(-height // _kernels().BLOCK),
        spans,
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
    _check_room(batch, height, width, channels, 5)
    inputs = tuple(map(_array, (centers, covariances, colors, opacities, background)))
    prepared = _prepare(inputs, height, constants)
    assert prepared is not None, "the forward pass drew these"
    params, rows, spans = prepared
    # by the size of the problem alone, so that the order of summation is the same for any number of threads
    groups = max(1, min(-(-height // kernels.BLOCK), _GROUPS // max(batch, 1)))
    partial_shape = (batch * groups, count + 1, kernels.NUM_MOMENTS + channels)
    # for every Gaussian in each group of rows, however many pixels these have
    refuse_beyond_memory(
        8 * math.prod(partial_shape),
        f"the gradient of {batch * count} Gaussians",
        fewer="images or Gaussians",
    )
    partial = np.empty(partial_shape)
    _spread(
        kernels.backward,
        (
            *(params, rows, inputs[2], inputs[4]),
            np.zeros((batch, channels, height, width), np.float32)
            if grad_image is None
            else _array(grad_image),
            np.zeros((batch, height, width), np.float32) if grad_alpha is None else _array(grad_alpha),
            *(_array(transmittance), _array(stops)),
            *(np.float32(constants.alpha_max), np.float32(constants.alpha_min)),
            *(groups, partial),
        ),
        batch * groups,
        spans,
    )
    gradients = tuple(
        tensor.new_empty(tensor.shape) for tensor in (centers, covariances, colors, opacities, background)
    )
    _spread(
        kernels.finish,
        (
            *(partial, groups, params, rows, height, inputs[1], inputs[3], constants.blur),
            *(gradient.numpy() for gradient in gradients),
        ),
        batch,
        batch * count,
    )
    return gradients  # type: ignore[return-value]


rasterize: Callable[..., Rendered] = register("cpu", _forward, _backward)
