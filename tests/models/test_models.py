import math

import pytest
import timm
import torch

import gvit
from forked import forked
from gvit.errors import InputError
from gvit.models.encoder import ENCODERS, GaussianEncoder


def million_parameters(module: torch.nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_sizes_are_the_papers():
    with torch.device("meta"):
        small, base = gvit.create_model("gvit_small"), gvit.create_model("gvit_base")
    assert million_parameters(small.encoder) == pytest.approx(22, rel=0.05)
    # timm's ViT-S/16 and ViT-B/16 without their heads have 21.7 M and 85.8 M
    assert million_parameters(small.classifier.blocks) == pytest.approx(21.3, rel=0.02)
    assert million_parameters(base.classifier.blocks) == pytest.approx(85.1, rel=0.02)
    assert million_parameters(base.encoder) == million_parameters(small.encoder)


def tiny_encoder(kind="denoising", **kwargs) -> GaussianEncoder:
    torch.manual_seed(0)
    defaults = {"img_size": 16, "patch_size": 8, "num_gaussians": 5}
    return ENCODERS[kind](**defaults, embed_dim=12, depth=1, num_heads=2, **kwargs)


def test_denoising_starts_from_the_noise_and_follows_it():
    encoder, images = tiny_encoder(noise_std=0.2), torch.rand(2, 3, 16, 16)
    noise = torch.randn(2, 5, 9)
    torch.testing.assert_close(encoder(images, noise), 0.2 * noise)
    torch.testing.assert_close(encoder(images), 0.2 * encoder.noise.expand(2, -1, -1))
    torch.nn.init.normal_(encoder.head[-1].weight)
    assert not torch.allclose(encoder(images, noise), 0.2 * noise)


def test_the_fixed_noise_comes_from_its_seed_alone():
    torch.manual_seed(1)
    one = tiny_encoder(noise_seed=3).noise
    torch.manual_seed(2)
    assert torch.equal(tiny_encoder(noise_seed=3).noise, one)
    assert not torch.equal(tiny_encoder(noise_seed=4).noise, one)


def test_denoising_sees_the_image():
    encoder = tiny_encoder()
    torch.nn.init.normal_(encoder.head[-1].weight)
    one, other = encoder(torch.rand(2, 3, 16, 16))
    assert (one - other).abs().max() > 1e-3


def test_a_width_that_its_heads_cannot_share_is_refused_with_both_numbers():
    told = "model gvit_tiny_denoising: encoder_dim=96 is no multiple of encoder_heads=5"
    with pytest.raises(InputError, match=told):
        gvit.create_model("gvit_tiny_denoising", encoder_heads=5)


def test_queries_start_apart():
    raw = tiny_encoder(kind="queries")(torch.rand(1, 3, 16, 16))[0]
    assert torch.pdist(raw[:, :2]).min() > 1e-3


def test_raw_and_canonical_tokens_differ_in_what_they_tell_apart():
    kwargs = {"num_gaussians": 4, "num_classes": 3}
    raw = torch.randn(1, 4, 9)
    turned = raw.clone()
    turned[..., 4] += math.pi
    for tokens, same in (("canonical", True), ("raw", False)):
        torch.manual_seed(0)
        classifier = gvit.create_model("gvit_tiny_denoising", tokens=tokens, **kwargs).classifier.eval()
        assert torch.allclose(classifier(raw), classifier(turned), atol=1e-4) is same, tokens


def test_average_pooling_has_no_class_token():
    classifier = gvit.create_model("gvit_tiny_denoising", pool="avg", num_classes=3).classifier
    assert classifier.cls_token is None
    assert classifier(torch.randn(2, 32, 9)).shape == (2, 3)


def test_checkpointing_reaches_encoder_and_classifier():
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3)
    images, raw = torch.rand(1, 3, 32, 32), torch.randn(1, 32, 9)
    for network, argument in ((model.encoder, images), (model.classifier, raw)):
        plain = kept_for_backward(network, argument)
        model.set_grad_checkpointing()
        assert kept_for_backward(network, argument) < plain / 2
        model.set_grad_checkpointing(False)
        assert kept_for_backward(network, argument) == plain


def kept_for_backward(network: torch.nn.Module, argument: torch.Tensor) -> int:
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept: sizes.append(kept.numel()), lambda _: None):
        network(argument)
    return sum(sizes)


def test_the_patch_baseline_of_the_tiny_model_has_its_classifier():
    classifier = gvit.create_model("gvit_tiny_denoising").classifier
    patches = gvit.create_model("vit_tiny_patch8")
    assert patches.patch_embed.grid_size == (4, 4)
    for part in ("blocks", "norm", "head"):
        ours, theirs = getattr(classifier, part).state_dict(), getattr(patches, part).state_dict()
        assert {name: t.shape for name, t in ours.items()} == {name: t.shape for name, t in theirs.items()}
        assert ours
    assert patches.blocks[0].attn.num_heads == classifier.blocks[0].attn.num_heads == 3


@pytest.mark.parametrize("name", ["small_patch16", "small_patch32", "base_patch16", "base_patch32"])
def test_patch_models_compute_what_timms_do(name):
    """timm's models take images from -1 to 1."""
    small = {"img_size": 64, "num_classes": 5}
    ours = gvit.create_model(f"vit_{name}", **small, depth=2).eval()
    theirs = timm.create_model(f"vit_{name}_224", **small, depth=2).eval()
    theirs.load_state_dict(ours.state_dict())
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(images), theirs(images * 2 - 1), rtol=1e-4, atol=1e-5)


def test_linear_layers_of_patch_models_start_as_those_of_gvit():
    for model in (
        gvit.create_model("vit_tiny_patch8", num_classes=5),
        gvit.create_model("gvit_tiny_denoising"),
    ):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear) and module.weight.abs().max():
                bound = (6 / sum(module.weight.shape)) ** 0.5
                assert module.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
                assert module.bias.abs().max() == 0


def test_arguments_that_a_model_does_not_have_are_named():
    for name, argument in (("vit_tiny_patch8", "num_gaussians"), ("gvit_tiny_denoising", "num_gausians")):
        with pytest.raises(InputError, match=f"^model {name}: it has no argument '{argument}'$"):
            gvit.create_model(name, **{argument: 3})


POOLS = """
import gvit

for name in ("vit_tiny_patch8", "gvit_tiny_denoising"):
    try:
        gvit.create_model(name, pool="max")
    except ValueError as error:
        print(error)
"""


def test_an_unknown_pool_is_refused(tmp_path):
    """In a process of its own, where the tests' type checker doesn't come first."""
    (tmp_path / "pools.py").write_text(POOLS)
    assert forked(tmp_path / "pools.py").splitlines() == 2 * ["pool must be 'token' or 'avg', got 'max'"]


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "vit_tiny_patch8"])
def test_patches_have_to_cover_the_image(name):
    with pytest.raises(InputError, match="patch_size must divide img_size, got 8 and 30"):
        gvit.create_model(name, img_size=30)


def test_a_file_of_weights_is_named_as_one(tmp_path):
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3)
    for name in ("model.json", "model", "run"):
        (tmp_path / "run").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"name a file that ends in \.safetensors"):
            gvit.save_model(model, tmp_path / name)
    with pytest.raises(
        InputError, match=r"model\.safetensors: cannot be written \(No such file or directory\)"
    ):
        gvit.save_model(model, tmp_path / "nowhere" / "model.safetensors")


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'gvit_smal'; nearest: gvit_small"):
        gvit.create_model("gvit_smal")


def test_list_models_takes_patterns():
    assert gvit.list_models("*_tiny*8") == ["vit_tiny_patch8"]
    assert gvit.list_models("gvit_*") == [
        *("gvit_base", "gvit_small", "gvit_small_refining", "gvit_tiny", "gvit_tiny_denoising")
    ]
    kinds = ("gaussian_vit_*", "gvit_*", "vit_*")
    assert sorted(name for kind in kinds for name in gvit.list_models(kind)) == gvit.list_models()


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    gvit.save_model(gvit.create_model("gvit_tiny_denoising", num_classes=3), path)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:-10], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
            gvit.load_model(tmp_path)


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        gvit.load_model(tmp_path / "nowhere")
