"""What holds for any picture, searched for counter-examples by hypothesis."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import ALPHA_MAX, compare, random_scene

from gvit.rendering import rasterize

pictures = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "count": st.integers(1, 40),
        "height": st.integers(1, 40),
        "width": st.integers(1, 40),
        "channels": st.integers(1, 6),
        "scales": st.sampled_from([(0.1, 1.0), (1.0, 5.0), (5.0, 50.0)]),
        "opacities": st.sampled_from([(0.0, 0.1), (0.1, 0.9), (0.95, 1.0)]),
        "margin": st.sampled_from([0.0, 0.5]),
        "seed": st.integers(0, 2**31),
    }
)


def draw(scene, picture):
    return rasterize(*scene[:4], picture["height"], picture["width"], background=scene[4], backend="cpu")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pictures)
def test_cpu_is_the_reference(picture):
    comparison = compare(random_scene(**picture), picture["height"], picture["width"], "cpu")
    assert comparison.image_error <= 1e-5
    assert comparison.alpha_error <= 1e-5
    # the background's gradient is the transmittance: 1 - alpha keeps alpha's rounding, some 1e-7, of 1 - alpha_max
    bounds = dict.fromkeys(comparison.gradient_errors, 1e-5) | {"background": 1e-7 / (1 - ALPHA_MAX)}
    for name, error in comparison.gradient_errors.items():
        assert error <= bounds[name], name


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pictures)
def test_alpha_is_a_fraction_and_colours_stay_in_their_range(picture):
    image, alpha = draw(random_scene(**picture), picture)
    assert alpha.min() >= 0
    assert alpha.max() <= 1 - 1e-4 + 1e-6
    assert image.min() >= 0
    assert image.max() <= 1 + 1e-5


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pictures)
def test_images_of_a_batch_do_not_see_each_other(picture):
    scene = random_scene(**picture)
    image, alpha = draw(scene, picture)
    last_image, last_alpha = draw([tensor[-1:] for tensor in scene], picture)
    assert torch.equal(image[-1:], last_image)
    assert torch.equal(alpha[-1:], last_alpha)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pictures, st.integers(0, 39))
def test_invisible_gaussians_change_nothing(picture, place):
    scene = random_scene(**picture)
    more = [torch.cat((t[:, :place], t[:, :1], t[:, place:]), 1) for t in scene[:4]]
    more[3][:, min(place, picture["count"])] = 0.5 / 255
    assert torch.equal(draw([*more, scene[4]], picture)[0], draw(scene, picture)[0])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(pictures, st.integers(-20, 20), st.integers(-20, 20))
def test_moves_with_its_gaussians(picture, right, down):
    """A larger picture, shifted by whole pixels, shows the same."""
    scene = random_scene(**picture)
    height, width = picture["height"], picture["width"]
    moved = scene._replace(centers=scene.centers + torch.tensor([right + 20.0, down + 20.0]))
    image, _ = draw(scene, picture)
    larger, _ = rasterize(*moved[:4], height + 40, width + 40, background=scene.background, backend="cpu")
    view = larger[..., down + 20 : down + 20 + height, right + 20 : right + 20 + width]
    # centres further off are rounded anew, and an alpha of 1/255 may be drawn or not
    different = ((view - image).abs() > 1e-3).float().mean()
    assert different <= 0.01
    assert (view - image).abs().max() <= 1.01 / 255


# either way of 0; the last is the smallest that float32 has
SIZES = (0.0, 0.5, 1.0, 7.0, 1e5, 1e10, 1e15, 1e20, 1e30, 1e-6, 1e-20, 1e-38, 1e-45)


@st.composite
def extreme_scenes(draw_from):
    """A few Gaussians of any finite size, whose covariances are positive semi-definite after rounding."""
    seed, count = draw_from(st.integers(0, 2**31)), draw_from(st.integers(1, 5))
    rng = np.random.default_rng(seed)

    def numbers(*shape):
        return rng.choice(SIZES, shape) * rng.uniform(0.5, 1, shape) * rng.choice([-1, 1], shape)

    near = rng.random((count, 2)) < 0.5
    xx, yy = np.abs(numbers(2, count))
    xy = np.sqrt(xx) * np.sqrt(yy) * rng.choice([-0.9, 0, 0.5], count) * (np.minimum(xx, yy) > 1e-37)
    opacities = np.where(rng.random(count) < 0.6, rng.uniform(0, 1, count), numbers(count))
    return (
        np.where(near, rng.uniform(0, 30, (count, 2)), numbers(count, 2)),
        np.stack((xx, xy, xy, yy), -1).reshape(count, 2, 2),
        numbers(count, 3),
        opacities,
        numbers(3),
    )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    extreme_scenes(), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 1 / 255]), st.booleans()
)
def test_numbers_of_any_size_give_finite_images_and_gradients(scene, height, width, alpha_min, steep):
    # the loss's gradient at a pixel, which times a colour is 1e30 at the most
    slope = 1e30 / max(1.0, *(np.abs(colors).max() for colors in (scene[2], scene[4]))) if steep else 1.0
    for backend, dtype in (
        ("cpu", torch.float32),
        ("reference", torch.float32),
        ("reference", torch.float64),
    ):
        tensors = [torch.tensor(numbers, dtype=dtype, requires_grad=True) for numbers in scene]
        drawn = rasterize(
            *(*tensors[:4], height, width),
            background=tensors[4],
            alpha_min=alpha_min,
            backend=backend,
        )
        slopes = [torch.full_like(output, slope) for output in drawn]
        gradients = torch.autograd.grad(drawn, tensors, slopes)
        assert all(tensor.isfinite().all() for tensor in (*drawn, *gradients)), backend


def test_a_million_gaussians_have_finite_images_and_gradients():
    count, generator = 1_000_000, torch.Generator().manual_seed(0)
    sizes = torch.rand(count, 1, 1, generator=generator) * torch.eye(2)
    scene = [torch.rand(count, 2, generator=generator) * 64, sizes.contiguous()]
    scene += [torch.rand(count, 3, generator=generator), torch.rand(count, generator=generator)]
    tensors = [tensor.requires_grad_() for tensor in scene]
    drawn = rasterize(*tensors, 64, 64, backend="cpu")
    gradients = torch.autograd.grad(drawn[0].sum() + drawn[1].sum(), tensors)
    assert all(tensor.isfinite().all() for tensor in (*drawn, *gradients))
    assert gradients[2].count_nonzero() > 1000
