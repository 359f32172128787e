"""Tokens of Gaussians and of what is around them."""

import math
import warnings

import pytest
import torch

import gvit
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.tokens import NeighbourTokens
from gvit.prediction import predict_files


@pytest.fixture
def tokens():
    torch.manual_seed(0)
    return NeighbourTokens(num_gaussians=16, embed_dim=24).double()


def some(count, batch=2, seed=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, count, 9, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [0, 1, 2, 8, 9, 40])
def test_any_number_gives_as_many_tokens(tokens, count):
    found = tokens(some(count))
    assert found.shape == (2, count, 24)
    assert found.isfinite().all()


def test_order_does_not_matter(tokens):
    raw, order = some(20), torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tokens(raw)[:, order], tokens(raw[:, order]))


def test_what_draws_the_same_gives_the_same(tokens):
    raw = some(12)
    hidden = raw.clone()
    hidden[:, 3, 4] += math.pi  # half a turn
    hidden[:, 5] = raw[:, 5][:, [0, 1, 3, 2, 4, 5, 6, 7, 8]]  # the axes exchanged, and a quarter turn
    hidden[:, 5, 4] += math.pi / 2
    torch.testing.assert_close(tokens(raw), tokens(hidden), rtol=1e-6, atol=1e-9)


def test_nothing_is_told_by_a_gaussian_that_is_not_drawn(tokens):
    raw = some(12)
    raw[:, 4, 8] = -9.0  # an opacity of 1e-4
    other = raw.clone()
    other[:, 4, :8] = some(1, seed=5)[:, 0, :8]
    torch.testing.assert_close(tokens(raw), tokens(other))
    without = raw[:, [i for i in range(12) if i != 4]]
    spacing = Gaussians(without, 3.0, 12)  # of the twelve that there were
    alike = [i for i in range(12) if i != 4]
    torch.testing.assert_close(tokens(Gaussians(raw, 3.0, 12))[:, alike], tokens(spacing))


def test_a_token_depends_on_its_eight_nearest_and_on_no_other(tokens):
    raw = some(30, batch=1)
    centers = Gaussians(raw, 3.0, 30).centers[0]
    nearest = (centers - centers[7]).norm(dim=-1).argsort()
    before = tokens(raw)[0, 7]
    for rank, matters in ((1, True), (8, True), (9, False), (29, False)):
        changed = raw.clone()
        changed[0, nearest[rank], 5:8] += 1  # its colour
        assert torch.equal(tokens(changed)[0, 7], before) != matters, rank


def test_gaussians_of_other_bounds_are_read_as_the_same_picture():
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny", num_classes=3, num_gaussians=16).double().eval()
    gaussians = Gaussians(some(16), 3.0, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is cut
        expected = model.classifier(gaussians.raw)
        torch.testing.assert_close(model.classify(gaussians), expected, rtol=1e-5, atol=1e-7)
        wide = gaussians.with_bounds(scale_factor=9.0)
        torch.testing.assert_close(model.classify(wide), expected, rtol=1e-5, atol=1e-7)
        flat = gaussians.with_bounds(scale_factor=9.0, aspect=0.5)
        torch.testing.assert_close(model.classify(flat), expected, rtol=1e-5, atol=1e-7)


def test_a_removed_gaussian_is_read_as_one_that_is_not_drawn():
    model = gvit.create_model("gvit_tiny", num_classes=3, num_gaussians=16).double().eval()
    gaussians = Gaussians(some(10), 3.0, 10)
    keep = torch.ones(10, dtype=torch.bool)
    keep[[2, 9]] = False
    torch.testing.assert_close(model.classify(gaussians[:, keep]), model.classify(gaussians.drop(~keep)))


def test_gradients_are_finite_where_gaussians_are_alike(tokens):
    raw = torch.zeros(1, 12, 9, dtype=torch.float64, requires_grad=True)
    tokens(raw).square().sum().backward()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("field", range(9))
def test_what_is_no_number_gives_no_numbers_and_its_gradient_ends_nothing(tokens, field):
    raw = some(12, batch=1)
    raw[0, 3, field] = math.nan
    raw.requires_grad_()
    found = tokens(raw)
    assert found[0, 3].isnan().any()
    found.sum().backward()


def test_files_of_different_numbers_are_predicted_each_as_if_alone(tmp_path):
    model = gvit.create_model("gaussian_vit_tiny_any", num_classes=3).eval()
    files = []
    for number, count in enumerate((6, 9, 6)):
        files.append(tmp_path / f"{number}.safetensors")
        Gaussians(some(count, batch=1, seed=number)[0].float(), 3.0, count).save(files[-1])
    together = dict(predict_files(model, files))
    assert list(together) == files
    for file in files:
        (alone,) = gvit.predict(model, gvit.load_images([file], model))
        for found, expected in zip(together[file], alone, strict=True):
            assert found.class_index == expected.class_index
            assert found.probability == pytest.approx(expected.probability, abs=1e-5)
    with pytest.raises(InputError, match="different numbers of Gaussians"):
        gvit.load_images(files, model)
