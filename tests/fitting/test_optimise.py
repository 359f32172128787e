"""Fits whose outcome is known, or has to be the same however it is asked for."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import gvit
from gvit.data.convert import parse_color
from gvit.errors import InputError
from gvit.fitting.optimise import INITIALISERS, default_scale_factor, painted_pixels
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.rendering import rasterize

_NONE = Gaussians(torch.zeros(1, 4, 9))


def known(height: int, width: int) -> torch.Tensor:
    """[3, H, W]: five Gaussians in front of a large one."""
    gaussians = Gaussians.from_values(
        torch.tensor([[-0.5, -0.3], [0.4, -0.2], [0.1, 0.4], [-0.4, 0.4], [0.6, 0.3], [0.0, 0.0]]),
        torch.tensor([[0.2, 0.05], [0.1, 0.1], [0.15, 0.06], [0.08, 0.12], [0.05, 0.2], [1.5, 1.5]]),
        torch.tensor([0.5, 0.0, 2.0, 1.0, 0.3, 0.0]),
        torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0.4, 0.5, 0.6]]),
        torch.tensor([0.9, 0.8, 0.95, 0.7, 0.9, 0.99]),
        scale_factor=4.0,
        aspect=height / width,
    )
    return gvit.render(gaussians, height, width)


def test_a_picture_of_a_few_gaussians_is_found_again():
    image = known(40, 56)[None]
    start = gvit.fit(image, 24, steps=0)
    result = gvit.fit(image, 24, steps=300)
    assert result.psnr.item() > 36
    assert result.psnr.item() > start.psnr.item() + 15
    assert result.gaussians.aspect == pytest.approx(40 / 56)
    drawn = gvit.render(result.gaussians, 40, 56)
    torch.testing.assert_close(psnr(drawn, image), result.psnr)


def test_each_loss_goes_its_own_way():
    image = known(12, 16)[None]
    found = [gvit.fit(image, 6, steps=5, loss=loss).gaussians.raw for loss in ("mse", "bce", "psnr")]
    for one, other in itertools.combinations(found, 2):
        assert (one - other).abs().max() > 1e-3


def test_raw_numbers_are_no_start(unchecked):
    with pytest.raises(InputError, match=r"init must be a name or gvit\.Gaussians, got Tensor"):
        gvit.fit(torch.rand(1, 3, 8, 8), init=torch.rand(1, 4, 9))


def test_a_blob_is_found_with_its_covariance():
    """One Gaussian on black: centre, covariance, and what the ellipse of a figure is drawn from."""
    covariance = gvit.build_covariances(torch.tensor([9.0, 3.0]), torch.tensor(0.6))
    image, _ = rasterize(
        *(
            torch.tensor([[27.0, 20.0]]),
            covariance[None],
            torch.tensor([[0.9, 0.6, 0.3]]),
            torch.tensor([0.9]),
        ),
        *(44, 56),
    )
    result = gvit.fit(image[None], 1, steps=400, init="grid", adaptive=False)
    centers, covariances, _, _ = result.gaussians[0].in_pixels(44, 56)
    assert result.psnr.item() > 45
    torch.testing.assert_close(centers[0], torch.tensor([27.0, 20.0]), rtol=0, atol=0.1)
    torch.testing.assert_close(covariances[0], covariance, rtol=0.03, atol=0.3)


def test_a_constant_image_needs_one_gaussian():
    image = torch.tensor([0.2, 0.5, 0.7])[:, None, None].expand(3, 24, 24)[None]
    result = gvit.fit(image, 1, steps=300)
    # it grows to the bound on the scale, half of the side: 12 pixels
    assert result.gaussians.scales.min() * 12 > 11


@pytest.mark.parametrize("init", ["gradient", "kmeans"])
def test_the_same_seed_gives_the_same_result_and_another_another(init, unchecked):
    image = known(24, 32)[None]
    first = gvit.fit(image, 20, 30, init, seed=1).gaussians.raw
    assert torch.equal(first, gvit.fit(image, 20, 30, init, seed=np.int64(1)).gaussians.raw)
    assert not torch.equal(first, gvit.fit(image, 20, 30, init, seed=2).gaussians.raw)


def test_a_batch_gives_what_its_images_give_alone():
    images = torch.stack((known(24, 32), known(24, 32).flip(-1), known(24, 32).mean(0).expand(3, -1, -1)))
    together = gvit.fit(images, 21, 40, ssim_weight=0.1)
    for number, image in enumerate(images):
        alone = gvit.fit(image[None], 21, 40, ssim_weight=0.1)
        torch.testing.assert_close(
            together.gaussians[number : number + 1].raw, alone.gaussians.raw, rtol=1e-2, atol=1e-2
        )
        assert together.psnr[number].item() == pytest.approx(alone.psnr.item(), abs=0.05)


def test_the_callers_random_numbers_stay_as_they_are():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    gvit.fit(torch.full((1, 3, 12, 12), 0.3), 4, 2, "kanezaki")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("count", [2, 17, 40])
def test_growth_ends_with_exactly_the_wanted_number(count):
    gaussians = gvit.fit(known(24, 32)[None], count, 24).gaussians
    assert gaussians.raw.shape == (1, count, 9)
    assert gaussians.nominal_count == count


def test_growth_beats_none_where_the_start_is_blind():
    images = F.interpolate(torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(0)), (48, 64))
    grown = gvit.fit(images, 150, 80, "random").psnr.item()
    assert grown > gvit.fit(images, 150, 80, "random", adaptive=False).psnr.item() + 0.5


def test_painted_pixels_add_up_to_what_is_covered():
    """One Gaussian, one behind it, and one that is transparent: sums over pixels are integrals, nearly."""
    centers = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.5, 0.5]])
    gaussians = Gaussians.from_values(
        *(
            centers,
            torch.full((3, 2), 0.1),
            torch.zeros(3),
            torch.rand(3, 3),
            torch.tensor([0.99, 0.99, 1e-3]),
        ),
        scale_factor=1.0,
        nominal_count=4,
    )
    painted = painted_pixels(gaussians, 40, 40)
    _, alpha = rasterize(*gaussians.in_pixels(40, 40), 40, 40)
    assert painted.sum().item() == pytest.approx(alpha.sum().item(), rel=1e-4)
    area = math.pi * (2.0**2 + 0.3)  # of a deviation of two pixels, and the renderer's blur
    assert painted[0].item() == pytest.approx(2 * 0.99 * area, rel=0.01)
    # the integral of a (1 - a)
    assert painted[1].item() == pytest.approx((2 * 0.99 - 0.99**2) * area, rel=0.03)
    assert painted[2] == 0


def test_what_draws_nothing_is_moved_to_the_error():
    from gvit.fitting.optimise import _Canvas, _grow

    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 20:28, 4:12] = 1
    dead = Gaussians.from_values(
        *(torch.tensor([[[0.9, -0.9]]]), torch.full((1, 1, 2), 0.1), torch.zeros(1, 1), torch.zeros(1, 1, 3)),
        torch.full((1, 1), 1e-3),
        scale_factor=1.0,
        nominal_count=4,
    )
    grown = _grow(dead, _Canvas(image, None, None), 3, [torch.Generator().manual_seed(0)])
    centers, _, colors, opacities = grown[0].in_pixels(32, 32)
    assert len(grown[0]) == 3
    assert (
        (centers[:, 0] >= 4) & (centers[:, 0] <= 12) & (centers[:, 1] >= 20) & (centers[:, 1] <= 28)
    ).all()
    assert (colors > 0.99).all()
    assert (opacities > 0.5).all()


def moved(gaussians: Gaussians, seed: int = 0) -> Gaussians:
    """The same Gaussians a little off."""
    noise = torch.randn(gaussians.raw.shape, generator=torch.Generator().manual_seed(seed))
    return gaussians.replace_raw(gaussians.raw + 0.1 * noise)


def test_a_fit_starts_from_the_picture_that_it_is_given():
    """Whatever their bounds and their aspect, and without a change to what the caller has."""
    images = torch.stack((known(40, 56), known(40, 56).flip(-1)))
    other = gvit.fit(images, 30, 100).gaussians
    expected = gvit.render(other, 40, 56)
    before = other.raw.clone()
    for given in (
        other,
        other.with_bounds(scale_factor=9.0, nominal_count=7),
        other.with_bounds(scale_factor=9.0, aspect=1.0),
        other.to(torch.float64),
    ):
        start = gvit.fit(images, steps=0, init=given)
        assert start.gaussians.raw.shape == (2, 30, 9)
        assert start.gaussians.aspect == 40 / 56
        torch.testing.assert_close(gvit.render(start.gaussians, 40, 56), expected, rtol=0, atol=2e-3)
    gvit.fit(images, steps=30, init=other)
    assert torch.equal(other.raw, before)


def test_the_first_steps_keep_what_a_good_start_has():
    """Adam at its full rate would throw a fitted picture back by decibels."""
    image = known(40, 56)[None]
    fitted = gvit.fit(image, 10, 60)
    again = gvit.fit(image, steps=1, init=fitted.gaussians)
    assert again.psnr.item() > fitted.psnr.item() - 2


def test_a_near_start_is_sooner_there_than_any_name():
    image = known(40, 56)[None]
    near = moved(gvit.fit(image, 30, 300).gaussians)
    found = gvit.fit(image, steps=30, init=near).psnr.item()
    for init in INITIALISERS:
        assert found > gvit.fit(image, 30, 30, init).psnr.item() + 2, init


def test_of_a_given_start_what_is_missing_or_draws_nothing_is_put_at_the_error():
    image = torch.zeros(1, 3, 32, 32)
    image[:, :, 20:28, 4:12] = 1
    black = Gaussians.from_values(
        *(torch.zeros(1, 2, 2), torch.tensor([[[0.9, 0.9], [0.1, 0.1]]]), torch.zeros(1, 2)),
        *(torch.zeros(1, 2, 3), torch.tensor([[0.9, 1e-3]])),
        scale_factor=2.0,
    )
    start = gvit.fit(image, 5, steps=0, init=black).gaussians
    centers, _, colors, opacities = start[0].in_pixels(32, 32)
    assert len(start) == 5
    # the one that draws is the last, behind four new ones
    torch.testing.assert_close(centers[-1], torch.tensor([16.0, 16.0]))
    assert (opacities[:-1] > 0.5).all()
    assert ((centers[:-1, 0] > 4) & (centers[:-1, 0] < 12)).all()
    assert ((centers[:-1, 1] > 20) & (centers[:-1, 1] < 28)).all()
    assert (colors[:-1] > 0.9).all()
    # without it, they stay as they are
    kept = gvit.fit(image, steps=0, init=black, adaptive=False).gaussians
    torch.testing.assert_close(kept.opacities, black.opacities)


def test_the_bound_of_a_given_start_is_kept_where_it_is_the_larger_one():
    wide = Gaussians.from_values(
        *(torch.zeros(1, 1, 2), torch.full((1, 1, 2), 1.9), torch.zeros(1, 1), torch.full((1, 1, 3), 0.5)),
        torch.full((1, 1), 0.9),
        scale_factor=1.0,
    )
    start = gvit.fit(torch.rand(1, 3, 16, 16), steps=0, init=wide).gaussians
    torch.testing.assert_close(start.scales, wide.scales, rtol=1e-4, atol=0)


def test_the_bound_on_the_scale_is_half_the_side_for_any_number():
    for count in (1, 100, 10_000):
        empty = Gaussians(torch.zeros(1, 9), default_scale_factor(count), count)
        assert empty.scale_factor * empty.spacing == pytest.approx(1.0)  # of a canvas with sides of 2
        assert math.isfinite(empty.spacing)


def test_fits_within_inference_mode():
    image = known(16, 16)[None]
    expected = gvit.fit(image, 8, 25)
    with torch.inference_mode():
        found = gvit.fit(image + 0, 8, 25)
    assert torch.equal(found.gaussians.raw, expected.gaussians.raw)


def test_progress_tells_each_step():
    seen = []
    gvit.fit(known(16, 16)[None], 8, 25, progress=lambda done, quality: seen.append((done, quality)))
    assert [done for done, _ in seen] == list(range(1, 26))
    assert seen[-1][1] > seen[0][1]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (torch.rand(1, 2, 8, 8), {}, r"images must have shape \[B, 3, H, W\], got \[1, 2, 8, 8\]"),
        (255 * torch.ones(1, 3, 8, 8), {}, r"values in \[0, 1\], got 255 to 255"),
        (torch.full((1, 3, 8, 8), torch.nan), {}, "an image has pixels that are NaN"),
        (torch.rand(1, 3, 8, 8), {"num_gaussians": 0}, "at least 1"),
        (torch.rand(1, 3, 8, 8), {"steps": -1}, "at least 0"),
        (torch.rand(1, 3, 8, 8), {"seed": 1.5}, "seed must be a whole number, .* got 1.5"),
        (torch.rand(1, 3, 8, 8), {"seed": None}, "seed must be a whole number, .* got None"),
        (torch.rand(1, 3, 8, 8), {"bits": 6.5}, "bits must be a whole number, 2 to 12, got 6.5"),
        (
            *(torch.rand(1, 3, 8, 8), {"bits": 6, "num_gaussians": 2**20 + 1}),
            "bits is for at most 1,048,576 Gaussians an image, got num_gaussians=1048577",
        ),
        (torch.rand(1, 3, 8, 8), {"num_gaussians": 10**7 + 1}, "at most 10,000,000"),
        (torch.rand(1, 3, 8, 8), {"loss": "l1"}, "unknown loss 'l1'; there are: bce, mse"),
        (torch.rand(1, 3, 8, 8), {"ssim_weight": 0.1}, "at least 11x11 pixels, got 8x8"),
        (torch.rand(1, 3, 8, 8), {"ssim_weight": -1.0}, "ssim_weight must be"),
        (torch.rand(2, 3, 8, 8), {"init": _NONE}, r"init must have shape \[2, n, 9\].*, got \[1, 4, 9\]"),
        (torch.rand(1, 3, 8, 8), {"init": _NONE, "num_gaussians": 3}, "n from 1 to num_gaussians=3"),
        (
            *(torch.rand(1, 3, 8, 8), {"init": _NONE, "num_gaussians": 5, "adaptive": False}),
            "init has 4 of 5 Gaussians; adaptive=True adds the others",
        ),
        (torch.rand(1, 3, 8, 8), {"init": _NONE.replace_raw(_NONE.raw / 0)}, "init must have finite raw"),
    ],
)
def test_errors_say_what_would_be_right(images, options, message, unchecked):
    with pytest.raises(InputError, match=message):
        gvit.fit(images, **options)


def test_a_batch_is_white_up_to_rounding_as_one_image_is():
    white = torch.full((3, 8, 8), 1 + 1e-6)
    one, batch = (gvit.fit(images, 4, 0).gaussians.raw for images in (white, white[None]))
    assert torch.equal(one, batch)
    assert torch.equal(batch, gvit.fit(torch.ones(1, 3, 8, 8), 4, 0).gaussians.raw)


def test_every_form_of_an_image_is_fitted_alike(tmp_path):
    pixels = (known(16, 12) * 255).round().byte()
    expected = gvit.fit(pixels[None] / 255, 8, 5).gaussians.raw
    array = pixels.permute(1, 2, 0).numpy()
    Image.fromarray(array).save(tmp_path / "a.png")
    forms = [
        tmp_path / "a.png",
        Image.fromarray(array),
        array,
        array[None],
        pixels,
        pixels[None],
        pixels / 255,
    ]
    for form in forms:
        torch.testing.assert_close(gvit.fit(form, 8, 5).gaussians.raw, expected, rtol=1e-4, atol=1e-4)
    assert gvit.fit([array, str(tmp_path / "a.png")], 8, 5).gaussians.raw.shape == (2, 8, 9)
    grey = pixels[:1, None] / 255
    torch.testing.assert_close(gvit.fit(grey, 8, 5).gaussians.raw, gvit.fit(grey[0], 8, 5).gaussians.raw)
    with pytest.raises(InputError, match=r"images of different sizes \(12x16, 16x12\)"):
        gvit.fit([array, array.transpose(1, 0, 2)], 8, 5)


@pytest.mark.parametrize("background", ["black", "white"])
def test_no_gaussian_is_spent_on_transparency(background):
    """Where it is adaptive; the picture is as good as one without alpha."""
    image = torch.zeros(1, 4, 32, 32)
    image[0, :3, 8:20, 4:16] = known(12, 12)
    image[0, 3, 8:20, 4:16] = 1
    fitted = gvit.fit(image, 60, 100, background=background)
    below = torch.tensor(parse_color(background))
    solid = image[:, :3] + (1 - image[:, 3:]) * below[:, None, None]
    drawn = gvit.render(fitted.gaussians, 32, 32, background=below)
    assert psnr(drawn, solid).item() == pytest.approx(fitted.psnr.item())
    plain = gvit.fit(solid, 60, 100, background=background)
    assert fitted.psnr > plain.psnr - 1

    def outside(gaussians: Gaussians) -> float:
        x, y = gaussians.in_pixels(32, 32)[0][0].unbind(-1)
        return ((x < 2) | (x > 18) | (y < 6) | (y > 22)).float().mean().item()

    assert outside(fitted.gaussians) < 0.05
    assert outside(fitted.gaussians) < outside(plain.gaussians)


def test_colours_make_up_for_quantised_shapes():
    """Better than rounding the same fit at its end, and what is drawn is what bytes give back."""
    images = known(40, 56)[None]
    # converged: before that, either may be ahead by chance
    rounded = gvit.fit(images, 30, 300, bits=5)
    content = rounded.gaussians[0].to_bytes(5)
    drawn = gvit.render(gvit.Gaussians.from_bytes(content), *images.shape[-2:])
    assert psnr(drawn, images[0]).item() == pytest.approx(rounded.psnr[0].item(), abs=0.01)
    at_the_end = gvit.fit(images, 30, 300).gaussians.quantised(5)
    assert rounded.psnr[0] > psnr(gvit.render(at_the_end, *images.shape[-2:]), images)[0] + 0.3
    with pytest.raises(InputError, match="bits must be a whole number, 2 to 12"):
        gvit.fit(images, 60, 60, bits=1)
