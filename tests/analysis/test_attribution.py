import math

import pytest
import torch
from captum.attr import LayerGradientXActivation
from torch import nn

import gvit
from gvit.analysis.attribution import Relevance, cdam, determinant_relevance, project_on_grid
from gvit.errors import InputError
from gvit.gaussians import Gaussians

COUNT = 6
CLASSES = 4


def tiny(pool="token", tokens="canonical", name="gvit_tiny_denoising", **kwargs):
    torch.manual_seed(3)
    model = gvit.create_model(
        name, num_classes=CLASSES, num_gaussians=COUNT, pool=pool, tokens=tokens, **kwargs
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


def some_images():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 32, 32, generator=generator, dtype=torch.float64)


def by_captum(model, inputs, classes):
    """Captum's gradient times activation of the tokens that the last attention reads, without the class token."""
    explained = LayerGradientXActivation(model, model.classifier.blocks[-1].norm1)
    return explained.attribute(inputs, target=classes).sum(-1)[:, -COUNT:].detach()


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("tokens", ["canonical", "raw", "neighbours"])
def test_scores_are_those_of_captum(pool, tokens):
    model, images, classes = tiny(pool, tokens), some_images(), [2, 0]
    expected = by_captum(model, images, classes)
    assert expected.abs().max() > 1e-3
    found = cdam(model, images, classes)
    assert found.shape == (2, COUNT)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("tokens", ["canonical", "raw", "neighbours"])
def test_scores_of_a_model_that_reads_gaussians_are_those_of_captum(pool, tokens):
    model, gaussians, classes = tiny(pool, tokens, "gaussian_vit_tiny"), some_gaussians(), [2, 0]
    expected = by_captum(model, gaussians.raw, classes)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(cdam(model, gaussians, classes), expected, rtol=0, atol=1e-6)
    # as numbers, which is what the model itself reads
    torch.testing.assert_close(cdam(model, gaussians.raw, classes), expected, rtol=0, atol=1e-6)


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
    torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.1)  # zero at first: it would see no image
    images = torch.rand(2, 3, model.img_size, model.img_size, dtype=torch.float64)
    expected = cdam(model, model.encode(images))
    assert torch.equal(cdam(model, images), expected)
    # the encoder draws other noise while it is trained
    assert torch.equal(cdam(model.train(), images), expected)


def test_an_image_is_scored_as_if_it_were_alone():
    model, gaussians = tiny(), some_gaussians(3)
    torch.testing.assert_close(cdam(model, gaussians)[1:2], cdam(model, gaussians[1:2]))


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "gaussian_vit_tiny"])
def test_gaussians_of_other_bounds_are_scored_as_the_same_picture(name):
    model, gaussians = tiny(name=name), some_gaussians()
    others, expected = gaussians.with_bounds(scale_factor=3.0, nominal_count=12), cdam(model, gaussians, 1)
    torch.testing.assert_close(cdam(model, others, 1), expected, rtol=1e-6, atol=1e-9)
    # to read them as if they were in the model's own bounds would show
    misread = cdam(model, Gaussians(others.raw, nominal_count=COUNT), 1)
    assert (misread - expected).abs().max() > 1e-2


def test_another_canvas_is_scored_as_it_is_classified():
    """Twice as high as wide: the model reads what is drawn when it is stretched to a square."""
    model = tiny()
    tall = some_gaussians(aspect=2.0, scale_factor=0.4)
    square = tall.with_bounds(aspect=1.0, scale_factor=1.0)
    torch.testing.assert_close(cdam(model, tall, 1), by_captum(model.classifier, square.raw, 1))


KEEP = torch.tensor([True, False, True, True, False, True])


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "gaussian_vit_tiny"])
def test_those_that_are_kept_are_scored_as_if_the_others_were_not_drawn(name):
    model, gaussians = tiny(name=name), some_gaussians()
    found = cdam(model, gaussians[:, KEEP], 1)
    assert found.shape == (2, 4)
    torch.testing.assert_close(found, cdam(model, gaussians.drop(~KEEP), 1)[:, KEEP])
    # the others had their say
    assert (found - cdam(model, gaussians, 1)[:, KEEP]).abs().max() > 1e-3


def test_scores_come_in_the_order_of_the_gaussians():
    model, gaussians = tiny(), some_gaussians()
    order = torch.tensor([[3, 0, 5, 1], [2, 4, 1, 0]])  # other ones of each image
    chosen = gaussians[torch.arange(2).unsqueeze(1), order]
    kept = torch.zeros(2, COUNT, dtype=torch.bool).scatter(1, order, True)
    expected = cdam(model, gaussians.drop(~kept), 1).gather(1, order)
    torch.testing.assert_close(cdam(model, chosen, 1), expected)


def test_fewer_gaussians_than_the_model_has_tokens_are_its_first_ones():
    model, few = tiny(), Gaussians(some_gaussians().raw[:, :4], nominal_count=COUNT)
    found = cdam(model, few, 1)
    assert found.shape == (2, 4)
    torch.testing.assert_close(found, cdam(model, few.in_slots(COUNT), 1)[:, :4])


def test_more_gaussians_than_the_model_has_tokens_are_refused():
    raw = torch.zeros(1, COUNT + 1, 9, dtype=torch.float64)
    with pytest.raises(InputError, match="there are 7 Gaussians, but the model reads at most 6"):
        cdam(tiny(), Gaussians(raw, nominal_count=COUNT))
    with pytest.raises(ValueError, match="raw Gaussians must have shape"):
        cdam(tiny(name="gaussian_vit_tiny"), raw)


def test_a_model_of_pixels_has_no_gaussians_to_score():
    model = gvit.create_model("vit_tiny_patch8", num_classes=CLASSES)
    for inputs in (some_images().float(), some_gaussians()):
        with pytest.raises(InputError, match="vit_tiny_patch8 reads patches and has no Gaussians to score"):
            cdam(model, inputs)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_whether_or_not_gradients_are_recorded(context):
    model, expected = tiny(), cdam(tiny(), some_gaussians())
    with context():
        recorded = torch.is_grad_enabled()
        gaussians = Gaussians(some_gaussians().raw.clone(), nominal_count=COUNT)
        found = cdam(model, gaussians)
        assert torch.equal(found, expected)
        images = torch.rand(1, 3, model.img_size, model.img_size, dtype=torch.float64)
        assert cdam(model, images).shape == (1, COUNT)
        assert not found.requires_grad
        assert torch.is_grad_enabled() is recorded


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
