"""Gaussians that were fitted, edited or masked are read as what they draw."""

import math

import pytest
import torch

import gvit
from gvit.errors import InputError

K = 6


@pytest.fixture(scope="module", params=["gvit_tiny_denoising", "gaussian_vit_tiny"])
def model(request):
    torch.manual_seed(0)
    return gvit.create_model(request.param, num_classes=4, num_gaussians=K, scale_factor=1.5).eval()


@pytest.fixture
def gaussians():
    generator = torch.Generator().manual_seed(0)
    return gvit.Gaussians(torch.randn(3, K, 9, generator=generator), 1.5, K)


def test_gaussians_in_the_models_bounds_are_read_as_they_are(model, gaussians):
    assert torch.equal(model.classify(gaussians), model.classifier(gaussians.raw))


def test_the_same_gaussians_under_other_bounds_are_read_alike(model, gaussians):
    expected = model.classify(gaussians)
    other = gaussians.with_bounds(scale_factor=4.0, nominal_count=3)
    assert not torch.allclose(other.raw, gaussians.raw, atol=0.1)
    torch.testing.assert_close(model.classify(other), expected, rtol=1e-4, atol=1e-4)
    # the numbers alone, in bounds that are not theirs, are something else
    misread = gvit.Gaussians(other.raw, 1.5, K)
    assert (model.classify(misread) - expected).abs().max() > 1e-2


def test_another_aspect_is_stretched_as_the_renderer_does(model, gaussians):
    wide = gvit.Gaussians(gaussians.raw, 1.5, K, aspect=0.5)
    stretched = wide.with_bounds(scale_factor=1.5, nominal_count=K, aspect=1.0)
    torch.testing.assert_close(model.classify(wide), model.classify(stretched), rtol=1e-4, atol=1e-4)
    picture = gvit.render(wide, 64, 64)
    assert (gvit.render(stretched, 64, 64) - picture).abs().mean() < 5e-3
    assert (model.classify(wide) - model.classify(gaussians)).abs().max() > 1e-2


def test_a_removed_gaussian_is_read_as_one_that_is_not_drawn(model, gaussians):
    keep = torch.tensor([True, False, True, True, False, True])
    fewer, dropped = gaussians[:, keep], gaussians.drop(~keep)
    assert len(fewer) == 4
    expected = model.classify(dropped)
    torch.testing.assert_close(model.classify(fewer), expected, rtol=1e-5, atol=1e-6)
    assert (expected - model.classify(gaussians)).abs().max() > 1e-3
    # whichever place it has in the order of drawing: its token keeps its place
    torch.testing.assert_close(model.classify(fewer[:, [3, 1, 0, 2]]), expected, rtol=1e-5, atol=1e-6)


def test_what_is_removed_has_nothing_to_say(model, gaussians):
    mask = torch.zeros(3, K, dtype=torch.bool)
    mask[0, 2] = mask[1, 4] = True
    changed = gaussians.raw.clone()
    changed[mask] = 3 * torch.randn(2, 9)
    other = gaussians.replace_raw(changed)
    torch.testing.assert_close(model.classify(other.drop(mask)), model.classify(gaussians.drop(mask)))


def test_more_gaussians_than_the_model_reads_are_refused(model):
    many = gvit.Gaussians(torch.zeros(1, K + 1, 9), 1.5, K)
    with pytest.raises(InputError, match=f"there are {K + 1} Gaussians, but the model reads at most {K}"):
        model.classify(many)


def test_a_model_of_pixels_reads_no_gaussians(gaussians):
    with pytest.raises(InputError, match="the model reads images, not Gaussians"):
        gvit.create_model("vit_tiny_patch8").classify(gaussians)


def test_an_edited_colour_changes_the_logits_and_the_picture_only_there(model, gaussians):
    red = gaussians.colors.clone()
    red[:, 0] = torch.tensor([1.0, 0.0, 0.0])
    edited = gaussians.replace(colors=red)
    assert (model.classify(edited) - model.classify(gaussians)).abs().max() > 1e-4
    others = [i for i in range(K) if i]
    assert torch.equal(edited.raw[:, others, :5], gaussians.raw[:, others, :5])
    assert math.isclose(edited.colors[0, 0, 0].item(), 1.0, abs_tol=1e-5)
