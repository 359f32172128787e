"""Scores of patches, by what they are defined as."""

import pytest
import torch

import gvit
from gvit.analysis.patches import PATCH_METHODS, attribute_patches, patch_map, without_pixels

GRID = (2, 2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = gvit.create_model("vit_tiny_patch8", num_classes=4, img_size=16)
    # fresh weights are so small that everything is nearly linear
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CLASSES = torch.tensor([2, 0])


def chosen(model, images):
    return model(images).gather(1, CLASSES.unsqueeze(1))[:, 0]


def test_patches_cover_the_image_row_by_row():
    assert patch_map((2, 2), 4, 4).tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    # a grid need not divide the sides
    assert patch_map((1, 3), 1, 8).tolist() == [[0, 0, 0, 1, 1, 1, 2, 2]]


def test_pixels_that_are_taken_out_have_the_mean_color(images):
    keep = torch.rand(2, 16, 16) > 0.5
    found = without_pixels(images, keep)
    kept = keep.unsqueeze(1).expand_as(images)
    torch.testing.assert_close(found[kept], images[kept], rtol=0, atol=0)
    means = images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(found[~kept], means[~kept])


@torch.no_grad()
def test_occlusion_is_what_the_logit_loses_without_a_patch(model, images):
    found = attribute_patches(model, images, "occlusion", CLASSES, GRID)
    patches = patch_map(GRID, 16, 16)
    for number in range(4):
        without = without_pixels(images, (patches != number).expand(2, -1, -1))
        expected = chosen(model, images) - chosen(model, without)
        torch.testing.assert_close(found[:, number], expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("method", "samples"), [("shap", 2), ("ig", 200)])
def test_shapley_values_and_integrated_gradients_sum_to_what_all_patches_add(model, images, method, samples):
    found = attribute_patches(model, images, method, CLASSES, GRID, samples=samples)
    nothing = without_pixels(images, torch.zeros(2, 16, 16, dtype=torch.bool))
    expected = chosen(model, images) - chosen(model, nothing)
    torch.testing.assert_close(found.sum(1), expected, rtol=1e-3, atol=1e-3)


def test_slopes_are_those_of_autograd(model, images):
    read = []
    handle = model.blocks[-1].norm1.register_forward_hook(lambda *args: read.append(args[2]))
    shown = images.clone().requires_grad_()
    slopes, of_tokens = torch.autograd.grad(chosen(model, shown).sum(), [shown, read[0]])
    handle.remove()
    added = ((images - images.mean((2, 3), keepdim=True)) * slopes).sum(1)
    by_patch = added.unfold(1, 8, 8).unfold(2, 8, 8).sum((3, 4)).flatten(1)
    torch.testing.assert_close(attribute_patches(model, images, "ixg", CLASSES, GRID), by_patch)
    expected = (read[0] * of_tokens).sum(-1)[:, 1:].detach()
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(attribute_patches(model, images, "cdam", CLASSES, GRID), expected)


@pytest.mark.parametrize("method", PATCH_METHODS)
def test_scores_are_one_a_patch_and_leave_the_model_as_it_was(model, images, method):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    with torch.inference_mode():
        found = attribute_patches(model, images.clone(), method, CLASSES, GRID, samples=2, seed=3)
    assert found.shape == (2, 4)
    assert found.isfinite().all()
    assert len(found.unique()) == 8  # no silent zero
    assert not found.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(block.attn.fused_attn == model.blocks[0].attn.fused_attn for block in model.blocks)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(
        attribute_patches(model, images, method, CLASSES, GRID, samples=2, seed=3), found
    )
    model.eval()
