"""Scores of Gaussians against what they are defined by."""

import pytest
import torch

import gvit
from gvit.analysis.attribution import cdam, project_on_grid, relevance_of_small_ones
from gvit.gaussians import Gaussians


def trained_like(pool: str = "token"):
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny", num_classes=4, num_gaussians=6, pool=pool).eval().double()
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def some_gaussians(count: int = 6) -> Gaussians:
    draw = torch.Generator().manual_seed(1)
    return Gaussians(torch.randn(3, count, 9, generator=draw, dtype=torch.float64), nominal_count=count)


def logits_with_tokens(model, gaussians, change) -> torch.Tensor:
    """The classifier written out, with the tokens before the last attention changed."""
    net = model.classifier
    x = net.patch_embed(gaussians.raw)
    x = net.norm_pre(net._pos_embed(x))
    for block in net.blocks[:-1]:
        x = block(x)
    last = net.blocks[-1]
    x = x + last.attn(change(last.norm1(x)))
    x = x + last.mlp(last.norm2(x))
    return net.forward_head(net.norm(x))


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_score_is_what_the_logit_gains_when_a_token_grows(pool):
    model, gaussians = trained_like(pool), some_gaussians()
    classes = torch.tensor([3, 0, 1])
    scores = cdam(model, gaussians, classes)
    assert scores.shape == (3, 6)
    first = 1 if pool == "token" else 0
    step = 1e-6

    def logit(index: int, factor: float) -> torch.Tensor:
        def change(tokens):
            scale = torch.ones(tokens.shape[1], 1, dtype=tokens.dtype)
            scale[first + index] = factor
            return tokens * scale

        return logits_with_tokens(model, gaussians, change).gather(1, classes.unsqueeze(1)).squeeze(1)

    with torch.no_grad():
        for index in range(6):
            slope = (logit(index, 1 + step) - logit(index, 1 - step)) / (2 * step)
            torch.testing.assert_close(scores[:, index], slope, rtol=1e-5, atol=1e-8)


def test_the_class_is_the_predicted_one_unless_given():
    model, gaussians = trained_like(), some_gaussians()
    predicted = model.classify(gaussians).argmax(-1)
    assert torch.equal(cdam(model, gaussians), cdam(model, gaussians, predicted))
    assert not torch.equal(cdam(model, gaussians), cdam(model, gaussians, (predicted + 1) % 4))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_model_stays_as_it_was(context):
    model, gaussians = trained_like().train(), some_gaussians()
    expected = cdam(model, gaussians)
    with context():
        assert torch.equal(cdam(model, some_gaussians()), expected)
    assert model.classifier.training
    assert all(p.grad is None for p in model.parameters())
    assert not model.classifier.blocks[-1].norm1._forward_hooks


def at(*centers: tuple[float, float], aspect: float = 1.0) -> Gaussians:
    count = len(centers)
    return Gaussians.from_values(
        torch.tensor([centers]),
        torch.full((1, count, 2), 0.1),
        torch.zeros(1, count),
        torch.rand(1, count, 3),
        torch.full((1, count), 0.5),
        nominal_count=16,
        aspect=aspect,
    )


def test_scores_are_summed_in_the_cell_of_the_centre():
    gaussians = at((-0.9, -0.9), (-0.8, -0.95), (0.9, -0.6), (1.0, 1.0))
    grid = project_on_grid(torch.tensor([[1.0, -3.0, 5.0, 7.0]]), gaussians, size=4)
    expected = torch.zeros(1, 4, 4)
    expected[0, 0, 0], expected[0, 0, 3], expected[0, 3, 3] = -2.0, 5.0, 7.0
    assert torch.equal(grid, expected)


def test_the_grid_covers_the_canvas_of_any_aspect():
    grid = project_on_grid(torch.tensor([[1.0, 2.0]]), at((-1.0, -0.5), (1.0, 0.5), aspect=0.5), size=16)
    assert grid[0, 0, 0] == 1
    assert grid[0, 15, 15] == 2


def test_small_gaussians_with_high_scores_correlate():
    gaussians = some_gaussians(20)
    order = gaussians.determinants.argsort(1).argsort(1).double()  # 0 for the smallest
    assert relevance_of_small_ones(20 - order, gaussians).tolist() == pytest.approx([1.0] * 3)
    assert relevance_of_small_ones(-1 - order, gaussians).tolist() == pytest.approx([-1.0] * 3)
