import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.gaussians import Gaussians, build_covariances, canonical_features


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
