import doctest
import math
import os
import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.errors import InputError
from gvit.fitting.optimise import default_scale_factor
from gvit.gaussians import Gaussians, build_covariances, canonical_features, transform_gaussians
from gvit.rendering import rasterize, render


def random_raw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 9, generator=generator, dtype=dtype)


def test_covariance_has_the_scales_as_axes():
    covariance = build_covariances(torch.tensor([3.0, 1.0]), torch.tensor(math.pi / 6))
    axis = torch.tensor([math.cos(math.pi / 6), math.sin(math.pi / 6)])
    torch.testing.assert_close(covariance @ axis, 9 * axis)
    normal = torch.tensor([-axis[1], axis[0]])
    torch.testing.assert_close(covariance @ normal, normal)


def test_equal_are_gaussians_that_are_the_same_object():
    gaussians, others = Gaussians(random_raw(2)), Gaussians(random_raw(2))
    assert gaussians != others
    assert {gaussians, others, gaussians} == {others, gaussians}


@pytest.mark.parametrize("aspect", [0.5, 1.0, 2.0])
def test_raw_zeros_mean_the_middle_of_every_range(aspect):
    gaussians = Gaussians(torch.zeros(4, 9), scale_factor=0.8, nominal_count=16, aspect=aspect)
    assert gaussians.centers.abs().max() == 0
    # the area of the canvas shared by 16 Gaussians, then half of c
    area = 4 * min(1, aspect) * min(1, 1 / aspect)
    torch.testing.assert_close(gaussians.scales, torch.full((4, 2), 0.4 * math.sqrt(area / 16)))
    assert (gaussians.colors == 0.5).all()
    assert (gaussians.opacities == 0.5).all()


def test_the_longer_side_spans_the_canvas():
    raw = torch.full((1, 9), 20.0)
    assert Gaussians(raw, aspect=0.5).centers.tolist() == [[1.0, 0.5]]
    assert Gaussians(raw, aspect=2.0).centers.tolist() == [[0.5, 1.0]]


def test_in_pixels_puts_corners_and_sizes_where_they_belong():
    raw = torch.zeros(2, 9, dtype=torch.float64)
    raw[0, :2] = 40  # the lower right corner
    gaussians = Gaussians(raw, nominal_count=4, aspect=0.5)
    centers, covariances, _, _ = gaussians.in_pixels(100, 200)
    torch.testing.assert_close(centers, torch.tensor([[200.0, 100.0], [100.0, 50.0]], dtype=torch.float64))
    # canvas units are half the longer side
    deviation = gaussians.scales[0, 0] * 100
    torch.testing.assert_close(covariances[0], torch.eye(2, dtype=torch.float64) * deviation**2)


def test_another_aspect_stretches():
    gaussians = Gaussians(random_raw(5), aspect=1.0)
    _, square, _, _ = gaussians.in_pixels(64, 64)
    _, wide, _, _ = gaussians.in_pixels(64, 128)
    stretch = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(wide, stretch @ square @ stretch)


def test_half_precision_is_lifted():
    for tensor in Gaussians(random_raw(3).bfloat16()).in_pixels(8, 8):
        assert tensor.dtype == torch.float32


@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.5])
def test_from_values_inverts_the_bounds(aspect):
    one = Gaussians(random_raw(2, 7), 0.7, 32, aspect)
    other = Gaussians.from_values(
        *(one.centers, one.scales, one.angles, one.colors, one.opacities),
        **{"scale_factor": 0.7, "nominal_count": 32, "aspect": aspect},
    )
    torch.testing.assert_close(other.raw, one.raw, rtol=1e-6, atol=1e-6)
    assert (other.scale_factor, other.nominal_count, other.aspect) == (0.7, 32, aspect)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_from_values_is_finite_at_the_bounds(dtype):
    count = 3
    with pytest.warns(UserWarning, match="scales"):
        extreme = Gaussians.from_values(
            torch.tensor([[1.0, -1.0]] * count, dtype=dtype),
            torch.full((count, 2), 10.0, dtype=dtype),
            torch.zeros(count, dtype=dtype),
            torch.tensor([[0.0, 1.0, 0.5]] * count, dtype=dtype),
            torch.ones(count, dtype=dtype),
        )
    assert extreme.raw.dtype == dtype
    assert extreme.raw.isfinite().all()
    torch.testing.assert_close(extreme.opacities.double(), torch.ones(count).double(), rtol=0, atol=2e-6)


def test_whole_numbers_are_values_like_others(unchecked):
    """On a canvas that is not square, whose half side is no whole number."""
    whole = {
        "centers": torch.tensor([[0, 0], [1, 0]]),
        "scales": torch.tensor([[0, 0], [0, 1]]),
        "angles": torch.tensor([0, 1]),
        "colors": torch.tensor([[0, 1, 0], [1, 0, 1]]),
        "opacities": torch.tensor([1, 0]),
    }
    floats = {name: value.float() for name, value in whole.items()}
    expected = Gaussians.from_values(**floats, aspect=0.5)
    assert expected.raw.isfinite().all()
    assert torch.equal(Gaussians.from_values(**whole, aspect=0.5).raw, expected.raw)
    assert torch.equal(expected.replace(**whole).raw, expected.raw)
    beyond = torch.tensor([[0, 1], [0, 0]])
    with pytest.warns(UserWarning, match="1 of 1 visible Gaussians lie beyond the canvas"):
        Gaussians.from_values(**whole | {"centers": beyond}, aspect=0.5)


def test_indexing_keeps_the_canvas():
    gaussians = Gaussians(random_raw(2, 6), 0.7, 6, 0.5)
    kept = gaussians[0, :4]
    assert len(kept) == 4
    # removing Gaussians must not change the size of the others
    torch.testing.assert_close(kept.scales, gaussians.scales[0, :4])


def test_save_and_load(tmp_path):
    gaussians = Gaussians(random_raw(2, 6, dtype=torch.float32), 0.7, 32, 0.5)
    gaussians.save(tmp_path / "g.safetensors")
    loaded = Gaussians.load(tmp_path / "g.safetensors")
    assert torch.equal(loaded.raw, gaussians.raw)
    assert (loaded.scale_factor, loaded.nominal_count, loaded.aspect) == (0.7, 32, 0.5)


def test_load_of_something_else_says_so(tmp_path):
    path = tmp_path / "g.safetensors"
    path.write_text("nothing of the kind")
    with pytest.raises(ValueError, match="not a file of Gaussians"):
        Gaussians.load(path)
    with pytest.raises(ValueError, match="missing"):
        Gaussians.load(tmp_path / "missing")
    with pytest.raises(InputError, match=r"a folder; name a \.safetensors file"):
        Gaussians.load(tmp_path)


def test_printed_they_are_a_line():
    gaussians = Gaussians(torch.zeros(2, 5, 9), 0.5, 8, 0.75)
    bounds = "scale_factor=0.5, nominal_count=8, aspect=0.75"
    assert repr(gaussians) == f"Gaussians(raw=float32 [2, 5, 9], {bounds})"
    assert repr(gaussians[:, :3]) == f"Gaussians(raw=float32 [2, 3, 9], {bounds}, with slots)"


def test_numbers_of_numpy_are_saved(tmp_path, unchecked):
    gaussians = Gaussians(torch.zeros(4, 9), np.float32(0.5), np.int64(8), np.float32(0.25))
    gaussians.save(tmp_path / "g.safetensors")
    loaded = Gaussians.load(tmp_path / "g.safetensors")
    assert (loaded.scale_factor, loaded.nominal_count, loaded.aspect) == (0.5, 8, 0.25)


def test_the_nominal_count_is_a_whole_number(tmp_path, unchecked):
    with pytest.raises(InputError, match=r"nominal_count must be a whole number, got 2\.5"):
        Gaussians(torch.zeros(4, 9), nominal_count=2.5)
    gaussians = Gaussians(torch.zeros(4, 9), nominal_count=2.0)
    gaussians.save(tmp_path / "g.safetensors")
    for loaded in (Gaussians.load(tmp_path / "g.safetensors"), Gaussians.from_bytes(gaussians.to_bytes(4))):
        assert (loaded.nominal_count, loaded.spacing) == (2, gaussians.spacing)


def test_iteration_goes_over_images():
    gaussians = Gaussians(random_raw(3, 5), 0.7, 32, 0.5)
    images = list(gaussians)
    assert len(images) == 3
    assert all(torch.equal(one.raw, raw) for one, raw in zip(images, gaussians.raw, strict=True))
    assert images[0].nominal_count == 32
    with pytest.raises(TypeError, match="of one image: iterate over their values"):
        list(images[0])
    with pytest.raises(TypeError):
        reversed(gaussians)


def test_raw_numbers_are_floating_point(unchecked):
    with pytest.raises(ValueError, match=r"a floating-point tensor, got torch.int64"):
        Gaussians(torch.zeros(3, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match="a floating-point tensor, got ndarray"):
        Gaussians(np.zeros((3, 9)))


VALUES = {"centers": (2,), "scales": (2,), "angles": (), "colors": (3,), "opacities": ()}


def test_values_of_no_gaussians_make_none():
    empty = Gaussians.from_values(**{name: torch.zeros(2, 0, *width) for name, width in VALUES.items()})
    assert empty.raw.shape == (2, 0, 9)
    assert empty.nominal_count == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"angles": torch.zeros(2)},
            r"angles must have shape \[3\] to go with centers of shape \[3, 2\], got \[2\]",
        ),
        ({"colors": torch.zeros(1, 3)}, r"colors must have shape \[3, 3\] .*, got \[1, 3\]"),
        ({"centers": torch.zeros(2)}, r"centers must have shape .*, got \[2\]"),
        ({"centers": torch.zeros(3, 3)}, r"centers must have shape \[..., K, 2\], got \[3, 3\]"),
        ({"scales": [[0.1, 0.1]] * 3}, "scales must be a tensor, got list"),
    ],
    ids=["fewer angles", "one colour", "no Gaussians' centre", "centres in space", "lists"],
)
def test_values_that_do_not_go_together_are_refused(changes, message, unchecked):
    values = {name: torch.full((3, *width), 0.1) for name, width in VALUES.items()}
    with pytest.raises(InputError, match=message):
        Gaussians.from_values(**values | changes)


def test_wrong_shape_is_refused(unchecked):
    with pytest.raises(ValueError, match=r"\[\.\.\., K, 9\]"):
        Gaussians(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="positive"):
        Gaussians(torch.zeros(3, 9), scale_factor=0.0)
    with pytest.raises(InputError, match=r"slots must be int64 of shape \[3\] .*, got list"):
        Gaussians(torch.zeros(3, 9), slots=[0, 1, 2])


seeds = st.integers(0, 2**31 - 1)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, turns=st.integers(-3, 3), swap=st.booleans())
def test_canonical_features_depend_only_on_what_is_drawn(seed, turns, swap):
    raw = random_raw(6, seed=seed)
    same = raw.clone()
    same[:, 4] += turns * math.pi
    if swap:
        same[:, 2:4] = raw[:, [3, 2]]
        same[:, 4] += math.pi / 2
    same[0, 8] = raw[0, 8] = -10  # below 1/255: not drawn, so its other numbers can't matter
    same[0, :8] += 1
    same[1, 2:4] = raw[1, 2:4] = 0.3  # round, so its angle can't matter
    same[1, 4] += 1
    # the premise: the two draw the same
    visible = Gaussians(raw)[1:].in_pixels(32, 32), Gaussians(same)[1:].in_pixels(32, 32)
    for one, other in zip(*visible, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(canonical_features(Gaussians(same)), canonical_features(Gaussians(raw)))


@pytest.mark.parametrize("size", [32, 1024])
def test_gaussians_far_thinner_than_a_pixel_are_told_apart_by_nothing(size):
    raw = torch.randn(1, 32, 9, generator=torch.Generator().manual_seed(0))
    raw[..., 2:4], raw[..., 8] = -16.0, 2.0
    thinner = raw.clone()
    thinner[..., 2] -= 10
    thinner[..., 4] += 1  # the angle
    one, other = Gaussians(raw), Gaussians(thinner)
    assert torch.equal(render(one, size, size), render(other, size, size))
    torch.testing.assert_close(canonical_features(one), canonical_features(other), rtol=0, atol=1e-6)


def test_canonical_features_tell_everything_drawn_apart():
    base = random_raw(1)
    features = canonical_features(Gaussians(base))
    for field in range(9):
        moved = base.clone()
        moved[:, field] += 0.3
        assert (canonical_features(Gaussians(moved)) - features).abs().max() > 1e-3, field


def test_canonical_features_fade_with_opacity():
    raw = random_raw(1).expand(4, 9).clone()
    raw[:, 8] = torch.tensor([0.5 / 255, 1.5 / 255, 2 / 255, 0.5], dtype=torch.float64).logit()
    norms = canonical_features(Gaussians(raw))[:, :2].norm(dim=-1)
    torch.testing.assert_close(norms / norms[-1], torch.tensor([0, 0.5, 1, 1], dtype=torch.float64))


def test_canonical_features_are_finite_for_extreme_raw_numbers():
    raw = torch.tensor([[1e3] * 9, [-1e3] * 9]).requires_grad_()
    features = canonical_features(Gaussians(raw))
    features.sum().backward()
    assert features.isfinite().all()
    assert raw.grad.isfinite().all()


IDENTITY = torch.eye(2, dtype=torch.float64)
NOWHERE = torch.zeros(2, dtype=torch.float64)


def around_the_middle(*shape: int, seed: int = 0, aspect: float = 1.0) -> Gaussians:
    """Centres within 0.5 of the middle, and scales that no map of these tests brings to the bound."""
    raw = random_raw(*shape, seed=seed)
    raw[..., :2] = raw[..., :2].clamp(-0.5, 0.5)
    raw[..., 2:4] = raw[..., 2:4].clamp_max(1.0)
    return Gaussians(raw, scale_factor=4.0, nominal_count=64, aspect=aspect)


@settings(max_examples=50, deadline=None)
@given(seed=seeds)
def test_an_affine_map_moves_centres_and_covariances(seed):
    gaussians = around_the_middle(3, 6, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    matrices = IDENTITY + 0.25 * torch.rand(3, 2, 2, generator=generator, dtype=torch.float64) - 0.125
    matrices[0, :, 0] *= -1  # a mirror image
    shifts = 0.2 * torch.rand(3, 2, generator=generator, dtype=torch.float64) - 0.1
    moved = transform_gaussians(gaussians, matrices, shifts)
    for image, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
        torch.testing.assert_close(moved.centers[image], gaussians.centers[image] @ matrix.T + shift)
        expected = matrix @ gaussians.covariances[image] @ matrix.T
        torch.testing.assert_close(moved.covariances[image], expected)
    torch.testing.assert_close(moved.colors, gaussians.colors)
    torch.testing.assert_close(moved.opacities, gaussians.opacities)
    # half a turn of the axes, which draws the same, would be news to raw tokens
    assert (moved.angles - gaussians.angles).abs().max() <= math.pi / 2 + 1e-9


def test_the_identity_leaves_raw_numbers_alone():
    gaussians = Gaussians(random_raw(2, 50), 0.7, 50, 0.8)
    gaussians.raw[..., 4] *= 5  # over many turns
    same = transform_gaussians(gaussians, IDENTITY, NOWHERE)
    torch.testing.assert_close(same.raw, gaussians.raw, rtol=1e-5, atol=1e-5)
    assert (same.scale_factor, same.nominal_count, same.aspect) == (0.7, 50, 0.8)


def test_round_gaussians_stay_where_they_are_and_have_gradients():
    raw = random_raw(2, 20)
    raw[..., 3] = raw[..., 2]
    raw.requires_grad_()
    gaussians = Gaussians(raw, 0.7, 50, 0.8)
    same = transform_gaussians(gaussians, IDENTITY, NOWHERE)
    torch.testing.assert_close(same.raw, raw, rtol=1e-5, atol=1e-5)
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]], dtype=raw.dtype)
    turned = transform_gaussians(gaussians, turn, NOWHERE)
    torch.testing.assert_close(turned.scales, gaussians.scales)
    for moved in (same, turned):
        (gradient,) = torch.autograd.grad(moved.raw.sum(), raw, retain_graph=True)
        assert gradient.isfinite().all()


def test_a_mirror_image_is_drawn_mirrored():
    gaussians = around_the_middle(2, 6, aspect=0.75)
    mirrored = transform_gaussians(gaussians, torch.diag(torch.tensor([-1.0, 1.0])), torch.zeros(2))
    torch.testing.assert_close(render(mirrored, 12, 16), render(gaussians, 12, 16).flip(-1))


def test_a_quarter_turn_is_drawn_turned():
    gaussians = around_the_middle(6, aspect=0.75)
    clockwise = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    turned = transform_gaussians(gaussians, clockwise, torch.zeros(2), aspect=1 / 0.75)
    expected = render(gaussians, 12, 16).rot90(-1, (-2, -1))
    torch.testing.assert_close(render(turned, 16, 12), expected)


def test_a_shift_by_whole_pixels_shifts_the_picture():
    gaussians = around_the_middle(6)
    moved = transform_gaussians(gaussians, IDENTITY, torch.tensor([3.0, -2.0]) * (2 / 16))
    picture, shifted = render(gaussians, 16, 16), render(moved, 16, 16)
    torch.testing.assert_close(shifted[:, :-2, 3:], picture[:, 2:, :-3])


def test_a_magnified_corner_is_drawn_as_the_corner():
    gaussians = around_the_middle(8)
    # the lower right quarter becomes the canvas; without blur, a Gaussian is magnified as it is
    quarter = transform_gaussians(gaussians, 2 * IDENTITY, NOWHERE - 1, nominal_count=16)
    inside = ((gaussians.centers > 0) & (gaussians.centers < 1)).all(-1)
    assert 0 < inside.sum() < 8
    visible = gaussians.replace_raw(gaussians.raw.clone())
    visible.raw[~inside, 8] = -20
    drawn = [rasterize(*g.in_pixels(n, n), n, n, blur=0.0)[0] for g, n in ((quarter, 16), (visible, 32))]
    torch.testing.assert_close(drawn[0], drawn[1][:, 16:, 16:], rtol=1e-4, atol=1e-5)


def test_what_leaves_the_canvas_is_not_drawn_at_its_border():
    gaussians = Gaussians(torch.zeros(2, 9, dtype=torch.float64), nominal_count=2)
    gaussians.raw[1, 0] = -1.0
    moved = transform_gaussians(gaussians, IDENTITY, torch.tensor([1.1, 0.0]))
    assert moved.opacities[0] < 1 / 255
    assert moved.opacities[1] == pytest.approx(0.5)
    assert (canonical_features(moved)[0] == 0).all()


def test_thin_gaussians_stay_thin_in_float32():
    raw = torch.zeros(1, 9)
    raw[0, 2], raw[0, 3], raw[0, 4] = 5.0, -9.0, 0.3
    gaussians = Gaussians(raw, nominal_count=4)
    turn = torch.tensor([[math.cos(1.0), -math.sin(1.0)], [math.sin(1.0), math.cos(1.0)]])
    moved = transform_gaussians(gaussians, turn, torch.zeros(2))
    torch.testing.assert_close(moved.scales, gaussians.scales, rtol=1e-3, atol=0)
    torch.testing.assert_close(moved.angles, gaussians.angles + 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_to_be_moved(dtype):
    gaussians = around_the_middle(20).to(dtype)
    shift = torch.tensor([0.1, 0.0])
    moved = transform_gaussians(gaussians, IDENTITY, shift)
    expected = transform_gaussians(gaussians.to(torch.float32), IDENTITY, shift)
    assert torch.equal(moved.raw, expected.raw.to(dtype))


def test_other_bounds_keep_what_they_can_hold():
    gaussians = around_the_middle(20)
    same = transform_gaussians(gaussians, IDENTITY, NOWHERE, scale_factor=9.0, nominal_count=20)
    torch.testing.assert_close(same.covariances, gaussians.covariances)
    cut = transform_gaussians(gaussians, IDENTITY, NOWHERE, scale_factor=1.0)
    assert (gaussians.scales > cut.spacing).any()
    torch.testing.assert_close(cut.scales, gaussians.scales.clamp_max(cut.spacing), rtol=1e-5, atol=0)


# --- Gaussians as a person edits them ---

PROPERTIES = ("centers", "scales", "angles", "colors", "opacities")
COLUMNS = {"centers": [0, 1], "scales": [2, 3], "angles": [4], "colors": [5, 6, 7], "opacities": [8]}


def bounded(gaussians: Gaussians) -> dict[str, torch.Tensor]:
    return {name: getattr(gaussians, name) for name in PROPERTIES}


def bounds(gaussians: Gaussians) -> dict[str, float]:
    return {name: getattr(gaussians, name) for name in ("scale_factor", "nominal_count", "aspect")}


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


def test_the_example_in_the_documentation_runs():
    example = doctest.DocTestParser().get_doctest(
        Gaussians.__doc__, {"Gaussians": Gaussians}, "Gaussians", None, 0
    )
    assert any("replace(colors=colors)" in step.source for step in example.examples)
    assert doctest.DocTestRunner().run(example).failed == 0


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    names=st.sets(st.sampled_from(PROPERTIES)),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_replace_changes_what_is_named_and_no_bit_else(seed, names, dtype):
    gaussians = Gaussians(random_raw(2, 6, seed=seed).to(dtype), 0.7, 32, 0.5)[:, torch.arange(5, -1, -1)]
    others = Gaussians(random_raw(2, 6, seed=seed + 1), 0.7, 32, 0.5)
    edited = gaussians.replace(**{name: getattr(others, name) for name in names})
    assert bounds(edited) == bounds(gaussians)
    assert torch.equal(edited.slots, gaussians.slots)
    assert edited.raw.dtype == dtype
    for name, columns in COLUMNS.items():
        if name in names:
            expected = others.raw[..., columns].to(dtype)
            torch.testing.assert_close(edited.raw[..., columns], expected, rtol=1e-2, atol=1e-5)
            torch.testing.assert_close(
                getattr(edited.to(torch.float64), name), getattr(others, name), rtol=2e-2, atol=1e-2
            )
        else:
            assert torch.equal(edited.raw[..., columns], gaussians.raw[..., columns])


def test_replacing_values_by_themselves_draws_the_same(no_warnings):
    gaussians = Gaussians(3 * random_raw(2, 40), 0.7, 32, 1.5)
    same = gaussians.replace(**bounded(gaussians))
    torch.testing.assert_close(render(same, 24, 16), render(gaussians, 24, 16), rtol=0, atol=1e-5)


def test_replace_broadcasts_numbers_and_lists():
    gaussians = Gaussians(random_raw(2, 6), 0.7, 32, 0.5)
    edited = gaussians.replace(colors=(1, 0, 0.25), opacities=0.5, scales=[[0.1, 0.05]] * 6)
    color = torch.tensor([1.0, 0.0, 0.25], dtype=torch.float64).expand(2, 6, 3)
    torch.testing.assert_close(edited.colors, color, rtol=0, atol=2e-6)
    torch.testing.assert_close(edited.opacities, torch.full((2, 6), 0.5, dtype=torch.float64))
    torch.testing.assert_close(
        edited.scales, torch.tensor([0.1, 0.05], dtype=torch.float64).expand(2, 6, 2), rtol=1e-6, atol=0
    )
    with pytest.raises(
        InputError, match=r"colors must be numbers that broadcast to \[2, 6, 3\], got \[5, 3\]"
    ):
        gaussians.replace(colors=torch.zeros(5, 3))
    with pytest.raises(InputError, match=r"opacities must be numbers .* got half"):
        gaussians.replace(opacities="half")
    with pytest.raises(InputError, match="broadcast"):  # an edit must not make more images
        gaussians.replace(angles=torch.zeros(3, 2, 6))


def test_replace_passes_gradients_to_old_and_new():
    raw = random_raw(3).requires_grad_()
    colors = torch.rand(3, 3, dtype=torch.float64).requires_grad_()
    edited = Gaussians(raw).replace(colors=colors)
    (edited.colors * torch.arange(9).reshape(3, 3)).sum().backward()
    torch.testing.assert_close(colors.grad, torch.arange(9, dtype=torch.float64).reshape(3, 3))
    edited = Gaussians(raw).replace(colors=colors)
    raw.grad = None
    edited.centers.sum().backward()
    assert (raw.grad[:, :2] > 0).all()


def test_a_fits_own_values_without_its_bounds_are_not_cut_silently():
    raw = random_raw(50, dtype=torch.float32)
    fit = Gaussians(raw, default_scale_factor(50), 50, 0.75)
    with pytest.warns(UserWarning, match="visible Gaussians have scales above the bound") as caught:
        Gaussians.from_values(**bounded(fit), aspect=0.75)
    cut = (fit.scales > fit.spacing * 1.01).any(-1) & (fit.opacities >= 1 / 255)
    text = str(caught[0].message)
    assert text.startswith(f"{int(cut.sum())} of {int((fit.opacities >= 1 / 255).sum())} visible")
    # what the warning says helps
    factor = float(re.search(r"scale_factor=([\d.e+]+) would keep", text)[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kept = Gaussians.from_values(**bounded(fit), aspect=0.75, scale_factor=factor)
    torch.testing.assert_close(render(kept, 12, 16), render(fit, 12, 16), rtol=0, atol=1e-4)


def values(**changes) -> dict[str, torch.Tensor]:
    """Three Gaussians within all bounds, spacing 1 for a nominal count of 4."""
    start = {
        "centers": torch.zeros(3, 2),
        "scales": torch.full((3, 2), 0.5),
        "angles": torch.zeros(3),
        "colors": torch.full((3, 3), 0.5),
        "opacities": torch.full((3,), 0.5),
    }
    for name, change in changes.items():
        start[name][1] = torch.as_tensor(change)
    return start


CUT = {
    "above the bound": ({"scales": (0.5, 1.02)}, {"scales": (0.5, 1.005)}),
    "negative scales": ({"scales": (-0.2, 0.5)}, {"scales": (0.0, 0.5)}),
    "beyond the canvas": ({"centers": (0.0, -0.52)}, {"centers": (-1.0, 0.509)}),
    "colors outside": ({"colors": (0.5, -0.01, 0.5)}, {"colors": (0.0, 1.0, 1.0009)}),
    "opacities outside": ({"opacities": 1.01}, {"opacities": 1.0009}),
}


@pytest.mark.parametrize("what", CUT)
def test_material_cuts_are_told_and_small_ones_are_not(what):
    material, small = CUT[what]
    # spacing is 1: 2 * sqrt(1 * 0.5 / 2)
    canvas = {"nominal_count": 2, "aspect": 0.5}
    inside = Gaussians.from_values(**values(), **canvas)
    with pytest.warns(UserWarning, match=f"1 (of 3 visible )?Gaussians .*{what}"):
        Gaussians.from_values(**values(**material), **canvas)
    with pytest.warns(UserWarning, match=what):
        inside.replace(**{name: value[name] for value in [values(**material)] for name in material})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        Gaussians.from_values(**values(**small), **canvas)
        inside.replace(**{name: value[name] for value in [values(**small)] for name in small})
        if "opacities" not in material:  # nobody sees it
            Gaussians.from_values(**values(**material, opacities=0.003), **canvas)


def test_replace_names_the_bound_that_keeps_scales():
    gaussians = Gaussians(torch.zeros(4, 9), 1.0, 4)
    with pytest.warns(UserWarning, match=r"with_bounds\(scale_factor=2\.5\) before this would keep them"):
        gaussians.replace(scales=2.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        kept = gaussians.with_bounds(scale_factor=2.5).replace(scales=2.5)
    torch.testing.assert_close(kept.scales, torch.full((4, 2), 2.5), rtol=1e-5, atol=0)


def test_transforms_cut_without_a_word(no_warnings):
    gaussians = Gaussians(random_raw(20), 4.0, 20)
    moved = transform_gaussians(gaussians, 3 * IDENTITY, NOWHERE + 0.4, scale_factor=0.5)
    assert (moved.scales > 0.49 * moved.spacing).any()


def test_values_that_cannot_be_looked_at_are_taken(no_warnings):
    gaussians = Gaussians(random_raw(4, 6))

    def double(scales):
        return gaussians[0].replace(scales=2 * scales).raw

    together = torch.func.vmap(double)(gaussians.scales / 4)
    torch.testing.assert_close(together[2], double(gaussians.scales[2] / 4))
    empty = Gaussians.from_values(**{name: value.to("meta") for name, value in values().items()})
    assert empty.raw.shape == (3, 9)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, factor=st.floats(0.7, 20), count=st.integers(1, 32))
def test_other_scale_bounds_change_raw_scales_alone(seed, factor, count):
    gaussians = Gaussians(3 * random_raw(2, 6, seed=seed), 0.7, 32, 0.5)
    gaussians.raw[0, 0, 2] = -60.0
    other = gaussians.with_bounds(scale_factor=factor, nominal_count=count)
    assert bounds(other) == {"scale_factor": factor, "nominal_count": count, "aspect": 0.5}
    rest = [0, 1, 4, 5, 6, 7, 8]
    assert torch.equal(other.raw[..., rest], gaussians.raw[..., rest])
    torch.testing.assert_close(other.scales, gaussians.scales, rtol=1e-9, atol=0)
    back = other.with_bounds(scale_factor=0.7, nominal_count=32)
    within = gaussians.raw[..., 2:4] < 8  # nearer to the bound, numbers are kept off it
    torch.testing.assert_close(
        back.raw[..., 2:4][within], gaussians.raw[..., 2:4][within], rtol=1e-5, atol=1e-5
    )


def test_with_bounds_is_the_same_object_where_nothing_changes():
    gaussians = Gaussians(random_raw(3), 0.7, 32, 4 / 3)
    assert gaussians.with_bounds() is gaussians
    assert gaussians.with_bounds(scale_factor=0.7, nominal_count=32, aspect=4 / 3) is gaussians
    assert gaussians.with_bounds(aspect=1 / 0.75) is gaussians
    with pytest.raises(InputError, match="positive"):
        gaussians.with_bounds(scale_factor=-1.0)


def test_with_bounds_tells_what_it_cuts():
    gaussians = Gaussians(torch.zeros(3, 9), 2.0, 4)  # scales of 1, spacing 1
    gaussians.raw[0, 8] = -20.0
    with pytest.warns(UserWarning, match=r"2 of 2 visible .* scale_factor=1 would keep them"):
        cut = gaussians.with_bounds(scale_factor=0.5)
    torch.testing.assert_close(cut.scales, torch.full((3, 2), 0.5), rtol=1e-5, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        gaussians.with_bounds(scale_factor=1.0)
        gaussians[:1].with_bounds(scale_factor=0.5)  # it is not visible
    with pytest.warns(UserWarning, match="scale_factor=1.42 would keep them"):
        gaussians.with_bounds(scale_factor=0.5, aspect=0.5)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, before=st.floats(0.4, 2.5), after=st.floats(0.4, 2.5))
def test_another_aspect_stretches_the_picture(seed, before, after):
    gaussians = around_the_middle(2, 6, seed=seed, aspect=before)
    gaussians.raw[:, 0, :2] = 30.0  # on the very corner of the canvas
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        other = gaussians.with_bounds(aspect=after, scale_factor=40.0)
    assert other.aspect == after
    rest = [0, 1, 5, 6, 7, 8]
    assert torch.equal(other.raw[..., rest], gaussians.raw[..., rest])
    torch.testing.assert_close(render(other, 12, 16), render(gaussians, 12, 16), rtol=1e-6, atol=1e-6)


def test_another_aspect_in_half_precision():
    gaussians = Gaussians(random_raw(6).half(), 4.0, 64, 0.75)
    other = gaussians.with_bounds(aspect=1.0)
    assert other.raw.dtype == torch.float16
    torch.testing.assert_close(render(other, 12, 16), render(gaussians, 12, 16), rtol=0, atol=0.01)


def test_cat_draws_the_first_in_front():
    near = Gaussians(random_raw(2, 5, seed=1), 0.7, 32, 0.75)
    far = Gaussians(random_raw(2, 3, seed=2), 0.7, 32, 0.75)
    both = Gaussians.cat([near[:, [0, 2]], far])
    assert torch.equal(both.raw, torch.cat((near.raw[:, [0, 2]], far.raw), 1))
    assert bounds(both) == bounds(near)
    assert both.slots is None
    # opaque and everywhere: what is behind it is not seen
    wall = Gaussians(torch.zeros(2, 1, 9, dtype=torch.float64), 200.0, 32, 0.75)
    wall = wall.replace(opacities=1, scales=50)
    hidden = Gaussians.cat([wall, *([near] * 3)])
    gray = Gaussians.cat([*([near] * 3), wall])
    assert (render(hidden, 9, 12) - 0.5).abs().max() < 1e-2
    assert (render(gray, 9, 12) - 0.5).abs().max() > 0.05


@settings(max_examples=50, deadline=None)
@given(
    seed=seeds,
    factors=st.lists(st.floats(0.1, 10), min_size=1, max_size=4),
    counts=st.lists(st.integers(1, 600), min_size=4, max_size=4),
)
def test_cat_keeps_the_picture_of_every_part(seed, factors, counts):
    parts = [
        Gaussians(random_raw(2, 4, seed=seed + number), factor, count, 0.75)
        for number, (factor, count) in enumerate(zip(factors, counts, strict=False))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        both = Gaussians.cat(iter(parts))
    assert both.nominal_count == parts[0].nominal_count
    for name, value in bounded(both).items():
        expected = torch.cat([getattr(part, name) for part in parts], 1)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-9)
    largest = [part.scale_factor * part.spacing for part in parts]
    if largest[0] == max(largest):
        assert both.scale_factor == parts[0].scale_factor
        assert torch.equal(both.raw[:, :4], parts[0].raw)
    else:
        assert both.scale_factor * both.spacing == pytest.approx(max(largest))


def test_parts_that_do_not_go_together_are_refused():
    square = Gaussians(torch.zeros(2, 3, 9))
    with pytest.raises(
        InputError, match=r"part 1 has aspect 0\.5, part 0 has 1: .*with_bounds\(aspect=1\.0\)"
    ):
        Gaussians.cat([square, Gaussians(torch.zeros(2, 3, 9), aspect=0.5)])
    with pytest.raises(InputError, match=r"part 1 has batch dimensions \[\], part 0 has \[2\]"):
        Gaussians.cat([square, square[0]])
    with pytest.raises(InputError, match="at least one part"):
        Gaussians.cat([])


@pytest.mark.parametrize("name", ["g.json", "g", "g.pt", "g.safetensors.txt"])
def test_another_suffix_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: .*name the file g\.safetensors$"):
        Gaussians(torch.zeros(3, 9)).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664)])
def test_a_saved_file_is_as_readable_as_others(tmp_path, mask, mode):
    path = tmp_path / "g.safetensors"
    before = os.umask(mask)
    try:
        Gaussians(torch.zeros(3, 9)).save(str(path))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


def test_slots_are_saved_and_checked(tmp_path):
    path = tmp_path / "g.safetensors"
    kept = Gaussians(random_raw(2, 6, dtype=torch.float32), 0.7, 32, 0.5)[:, 1:5]
    kept.save(path)
    loaded = Gaussians.load(path)
    assert torch.equal(loaded.slots, torch.tensor([[1, 2, 3, 4]] * 2))
    assert torch.equal(loaded.raw, kept.raw)
    Gaussians(torch.zeros(2, 9)).save(path)
    assert Gaussians.load(path).slots is None

    from safetensors.torch import save_file

    save_file({"raw": torch.zeros(2, 9), "slots": torch.zeros(3)}, path, {"gvit.gaussians": "{}"})
    with pytest.raises(InputError, match=r"g\.safetensors: not a file of Gaussians.*slots must be int64"):
        Gaussians.load(path)


# --- Gaussians removed, and their slots ---


def test_only_an_index_along_the_gaussians_gives_slots():
    gaussians = Gaussians(random_raw(2, 3, 6))
    plain = [0, (1, 2), slice(1), (slice(None), 1), None, ..., (0, ...), [1, 0], torch.tensor([1, 0])]
    plain += [torch.tensor([True, False]), torch.rand(2, 3) > 2, (None, 0), torch.tensor(1)]
    plain += [np.int64(1), np.array([1, 0]), np.array([True, False]), [np.int64(1)]]
    for index in plain:
        assert gaussians[index].slots is None, index
        assert torch.equal(gaussians[index].raw, gaussians.raw[index])
    keep = torch.tensor([True, False, True, True, False, True])
    chosen = torch.arange(6)[keep]
    along = [
        (0, 0, keep),
        (..., keep, slice(None)),
        (slice(None), slice(None), chosen),
        (1, [0, 2], slice(1, 4)),
    ]
    along += [torch.rand(2, 3, 6) > 0.5, (slice(None), torch.tensor([0, 1]), torch.tensor([5, 2]), None)]
    for index in along:
        found = gaussians[index]
        assert torch.equal(found.raw, gaussians.raw[index])
        # the same index on slots that are written beside the raw numbers
        written = torch.arange(6).view(1, 1, 6, 1).expand(2, 3, 6, 9)[index][..., 0]
        assert torch.equal(found.slots, written)


def test_slots_follow_every_step():
    gaussians = Gaussians(random_raw(2, 6), 0.7, 32, 0.5)
    kept = gaussians[:, [5, 1, 3]]
    assert torch.equal(kept[:, 1:].slots, torch.tensor([[1, 3]] * 2))
    assert torch.equal(kept[1].slots, torch.tensor([5, 1, 3]))
    same = [
        kept.to(torch.float16),
        kept.detach(),
        kept.replace(opacities=0.5),
        kept.replace_raw(2 * kept.raw),
    ]
    same += [kept.with_bounds(scale_factor=2.0), kept.with_bounds(aspect=0.6, scale_factor=2.0)]
    same += [kept.drop([True, False, True]), transform_gaussians(kept, IDENTITY, NOWHERE)]
    for other in same:
        assert torch.equal(other.slots, kept.slots)
        assert other.slots.dtype == torch.int64
    assert kept.replace_raw(gaussians.raw).slots is None
    assert torch.equal(kept[0].replace_raw(kept.raw).slots, kept.slots)
    with pytest.raises(InputError, match="index the Gaussians"):
        kept.replace_raw(kept.raw[0])
    with pytest.raises(InputError, match=r"slots must be int64 of shape \[2, 6\]"):
        Gaussians(gaussians.raw, slots=torch.arange(6))


def assert_same_to_all_who_look(one: Gaussians, other: Gaussians) -> None:
    assert one.raw.shape == other.raw.shape
    assert torch.equal(canonical_features(one), canonical_features(other))
    assert torch.equal(render(one, 12, 16), render(other, 12, 16))


@settings(max_examples=50, deadline=None)
@given(seed=seeds, dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_removing_and_dropping_are_the_same(seed, dtype):
    gaussians = Gaussians(random_raw(2, 8, seed=seed).to(dtype), 0.7, 8, 0.75)
    keep = torch.rand(8, generator=torch.Generator().manual_seed(seed)) > 0.4
    keep[0] = True
    kept, dropped = gaussians[:, keep], gaussians.drop(~keep)
    assert torch.equal(dropped.raw[:, keep], kept.raw)
    assert (canonical_features(dropped)[:, ~keep] == 0).all()
    assert dropped.raw.isfinite().all()
    assert_same_to_all_who_look(kept.in_slots(8), dropped)
    # a model of raw numbers sees no difference, and nothing of what was removed
    assert torch.equal(kept.in_slots(8).raw, dropped.raw)
    assert dropped.raw[:, ~keep].unique(dim=1).shape[1] <= 1
    torch.testing.assert_close(render(kept, 12, 16), render(dropped, 12, 16), rtol=0, atol=1e-6)
    assert kept.in_slots(8).slots is None


@settings(max_examples=50, deadline=None)
@given(seed=seeds, count=st.integers(1, 8))
def test_each_image_may_lose_and_reorder_its_own(seed, count):
    gaussians = Gaussians(random_raw(3, 8, seed=seed), 0.7, 8, 0.75)
    order = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed)).argsort(-1)[:, :count]
    kept = gaussians[torch.arange(3).unsqueeze(-1), order]
    mask = torch.ones(3, 8, dtype=torch.bool)
    for image, taken in enumerate(order.tolist()):
        for slot in taken:
            mask[image, slot] = False
    assert_same_to_all_who_look(kept.in_slots(8), gaussians.drop(mask))
    for image in range(3):
        assert_same_to_all_who_look(kept[image].in_slots(8), gaussians[image].drop(mask[image]))


def test_dropping_draws_as_if_the_others_had_been_alone():
    gaussians = Gaussians(random_raw(5), 0.7, 8, 0.75)
    alone = Gaussians(gaussians.raw[[0, 3]], 0.7, 8, 0.75)
    dropped = gaussians.drop([False, True, True, False, True])
    torch.testing.assert_close(render(dropped, 12, 16), render(alone, 12, 16))
    assert (render(dropped, 12, 16) - render(gaussians, 12, 16)).abs().max() > 0.05
    assert torch.equal(dropped.in_slots(5).raw, dropped.raw)
    with pytest.raises(InputError, match=r"mask must be boolean of shape \[5\], .* got torch.int64"):
        gaussians.drop([0, 1, 1, 0, 1])
    with pytest.raises(InputError, match=r"got torch.bool of shape \[4\]"):
        gaussians.drop(torch.ones(4, dtype=torch.bool))


@pytest.mark.filterwarnings("error")
def test_arrays_that_cannot_be_written_to_are_indices_like_others():
    gaussians = Gaussians(random_raw(2, 4))
    keep = np.array([True, False, True, False])
    keep.setflags(write=False)
    kept = gaussians[:, keep]
    assert torch.equal(kept.raw, gaussians.raw[:, [0, 2]])
    assert kept.slots.tolist() == [[0, 2]] * 2
    assert torch.equal(gaussians[np.array([1])].raw, gaussians.raw[1:])
    assert torch.equal(gaussians[:, np.arange(4)[::-1]].raw, gaussians.raw.flip(1))
    assert torch.equal(gaussians[:, np.array([2, 0], np.int16)].raw, gaussians.raw[:, [2, 0]])
    assert gaussians[:, np.array([])].raw.shape == (2, 0, 9)
    with torch.device("meta"):
        assert torch.equal(gaussians[:, np.array([2])].raw, gaussians.raw[:, 2:3])


def test_gradients_reach_what_is_kept_only():
    raw = random_raw(2, 4).requires_grad_()
    keep = torch.tensor([True, False, True, False])
    for result in (Gaussians(raw)[:, keep].in_slots(4), Gaussians(raw).drop(~keep)):
        raw.grad = None
        result.raw.sum().backward()
        assert torch.equal(raw.grad, keep.unsqueeze(-1).expand(2, 4, 9).double())


def test_more_slots_than_gaussians_and_slots_that_cannot_be():
    gaussians = Gaussians(random_raw(2, 3), 0.7, 3)
    assert gaussians.in_slots(3) is gaussians
    longer = gaussians.in_slots(5)
    assert torch.equal(longer.raw[:, :3], gaussians.raw)
    assert (longer.opacities[:, 3:] < 1e-5).all()
    with pytest.raises(InputError, match="no slot 2 among 2"):
        gaussians.in_slots(2)
    with pytest.raises(InputError, match="no slot 2 among 2"):
        gaussians[:, 1:].in_slots(2)
    with pytest.raises(InputError, match="count must be at least 0, got -1"):
        gaussians.in_slots(-1)
    with pytest.raises(InputError, match="slot 1 is taken twice"):
        gaussians[:, [0, 1, 1]].in_slots(3)
    with pytest.raises(InputError, match="no slot -1"):
        Gaussians(gaussians.raw, slots=torch.tensor([[0, 1, -1]] * 2)).in_slots(3)
