import pytest
import torch

from gvit.analysis.scoremap import collect_map, splat_scores
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.rendering import render

HEIGHT, WIDTH, COUNT = 17, 23, 6


def some_gaussians(dtype=torch.float32):
    """Some in front of others, one of them not drawn."""
    raw = torch.randn(2, COUNT, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw[..., 8] += 2
    raw[:, 4, 8] = -10
    return Gaussians(raw.to(dtype), nominal_count=COUNT, aspect=0.7)


def blending_weights(gaussians):
    """[B, K, H, W], by hand: alpha, times what those in front let through."""
    centers, covariances, _, opacities = (t.double() for t in gaussians.in_pixels(HEIGHT, WIDTH))
    y, x = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    away = torch.stack((x, y), -1) - centers[:, :, None, None]
    inverse = torch.linalg.inv(covariances + 0.3 * torch.eye(2, dtype=torch.float64))
    sigma = 0.5 * torch.einsum("bkhwi,bkij,bkhwj->bkhw", away, inverse, away)
    alpha = (opacities[..., None, None] * torch.exp(-sigma)).clamp(max=0.999)
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    through = torch.cat((torch.ones_like(alpha[:, :1]), (1 - alpha).cumprod(1)[:, :-1]), 1)
    return alpha * through


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_score_of_1_among_zeros_lights_its_gaussians_footprint_alone(dtype):
    gaussians = some_gaussians(dtype)
    weights = blending_weights(gaussians)
    for index in range(COUNT):
        scores = torch.zeros(2, COUNT, dtype=dtype)
        scores[:, index] = 1
        shown = splat_scores(scores, gaussians, HEIGHT, WIDTH)
        assert torch.equal(shown > 0, weights[:, index] > 0)
        torch.testing.assert_close(shown.double(), weights[:, index], rtol=1e-4, atol=1e-5)
    assert (weights[:, 4] == 0).all()
    assert ((weights > 0).flatten(2).sum(-1) > 0).sum() == 2 * (COUNT - 1)


def test_it_is_the_slope_of_the_picture_in_the_colours():
    """``render``'s own picture, whose colours are all moved by the scores; it is linear in them."""
    gaussians, step = some_gaussians(torch.float64), 1e-3
    scores = torch.randn(2, COUNT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = gaussians.replace(colors=gaussians.colors + step * scores.unsqueeze(-1))
    slope = (render(moved, HEIGHT, WIDTH) - render(gaussians, HEIGHT, WIDTH)) / step
    shown = splat_scores(scores, gaussians, HEIGHT, WIDTH)
    torch.testing.assert_close(shown.unsqueeze(1).expand(-1, 3, -1, -1), slope, rtol=1e-6, atol=1e-9)


def test_nothing_is_clipped():
    gaussians, scores = some_gaussians(), torch.linspace(-3, 5, COUNT).expand(2, -1)
    shown = splat_scores(scores, gaussians, HEIGHT, WIDTH)
    assert shown.min() < -1
    assert shown.max() > 2
    torch.testing.assert_close(splat_scores(-100 * scores, gaussians, HEIGHT, WIDTH), -100 * shown)


def test_a_map_is_collected_by_the_same_weights():
    gaussians = some_gaussians()
    values = torch.randn(2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2))
    expected = (blending_weights(gaussians) * values.unsqueeze(1)).sum((2, 3)).float()
    found = collect_map(values, gaussians)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_unusable_scores_are_refused():
    with pytest.raises(InputError, match="one score per Gaussian"):
        splat_scores(torch.zeros(2, COUNT + 1), some_gaussians(), HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="colors must be finite"):
        splat_scores(torch.full((2, COUNT), torch.nan), some_gaussians(), HEIGHT, WIDTH)
    with pytest.raises(InputError, match="one map per image"):
        collect_map(torch.zeros(3, HEIGHT, WIDTH), some_gaussians())
