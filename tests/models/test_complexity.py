"""Counts against what timm and the papers give."""

import pytest
import timm
import torch

import gvit
from gvit.models.complexity import model_complexity


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("size", ["small", "base"])
def test_encoder_and_classifier_have_the_papers_sizes(size):
    with torch.device("meta"):
        theirs = parameters(timm.create_model(f"vit_{size}_patch16_224", num_classes=0))
    over_gaussians, over_patches = model_complexity(f"gvit_{size}"), model_complexity(f"vit_{size}_patch16")
    assert over_gaussians.encoder_parameters == pytest.approx(22e6, rel=0.05)
    assert over_gaussians.classifier_parameters == pytest.approx(theirs, rel=0.02)
    assert over_patches.classifier_parameters == theirs
    assert over_patches.encoder_parameters == over_patches.encoder_gmacs == 0


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("vit_small_patch16", 4.61),
        ("vit_base_patch16", 17.58),
        ("vit_small_patch32", 1.15),
        ("vit_base_patch32", 4.41),
    ],
)
def test_multiply_adds_are_the_published_ones(name, gmacs):
    assert model_complexity(name).classifier_gmacs == pytest.approx(gmacs, rel=0.02)


def test_multiply_adds_of_a_gvit_are_those_on_paper():
    """Width 96, MLP of twice that, 3 blocks: 8 d^2 per token in a block's products, and 2 n^2 d in attention."""
    cost = model_complexity("gvit_tiny_denoising", tokens="raw", num_gaussians=20, num_classes=10)

    def blocks(n: int) -> int:
        return 3 * (8 * 96 * 96 * n + 2 * n * n * 96)

    encoder = 16 * 3 * 64 * 96 + 20 * 9 * 96 + blocks(16 + 20) + 20 * (96 * 96 + 96 * 9)
    classifier = 20 * 9 * 96 + blocks(21) + 96 * 10
    assert cost.encoder_gmacs * 1e9 == pytest.approx(encoder)
    assert cost.classifier_gmacs * 1e9 == pytest.approx(classifier)
    assert (cost.tokens, cost.img_size) == (20, 32)


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "vit_tiny_patch8"])
def test_arguments_count(name):
    kwargs = {"num_classes": 7, "patch_size": 4, "img_size": 16, "pool": "avg"}
    cost, model = model_complexity(name, **kwargs), gvit.create_model(name, **kwargs)
    total = cost.encoder_parameters + cost.classifier_parameters + cost.head_parameters
    assert total == parameters(model)
    assert cost.head_parameters == 7 * 97
    assert cost.img_size == 16
    with pytest.raises(ValueError, match="unknown model"):
        model_complexity(name + "x")
