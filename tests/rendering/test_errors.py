import importlib.util
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from scenes import random_scene
from torch._subclasses.fake_tensor import FakeTensorMode

from gvit.errors import InputError
from gvit.rendering import cpu, cuda, memory, rasterize
from gvit.rendering.operators import Constants


def draw(height=6, width=5, **changes):
    scene = dict(
        zip(("centers", "covariances", "colors", "opacities"), random_scene(2, 3, 6, 5), strict=False)
    )
    options = {name: changes.pop(name) for name in list(changes) if name not in scene}
    return rasterize(**(scene | changes), height=height, width=width, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"centers": torch.zeros(2, 3, 3)}, r"centers must have shape \[2, 3, 2\].*got \[2, 3, 3\]"),
        ({"covariances": torch.zeros(2, 3, 3)}, r"covariances must have shape \[2, 3, 2, 2\]"),
        ({"opacities": torch.zeros(2, 4)}, r"opacities must have shape \[2, 3\].*got \[2, 4\]"),
        ({"opacities": torch.zeros(1, 3)}, r"opacities must have shape \[2, 3\].*got \[1, 3\]"),
        ({"colors": torch.zeros(3)}, r"colors must have shape \[\.\.\., K, C\], got \[3\]"),
        ({"colors": torch.zeros(2, 3, 33)}, "1 to 32 channels, got 33"),
        ({"colors": torch.zeros(2, 3, 0)}, "1 to 32 channels, got 0"),
        ({"background": torch.zeros(4)}, r"background must have shape \[3\] or \[2, 3\], got \[4\]"),
        (
            {"opacities": torch.zeros(2, 3, dtype=torch.int64)},
            "opacities must have a float dtype of 16, 32 or 64 bits, got torch.int64",
        ),
        ({"centers": torch.zeros(2, 3, 2).double()}, "centers is torch.float64, but colors is torch.float32"),
        ({"centers": torch.zeros(2, 3, 2, device="meta")}, "centers is on meta, but colors is on cpu"),
        ({"height": 0}, "at least 1, got 0 x 5"),
        ({"width": -1}, "at least 1, got 6 x -1"),
        ({"height": 10**20}, "height must be at most 2147483647 pixels, got 100000000000000000000"),
        (
            {"colors": torch.zeros(2, 3, 3, dtype=torch.float8_e4m3fn)},
            "colors must have a float dtype of 16, 32 or 64 bits, got torch.float8",
        ),
        ({"blur": -0.1}, "blur must be .* got -0.1"),
        ({"blur": 1e154}, r"blur must be in \[0, 1e\+30\] square pixels, got 1e\+154"),
        ({"blur": float("nan")}, "blur must be .* got nan"),
        (
            {"blur": torch.tensor(0.3, requires_grad=True)},
            "blur must be a number, got a tensor that requires a gradient: it gets none",
        ),
        ({"alpha_max": 1.5}, r"alpha_max must be in \(0, 1\], got 1.5"),
        ({"alpha_min": 1.0}, r"alpha_min must be in \[0, 1\), got 1.0"),
        ({"alpha_min": 0.6, "alpha_max": 0.5}, "alpha_min must be at most alpha_max, 0.5, got 0.6"),
        ({"transmittance_min": -1e-4}, r"transmittance_min must be in \[0, 1\)"),
        ({"backend": "metal"}, "backend must be 'auto' or one of 'reference', 'cpu', 'cuda', got 'metal'"),
    ],
    ids=str,
)
def test_explains(unchecked, changes, message):
    with pytest.raises(ValueError, match=message):
        draw(**changes)


def test_of_one_image_a_background_has_one_shape():
    scene = random_scene(1, 3, 6, 5)
    with pytest.raises(ValueError, match=r"background must have shape \[3\], got \[4\]"):
        rasterize(*(tensor[0] for tensor in scene[:4]), 6, 5, background=torch.zeros(4))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["centers", "covariances", "colors", "opacities", "background"])
def test_finds_the_first_bad_number(backend, value, name):
    scene = random_scene(2, 3, 6, 5)._asdict()
    index = (1, 2, 1, 0)[: scene[name].ndim] if name != "background" else (1, 2)
    scene[name][index] = value
    if name != "background":
        scene[name][1, 2] = scene[name][1, 2].where(scene[name][1, 2].isfinite(), value)
    with pytest.raises(ValueError, match=rf"{name} must be finite, got {value} at index \[1, 2"):
        rasterize(*list(scene.values())[:4], 6, 5, background=scene["background"], backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_bad_number_of_a_shared_background_has_its_own_index(backend):
    background = torch.tensor([0.0, float("nan"), 0.0])
    with pytest.raises(ValueError, match=r"background must be finite, got nan at index \[1\]"):
        draw(background=background, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 2.0], [2.0, 1.0]],
        [[-0.1, 0.0], [0.0, 1.0]],
        [[1.0, 0.0], [0.0, -0.1]],
        [[0.0, 1.0], [1.0, 0.0]],
    ],
)
def test_finds_the_first_impossible_covariance(backend, matrix):
    covariances = random_scene(2, 3, 6, 5).covariances
    covariances[1, 1:] = torch.tensor(matrix)
    with pytest.raises(ValueError, match=r"covariances must be positive semi-definite.*at index \[1, 1\]"):
        draw(covariances=covariances, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_point_can_be_drawn_with_a_blur_only(backend):
    points = torch.zeros(2, 3, 2, 2)
    image, _ = draw(covariances=points, backend=backend)
    assert image.isfinite().all()
    with pytest.raises(ValueError, match=r"definite with a blur of 0.0 added.*at index \[0, 0\]"):
        draw(covariances=points, blur=0.0, backend=backend)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_rounding_near_zero_is_no_impossible_covariance(backend):
    tiny = torch.tensor([[1.12e-38, 1.1200014e-38], [1.1200014e-38, 1.12e-38]])
    image, _ = draw(covariances=tiny.expand(2, 3, 2, 2), backend=backend)
    points, _ = draw(covariances=torch.zeros(2, 3, 2, 2), backend=backend)
    torch.testing.assert_close(image, points)


def test_fast_backends_refuse_float64():
    doubles = {n: t.double() for n, t in random_scene(2, 3, 6, 5)._asdict().items() if n != "background"}
    for backend in ("cpu", "cuda"):
        with pytest.raises(ValueError, match="use 'reference' for float64"):
            draw(**doubles, backend=backend)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_cuda_needs_a_gpu():
    with pytest.raises(ValueError, match="'cuda' needs tensors on a CUDA device"):
        draw(backend="cuda")


@pytest.mark.parametrize(("backend", "package"), [("cpu", "numba"), ("cuda", "triton")])
def test_says_what_to_install(monkeypatch, backend, package):
    loader = {"cpu": cpu._load, "cuda": cuda._kernels}[backend]
    loader.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"backend '{backend}' needs {package}: pip install {package}"):
        draw(backend=backend)
    loader.cache_clear()


def test_without_a_compiler_it_says_so(monkeypatch):
    from numba.core import config

    cpu._load.cache_clear()
    monkeypatch.setattr(config, "DISABLE_JIT", 1)
    with pytest.raises(ValueError, match="which NUMBA_DISABLE_JIT=1 turns off: unset it, or draw with"):
        draw(backend="cpu")
    cpu._load.cache_clear()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.vjp])
def test_derivatives_by_torch_func_are_refused_in_plain_words(backend, transform):
    scene = random_scene(2, 3, 6, 5)

    def drawn(centers):
        return rasterize(centers, *scene[1:4], 6, 5, backend=backend)[0].sum()

    with pytest.raises(
        RuntimeError, match=r"cannot be differentiated by torch\.func .* use torch\.autograd\.grad"
    ):
        transform(drawn, scene.centers) if transform is torch.func.vjp else transform(drawn)(scene.centers)


@pytest.mark.parametrize(
    ("backend", "what"),
    [
        ("cpu", "an image of 20000 x 20000 pixels needs 9.6 GB"),
        ("reference", "20000 x 20000 pixels with 3 Gau"),
    ],
)
def test_an_image_beyond_the_memory_is_refused(backend, what, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 4 * 10**9)
    one = [tensor[0] for tensor in random_scene(2, 3, 6, 5)[:4]]
    with pytest.raises(InputError, match=rf"{what}.* 4\.0 GB are free"):
        rasterize(*one, 20_000, 20_000, backend=backend)


def test_what_a_thread_keeps_counts_as_memory(monkeypatch):
    """A line of pixels is drawn in a block of 32 of them."""
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 10**8)
    one = [tensor[0] for tensor in random_scene(2, 3, 6, 5)[:4]]
    with pytest.raises(InputError, match=r"400000 x 1 pixels needs 0\.\d GB"):
        rasterize(*one, 1, 400_000, backend="cpu")
    with pytest.raises(InputError, match="up to 16777216 pixels in a row, got 16777217"):
        rasterize(*one, 1, 2**24 + 1, backend="cpu")


def test_a_reference_gradient_beyond_the_memory_is_refused(monkeypatch):
    """It needs more than the image did."""
    scene = [tensor.requires_grad_() for tensor in random_scene(2, 3, 6, 5)[:4]]
    monkeypatch.setattr(memory, "_UNASKED", 0)
    monkeypatch.setattr(memory, "free_memory", lambda: 100 * 2 * 3 * 6 * 5)
    image, _ = rasterize(*scene, 6, 5, backend="reference")
    with pytest.raises(InputError, match="the gradient of 2 images of 5 x 6 pixels with 3 Gaussians"):
        image.sum().backward()


def test_gradients_beyond_the_memory_are_refused(monkeypatch):
    """What they need grows with the images and their Gaussians, not with the pixels."""
    scene = [tensor.requires_grad_() for tensor in random_scene(2, 3, 6, 5)[:4]]
    image, _ = rasterize(*scene, 6, 5, backend="cpu")
    monkeypatch.setattr(memory, "_UNASKED", 0)
    monkeypatch.setattr(memory, "free_memory", lambda: 0)
    monkeypatch.setattr(cpu, "_check_room", lambda *_: None)
    with pytest.raises(
        InputError, match=r"gradient of 6 Gaussians .* draw fewer images or Gaussians at a time"
    ):
        image.sum().backward()


def test_cuda_refuses_what_32_bits_cannot_number(monkeypatch):
    monkeypatch.setattr(cuda, "check_device", lambda device: None)
    monkeypatch.setattr(cuda, "_kernels", lambda: SimpleNamespace(NUM_PARAMS=9))
    for count, channels, numbers in ((2**28, 3, 9 * 2**28), (2**26, 32, 2**31)):
        scene = random_scene(1, 1, 6, 5, channels)
        many = [tensor.expand(1, count, *tensor.shape[2:]) for tensor in scene[:4]]
        with pytest.raises(
            ValueError, match=rf"have {numbers} numbers, and .* draw fewer images or Gaussians"
        ):
            cuda._forward(*many, scene.background, 6, 5, Constants())
    cuda._check_numbers(2, (2**31 - 1) // 18, 3, 2**15, 2**15)
    with pytest.raises(ValueError, match="65536 x 32768 pixels has more of them than the 'cuda' backend"):
        cuda._check_numbers(1, 1, 3, 2**15, 2**16)
    cuda._check_places(2**31 - 1, recording=True)
    with pytest.raises(ValueError, match=r"while a CUDA graph is recorded, .* 2147483648 in all"):
        cuda._check_places(2**31, recording=True)
    with pytest.raises(ValueError, match="the Gaussians meet 2147483648 tiles in all"):
        cuda._check_places(2**31, recording=False)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_device_without_float64_is_refused(backend):
    with FakeTensorMode():  # there need be no such device
        scene = {
            name: torch.empty(tensor.shape, device="mps")
            for name, tensor in random_scene(2, 3, 6, 5)._asdict().items()
        }
        with pytest.raises(
            ValueError, match=r"computes in float64, which mps(:0)? lacks: move the tensors to the"
        ):
            draw(**scene, backend=backend)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody is asked")
def test_files_that_a_container_has_read_are_free_memory(tmp_path, monkeypatch):
    for name, text in (
        ("max", "3000000"),
        ("current", "2900000"),
        ("stat", "anon 5\ninactive_file 200\nactive_file 50"),
    ):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    files = ("inactive_file", "active_file")
    monkeypatch.setattr(memory, "_LIMITS", [(tmp_path, "memory.max", "memory.current", files)])
    assert memory.free_memory() == 100_250
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory() > 100_250


def test_the_free_memory_is_some_of_the_machine_s():
    assert 0 < memory.free_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
