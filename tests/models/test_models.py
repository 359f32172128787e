import math

import pytest
import torch

import gvit
from gvit.models.encoder import GaussianEncoder


def tiny_encoder(**kwargs) -> GaussianEncoder:
    torch.manual_seed(0)
    defaults = {"img_size": 16, "patch_size": 8, "num_gaussians": 5}
    return GaussianEncoder(**defaults, embed_dim=12, depth=1, num_heads=2, **kwargs)


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
        classifier = gvit.create_model("gvit_tiny", tokens=tokens, **kwargs).classifier.eval()
        assert torch.allclose(classifier(raw), classifier(turned), atol=1e-4) is same, tokens


def test_average_pooling_has_no_class_token():
    classifier = gvit.create_model("gvit_tiny", pool="avg", num_classes=3).classifier
    assert classifier.cls_token is None
    assert classifier(torch.randn(2, 32, 9)).shape == (2, 3)


def test_timms_methods_are_there():
    classifier = gvit.create_model("gvit_tiny", num_classes=3).classifier
    features = classifier.forward_features(torch.randn(2, 32, 9))
    assert classifier.forward_head(features).shape == (2, 3)
    classifier.reset_classifier(7)
    assert classifier(torch.randn(2, 32, 9)).shape == (2, 7)
    assert "pos_embed" in classifier.no_weight_decay()


def test_unknown_names_get_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'gvit_smal'; nearest: gvit_small"):
        gvit.create_model("gvit_smal")
    with pytest.raises(ValueError, match="num_gausians"):
        gvit.create_model("gvit_tiny", num_gausians=3)


def test_list_models_takes_patterns():
    assert gvit.list_models("*tiny") == ["gvit_tiny"]
    assert {"gvit_tiny", "gvit_small", "gvit_base"} <= set(gvit.list_models())


def test_damaged_weights_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    gvit.save_model(gvit.create_model("gvit_tiny", num_classes=3), path)
    whole = path.read_bytes()
    for damaged in (whole[:1000], whole[:-10], b"", b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.safetensors: damaged"):
            gvit.load_model(tmp_path)


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="no run here"):
        gvit.load_model(tmp_path / "nowhere")
