"""What holds for any picture, searched for counter-examples by hypothesis."""

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
