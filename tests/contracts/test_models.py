"""What every registered model promises."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from timm.optim import param_groups_layer_decay

import gvit
from gvit.data.loading import Batch
from gvit.gaussians import Gaussians
from gvit.models.registry import architecture, registered
from gvit.training.build import start_from
from gvit.training.config import ObjectiveConfig
from gvit.training.objective import GuidedObjective
from gvit.training.schedule import Schedule

# the named models at a size that a test can afford; what a name decides beyond sizes stays
SMALL = {"img_size": 32, "patch_size": 16, "num_classes": 4, "embed_dim": 96, "depth": 2}
SMALL_GVIT = SMALL | {"num_gaussians": 6, "encoder_dim": 96, "encoder_depth": 2}
SMALL_GAUSSIAN = {"img_size": 32, "num_gaussians": 6, "num_classes": 4, "embed_dim": 96, "depth": 2}
NAMES = gvit.list_models()
GVIT_NAMES = gvit.list_models("gvit_*")
GAUSSIAN_NAMES = gvit.list_models("gaussian_vit_*")


def small_model(name: str, **kwargs):
    torch.manual_seed(0)
    small = SMALL_GVIT if name in GVIT_NAMES else SMALL_GAUSSIAN if name in GAUSSIAN_NAMES else SMALL
    accepts = architecture(name).accepts  # an encoder without patches has no use for their size
    return gvit.create_model(name, **{k: v for k, v in small.items() if accepts(k, v)} | kwargs).eval()


def two_inputs(model) -> torch.Tensor:
    """What the model reads of two images."""
    generator = torch.Generator().manual_seed(0)
    if model.reads == "gaussians":
        return torch.randn(2, model.tokens.num_patches, 9, generator=generator)
    return torch.rand(2, 3, model.img_size, model.img_size, generator=generator)


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return awake(small_model(request.param))


@pytest.fixture(scope="module", params=GVIT_NAMES)
def gvit_model(request):
    return awake(small_model(request.param))


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def awake(model):
    """A new encoder gives back its g0 whatever it sees: let its last layer see something."""
    if model.encoder is not None:
        *_, last = (module for module in model.encoder.head.modules() if isinstance(module, torch.nn.Linear))
        # one that draws in turns takes small ones
        torch.nn.init.xavier_uniform_(last.weight, gain=1.0 if model.encoder.turns == 1 else 0.05)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_a_named_model_works_at_its_own_size(name):
    with torch.device("meta" if "_base" in name else "cpu"):  # of the largest, shapes alone
        model = gvit.create_model(name).eval()
    with torch.inference_mode():
        logits = model(two_inputs(model)[:1].to(model.get_classifier().weight.device))
    assert logits.shape == (1, 1000)
    assert logits.is_meta or logits.isfinite().all()


def test_images_become_gaussians_become_logits(gvit_model, images):
    gaussians = gvit_model.encode(images)
    assert isinstance(gaussians, Gaussians)
    assert gaussians.raw.shape == (2, 6, 9)
    logits = gvit_model(images)
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()
    assert torch.equal(gvit_model.classify(gaussians), logits)


@pytest.mark.parametrize(
    ("encoder", "tokens", "pool", "num_gaussians"),
    list(product(("denoising", "queries"), ("canonical", "raw"), ("token", "avg"), (1, 5, 1024))),
)
def test_every_kind_of_gvit_learns_at_every_number_of_gaussians(encoder, tokens, pool, num_gaussians, images):
    kinds = {"encoder": encoder, "tokens": tokens, "pool": pool}
    model = small_model("gvit_tiny_denoising", **kinds, num_gaussians=num_gaussians, depth=1, encoder_depth=1)
    awake(model).train()
    assert model.encode(images).raw.shape == (2, num_gaussians, 9)
    assert len(model.classifier.pos_embed[0]) == num_gaussians + (pool == "token")
    logits = model(images)
    assert logits.shape == (2, 4)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 3])).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.encoder.patch_embed.proj.weight.grad.abs().max() > 0


def test_predictions_do_not_depend_on_the_rest_of_the_batch(model):
    images = two_inputs(model)
    torch.testing.assert_close(model(images[1:]), model(images)[1:], rtol=1e-4, atol=1e-5)


def test_gaussians_can_be_drawn_at_any_size(gvit_model, images):
    drawn = gvit.render(gvit_model.encode(images), 20, 40)
    assert drawn.shape == (2, 3, 20, 40)
    assert 0 <= drawn.min() <= drawn.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_learns(name):
    model = awake(small_model(name)).train()
    images = two_inputs(model)
    model(images).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not dead
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("name", GVIT_NAMES)
def test_parameters_learn_in_the_phases_of_theirs(name, images):
    model = awake(small_model(name)).train()
    noise = torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(1))
    objective = GuidedObjective(model, ObjectiveConfig())
    schedule = Schedule(ends=(1, 2, 3, 4), guide_every=1, gamma=0.1)
    for step, networks in enumerate(({"encoder"}, {"encoder"}, {"encoder", "classifier"}, {"encoder"})):
        model.zero_grad()
        objective.backward(Batch(images, torch.tensor([0, 1]), noise), schedule.plan(step))
        learning = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.isfinite().all()}
        wanted = {n for n, _ in model.named_parameters() if n.split(".")[0] in networks}
        assert learning == wanted, schedule.plan(step).phase


def test_vit_b_takes_over_the_encoder_of_vit_s():
    small, base = (
        small_model(name, embed_dim=architecture(name).flat["embed_dim"])
        for name in ("gvit_small", "gvit_base")
    )
    assert start_from(base, small, Path("run")) == [
        "encoder from run",
        "classifier new: that of run has another size",
    ]
    for name, value in small.encoder.state_dict().items():
        assert torch.equal(base.encoder.state_dict()[name], value)


def test_save_and_load_give_the_same_model(model, tmp_path):
    images = two_inputs(model)
    gvit.save_model(model, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = gvit.load_model(path)
        assert not loaded.training
        assert torch.equal(loaded(images), model(images))
        assert loaded.card.name == model.card.name


def saved_and_gradients(model, images):
    """Numbers that the forward pass keeps for the backward pass, and the gradients."""
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(images)
    output.square().sum().backward()
    return sum(saved), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_keeps_less_and_changes_nothing(name):
    model = awake(small_model(name)).train()
    images = two_inputs(model)
    plain_saved, plain = saved_and_gradients(model, images)
    model.set_grad_checkpointing()
    saved, checkpointed = saved_and_gradients(model, images)
    assert saved < plain_saved / 2
    for parameter, gradient in plain.items():
        torch.testing.assert_close(checkpointed[parameter], gradient, rtol=1e-6, atol=1e-6)
    model.set_grad_checkpointing(False)
    assert saved_and_gradients(model, images)[0] == plain_saved


def test_features_and_head_make_the_whole(model):
    images = two_inputs(model)
    features = model.forward_features(images)
    assert features.shape[0] == 2
    assert features.shape[2] == model.num_features
    assert torch.equal(model.forward_head(features), model(images))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(hidden), model(images))


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_a_new_head_can_be_saved(name, pool, tmp_path):
    model = awake(small_model(name, pool=pool))
    images = two_inputs(model)
    model.card = replace(model.card, class_names=("a", "b", "c", "d"))
    features = model.forward_features(images)
    model.reset_classifier(7, pool)
    assert model.num_classes == 7
    assert model(images).shape == (2, 7)
    assert torch.equal(model.forward_features(images), features)
    gvit.save_model(model, tmp_path / "model.safetensors")
    loaded = gvit.load_model(tmp_path)
    assert torch.equal(loaded(images), model(images))
    assert loaded.num_classes == 7
    assert not loaded.card.class_names
    # linear layers here start from xavier-uniform numbers, and the bias from zero
    head, bound = model.get_classifier(), (6 / (7 + model.head_hidden_size)) ** 0.5
    assert head.bias.abs().max() == 0
    assert head.weight.abs().max().item() == pytest.approx(bound, rel=0.05)
    with pytest.raises(ValueError, match=f"pool '{pool}' can't become"):
        model.reset_classifier(7, "avg" if pool == "token" else "token")
    model.reset_classifier(0)
    assert model(images).shape == (2, model.num_features)


def layer_scales(network, **kwargs) -> dict[str, float]:
    names = {id(p): name for name, p in network.named_parameters()}
    groups = param_groups_layer_decay(network, layer_decay=0.5, **kwargs)
    return {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("name", NAMES)
def test_timms_layer_decay_grows_from_the_embedding_to_the_head(name, pool):
    model = small_model(name, pool=pool)
    whole = layer_scales(model)
    classifier, prefix = model, ""
    if name in GVIT_NAMES:
        classifier, prefix = model.classifier, "classifier."
        assert {scale for name, scale in whole.items() if name.startswith("encoder.")} == {0.125}
    scales = layer_scales(classifier)
    assert scales == {
        name.removeprefix(prefix): scale for name, scale in whole.items() if name.startswith(prefix)
    }
    norm = "norm" if pool == "token" else "fc_norm"
    expected = {"patch_embed.proj.weight": 0.125, "pos_embed": 0.125}
    if model.tokens.any_number:
        expected = {"patch_embed.proj.0.weight": 0.125, "patch_embed.pos_embed": 0.125}
    expected |= {"blocks.0.attn.qkv.weight": 0.25, "blocks.1.norm2.bias": 0.5}
    expected |= {f"{norm}.weight": 1.0, "head.weight": 1.0, "head.bias": 1.0}
    assert {name: scales[name] for name in expected} == expected


def test_weight_decay_leaves_embeddings_of_positions_alone(model):
    names = dict(model.named_parameters())
    spared = {name for name in model.no_weight_decay() if name in names}
    assert spared == {name for name in names if name.split(".")[-1].endswith(("pos_embed", "cls_token"))}
    groups = param_groups_layer_decay(model, no_weight_decay_list=model.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for name, p in names.items() if p.ndim > 1 and name not in spared}


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(GAUSSIAN_NAMES)))
def test_wrong_images_are_refused_with_the_right_shape(name):
    model = small_model(name)
    shape = "B, 3, 32, 32"
    if model.encoder is not None and model.encoder.any_number:
        shape = "B, 3, H, W"
        assert model(torch.rand(2, 3, 16, 24)).shape == (2, model.num_classes)
    else:
        with pytest.raises(ValueError, match=rf"images must have shape \[{shape}\], got \[2, 3, 16, 16\]"):
            model(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match=rf"images must have shape \[{shape}\], got \[2, 1, 32, 32\]"):
        model(torch.rand(2, 1, 32, 32))


@pytest.mark.parametrize("name", GAUSSIAN_NAMES)
def test_wrong_gaussians_are_refused_with_the_right_shape(name):
    model = small_model(name)
    count = "K" if model.tokens.any_number else "6"
    for shape in ((2, 5, 9), (2, 6, 8)):
        if model.tokens.any_number and shape[2] == 9:
            assert model(torch.randn(shape)).shape == (2, model.num_classes)
            continue
        with pytest.raises(
            ValueError, match=rf"must have shape \[B, {count}, 9\], got \[2, {shape[1]}, {shape[2]}\]"
        ):
            model(torch.randn(shape))


@pytest.mark.parametrize("name", [name for name in GVIT_NAMES if registered(name).frozen])
def test_a_model_of_given_gaussians_is_the_classifier_of_its_gvit(name):
    frozen = registered(name).frozen
    with torch.device("meta"):
        whole, given = gvit.create_model(name), gvit.create_model(frozen)
    shapes = [{k: v.shape for k, v in part.state_dict().items()} for part in (whole.classifier, given)]
    assert shapes[0] == shapes[1]
    assert given.img_size == whole.img_size
    whole, given = small_model(name), small_model(frozen)
    whole.classifier.load_state_dict(given.state_dict())
    with torch.inference_mode():
        gaussians = whole.encode(two_inputs(whole))
        torch.testing.assert_close(given(gaussians.raw), whole.classify(gaussians))
