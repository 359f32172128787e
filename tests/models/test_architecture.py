"""Names and flat arguments become complete arguments of parts."""

import math

import pytest
import torch

from gvit.errors import InputError
from gvit.models.architecture import Architecture
from gvit.models.registry import architecture


def test_flat_arguments_reach_the_parts_that_have_them():
    found = architecture(
        "gvit_tiny_denoising",
        **{"img_size": 64, "mlp_ratio": 3.0, "encoder_dim": 48, "encoder_depth": 2, "encoder_heads": 4},
        **{"embed_dim": 60, "depth": 5, "num_heads": 6, "num_classes": 7, "noise_std": 0.3},
    )
    assert found.encoder is not None
    of_encoder = {
        "img_size": 64,
        "mlp_ratio": 3.0,
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 4,
        "noise_std": 0.3,
    }
    assert found.encoder | of_encoder == found.encoder
    assert found.tokens | {"img_size": 64, "embed_dim": 60} == found.tokens
    assert found.vit | {"mlp_ratio": 3.0, "depth": 5, "num_heads": 6, "num_classes": 7} == found.vit


def test_what_is_not_named_stays():
    before, after = architecture("gvit_base"), architecture("gvit_base", num_gaussians=9)
    assert before.vit == after.vit
    assert {**before.tokens, "num_gaussians": 9} == after.tokens
    assert before.encoder is not None
    assert {**before.encoder, "num_gaussians": 9} == after.encoder


def test_flat_is_what_with_arguments_takes():
    for name in ("gvit_base", "gaussian_vit_small", "vit_tiny_patch8"):
        whole = architecture(name)
        assert architecture(name, img_size=64, depth=7).with_arguments(**whole.flat) == whole
        assert whole.with_arguments(**whole.flat) == whole
        kinds = (whole.tokens["kind"], None if whole.encoder is None else whole.encoder["kind"])
        others = {name: value for name, value in whole.flat.items() if name not in ("tokens", "encoder")}
        assert Architecture.default(*kinds, **others) == whole


@pytest.mark.parametrize("kind", ["queries", "denoising"])
def test_a_transformer_instead_of_the_refining_encoder_is_as_large_as_the_classifier(kind):
    parts = architecture("gvit_tiny", encoder=kind)
    assert parts.encoder is not None
    sizes = {name: parts.encoder[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
    assert sizes == {"embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
    narrow = architecture("gvit_tiny", encoder=kind, encoder_dim=48)
    assert narrow.encoder == parts.encoder | {"embed_dim": 48}
    assert parts.build()(torch.rand(1, 3, 32, 32)).shape == (1, 1000)


def test_another_kind_keeps_the_arguments_that_it_has_too():
    queries = architecture("gvit_tiny_denoising", encoder="queries", num_gaussians=5)
    assert queries.encoder is not None
    assert queries.encoder["kind"] == "queries"
    assert queries.encoder["num_gaussians"] == 5
    assert queries.encoder["embed_dim"] == 96
    assert "noise_std" not in queries.encoder
    raw = architecture("gvit_tiny_denoising", tokens="raw", num_gaussians=5)
    assert raw.tokens == {**architecture("gvit_tiny_denoising", num_gaussians=5).tokens, "kind": "raw"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "gvit_tiny_denoising",
            {"encoder": "quries"},
            "model gvit_tiny_denoising: unknown encoder 'quries'; nearest: queries",
        ),
        (
            "gvit_tiny_denoising",
            {"tokens": "patches"},
            "unknown kind of tokens 'patches'; ",
        ),
        ("vit_tiny_patch8", {"tokens": "raw"}, "unknown kind of tokens 'raw'; there are: patches"),
        ("vit_tiny_patch8", {"encoder": "queries"}, "it has no argument 'encoder'"),
        ("gvit_tiny_denoising", {"vit": "vit"}, "it has no argument 'vit'"),
        (
            "gvit_tiny_denoising",
            {"num_gaussians": 0},
            "num_gaussians must be a whole number, at least 1 and at most 10,000,000, got 0",
        ),
        ("vit_tiny_patch8", {"embed_dim": -3}, "embed_dim must be a whole number, at least 1"),
        ("vit_tiny_patch8", {"patch_size": -8}, "patch_size must be a whole number, at least 1"),
        ("gvit_tiny", {"encoder_dim": -4}, "encoder_dim must be a whole number, at least 1"),
        ("gvit_tiny", {"looks": 2.5}, "looks must be a whole number, at least 1 .*, got 2.5"),
        ("gvit_tiny", {"depth": -1}, "depth must be a whole number, at least 0"),
        ("gvit_tiny", {"mlp_ratio": -1}, "mlp_ratio must be a finite number above 0, got -1"),
        ("gvit_tiny", {"scale_factor": math.nan}, "scale_factor must be a finite number above 0, got nan"),
        ("gvit_tiny", {"drop_path_rate": 2}, "drop_path_rate must be 0 to 1, got 2"),
        *(
            ("gvit_tiny_denoising", {"noise_std": std}, "noise_std must be a finite number, at least 0, got ")
            for std in ("a", math.nan, math.inf, -1.0)
        ),
        *(
            ("gvit_tiny", {"detail": detail}, "detail must be at least 0 and below 1, got ")
            for detail in ("a", math.nan, 1.0, -0.1)
        ),
    ],
)
def test_bad_arguments_are_named(name, arguments, message):
    with pytest.raises(InputError, match=message):
        architecture(name, **arguments)
