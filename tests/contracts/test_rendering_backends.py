"""Every fast backend against the float64 reference: a backend never changes the meaning.

On a machine without a GPU, ``cuda`` runs in a process of its own under Triton's interpreter, at the smaller
sizes.
"""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "rendering"))
from scenes import SCENES, Comparison, Scene, compare, random_scene

from forked import Forked
from gvit.rendering import cuda, rasterize

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and importlib.util.find_spec("triton") is not None
BACKENDS = ["cpu"] + (["cuda"] if INTERPRETED or ON_GPU else [])
# each image takes the interpreter seconds; that there may be two, one of the sizes shows it
BATCH = 1 if INTERPRETED else 2


def all_bands(height: int, rows: int) -> list[tuple[int, int]]:
    """The whole image, as much at a time as the dense reference has room for."""
    return [(top, min(rows, height - top)) for top in range(0, height, rows)]


# batch, Gaussians, height, width, channels, bands
SMALL = [
    (1, 1, 1, 1, 1, None),
    (2, 7, 5, 3, 3, None),
    (BATCH, 9, 9, 17, 5, None),
    (1, 6, 8, 9, 32, None),
]
LARGE = [
    (64, 32, 32, 32, 3, None),
    (2, 200, 61, 128, 4, None),
    (1, 448, 1, 448, 2, None),
    (1, 200, 224, 224, 3, all_bands(224, 8)),
    (1, 96, 448, 448, 3, [(0, 8), (216, 8), (440, 8)]),
    (16, 512, 224, 224, 3, [(7, 1), (223, 1)]),
    (1, 1024, 448, 448, 3, [(0, 1), (201, 2), (447, 1)]),
    (1, 1024, 447, 301, 32, [(100, 1)]),
]


def on_device(scene: Scene, backend: str) -> Scene:
    return Scene(*(tensor.cuda() for tensor in scene)) if backend == "cuda" and ON_GPU else scene


def assert_same_meaning(comparison: Comparison) -> None:
    assert comparison.image_error <= 1e-5
    assert comparison.alpha_error <= 1e-5
    # there rounding may draw a Gaussian of alpha 1/255 or leave it out
    assert comparison.near_error <= 1 / 255
    assert comparison.near_fraction <= 0.005
    for name, error in comparison.gradient_errors.items():
        assert error <= 1e-5, name
        assert comparison.gradient_cosines[name] > 0.99999, name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("batch", "count", "height", "width", "channels", "bands"), SMALL + LARGE)
def test_sizes(backend, batch, count, height, width, channels, bands):
    if backend == "cuda" and INTERPRETED and (batch, count, height, width, channels, bands) in LARGE:
        pytest.skip("too large for Triton's interpreter")
    scene = random_scene(batch, count, height, width, channels)
    assert_same_meaning(compare(scene, height, width, backend, bands=bands))


# how the Triton backend draws many large pictures; it draws few small ones in the other tests
LARGE_TILES = {"_FEW_TILES": 0, "_ROOMY": 0}
WAYS = [(backend, {}) for backend in BACKENDS if backend == "cpu" or ON_GPU]
WAYS += [("cuda", LARGE_TILES)] * ("cuda" in BACKENDS)


@pytest.mark.parametrize(("backend", "way"), WAYS, ids=str)
@pytest.mark.parametrize("kind", SCENES)
def test_difficult_scenes(backend, way, kind, monkeypatch):
    for name, value in way.items():
        monkeypatch.setattr(cuda, name, value)
    count, height, width = (10, 20, 18) if INTERPRETED else (100, 45, 70)
    assert_same_meaning(compare(SCENES[kind](BATCH, count, height, width), height, width, backend))


@pytest.mark.skipif(INTERPRETED, reason="too large for Triton's interpreter")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thousand_opaque_gaussians_on_top_of_each_other(backend):
    assert_same_meaning(compare(SCENES["opaque stack"](1, 1000, 20, 24), 20, 24, backend))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "constants",
    [
        {"blur": 0.0},
        {"alpha_max": 0.5},
        {"alpha_max": 1.0, "transmittance_min": 0.0},
        {"alpha_min": 0.0},
        {"alpha_min": 0.2, "transmittance_min": 0.3},
    ],
    ids=str,
)
def test_constants(backend, constants):
    scene = random_scene(1, 12, 14, 15)
    comparison = compare(scene, 14, 15, backend, **constants)
    assert_same_meaning(comparison)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("count", "opacity"), [(15, 0.999), (320, 0.3)])
def test_a_transmittance_below_float32s_normal_numbers_spoils_no_gradient(backend, count, opacity):
    """Digits that are lost there would come back as errors of any size."""
    random = torch.Generator().manual_seed(0)
    scene = Scene(
        torch.full((1, count, 2), 0.5),
        4 * torch.eye(2).expand(1, count, 2, 2),
        torch.rand(1, count, 3, generator=random),
        torch.full((1, count), opacity),
        torch.rand(1, 3, generator=random),
    )
    slopes = torch.tensor([1.0, -2.0, 0.5]).reshape(1, 3, 1, 1)

    def gradients(scene, backend):
        inputs = Scene(*(tensor.clone().requires_grad_() for tensor in scene))
        image, alpha = rasterize(
            *(*inputs[:4], 1, 1),
            background=inputs.background,
            alpha_max=1.0,
            transmittance_min=0.0,
            backend=backend,
        )
        loss = (image * slopes.to(image)).sum() + alpha.sum()
        return Scene(*(gradient.cpu().double() for gradient in torch.autograd.grad(loss, inputs)))

    got = gradients(on_device(scene, backend), backend)
    wanted = gradients([tensor.double() for tensor in scene], "reference")
    assert all(gradient.isfinite().all() for gradient in got)
    # Triton's kernel subtracts T*a from T: 1 - a = 0.001 loses three digits each time
    bound = 5e-4 if backend == "cuda" and opacity == 0.999 else 1e-5
    for one, other in ((got.colors, wanted.colors), (got.opacities, wanted.opacities)):
        assert (one - other).norm() <= bound * other.norm()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_an_opacity_of_zero_has_no_gradient(backend):
    scene = random_scene(1, 3, 6, 5)
    scene.opacities[0, 1] = 0
    scene = on_device(scene, backend)
    opacities = scene.opacities.requires_grad_()
    image, alpha = rasterize(*scene[:4], 6, 5, alpha_min=0.0, backend=backend)
    (image.sum() + alpha.sum()).backward()
    first, none, last = opacities.grad[0].tolist()
    assert none == 0
    assert first > 0
    assert last > 0


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_a_gradient_that_is_no_number_is_none(backend):
    scene = [t.requires_grad_() for t in on_device(random_scene(1, 1, 4, 4), backend)[:4]]
    image, _ = rasterize(*scene, 4, 4, backend=backend)
    upstream = torch.zeros_like(image)
    upstream[0, 0, 2, 2] = math.nan
    image.backward(upstream)
    assert all(tensor.grad.isnan().any() for tensor in scene)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_precision_is_not_the_callers(backend):
    scene = [tensor.requires_grad_() for tensor in on_device(random_scene(BATCH, 5, 6, 5), backend)]

    def drawn():
        image, alpha = rasterize(*scene[:4], 6, 5, background=scene[4], backend=backend)
        loss = image.square().sum() + alpha.square().sum()
        return image, alpha, *torch.autograd.grad(loss, scene)

    expected = drawn()
    with torch.autocast(scene[0].device.type, torch.bfloat16):
        found = drawn()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_an_infinite_variance_is_refused(backend):
    for variance in ([[math.inf, 0.0], [0.0, 1.0]], [[math.inf, 0.0], [0.0, math.inf]]):
        scene = random_scene(1, 3, 6, 5)
        scene.covariances[0, 1] = torch.tensor(variance)
        with pytest.raises(ValueError, match=r"covariances must be finite, got inf at index \[0, 1, 0, 0\]"):
            rasterize(*on_device(scene, backend)[:4], 6, 5, backend=backend)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_centres_whose_sum_is_infinite_lie_far_away(backend):
    scene = random_scene(1, 3, 6, 5)
    scene.centers[0, 1] = torch.tensor([3e38, 3e38])
    far = on_device(scene, backend)
    without = on_device(Scene(*(t[:, [0, 2]] for t in scene[:4]), scene.background), backend)
    drawn, expected = (
        rasterize(*inputs[:4], 6, 5, background=inputs.background, backend=backend)[0]
        for inputs in (far, without)
    )
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_nothing_to_draw(backend):
    scene = on_device(random_scene(2, 4, 6, 5), backend)
    none = [tensor[:, :0].requires_grad_() for tensor in scene[:4]]
    image, alpha = rasterize(*none, 6, 5, background=scene.background, backend=backend)
    torch.testing.assert_close(image, scene.background[:, :, None, None].expand(2, 3, 6, 5))
    assert not alpha.any()
    image.sum().backward()
    image, alpha = rasterize(*(tensor[:0] for tensor in scene[:4]), 6, 5, backend=backend)
    assert image.shape == (0, 3, 6, 5)
    assert alpha.shape == (0, 6, 5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_repeats_are_bit_identical(backend):
    # of two tiles, each of the interpreter's takes a second
    count, height, width = (6, 12, 15) if INTERPRETED else (200, 20, 30)
    results = []
    for _ in range(2 if INTERPRETED else 3):
        scene = [t.requires_grad_() for t in on_device(random_scene(BATCH, count, height, width), backend)]
        image, _ = rasterize(*scene[:4], height, width, background=scene[4], backend=backend)
        results.append([image, *torch.autograd.grad(image.square().sum(), scene)])
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_passes_opcheck(backend):
    module = importlib.import_module(f"gvit.rendering.{backend}")
    scene = [t.requires_grad_() for t in on_device(random_scene(BATCH, 3, 6, 5), backend)]
    torch.library.opcheck(module.rasterize, (*scene, 6, 5, 0.3, 0.999, 1 / 255, 1e-4))


@pytest.mark.skipif(INTERPRETED or ON_GPU, reason="cuda is among the backends of this process")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_cuda_under_the_interpreter():
    # annotations are checked in this process
    flags = ["-o", "addopts=--import-mode=importlib", "-p", "no:cacheprovider", "-q", "-x", "-k", "cuda"]
    status, printed, complained = Forked(
        *("-m", "pytest", *flags, __file__),
        cwd=Path(__file__).parents[2],
        environment={"TRITON_INTERPRET": "1"},
    ).communicate()
    assert status == 0, printed[-4000:] + complained[-2000:]
    assert "26 passed" in printed
