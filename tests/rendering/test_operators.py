"""The operators inside PyTorch: compiled, exported, in half precision; inputs left alone."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import random_scene
from torch import nn
from torch.autograd import forward_ad

from forked import Forked
from gvit import Gaussians, fit, render
from gvit.rendering import rasterize

# tests run with checks of annotations; torch.compile can't look through them, and users don't have them
UNCHECKED = os.environ.get("GVIT_TEST_UNCHECKED") == "1"
unchecked_only = pytest.mark.skipif(not UNCHECKED, reason="run by test_compiles_and_explains_when_unchecked")


@pytest.mark.skipif(UNCHECKED, reason="this is that process")
def test_compiles_and_explains_when_unchecked():
    flags = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-k", "compile or wrong_types"]
    status, printed, complained = Forked(
        *("-m", "pytest", *flags, __file__),
        cwd=Path(__file__).parents[2],
        environment={"GVIT_TEST_UNCHECKED": "1"},
    ).communicate()
    assert status == 0, printed[-4000:] + complained[-2000:]
    assert "4 passed" in printed


class Painter(nn.Module):
    """A small model that renders."""

    def __init__(self, backend):
        super().__init__()
        self.layer, self.backend = nn.Linear(8, 5 * 9), backend

    def forward(self, features):
        gaussians = Gaussians(self.layer(features).unflatten(-1, (5, 9)))
        return render(gaussians, 12, 10, backend=self.backend)


@unchecked_only
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_compiles_without_graph_breaks(backend):
    torch.manual_seed(0)
    model, features = Painter(backend), torch.randn(4, 8)
    # inductor needs a C++ compiler; tracing, autograd and fake kernels are the same without it
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(model(features).square().sum(), list(model.parameters()))
    got = torch.autograd.grad(compiled(features).square().sum(), list(model.parameters()))
    torch.testing.assert_close(compiled(features), model(features))
    torch.testing.assert_close(got, wanted)


def test_exports_with_the_reference():
    model, features = Painter("reference"), torch.randn(4, 8)
    exported = torch.export.export(model, (features,), strict=False)
    torch.testing.assert_close(exported.module()(features), model(features))


@unchecked_only
def test_a_compiled_model_still_checks_its_numbers():
    compiled = torch.compile(
        lambda *tensors: rasterize(*tensors, 8, 8)[0], fullgraph=True, backend="aot_eager"
    )
    scene = random_scene(2, 4, 8, 8)
    compiled(*scene[:4])
    scene.opacities[1, 2] = float("nan")
    with pytest.raises(ValueError, match=r"opacities must be finite, got nan at index \[1, 2\]"):
        compiled(*scene[:4])


@unchecked_only
def test_wrong_types_are_explained():
    centers, *others = random_scene(2, 4, 8, 8)[:4]
    with pytest.raises(ValueError, match="centers must be a tensor, got ndarray"):
        rasterize(centers.numpy(), *others, 8, 8)
    with pytest.raises(ValueError, match=r"height must be a whole number of pixels, got 8\.0"):
        rasterize(centers, *others, 8.0, 8)
    assert rasterize(centers, *others, np.int64(8), 8)[1].shape == (2, 8, 8)
    with pytest.raises(ValueError, match=r"gaussians must be gvit\.Gaussians, got Tensor"):
        render(torch.zeros(4, 9), 8, 8)
    with pytest.raises(ValueError, match="height must be a whole number of pixels, got '8'"):
        render(Gaussians(torch.zeros(4, 9)), "8", 8)
    with pytest.raises(ValueError, match=r"expected images \(.*\), got int"):
        fit(3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype):
    scene = [tensor.to(dtype).requires_grad_() for tensor in random_scene(2, 5, 9, 8)]
    lifted = [tensor.detach().float().requires_grad_() for tensor in scene]
    image, alpha = rasterize(*scene[:4], 9, 8, background=scene[4])
    wanted, _ = rasterize(*lifted[:4], 9, 8, background=lifted[4])
    assert image.dtype == alpha.dtype == torch.float32
    assert torch.equal(image, wanted)
    got = torch.autograd.grad(image.sum(), scene)
    for gradient, exact in zip(got, torch.autograd.grad(wanted.sum(), lifted), strict=True):
        assert gradient.dtype == dtype
        assert torch.equal(gradient, exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_background_of_half_precision_is_lifted_with_the_gaussians(dtype):
    raw = torch.randn(2, 5, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    background = torch.tensor([0.25, 0.5, 1.0], dtype=dtype, requires_grad=True)
    lifted = background.detach().float().requires_grad_()
    image = render(Gaussians(raw), 9, 8, background=background)
    wanted = render(Gaussians(raw.float()), 9, 8, background=lifted)
    assert image.dtype == torch.float32
    assert torch.equal(image, wanted)
    (gradient,) = torch.autograd.grad(image.sum(), background)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, torch.autograd.grad(wanted.sum(), lifted)[0].to(dtype))
    with pytest.raises(ValueError, match=f"background is {dtype}, but colors is torch.float64"):
        render(Gaussians(raw.double()), 9, 8, background=background)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_finite_gradients(dtype, backend):
    center, covariance = torch.full((1, 2), 128.0), 1e4 * torch.eye(2)[None]
    scene = [center, covariance, torch.ones(1, 3), torch.full((1,), 0.5)]
    tensors = [tensor.to(dtype).requires_grad_() for tensor in scene]
    image, _ = rasterize(*tensors, 256, 256, backend=backend)
    # each pixel's share is in the dtype's range, their sum is not
    slopes = torch.full_like(image, torch.finfo(dtype).max / 1e4)
    by_opacity = torch.autograd.grad(image, tensors, slopes)[3]
    assert by_opacity.item() == torch.finfo(dtype).max


def test_float64_goes_to_the_reference():
    scene = [tensor.double() for tensor in random_scene(2, 5, 9, 8)]
    image, _ = rasterize(*scene[:4], 9, 8)
    assert image.dtype == torch.float64


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_inputs_are_left_alone(backend):
    scene = random_scene(2, 5, 9, 8)
    kept = [tensor.clone() for tensor in scene]
    inputs = [tensor.requires_grad_() for tensor in scene]
    rasterize(*inputs[:4], 9, 8, background=inputs[4], backend=backend)[0].sum().backward()
    assert all(map(torch.equal, inputs, kept))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_layout_and_batch_dimensions_do_not_matter(backend):
    scene = random_scene(6, 5, 9, 8)
    wanted, _ = rasterize(*scene[:4], 9, 8, background=scene.background, backend=backend)
    shaped = [t.transpose(0, -1).contiguous().transpose(0, -1).reshape(2, 3, *t.shape[1:]) for t in scene]
    image, alpha = rasterize(*shaped[:4], 9, 8, background=shaped[4], backend=backend)
    assert image.shape == (2, 3, 3, 9, 8)
    assert alpha.shape == (2, 3, 9, 8)
    assert torch.equal(image.flatten(0, 1), wanted)
    single, _ = rasterize(*(t[0] for t in scene[:4]), 9, 8, background=scene.background[0], backend=backend)
    assert torch.equal(single, wanted[0])


def test_one_background_for_all_collects_its_gradient():
    scene = random_scene(3, 5, 9, 8)
    shared = torch.rand(3, requires_grad=True)
    each = shared.detach().expand(3, 3).clone().requires_grad_()
    for background in (shared, each):
        rasterize(*scene[:4], 9, 8, background=background)[0].square().sum().backward()
    torch.testing.assert_close(shared.grad, each.grad.sum(0))


def test_clipped_alpha_gets_no_geometry():
    """Where alpha_max clips, moving the Gaussian changes nothing."""
    center = torch.tensor([[0.5, 0.5]], requires_grad=True)
    opacity = torch.ones(1, requires_grad=True)
    image, _ = rasterize(center, 100 * torch.eye(2)[None], torch.ones(1, 1), opacity, 1, 1, alpha_max=0.9)
    image.sum().backward()
    assert image.item() == pytest.approx(0.9)
    assert not center.grad.any()
    assert not opacity.grad.any()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_a_gradient_of_the_gradient_is_refused_in_a_line(backend):
    gaussians = Gaussians(torch.zeros(1, 5, 9, requires_grad=True))
    drawn = render(gaussians, 8, 8, backend=backend)
    (gradient,) = torch.autograd.grad(drawn.square().sum(), gaussians.raw, create_graph=True)
    with pytest.raises(
        RuntimeError, match="first derivatives only: take their gradient without create_graph"
    ):
        gradient.square().sum().backward()


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_forward_mode_is_refused_in_a_line(backend):
    raw = torch.zeros(1, 5, 9)

    def draw(raw):
        return render(Gaussians(raw), 8, 8, backend=backend)

    refused = pytest.raises(RuntimeError, match="no forward-mode derivatives, and centers has a tangent")
    with refused:
        torch.func.jvp(draw, (raw,), (raw,))
    with refused:
        torch.func.jacfwd(draw)(raw)
    with forward_ad.dual_level(), refused:
        draw(forward_ad.make_dual(raw.clone().requires_grad_(), raw))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_default_dtype_changes_nothing(backend, default):
    scene = [tensor.requires_grad_() for tensor in random_scene(2, 5, 9, 8)]

    def drawn():
        image, alpha = rasterize(*scene[:4], 9, 8, background=scene[4], backend=backend)
        return image, alpha, *torch.autograd.grad(image.square().sum() + alpha.sum(), scene)

    wanted = drawn()
    usual = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = drawn()
    finally:
        torch.set_default_dtype(usual)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_pictures_may_be_written_into(backend):
    scene = [tensor.requires_grad_() for tensor in random_scene(2, 5, 9, 8)]

    def gradients(scale, bound):
        image, alpha = rasterize(*scene[:4], 9, 8, background=scene[4], backend=backend)
        return torch.autograd.grad(bound(image).square().sum() + scale(alpha).square().sum(), scene)

    wanted = gradients(lambda alpha: alpha * 3, lambda image: image.clamp(0.2, 0.5))
    found = gradients(lambda alpha: alpha.mul_(3), lambda image: image.clamp_(0.2, 0.5))
    assert all(map(torch.equal, found, wanted))
