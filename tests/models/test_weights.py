"""Model files hold everything that a model was built with, and files of the first version are converted."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import gvit
from gvit.models import registry
from gvit.models.architecture import Architecture
from gvit.models.encoder import QueryEncoder
from gvit.models.gvit import GViT
from gvit.models.tokens import CanonicalTokens, PatchTokens, RawTokens
from gvit.models.vit import ViT


def described(path) -> dict:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["gvit.model"])


def test_a_file_holds_every_argument(tmp_path):
    file = tmp_path / "model.safetensors"
    gvit.save_model(gvit.create_model("gvit_tiny_denoising", num_classes=3, noise_std=0.25), file)
    found = described(file)
    assert found["architecture"] == {
        "encoder": {
            **{"kind": "denoising", "img_size": 32, "patch_size": 8, "in_chans": 3, "num_gaussians": 32},
            **{"scale_factor": 1.0, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0},
            **{"noise_std": 0.25, "noise_seed": 0},
        },
        "tokens": {
            **{"kind": "canonical", "img_size": 32, "num_gaussians": 32, "scale_factor": 1.0, "embed_dim": 96}
        },
        "vit": {
            **{"num_classes": 3, "pool": "token", "depth": 3, "num_heads": 3, "mlp_ratio": 2.0},
            "drop_path_rate": 0.0,
            "drop_rate": 0.0,
        },
    }
    assert found["name"] == "gvit_tiny_denoising"


def test_changed_defaults_orphan_no_weights(tmp_path, monkeypatch):
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3).eval()
    torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.1)  # zero at first: it would see no image
    gvit.save_model(model, tmp_path / "model.safetensors")
    entries = dict(registry._ENTRIES)
    monkeypatch.setattr(registry, "_ENTRIES", entries)
    images = torch.rand(2, 3, 32, 32)
    entries["gvit_tiny_denoising"] = entries["gvit_base"]
    assert torch.equal(gvit.load_model(tmp_path)(images), model(images))
    del entries["gvit_tiny_denoising"]  # not even the name has to be known
    assert torch.equal(gvit.load_model(tmp_path)(images), model(images))


def directly_built():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "num_gaussians": 5, "scale_factor": 0.5}
    encoder = QueryEncoder(patch_size=8, embed_dim=12, depth=1, num_heads=2, **sizes)
    yield GViT(encoder, ViT(RawTokens(embed_dim=8, **sizes), 3, "avg", depth=1, num_heads=2))
    yield ViT(CanonicalTokens(16, 5, 0.5, 8), num_classes=3, depth=1, num_heads=2, mlp_ratio=3.0)
    yield ViT(PatchTokens(16, 8, embed_dim=8), num_classes=3, depth=1, num_heads=2)


@pytest.mark.parametrize("model", list(directly_built()), ids=["gvit", "gaussians", "patches"])
def test_models_that_were_built_directly_can_be_saved_and_loaded(model, tmp_path):
    model.eval()
    gvit.save_model(model, tmp_path / "model.safetensors")
    loaded = gvit.load_model(tmp_path)
    inputs = model.tokens.example() if model.encoder is None else model.encoder.patch_embed.example()
    inputs = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(inputs), model(inputs))
    assert Architecture.of(loaded) == Architecture.of(model)


def test_a_file_of_another_number_of_channels_than_models_are_made_of_by_name_loads(tmp_path):
    model = ViT(PatchTokens(16, 8, 1, 8), num_classes=3, depth=1, num_heads=2).eval()
    gvit.save_model(model, tmp_path / "model.safetensors")
    grey = torch.rand(2, 1, 16, 16)
    assert torch.equal(gvit.load_model(tmp_path)(grey), model(grey))
    with pytest.raises(ValueError, match="in_chans must be 3"):
        gvit.create_model("vit_tiny_patch8", in_chans=1)


def test_the_default_gvit_is_gvit_s():
    with torch.device("meta"):
        model = GViT()
    assert Architecture.of(model) == registry.architecture("gvit_small")


def test_parts_that_do_not_fit_together_are_refused():
    encoder = QueryEncoder(img_size=16, patch_size=8, num_gaussians=5, embed_dim=12, depth=1, num_heads=2)
    with pytest.raises(ValueError, match=r"num_gaussians, scale_factor and img_size must agree, got \(5, 1"):
        GViT(encoder, ViT(CanonicalTokens(16, 6, embed_dim=8), depth=1, num_heads=2))
    with pytest.raises(ValueError, match="must read Gaussians, got one that reads images"):
        GViT(encoder, ViT(PatchTokens(16, 8, embed_dim=8), depth=1, num_heads=2))


# what gvit 0.1.0 wrote into its files: names of models, and what differed from their defaults of then
FIRST_FORMAT = {
    "gvit_tiny": ({"scale_factor": 0.7, "num_classes": 10}, 32, 32),
    "gvit_small": ({"num_classes": 4, "encoder": "queries", "num_gaussians": 6, "pool": "avg"}, 224, 6),
    "gaussian_vit_tiny": ({"img_size": 64, "num_gaussians": 5, "tokens": "raw", "num_classes": 2}, 64, 5),
    "vit_tiny_patch8": ({"img_size": 64, "num_classes": 2}, 64, 64),
    "vit_base_patch32": ({"drop_path_rate": 0.1}, 224, 49),
}


@pytest.mark.parametrize("name", FIRST_FORMAT)
def test_files_of_the_first_version_load(name, tmp_path):
    kwargs, img_size, tokens = FIRST_FORMAT[name]
    today = "gvit_tiny_denoising" if name == "gvit_tiny" else name
    model = gvit.create_model(today, **kwargs)
    card = {
        "name": name,
        "kwargs": kwargs,
        "preprocessing": {
            **{"img_size": img_size, "crop_mode": "squash", "crop_pct": 0.9, "interpolation": "bicubic"}
        },
        "class_names": [f"class {index}" for index in range(model.num_classes)],
    }
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file, {"gvit.model": json.dumps(card)})
    loaded = gvit.load_model(file)
    assert Architecture.of(loaded) == Architecture.of(model)
    assert loaded.tokens.num_patches == tokens
    assert loaded.card.preprocessing.crop_pct == 0.9
    assert len(loaded.card.class_names) == model.num_classes
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in model.state_dict().items())


def test_numbers_of_numpy_are_numbers(tmp_path, unchecked):
    model = gvit.create_model("gvit_tiny_denoising", num_classes=np.int64(3), scale_factor=np.float32(0.5))
    gvit.save_model(model, tmp_path / "model.safetensors")
    assert described(tmp_path / "model.safetensors")["architecture"]["vit"]["num_classes"] == 3
    model.reset_classifier(np.int64(7))
    gvit.save_model(model, tmp_path / "model.safetensors")
    assert gvit.load_model(tmp_path).num_classes == 7


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("vit", "mlp_ratio", 1e6, r"mlp.fc1.bias has shape \[192\], in a model of its arguments"),
        ("vit", "depth", 3000, "it tells of 3000 blocks and has"),
        ("encoder", "num_gaussians", 10**9, "num_gaussians must be a whole number, at least 1 and at most"),
        ("preprocessing", "crop_pct", 0, "crop_pct"),
        ("preprocessing", "crop_mode", "left", "crop_mode must be center, squash, got 'left'"),
    ],
)
def test_sizes_that_lie_take_no_memory(tmp_path, unchecked, part, name, value, said):
    file = tmp_path / "model.safetensors"
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3)
    gvit.save_model(model, file)
    lies = described(file)
    (lies if part == "preprocessing" else lies["architecture"])[part][name] = value
    save_file(model.state_dict(), file, {"gvit.model": json.dumps(lies)})
    with pytest.raises(ValueError, match=said), memory_below(10**6):
        gvit.load_model(file)


@contextmanager
def memory_below(numbers: int):
    """In any one tensor that is drawn at random, as weights are when they are made."""
    normal, uniform = torch.Tensor.normal_, torch.Tensor.uniform_

    def counted(draw):
        def drawn(tensor, *args, **kwargs):
            assert tensor.is_meta or tensor.numel() <= numbers
            return draw(tensor, *args, **kwargs)

        return drawn

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "normal_", counted(normal))
        patch.setattr(torch.Tensor, "uniform_", counted(uniform))
        yield


def test_a_card_names_as_many_classes_as_there_are(tmp_path):
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3)
    model.card = replace(model.card, class_names=("a", "b"))
    with pytest.raises(ValueError, match="not saved: its card names 2 classes, and it has 3"):
        gvit.save_model(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_of_a_newer_version_is_named(tmp_path):
    file = tmp_path / "model.safetensors"
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3)
    gvit.save_model(model, file)
    newer = described(file) | {"format": 3}
    save_file(model.state_dict(), file, {"gvit.model": json.dumps(newer)})
    with pytest.raises(ValueError, match="format 3, which a newer gvit wrote"):
        gvit.load_model(file)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model, file = gvit.create_model("gvit_tiny", num_classes=3), tmp_path / "model.safetensors"
    gvit.save_model(model, file)
    metadata = {"gvit.model": json.dumps(described(file))}
    for value in (float("nan"), float("inf")):
        with torch.no_grad():
            model.classifier.norm.bias[1] = value
        with pytest.raises(
            ValueError, match=r"not saved: classifier.norm.bias is NaN or infinite somewhere$"
        ):
            gvit.save_model(model, file)
        gvit.load_model(file)  # what was there before
        save_file(model.state_dict(), tmp_path / "other.safetensors", metadata)
        with pytest.raises(ValueError, match=r"other.safetensors: classifier.norm.bias is NaN or infinite"):
            gvit.load_model(tmp_path / "other.safetensors")


def _other_head(model):
    model.classifier.head = torch.nn.Linear(96, 7)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_other_head, r"classifier.head.weight has shape \[7, 96\], in a model of its arguments \[3, 96\]"),
        (
            lambda model: setattr(model.classifier, "head", torch.nn.Identity()),
            "it has no weight classifier.head",
        ),
        (
            lambda model: model.prune_intermediate_layers([0], prune_head=False),
            "it has no weight classifier.blocks",
        ),
        (lambda model: model.add_module("extra", torch.nn.Linear(1, 1)), "has no weight extra.weight"),
    ],
)
def test_what_could_not_be_loaded_again_takes_no_file_s_place(tmp_path, change, reason):
    model, file = gvit.create_model("gvit_tiny", num_classes=3), tmp_path / "model.safetensors"
    gvit.save_model(model, file)
    before = file.read_bytes()
    change(model)
    with pytest.raises(ValueError, match=f"model.safetensors: not saved: .*{reason}"):
        gvit.save_model(model, file)
    assert file.read_bytes() == before


def test_a_new_head_of_the_classifier_alone_is_the_models(tmp_path):
    model = gvit.create_model("gvit_tiny", num_classes=3).eval()
    model.classifier.reset_classifier(7)
    assert model.num_classes == model.pretrained_cfg["num_classes"] == 7
    gvit.save_model(model, tmp_path / "model.safetensors")
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(gvit.load_model(tmp_path)(images), model(images))


def test_a_file_of_other_weights_is_told_by_them(tmp_path):
    model, file = gvit.create_model("gvit_tiny", num_classes=3), tmp_path / "model.safetensors"
    gvit.save_model(model, file)
    weights = model.state_dict() | {"more": torch.zeros(1)}
    save_file(weights, file, {"gvit.model": json.dumps(described(file))})
    with pytest.raises(
        ValueError, match=r"not written by gvit \(a model of its arguments has no weight more\)"
    ):
        gvit.load_model(file)


def test_a_compiled_model_is_saved_as_what_it_compiles(tmp_path):
    model, file = gvit.create_model("gvit_tiny", num_classes=3), tmp_path / "model.safetensors"
    model.encoder.blocks = torch.compile(model.encoder.blocks)
    gvit.save_model(torch.compile(model), file)
    random_state = torch.get_rng_state()
    gvit.save_model(torch.compile(model), file)
    assert torch.equal(torch.get_rng_state(), random_state)
    loaded = gvit.load_model(file).state_dict()
    assert {name.replace("_orig_mod.", "") for name in model.state_dict()} == loaded.keys()
