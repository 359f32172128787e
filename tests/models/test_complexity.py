import json

import pytest
import timm

import gvit
from gvit.cli import main
from gvit.models.complexity import complexity


def timm_params(name: str, **kwargs) -> int:
    return sum(p.numel() for p in timm.create_model(name, **kwargs).parameters())


@pytest.mark.parametrize(
    ("ours", "theirs"), [("gvit_small", "vit_small_patch16_224"), ("gvit_base", "vit_base_patch16_224")]
)
def test_gvit_has_the_papers_sizes(ours, theirs):
    cost = complexity(ours, num_classes=0)
    assert cost.encoder_params == pytest.approx(22e6, rel=0.05)
    assert cost.classifier_params == pytest.approx(timm_params(theirs, num_classes=0), rel=0.02)
    assert cost.tokens == 512


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("vit_small_patch16", "vit_small_patch16_224"), ("vit_base_patch32", "vit_base_patch32_224")],
)
def test_patch_baselines_are_timms(ours, theirs):
    assert complexity(ours).classifier_params == timm_params(theirs)
    assert complexity(ours).encoder_params == 0


@pytest.mark.parametrize(  # as published with timm
    ("name", "gmacs"),
    [
        ("vit_small_patch16", 4.61),
        ("vit_small_patch32", 1.15),
        ("vit_base_patch16", 17.58),
        ("vit_base_patch32", 4.41),
    ],
)
def test_multiply_adds_are_the_published_ones(name, gmacs):
    assert complexity(name).classifier_gmacs == pytest.approx(gmacs, rel=0.02)


def test_multiply_adds_of_an_encoder_by_hand():
    kwargs = {"img_size": 16, "patch_size": 8, "num_gaussians": 5, "encoder_dim": 12, "encoder_depth": 1}
    cost = complexity("gvit_tiny", encoder_heads=2, **kwargs)
    tokens, width, hidden = 4 + 5, 12, 24
    patches, gaussians = 4 * 3 * 8 * 8 * width, 5 * 9 * width
    attention = tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width
    mlp, head = 2 * tokens * width * hidden, 5 * (width * width + width * 9)
    # the head reads only the Gaussian tokens
    assert cost.encoder_gmacs * 1e9 == pytest.approx(patches + gaussians + attention + mlp + head)


def test_models_are_listed_with_their_costs(capsys):
    assert main(["models", "gvit_*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[2:-1]] == gvit.list_models("gvit_*")
    assert main(["models", "vit_base_patch16", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["classifier_params"] == complexity("vit_base_patch16").classifier_params


def test_a_pattern_that_fits_none_is_bad_input(capsys):
    assert main(["models", "resnet*"]) == 2
    assert "gvit: error: no model is called 'resnet*'; there are: gvit_base" in capsys.readouterr().err
