"""Triton's own compilation of every launch of the CUDA backend, for GPUs that needn't be there.

The interpreter runs the kernels as Python, and so takes what no compiler takes: names, types and launches are
checked here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scenes import random_scene

from gvit.rendering import cuda
from gvit.rendering.operators import Constants

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled there"),
]
KERNELS = {"prepare", "list_entries", "forward", "backward", "collect"}


class Driver:
    """As much of a driver as Triton asks about when it compiles."""

    def __init__(self, backend: str, arch: int | str, warp: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget(backend, arch, warp)

    def get_current_target(self) -> object:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


TARGETS = [("cuda", 80, 32), ("cuda", 90, 32), ("hip", "gfx942", 64)]
SIZES = [(2, 5, 40, 30, 3), (1, 1, 1, 1, 1), (1, 16, 16, 32, 7)]


@pytest.fixture(params=TARGETS, ids=str)
def compiled(request, monkeypatch, tmp_path) -> Iterator[dict[str, list]]:
    """What was compiled, by kernel; a launch compiles and does nothing."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cuda, "check_device", lambda device: None)
    monkeypatch.setattr(type(driver), "active", property(lambda self: Driver(*request.param)), raising=False)
    found: dict[str, list] = {}
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **kwargs: object) -> None:
        self.device_caches.clear()  # of another test's target
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        found.setdefault(self.fn.__name__, []).append(kernel)

    monkeypatch.setattr(JITFunction, "run", compile_only)
    yield found
    for kernel in KERNELS:
        getattr(cuda._kernels(), kernel).device_caches.clear()


def draw(batch: int, count: int, height: int, width: int, channels: int) -> None:
    """Both passes, as the operators call them."""
    scene = random_scene(batch, count, height, width, channels)
    constants = Constants(0.3, 0.999, 1 / 255, 1e-4)
    rendered = cuda._forward(*scene, height, width, constants)
    assert rendered is not None
    image, alpha, transmittance, stops = rendered
    cuda._backward(torch.zeros_like(image), alpha, *scene, transmittance, stops, constants)


# whole numbers that are 1, and those that 16 divides, are compiled in a way of their own
@pytest.mark.parametrize(
    ("compiled", "size"),
    # what sizes specialise is the same for all targets, and the test below compiles the first of them for each
    [*((target, SIZES[0]) for target in TARGETS[1:]), *((TARGETS[0], size) for size in SIZES[1:])],
    indirect=["compiled"],
    ids=str,
)
def test_every_launch_compiles(compiled, size):
    draw(*size)
    assert compiled.keys() == KERNELS
    # of the backend's warps, one does a tile: sums over its pixels pass through no shared memory
    assert {kernel.metadata.shared for kernels in compiled.values() for kernel in kernels} == {0}


def test_large_tiles_and_lists_of_known_length_compile_and_nothing_is_spilled(
    compiled, monkeypatch, tmp_path
):
    """A warp keeps its tile in registers: memory of its own would be slow."""
    monkeypatch.setattr(cuda, "_FEW_TILES", 0)
    monkeypatch.setattr(cuda, "_ROOMY", 0)
    # nothing has been counted
    monkeypatch.setattr(torch, "empty", lambda *size, **kwargs: torch.zeros(*size, **kwargs))
    draw(2, 5, 40, 30, 3)
    assert compiled.keys() == KERNELS
    assert len(compiled["list_entries"]) == 4  # counted, then written, twice
    for name, kernels in compiled.items():
        for kernel in kernels:
            assert kernel.metadata.shared == 0, name  # and needs no other warp
            if "cubin" not in kernel.asm:
                continue
            import triton

            tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
            if not tool.exists():
                pytest.skip("this Triton comes without cuobjdump")
            file = tmp_path / "kernel.cubin"
            file.write_bytes(kernel.asm["cubin"])
            said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True).stdout
            (local,) = re.findall(r"LOCAL:(\d+)", said)
            assert local == "0", (name, said)
