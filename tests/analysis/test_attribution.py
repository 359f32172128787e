import math

import pytest
import torch
from torch import nn

import gvit
from gvit.analysis.attribution import Relevance, cdam, determinant_relevance, project_on_grid
from gvit.errors import InputError
from gvit.gaussians import Gaussians

COUNT = 6
CLASSES = 4


def tiny(pool="token", tokens="canonical", **kwargs):
    torch.manual_seed(3)
    model = gvit.create_model(
        "gvit_tiny", num_classes=CLASSES, num_gaussians=COUNT, pool=pool, tokens=tokens, **kwargs
    )
    # fresh weights are so small that everything is nearly linear
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double().eval()


def some_gaussians(batch=2, seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(batch, COUNT, 9, generator=generator, dtype=torch.float64), nominal_count=COUNT, **kwargs
    )


def forward_by_hand(classifier, raw):
    """timm's forward, written out; the logits and the tokens that the last attention reads."""
    x = classifier.patch_embed(raw)
    if classifier.cls_token is not None:
        x = torch.cat((classifier.cls_token.expand(len(x), -1, -1), x), 1)
    x = x + classifier.pos_embed
    *blocks, last = classifier.blocks
    for block in blocks:
        x = x + block.attn(block.norm1(x))
        x = x + block.mlp(block.norm2(x))
    tokens = last.norm1(x).detach().requires_grad_()
    x = x + last.attn(tokens)
    x = classifier.norm(x + last.mlp(last.norm2(x)))
    pooled = x[:, 0] if classifier.cls_token is not None else classifier.fc_norm(x.mean(1))
    return classifier.head(pooled), tokens


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("tokens", ["canonical", "raw"])
def test_scores_are_those_of_a_forward_pass_written_out_by_hand(pool, tokens):
    model, gaussians, classes = tiny(pool, tokens), some_gaussians(), [2, 0]
    logits, read = forward_by_hand(model.classifier, gaussians.raw)
    torch.testing.assert_close(logits, model.classify(gaussians))
    expected = []
    for image, chosen in enumerate(classes):
        (gradient,) = torch.autograd.grad(logits[image, chosen], read, retain_graph=True)
        expected.append((read[image] * gradient[image]).sum(-1))
    dropped = 1 if pool == "token" else 0
    found = cdam(model, gaussians, classes)
    assert found.shape == (2, COUNT)
    torch.testing.assert_close(found, torch.stack(expected)[:, dropped:])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_a_score_is_the_slope_of_the_logit_in_the_size_of_its_token(pool):
    model, gaussians = tiny(pool), some_gaussians()
    first = 1 if pool == "token" else 0
    slopes, step = torch.zeros(2, COUNT, dtype=torch.float64), 1e-5
    for i in range(COUNT):
        for sign in (1, -1):

            def grow(_module, _inputs, output, i=i, sign=sign):
                factor = torch.ones_like(output)
                factor[:, first + i] += sign * step
                return output * factor

            handle = model.classifier.blocks[-1].norm1.register_forward_hook(grow)
            slopes[:, i] += sign * model.classify(gaussians)[:, 1].detach() / (2 * step)
            handle.remove()
    found = cdam(model, gaussians, 1)
    assert found.abs().max() > 1e-3
    assert (found < 0).any()
    assert (found > 0).any()
    torch.testing.assert_close(found, slopes, rtol=1e-5, atol=1e-8)


class Linearly(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width, dtype=torch.float64))

    def forward(self, x, **_unused):
        return x @ self.weight.T


class Nothing(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)


def test_where_all_is_linear_the_scores_share_out_what_the_attention_adds_to_the_logit():
    model, gaussians = tiny("avg"), some_gaussians()
    classifier = model.classifier
    last = classifier.blocks[-1]
    last.attn, last.mlp = Linearly(model.num_features), Nothing()
    classifier.norm, classifier.fc_norm = nn.Identity(), nn.Identity()
    with_it = model.classify(gaussians)
    scores = cdam(model, gaussians, 3)
    last.attn = Nothing()
    last.attn.forward = lambda x, **_: torch.zeros_like(x)
    torch.testing.assert_close(scores.sum(1), (with_it - model.classify(gaussians))[:, 3])


def test_without_a_class_the_most_probable_one_is_taken():
    model, gaussians = tiny(), some_gaussians(8)
    predicted = model.classify(gaussians).argmax(1)
    assert len(predicted.unique()) > 1
    torch.testing.assert_close(cdam(model, gaussians), cdam(model, gaussians, predicted), rtol=0, atol=0)


def test_images_are_scored_as_their_gaussians():
    model = tiny()
    images = torch.rand(2, 3, model.img_size, model.img_size, dtype=torch.float64)
    expected = cdam(model, model.encode(images))
    assert torch.equal(cdam(model, images), expected)
    # the encoder draws other noise while it is trained
    assert torch.equal(cdam(model.train(), images), expected)


def test_an_image_is_scored_as_if_it_were_alone():
    model, gaussians = tiny(), some_gaussians(3)
    torch.testing.assert_close(cdam(model, gaussians)[1:2], cdam(model, gaussians[1:2]))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_whether_or_not_gradients_are_recorded(context):
    model, expected = tiny(), cdam(tiny(), some_gaussians())
    with context():
        gaussians = Gaussians(some_gaussians().raw.clone(), nominal_count=COUNT)
        found = cdam(model, gaussians)
        assert torch.equal(found, expected)
        images = torch.rand(1, 3, model.img_size, model.img_size, dtype=torch.float64)
        assert cdam(model, images).shape == (1, COUNT)
        assert not found.requires_grad


@pytest.mark.parametrize("classes", [None, 9])
def test_the_model_is_left_as_it_was(classes):
    """Also when it fails: 9 is no class."""
    model = tiny(drop_path_rate=0.5, depth=2)
    expected = cdam(model, some_gaussians())
    model.train()
    model.encoder.eval()  # a frozen encoder stays in evaluation mode
    model.set_grad_checkpointing()
    before = [module.training for module in model.modules()]
    if classes is None:
        assert torch.equal(cdam(model, some_gaussians()), expected)
    else:
        with pytest.raises(InputError):
            cdam(model, some_gaussians(), classes)
    assert [module.training for module in model.modules()] == before
    assert model.classifier.grad_checkpointing
    assert not model.classifier.blocks[-1].norm1._forward_hooks
    assert all(p.grad is None and p.requires_grad for p in model.classifier.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("classes", [CLASSES, -1, [0], [0, 1, 2], [0, CLASSES]])
def test_unusable_classes_are_refused(classes):
    with pytest.raises(InputError, match="classes must be"):
        cdam(tiny(), some_gaussians(), classes)


def at(centers, aspect=1.0, **kwargs):
    count = len(centers)
    values = {"scales": torch.full((count, 2), 0.1), "opacities": torch.full((count,), 0.9)} | kwargs
    return Gaussians.from_values(
        torch.tensor(centers),
        values["scales"],
        torch.zeros(count),
        torch.full((count, 3), 0.5),
        values["opacities"],
        aspect=aspect,
        nominal_count=4,
    )


def test_scores_are_summed_where_their_centres_lie():
    gaussians = at([[-0.9, -0.9], [-0.6, -0.7], [0.9, -0.9], [0.1, 0.6]])
    grid = project_on_grid(torch.tensor([1.0, 2.0, -4.0, 8.0]), gaussians, size=4)
    expected = torch.zeros(4, 4)
    expected[0, 0], expected[0, 3], expected[3, 2] = 3.0, -4.0, 8.0
    assert torch.equal(grid, expected)


def test_the_grid_covers_the_image_whatever_its_aspect():
    """Half as high as wide: y goes from -0.5 to 0.5."""
    grid = project_on_grid(torch.tensor([1.0, 2.0]), at([[0.9, 0.45], [-0.9, -0.3]], aspect=0.5), size=4)
    assert grid[3, 3] == 1
    assert grid[0, 0] == 2


def test_corners_lie_in_the_corner_cells():
    raw = torch.zeros(4, 9)
    raw[:, :2] = 100 * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    grid = project_on_grid(torch.tensor([1.0, 2.0, 3.0, 4.0]), Gaussians(raw))
    assert grid.shape == (16, 16)
    assert [grid[0, 0], grid[0, 15], grid[15, 0], grid[15, 15]] == [1, 2, 3, 4]
    assert grid.count_nonzero() == 4


def test_the_grid_keeps_the_sum_of_every_image():
    gaussians, scores = some_gaussians(5), torch.randn(5, COUNT, dtype=torch.float64)
    grid = project_on_grid(scores, gaussians, size=3)
    torch.testing.assert_close(grid.sum((1, 2)), scores.sum(1))
    assert torch.equal(grid, project_on_grid(scores, gaussians, size=3))


def test_unusable_scores_are_refused():
    with pytest.raises(InputError, match="one score per Gaussian"):
        project_on_grid(torch.zeros(2, COUNT + 1), some_gaussians())
    with pytest.raises(InputError, match="one score per Gaussian"):
        determinant_relevance(some_gaussians(), torch.zeros(3, COUNT))
    with pytest.raises(InputError, match="size must be at least 1"):
        project_on_grid(torch.zeros(2, COUNT), some_gaussians(), size=0)


def test_relevance_is_1_where_the_smallest_matter_most():
    scales = torch.tensor([[0.1, 0.1], [0.2, 0.1], [0.2, 0.2], [0.4, 0.3]])
    gaussians = at([[0.0, 0.0]] * 4, scales=scales)[None][torch.tensor([0, 0, 0])]
    falling = torch.tensor([-9.0, 5.0, 2.0, 0.1])  # by size; the sign says for or against
    scores = torch.stack((falling, falling.flip(0), torch.tensor([5.0, 9.0, 2.0, 0.1])))
    found = determinant_relevance(gaussians, scores)
    # two neighbours exchanged: 1 - 6 * (1 + 1) / (4 * (16 - 1))
    assert found.per_image == pytest.approx((1.0, -1.0, 0.8))
    assert found.mean == pytest.approx(0.8 / 3)
    assert found.std == pytest.approx(torch.tensor([1.0, -1.0, 0.8]).std().item())
    assert str(found) == "rank correlation 0.267, standard deviation 1.102 over 3 images"


def test_what_is_not_drawn_has_no_say():
    scales = torch.tensor([[0.1, 0.1], [0.2, 0.1], [0.2, 0.2], [0.01, 0.01]])
    gaussians = at([[0.0, 0.0]] * 4, scales=scales, opacities=torch.tensor([0.9, 0.9, 0.9, 1e-3]))[None]
    found = determinant_relevance(gaussians, torch.tensor([[3.0, 2.0, 1.0, 0.0]]))
    assert found.per_image == pytest.approx((1.0,))
    assert math.isnan(found.std)


def test_where_nothing_differs_there_is_no_correlation():
    gaussians = at([[0.0, 0.0]] * 3)[None]
    found = determinant_relevance(gaussians, torch.tensor([[1.0, 2.0, 3.0]]))
    assert isinstance(found, Relevance)
    assert math.isnan(found.mean)
    assert math.isnan(found.per_image[0])
