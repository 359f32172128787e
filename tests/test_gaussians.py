import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


def test_from_values_is_finite_at_the_bounds():
    count = 3
    extreme = Gaussians.from_values(
        torch.tensor([[1.0, -1.0]] * count),
        torch.full((count, 2), 10.0),
        torch.zeros(count),
        torch.tensor([[0.0, 1.0, 0.5]] * count),
        torch.ones(count),
    )
    assert extreme.raw.isfinite().all()
    torch.testing.assert_close(extreme.opacities, torch.ones(count))


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


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[\.\.\., K, 9\]"):
        Gaussians(torch.zeros(3, 8))
    with pytest.raises(ValueError, match="positive"):
        Gaussians(torch.zeros(3, 9), scale_factor=0.0)


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


def test_other_bounds_keep_what_they_can_hold():
    gaussians = around_the_middle(20)
    same = transform_gaussians(gaussians, IDENTITY, NOWHERE, scale_factor=9.0, nominal_count=20)
    torch.testing.assert_close(same.covariances, gaussians.covariances)
    cut = transform_gaussians(gaussians, IDENTITY, NOWHERE, scale_factor=1.0)
    assert (gaussians.scales > cut.spacing).any()
    torch.testing.assert_close(cut.scales, gaussians.scales.clamp_max(cut.spacing), rtol=1e-5, atol=0)
