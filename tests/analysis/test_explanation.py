import itertools
import math

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradientXActivation
from timm.layers import set_fused_attn

import gvit
from gvit.analysis.attribution import cdam
from gvit.analysis.explanation import METHODS, attribute, explainer, read_gaussians
from gvit.errors import InputError
from gvit.gaussians import Gaussians

COUNT = 5
CLASSES = 4
OF_CLASS = [name for name, method in METHODS.items() if method.of_class]


def tiny(tokens="canonical", pool="token", name="gaussian_vit_tiny", **kwargs):
    torch.manual_seed(3)
    model = gvit.create_model(
        name, num_classes=CLASSES, num_gaussians=COUNT, tokens=tokens, pool=pool, **kwargs
    )
    # fresh weights are so small that everything is nearly linear
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def some_gaussians(batch=2, seed=0, count=COUNT, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.randn(batch, count, 9, generator=generator, dtype=torch.float64)
    return Gaussians(raw, nominal_count=count, **kwargs)


def classified(model, gaussians, target):
    with torch.no_grad():
        return model.classify(gaussians)[:, target]


def nothing(gaussians):
    return gaussians.drop(torch.ones(len(gaussians), dtype=torch.bool))


def test_the_methods_are_those_that_are_documented():
    names = ["cdam", "det", "opacity", "attention", "ixg", "ig", "occlusion", "shap", "random", "edges"]
    assert list(METHODS) == names


@pytest.mark.parametrize("tokens", ["canonical", "neighbours"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_contract(method, tokens):
    """One finite number per Gaussian, the same again, of an image as if it were alone; the model is left alone."""
    model, gaussians = tiny(tokens, drop_path_rate=0.5, depth=2), some_gaussians()
    model.train()
    model.set_grad_checkpointing()
    model.classifier.blocks[0].eval()  # a frozen one stays so
    modes = [module.training for module in model.modules()]
    fused = [block.attn.fused_attn for block in model.classifier.blocks]
    drawn = torch.get_rng_state()
    explained = explainer(method, model, seed=1, samples=4)
    scores = explained.attribute(gaussians, 1)
    assert scores.shape == (2, COUNT)
    assert scores.dtype == torch.float64
    assert not scores.requires_grad
    assert scores.isfinite().all()
    assert (scores.std(1) > 1e-4).all()
    with torch.inference_mode():
        again = Gaussians(gaussians.raw.clone(), nominal_count=COUNT)
        assert torch.equal(explained.attribute(again, 1), scores)
    assert torch.equal(torch.get_rng_state(), drawn)
    alone = explainer(method, model, seed=1, samples=4, batch_size=1).attribute(gaussians[:1], 1)
    torch.testing.assert_close(alone, scores[:1])
    assert [module.training for module in model.modules()] == modes
    assert [block.attn.fused_attn for block in model.classifier.blocks] == fused
    assert model.classifier.grad_checkpointing
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    hooked = [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]
    assert not hooked
    other = explained.attribute(gaussians, 2)
    assert torch.equal(other, scores) is not METHODS[method].of_class


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("random", "edges")])
def test_scores_follow_the_order_of_the_gaussians(method):
    """Tokens that tell their own places: the order is nothing to the model. (Edges are of what lies in front.)"""
    # of two Gaussians, two samples of shap are all that there are
    order, samples = ([1, 0], 2) if method == "shap" else ([3, 0, 4, 1, 2], None)
    model, gaussians = tiny("neighbours"), some_gaussians(count=len(order))
    moved = Gaussians(gaussians.raw[:, order], nominal_count=len(order))
    found = attribute(model, moved, method, 1, samples=samples)
    expected = attribute(model, gaussians, method, 1, samples=samples)[:, order]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tokens", ["canonical", "neighbours"])
@pytest.mark.parametrize("method", METHODS)
def test_some_of_the_gaussians_are_scored_as_if_the_others_were_not_drawn(method, tokens):
    model, gaussians = tiny(tokens), some_gaussians()
    keep = [3, 0, 1]
    scores = attribute(model, gaussians[:, keep], method, 1, samples=64)
    assert scores.shape == (2, 3)
    if method in ("random", "shap"):  # drawn in another order
        return
    gone = torch.ones(COUNT, dtype=torch.bool)
    gone[keep] = False
    expected = attribute(model, gaussians.drop(gone), method, 1, samples=64)[:, keep]
    if method == "edges":  # of the order in which they are drawn
        expected = attribute(model, Gaussians(gaussians.raw[:, keep], nominal_count=COUNT), method)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_images_are_scored_as_their_gaussians(method):
    model = tiny(name="gvit_tiny_denoising")
    torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.1)  # zero at first: it would see no image
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        gaussians = model.encode(images)
    expected = attribute(model, gaussians, method, image=images, samples=4)
    assert torch.equal(attribute(model, images, method, samples=4), expected)
    # raw numbers are what a model of Gaussians itself reads
    reader = model.classifier
    assert torch.equal(
        attribute(reader, gaussians.raw, method, samples=4), attribute(reader, gaussians, method, samples=4)
    )


def test_cdam_is_captums_gradient_times_activation_where_the_last_attention_reads():
    model, gaussians = tiny(), some_gaussians()
    layer = LayerGradientXActivation(model, model.classifier.blocks[-1].norm1)
    expected = layer.attribute(gaussians.raw, target=[2, 0]).sum(-1)[:, -COUNT:].detach()
    found = attribute(model, gaussians, "cdam", [2, 0])
    assert found.abs().min() > 1e-6
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found, cdam(model, gaussians, [2, 0]), rtol=0, atol=0)


def test_det_is_higher_for_smaller_gaussians():
    gaussians = some_gaussians()
    found = attribute(tiny(), gaussians, "det")
    torch.testing.assert_close(found, -torch.linalg.det(gaussians.covariances).log())
    thin = gaussians.raw.clone()
    thin[0, 0, 2] = -200.0  # whose standard deviation is 0 in float32
    found = attribute(tiny(), gaussians.replace_raw(thin), "det")
    assert found.isfinite().all()
    assert found[0].argmax() == 0


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_attention_is_what_flows_from_each_token_to_the_answer(pool):
    """A softmax of queries and keys by hand, of each block, as in Abnar & Zuidema 2020; fused or not."""
    model, gaussians = tiny(pool=pool, depth=2), some_gaussians()
    flow, first = None, 1 if pool == "token" else 0
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(gaussians.raw))
        for block in model.blocks:
            q, k, _ = (
                block.attn.qkv(block.norm1(tokens)).unflatten(-1, (3, block.attn.num_heads, -1)).unbind(2)
            )
            weights = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(block.attn.head_dim**-0.5).softmax(-1).mean(1)
            weights = weights / 2 + torch.eye(weights.shape[-1], dtype=torch.float64) / 2
            flow = weights if flow is None else weights @ flow
            tokens = block(tokens)
    expected = (flow[:, 0] if pool == "token" else flow.mean(1))[:, first:]
    assert (expected > 0.01).all()
    for fuse in (True, False):
        for block in model.blocks:
            block.attn.fused_attn = fuse
        torch.testing.assert_close(attribute(model, gaussians, "attention"), expected)


def test_a_model_that_was_made_with_fused_attention_has_no_silent_zeros():
    set_fused_attn(True, True)
    model = tiny(pool="avg")
    assert all(block.attn.fused_attn for block in model.blocks)
    for method in ("attention", "cdam", "ixg", "ig"):
        assert attribute(model, some_gaussians(), method, 1).abs().min() > 1e-6


@pytest.mark.parametrize("tokens", ["canonical", "raw"])
def test_slopes_are_captums_at_what_is_drawn(tokens):
    """The projection is linear: what it reads, counted from nothing drawn, is Captum's input."""
    model, gaussians, target = tiny(tokens), some_gaussians(), [2, 0]
    features, none = (model.patch_embed.features(g.raw) for g in (gaussians, nothing(gaussians)))
    bias = model.patch_embed

    def forward(numbers):
        handle = bias.register_forward_hook(lambda *_: bias.proj(numbers))
        logits = model(gaussians.raw[:1])
        handle.remove()
        return logits

    expected = InputXGradient(lambda added: forward(none[:1] + added)).attribute(
        (features - none).requires_grad_(), target=target
    )
    found = attribute(model, gaussians, "ixg", target)
    torch.testing.assert_close(found, expected.sum(-1).detach())
    expected = IntegratedGradients(forward).attribute(features, none, target=target, n_steps=64)
    found = attribute(model, gaussians, "ig", target)
    torch.testing.assert_close(found, expected.sum(-1).detach())


@pytest.mark.parametrize(("tokens", "pool"), [("canonical", "token"), ("raw", "avg"), ("neighbours", "avg")])
@pytest.mark.parametrize("method", ["ig", "shap"])
def test_scores_share_out_what_all_gaussians_do_to_the_logit(method, tokens, pool):
    model, gaussians = tiny(tokens, pool), some_gaussians()
    whole = classified(model, gaussians, 1) - classified(model, nothing(gaussians), 1)
    assert whole.abs().min() > 1e-3
    found = attribute(model, gaussians, method, 1, samples=200 if method == "ig" else 2).sum(1)
    torch.testing.assert_close(found, whole, rtol=1e-4 if method == "ig" else 1e-9, atol=1e-9)


def test_what_is_not_drawn_has_no_score():
    model, gaussians = tiny(), some_gaussians()
    hidden = gaussians.replace(opacities=torch.tensor([1e-3, 0.5, 0.5, 0.5, 0.5], dtype=torch.float64))
    for method in ("ixg", "ig", "occlusion", "shap"):
        scores = attribute(model, hidden, method, 1)
        assert scores[:, 0].abs().max() < 1e-9
        assert scores[:, 1:].abs().min() > 1e-6


@pytest.mark.parametrize("tokens", ["canonical", "raw", "neighbours"])
def test_occlusion_is_what_the_logit_loses_without_one(tokens):
    model, gaussians = tiny(tokens), some_gaussians()
    found = attribute(model, gaussians, "occlusion", 1, batch_size=3)
    for index in range(COUNT):
        mask = torch.arange(COUNT) == index
        lost = classified(model, gaussians, 1) - classified(model, gaussians.drop(mask), 1)
        torch.testing.assert_close(found[:, index], lost)
        torch.testing.assert_close(
            lost, classified(model, gaussians, 1) - classified(model, gaussians[:, ~mask], 1)
        )


def test_shapley_values_are_those_of_all_orders():
    """Four Gaussians: the mean over the 24 orders, by hand. Samples are near it, and more of them nearer."""
    model, gaussians = tiny(), some_gaussians()[:, :4]
    value = {}
    for present in itertools.product([False, True], repeat=4):
        value[present] = classified(model, gaussians.drop(~torch.tensor(present)), 1)
    exact = torch.zeros(2, 4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        present = [False] * 4
        for index in order:
            before = value[tuple(present)]
            present[index] = True
            exact[:, index] += (value[tuple(present)] - before) / math.factorial(4)
    assert exact.abs().min() > 0.02

    def error(samples):
        scores = attribute(model, gaussians, "shap", 1, samples=samples, batch_size=300)
        return (scores - exact).abs().mean()

    assert error(400) < error(16) / 3 < error(1) / 9


def test_every_second_order_of_shap_is_the_one_before_backwards():
    """So that where Gaussians act in pairs, two samples are exact whatever the seed."""
    model, gaussians = tiny("neighbours"), some_gaussians(count=2)
    found = [attribute(model, gaussians, "shap", 1, samples=2, seed=seed) for seed in range(4)]
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    single = [attribute(model, gaussians, "shap", 1, samples=1, seed=seed) for seed in range(6)]
    assert any((one - single[0]).abs().max() > 1e-3 for one in single)


def test_edges_are_looked_for_in_the_image_where_there_is_one():
    """A step from black to white at the middle: what lies on it counts, in the measure in which it is seen."""
    image = torch.zeros(1, 3, 32, 32)
    image[..., 16:] = 1
    values = {"scales": torch.full((3, 2), 0.05), "angles": torch.zeros(3), "colors": torch.full((3, 3), 0.5)}
    centers = torch.tensor([[-0.6, 0.0], [0.0, -0.4], [0.0, 0.4]])
    opacities = torch.tensor([0.9, 0.9, 0.3])
    gaussians = Gaussians.from_values(centers, **values, opacities=opacities, nominal_count=4)[None]
    away, on, faint = attribute(tiny().float(), gaussians, "edges", image=image)[0].tolist()
    assert away == 0
    assert on == pytest.approx(3 * faint, rel=0.05)
    assert attribute(tiny().float(), gaussians, "edges")[0, 0] > 0  # of the drawing


@pytest.mark.parametrize("method", ["random", "shap"])
def test_random_scores_are_of_their_seed(method, unchecked):
    model, gaussians = tiny(), some_gaussians()
    first, second = (attribute(model, gaussians, method, 3, seed=seed, samples=1) for seed in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, attribute(model, gaussians, method, 3, seed=np.int64(1), samples=1))


def test_no_gaussians_have_no_scores():
    none = some_gaussians()[:, torch.zeros(COUNT, dtype=torch.bool)]
    for method in METHODS:
        assert attribute(tiny(), none, method, 1).shape == (2, 0)


def test_bad_input_is_refused():
    model, gaussians = tiny(), some_gaussians()
    with pytest.raises(InputError, match="unknown method 'cdan'; nearest: cdam"):
        explainer("cdan", model)
    with pytest.raises(InputError, match="samples must be at least 1, got 0"):
        explainer("shap", model, samples=0)
    with pytest.raises(InputError, match="reads patches and has no Gaussians to score"):
        explainer("det", gvit.create_model("vit_tiny_patch8", num_classes=CLASSES))
    with pytest.raises(InputError, match="has no trained classifier to explain"):
        explainer("cdam", gvit.load_model("gvit_tiny.photos"))
    with pytest.raises(InputError, match="has no trained classifier to explain"):
        explainer("attention", gvit.load_model("gvit_tiny.photos"))
    for name in ("num_gaussians", "looks"):
        with pytest.raises(InputError, match=f"gaussian_vit_tiny makes no Gaussians: {name} has no meaning"):
            read_gaussians(model, gaussians.raw, **{name: 1})
    for method in OF_CLASS:
        with pytest.raises(InputError, match="classes must be from 0 to 3"):
            attribute(model, gaussians, method, CLASSES)
