"""What each initialiser proposes, where the right answer is known."""

import numpy as np
import pytest
import torch

from gvit.errors import InputError
from gvit.fitting.blobs import draw_pixels
from gvit.fitting.felzenszwalb import felzenszwalb_blobs
from gvit.fitting.gradient import gradient_blobs
from gvit.fitting.grid import grid_blobs
from gvit.fitting.kanezaki import kanezaki_blobs
from gvit.fitting.kmeans import kmeans_blobs
from gvit.fitting.optimise import INITIALISERS, fit
from gvit.fitting.regions import region_blobs

RED, GREEN, BLUE, GREY = [0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.1, 0.2, 0.9], [0.5, 0.5, 0.5]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patches(colors: list[list[list[float]]], size: int) -> torch.Tensor:
    """Flat square patches, [3, H, W], from rows of colours."""
    image = torch.tensor(colors).permute(2, 0, 1)
    return image.repeat_interleave(size, 1).repeat_interleave(size, 2)


def halves() -> torch.Tensor:
    """24 x 30: 10 columns of red, 20 of blue."""
    image = torch.empty(3, 24, 30)
    image[:, :, :10] = torch.tensor(RED)[:, None, None]
    image[:, :, 10:] = torch.tensor(BLUE)[:, None, None]
    return image


def sorted_by_x(blobs):
    order = blobs.centers[:, 0].argsort()
    return blobs.centers[order], blobs.covariances[order], blobs.colors[order]


def test_kmeans_finds_the_centres_and_colours_of_flat_patches():
    blobs = kmeans_blobs(patches([[RED, GREEN], [BLUE, GREY]], 12), 4, generator())
    found = {tuple(center.tolist()): color for center, color in zip(blobs.centers, blobs.colors, strict=True)}
    expected = {(6.0, 6.0): RED, (18.0, 6.0): GREEN, (6.0, 18.0): BLUE, (18.0, 18.0): GREY}
    assert set(found) == set(expected)
    for center, color in expected.items():
        torch.testing.assert_close(found[center], torch.tensor(color))


def test_felzenszwalbs_segments_of_two_regions_have_the_moments_of_the_regions():
    centers, covariances, colors = sorted_by_x(felzenszwalb_blobs(halves(), 2, generator()))
    torch.testing.assert_close(centers, torch.tensor([[5.0, 12.0], [20.0, 12.0]]))
    # of a rectangle of sides a and b: a^2 / 12 and b^2 / 12
    expected = torch.tensor([[10.0, 24.0], [20.0, 24.0]]).square() / 12
    torch.testing.assert_close(covariances, torch.diag_embed(expected))
    torch.testing.assert_close(colors, torch.tensor([RED, BLUE]))


def test_kanezakis_network_tells_two_regions_apart():
    """To a pixel: the network sees the border of the image, too, and the segments near it are others."""
    centers, _, colors = sorted_by_x(kanezaki_blobs(halves(), 2, generator()))
    torch.testing.assert_close(centers, torch.tensor([[5.0, 12.0], [20.0, 12.0]]), rtol=0, atol=1.0)
    torch.testing.assert_close(colors, torch.tensor([RED, BLUE]), rtol=0, atol=0.05)


def test_moments_of_a_slanted_region():
    """A thin ellipse, rasterised: its covariance is that of an ellipse with half axes of twice the deviations."""
    y, x = np.mgrid[:64, :64] + 0.5
    angle, long, short = 0.5, 24.0, 6.0
    along = (x - 32) * np.cos(angle) + (y - 32) * np.sin(angle)
    across = (y - 32) * np.cos(angle) - (x - 32) * np.sin(angle)
    labels = ((along / long) ** 2 + (across / short) ** 2 <= 1).astype(int)
    blobs = region_blobs(torch.rand(3, 64, 64), labels, 2, generator())
    gaussians = blobs.to_gaussians(64, 64, 0.7, 4.0, 4)  # the ellipse is the smaller: it comes first
    torch.testing.assert_close(gaussians.scales[0] * 32, torch.tensor([12.0, 3.0]), rtol=0.02, atol=0)
    assert gaussians.angles[0] % torch.pi == pytest.approx(angle, abs=0.01)
    assert gaussians.in_pixels(64, 64)[0][0].tolist() == pytest.approx([32, 32], abs=0.05)


def test_too_many_regions_leave_the_largest():
    labels = np.repeat([3, 7, 1, 2], [2, 9, 1, 5])[None].repeat(4, 0)
    blobs = region_blobs(torch.rand(3, 4, 17), labels, 2, generator())
    assert sorted(blobs.centers[:, 0].tolist()) == [2 + 4.5, 12 + 2.5]


def test_too_few_regions_are_cut_across_their_long_axis():
    blobs = region_blobs(torch.rand(3, 4, 16), np.zeros((4, 16), int), 4, generator())
    centers, covariances, _ = sorted_by_x(blobs)
    torch.testing.assert_close(centers, torch.tensor([[2.0, 2], [6, 2], [10, 2], [14, 2]]))
    torch.testing.assert_close(covariances, (16 / 12 * torch.eye(2)).expand(4, 2, 2))


def test_the_grid_is_even_and_takes_the_images_colours():
    image = patches([[RED, GREEN, BLUE]], 10)
    blobs = grid_blobs(image, 3, generator())
    torch.testing.assert_close(blobs.centers, torch.tensor([[5.0, 5], [15, 5], [25, 5]]))
    torch.testing.assert_close(blobs.colors, torch.tensor([RED, GREEN, BLUE]))
    torch.testing.assert_close(blobs.covariances, (25.0 * torch.eye(2)).expand(3, 2, 2))


def test_gradient_puts_more_and_smaller_blobs_at_the_edge():
    image = patches([[RED, BLUE]], 32)
    blobs = gradient_blobs(image, 400, generator())
    near = (blobs.centers[:, 0] - 32).abs() <= 1
    # 0.7 of them on the two columns with a gradient, and 2 / 64 of the others
    assert near.float().mean().item() == pytest.approx(0.7 + 0.3 / 32, abs=0.06)
    sizes = blobs.covariances[:, 0, 0]
    assert sizes[near].mean() < 0.5 * sizes[~near].mean()


def test_pixels_are_drawn_as_often_as_their_weights_say():
    weights = torch.tensor([[0.0, 1.0], [3.0, 0.0]])
    rows, columns = draw_pixels(weights, 4000, generator())
    counts = torch.bincount(2 * rows + columns, minlength=4).tolist()
    assert counts[0] == counts[3] == 0
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("init", list(INITIALISERS))
@pytest.mark.parametrize(
    ("height", "width", "count"), [(13, 29, 37), (31, 7, 1), (5, 7, 50), (1, 9, 4), (17, 11, 5)]
)
def test_every_initialiser_gives_valid_gaussians(init, height, width, count):
    """Odd sizes, one Gaussian, more Gaussians than pixels, one row; noise and a constant image."""
    noise = torch.rand(3, height, width, generator=generator())
    gaussians = fit(torch.stack((noise, torch.full_like(noise, 0.4))), count, 0, init).gaussians
    assert gaussians.raw.shape == (2, count, 9)
    assert gaussians.raw.isfinite().all()
    centers, covariances, _, _ = gaussians.in_pixels(height, width)
    assert ((centers >= 0) & (centers <= torch.tensor((width, height)))).all()
    assert (torch.linalg.eigvalsh(covariances.double()) > 0).all()
    if init != "random" and count <= height * width:
        torch.testing.assert_close(gaussians.colors[1], torch.full((count, 3), 0.4))


def test_an_unknown_initialiser_is_named():
    with pytest.raises(InputError, match="unknown initialiser 'gradients'; nearest: gradient"):
        fit(torch.rand(1, 3, 8, 8), 4, 1, "gradients")


@pytest.mark.parametrize("init", INITIALISERS)
def test_a_single_pixel_can_be_fitted(init):
    assert fit(torch.full((1, 3, 1, 1), 0.5), 3, 20, init).psnr > 20
