"""What every registered model promises."""

import pytest
import torch
from timm.optim import param_groups_layer_decay

import gvit
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.gvit import GViT

# the named models at a size that a test can afford; what a name decides beyond sizes stays
SIZE = {"img_size": 32, "patch_size": 16, "num_classes": 4, "depth": 2}
NAMES = gvit.list_models()
GAUSSIAN = gvit.list_models("gvit_*")


def create(name: str, **kwargs):
    torch.manual_seed(0)
    extra = {"num_gaussians": 6, "encoder_depth": 2} if name in GAUSSIAN else {}
    return gvit.create_model(name, **(SIZE | extra | kwargs)).eval()


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return create(request.param)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_images_become_logits(model, images):
    logits = model(images)
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1]) or isinstance(model, GViT)  # GViT starts from the same noise


@pytest.mark.parametrize("name", NAMES)
def test_named_size(name):
    torch.manual_seed(0)
    model = gvit.create_model(name).eval()
    with torch.inference_mode():
        logits = model(torch.rand(1, 3, model.img_size, model.img_size))
    assert logits.shape == (1, 1000)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", GAUSSIAN)
def test_images_become_gaussians_become_logits(name, images):
    model = create(name)
    gaussians = model.encode(images)
    assert isinstance(gaussians, Gaussians)
    assert gaussians.raw.shape == (2, 6, 9)
    assert torch.equal(model.classify(gaussians), model(images))
    drawn = gvit.render(gaussians, 20, 40)
    assert drawn.shape == (2, 3, 20, 40)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_predictions_do_not_depend_on_the_rest_of_the_batch(model, images):
    torch.testing.assert_close(model(images[1:]), model(images)[1:], rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(model, images):
    model.train()
    if isinstance(model, GViT):
        raw = model.encoder(images, torch.randn(2, 6, 9))
        raw.square().sum().backward()
        model.classifier(raw.detach()).square().sum().backward()
    else:
        model(images).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    model.zero_grad()
    model.eval()
    assert not dead


def test_save_and_load_give_the_same_model(model, images, tmp_path):
    gvit.save_model(model, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = gvit.load_model(path)
        assert not loaded.training
        assert torch.equal(loaded(images), model(images))
        assert loaded.card.name == model.card.name


def test_gradient_checkpointing_keeps_less_and_changes_nothing(model, images):
    if isinstance(model, GViT):
        torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.1)

    def gradients() -> tuple[list[torch.Tensor], int]:
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().sum()
        return list(torch.autograd.grad(loss, list(model.parameters()))), kept

    plain, kept = gradients()
    model.set_grad_checkpointing(True)
    checkpointed, kept_less = gradients()
    model.set_grad_checkpointing(False)
    assert kept_less < 0.7 * kept
    for a, b in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_wrong_images_are_refused_with_the_right_shape(model):
    for wrong in (torch.rand(2, 3, 16, 16), torch.rand(2, 1, 32, 32)):
        with pytest.raises(ValueError, match=r"images must have shape \[B, 3, 32, 32\], got \["):
            model(wrong)


def test_unknown_arguments_are_named(model):
    with pytest.raises(InputError, match=rf"model {model.card.name}: .*num_tokens"):
        gvit.create_model(model.card.name, num_tokens=3)


# timm's contract


def test_features_and_head_make_the_logits(model, images):
    features = model.forward_features(images)
    tokens = 6 if isinstance(model, GViT) else 4
    assert features.shape == (2, tokens + 1, model.num_features)
    assert torch.equal(model.forward_head(features), model(images))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(hidden), model(images))


@pytest.mark.parametrize("name", NAMES)
def test_a_new_head_is_saved_and_loaded(name, images, tmp_path):
    model = create(name)
    model.reset_classifier(7)
    assert model(images).shape == (2, 7)
    if name in GAUSSIAN:
        assert model.num_classes == model.card.kwargs["num_classes"] == 7
        gvit.save_model(model, tmp_path / "model.safetensors")
        assert torch.equal(gvit.load_model(tmp_path)(images), model(images))
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


def test_layer_decay_grows_from_the_embedding_to_the_head(model):
    spared = model.no_weight_decay()
    embeddings = [name for name, _ in model.named_parameters() if name.endswith("pos_embed")]
    assert embeddings
    assert spared >= set(embeddings)
    groups = param_groups_layer_decay(model, 0.05, no_weight_decay_list=list(spared), layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(scale) == len(named)
    prefix = "classifier." if isinstance(model, GViT) else ""
    order = ["patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight", "head.weight"]
    scales = [scale[id(named[prefix + name])] for name in order]
    assert scales == [0.125, 0.25, 0.5, 1.0]
    assert {decay[id(named[name])] for name in spared & set(named)} == {0.0}
    assert decay[id(named[prefix + "head.weight"])] == 0.05
    if isinstance(model, GViT):
        assert {scale[id(p)] for p in model.encoder.parameters()} == {0.125}


@pytest.mark.parametrize("encoder", ["denoising", "queries"])
@pytest.mark.parametrize("tokens", ["canonical", "raw"])
@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("count", [1, 64, 1024])
def test_every_kind_of_gvit_and_number_of_gaussians(encoder, tokens, pool, count, images, tmp_path):
    sizes = {"encoder_depth": 1, "depth": 1, "encoder_dim": 24, "embed_dim": 24}
    kinds = {"encoder": encoder, "tokens": tokens, "pool": pool, "num_gaussians": count}
    model = create("gvit_tiny", **kinds, **sizes)
    assert model.encode(images).raw.shape == (2, count, 9)
    assert model(images).isfinite().all()
    gvit.save_model(model, tmp_path / "model.safetensors")
    assert torch.equal(gvit.load_model(tmp_path)(images), model(images))
