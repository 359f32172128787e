"""Each field of the preprocessing and of the augmentation does to images and to Gaussians what it says."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from gvit.data.transforms import (
    Augmentation,
    eval_map,
    eval_transform,
    mixing,
    random_map,
    seeded_elsewhere,
    train_transform,
)
from gvit.models.card import Preprocessing

PLAIN = {"hflip": False, "min_crop": 1.0}
SQUASH = Preprocessing(16, "squash")


def gradient_image(width: int, height: int) -> Image.Image:
    """Red grows with x, green with y."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack((x, y, 0 * x), -1).astype(np.uint8))


def test_squash_keeps_everything_and_center_keeps_the_aspect():
    wide = gradient_image(64, 32)
    squashed = eval_transform(Preprocessing(16, "squash"))(wide)
    cropped = eval_transform(Preprocessing(16, "center", crop_pct=1.0))(wide)
    assert squashed.shape == cropped.shape == (3, 16, 16)
    assert squashed.min() >= 0
    assert squashed.max() <= 1
    ranges = [float(image[0].max() - image[0].min()) for image in (squashed, cropped)]
    assert ranges[0] == pytest.approx(1, abs=0.1)
    assert ranges[1] == pytest.approx(0.5, abs=0.1)


def test_crop_pct_is_the_share_of_the_shorter_side():
    cropped = eval_transform(Preprocessing(16, "center", crop_pct=0.5))(gradient_image(64, 64))
    assert float(cropped[0].max() - cropped[0].min()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("size", [(3001, 1), (1, 3000), (250, 32), (257, 32)])
def test_what_is_very_long_is_cropped_before_it_is_enlarged(size, monkeypatch):
    image, resize, made = gradient_image(*size), Image.Image.resize, []

    def count(self, size, *args, **kwargs):
        made.append(size)
        return resize(self, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", count)
    preprocessing = Preprocessing(16, "center", crop_pct=1.0)
    # what is in the middle stays there
    whole = v2.functional.center_crop(v2.functional.resize(image, 16, v2.InterpolationMode.BICUBIC), 16)
    expected = torch.from_numpy(np.array(whole)).permute(2, 0, 1) / 255
    exact = max(size) <= 8 * min(size)
    for transform in (
        eval_transform(preprocessing),
        train_transform(preprocessing, Augmentation(**PLAIN)),
    ):
        made.clear()
        torch.testing.assert_close(transform(image), expected, rtol=0, atol=1e-6 if exact else 0.02)
        assert max(made[0]) <= 9 * 16


def test_without_augmentation_training_sees_the_evaluation_image():
    transform = train_transform(Preprocessing(16, "squash"), Augmentation(hflip=False, min_crop=1.0))
    image = gradient_image(40, 20)
    assert torch.equal(transform(image), eval_transform(Preprocessing(16, "squash"))(image))


def several(augmentation: Augmentation, extent: tuple[float, float] = (1.0, 1.0), count: int = 200):
    """Draws of the affine map: matrices [count, 2, 2] and shifts [count, 2]."""
    torch.manual_seed(0)
    maps = [random_map(SQUASH, augmentation, extent) for _ in range(count)]
    return torch.stack([m.matrix for m in maps]), torch.stack([m.shift for m in maps])


def test_hflip_mirrors_half_of_the_images():
    transform = train_transform(SQUASH, Augmentation(hflip=True, min_crop=1.0))
    image = gradient_image(16, 16)
    fixed = eval_transform(SQUASH)(image)
    torch.manual_seed(0)
    drawn = [transform(image) for _ in range(200)]
    mirrored = [torch.equal(one, fixed.flip(-1)) for one in drawn]
    assert all(
        torch.equal(one, fixed) for one, is_mirrored in zip(drawn, mirrored, strict=True) if not is_mirrored
    )
    assert 70 < sum(mirrored) < 130
    torch.manual_seed(0)
    matrices, shifts = several(Augmentation(hflip=True, min_crop=1.0))
    # the same draws, for Gaussians
    assert (matrices[:, 0, 0] == -1).tolist() == mirrored
    assert torch.equal(matrices.abs(), torch.eye(2).expand(200, 2, 2))
    assert (matrices[:, 1, 1] == 1).all()
    assert not shifts.any()


@pytest.mark.parametrize("largest", [10.0, 90.0])
def test_rotate_turns_by_up_to_so_many_degrees(largest):
    matrices, shifts = several(Augmentation(**PLAIN, rotate=largest))
    torch.testing.assert_close(matrices @ matrices.mT, torch.eye(2).expand(200, 2, 2))
    angles = torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]).rad2deg()
    assert angles.max() <= largest + 1e-3
    assert angles.max() > 0.9 * largest
    assert angles.min() < -0.9 * largest
    assert not shifts.any()


@pytest.mark.parametrize("largest", [0.125, 0.5])
def test_translate_shifts_by_up_to_a_share_of_the_side(largest):
    matrices, shifts = several(Augmentation(**PLAIN, translate=largest))
    assert torch.equal(matrices, torch.eye(2).expand(200, 2, 2))
    # the side is 2 canvas units; shifts are whole pixels of 1/16 of it
    assert shifts.abs().max() == 2 * largest
    torch.testing.assert_close(shifts * 8, (shifts * 8).round())
    image = gradient_image(16, 16)
    transform = train_transform(SQUASH, Augmentation(**PLAIN, translate=largest))
    fixed = eval_transform(SQUASH)(image)
    torch.manual_seed(0)
    for columns, rows in (shifts[:5] * 8).round().long().tolist():
        expected = torch.zeros_like(fixed)
        to_row, to_column = (slice(max(0, by), 16 + min(0, by)) for by in (rows, columns))
        of_row, of_column = (slice(max(0, -by), 16 + min(0, -by)) for by in (rows, columns))
        expected[:, to_row, to_column] = fixed[:, of_row, of_column]
        assert torch.equal(transform(image), expected)


@pytest.mark.parametrize("largest", [0.1, 0.5])
def test_zoom_changes_the_size_by_up_to_a_share(largest):
    matrices, shifts = several(Augmentation(**PLAIN, zoom=largest))
    sizes = matrices[:, 0, 0]
    torch.testing.assert_close(matrices, sizes[:, None, None] * torch.eye(2))
    assert 1 - largest <= sizes.min() < 1 - 0.9 * largest
    assert 1 + 0.9 * largest < sizes.max() <= 1 + largest
    assert not shifts.any()


@pytest.mark.parametrize("extent", [(1.0, 1.0), (1.0, 0.5)])
def test_min_crop_is_the_smallest_share_of_the_area_that_is_kept(extent):
    # no window is wider than 4/3 of its height
    most = min(1.0, 4 / 3 * min(extent) / max(extent))
    for smallest in (0.3, 0.6):
        matrices, shifts = several(Augmentation(hflip=False, min_crop=smallest), extent)
        half = 1 / matrices.diagonal(dim1=-2, dim2=-1)
        shares = half.prod(-1) / math.prod(extent)
        assert smallest - 0.01 < shares.min() < smallest + 0.1
        assert 0.9 * most < shares.max() <= most + 0.01
        # the kept window lies within the canvas, and not always in its middle
        middle = -shifts * half
        assert (middle.abs() + half <= torch.tensor(extent) + 1e-5).all()
        assert middle.std(0).max() > 0.02


def test_min_crop_magnifies_the_kept_part_of_an_image():
    image = gradient_image(64, 64)
    torch.manual_seed(0)
    seen = {}
    for smallest in (0.9, 0.1):
        transform = train_transform(SQUASH, Augmentation(hflip=False, min_crop=smallest))
        ranges = [float(x[0].max() - x[0].min()) for x in (transform(image) for _ in range(100))]
        seen[smallest] = min(ranges)
    assert seen[0.9] > 0.75
    assert seen[0.1] < 0.4


@pytest.mark.parametrize("extent", [(1.0, 0.5), (0.5, 1.0)])
def test_evaluation_maps_what_is_kept_onto_the_square_canvas(extent):
    squashed = eval_map(SQUASH, extent)
    # the corners of the canvas become those of the square
    torch.testing.assert_close(squashed.matrix @ torch.tensor(extent) + squashed.shift, torch.ones(2))
    for crop_pct in (1.0, 0.5):
        cropped = eval_map(Preprocessing(16, "center", crop_pct), extent)
        torch.testing.assert_close(cropped.matrix, torch.eye(2) / (0.5 * crop_pct))
        assert not cropped.shift.any()


def test_preprocessing_changes_the_image_in_evaluation():
    wide = gradient_image(64, 32)
    given = {
        name: eval_transform(Preprocessing(16, **fields))(wide)
        for name, fields in {
            "squash": {"crop_mode": "squash"},
            "center": {"crop_mode": "center", "crop_pct": 1.0},
            "part": {"crop_mode": "center", "crop_pct": 0.5},
            "nearest": {"crop_mode": "center", "crop_pct": 1.0, "interpolation": "nearest"},
        }.items()
    }
    # red grows over the whole width: what is seen of it is the share of the width that is kept
    seen = {name: float(image[0, 8, -1] - image[0, 8, 0]) for name, image in given.items()}
    assert seen["squash"] == pytest.approx(15 / 16, abs=0.03)
    assert seen["center"] == pytest.approx(15 / 32, abs=0.03)
    assert seen["part"] == pytest.approx(15 / 64, abs=0.03)
    assert not torch.equal(given["nearest"], given["center"])
    assert eval_transform(Preprocessing(24))(wide).shape == (3, 24, 24)


def drawn(augmentation: Augmentation, count: int = 60) -> torch.Tensor:
    """Training views [count, 3, 16, 16] of a bright picture."""
    image = Image.fromarray(np.random.default_rng(0).integers(60, 256, (16, 16, 3), np.uint8))
    transform = train_transform(SQUASH, augmentation)
    torch.manual_seed(0)
    return torch.stack([transform(image) for _ in range(count)])


@pytest.mark.parametrize("changed", [{"randaugment": 9}, {"random_erase": 0.5}])
def test_what_timm_draws_depends_on_torchs_seed_alone_and_leaves_other_generators(changed):
    random.seed(1)
    np.random.seed(1)
    first = drawn(Augmentation(**PLAIN, **changed))
    numbers = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    assert (random.random(), np.random.rand()) == numbers
    assert torch.equal(drawn(Augmentation(**PLAIN, **changed)), first)
    assert len(first.unique(dim=0)) > 20


def test_random_erase_makes_a_rectangle_of_as_many_images_black():
    views, plain = drawn(Augmentation(**PLAIN, random_erase=0.5), 200), drawn(Augmentation(**PLAIN), 1)
    erased = (views == 0).all(1)
    assert 70 < erased.any(-1).any(-1).sum() < 130
    assert torch.equal(torch.where(erased[:, None], plain, views), plain.expand(200, -1, -1, -1))
    for mask in erased[erased.any(-1).any(-1)]:
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns)
        assert 0.01 < mask.float().mean() < 0.4


def test_randaugment_changes_more_with_its_magnitude_and_stays_within_the_range():
    plain = drawn(Augmentation(**PLAIN), 1)
    moved = []
    for magnitude in (1, 9):
        views = drawn(Augmentation(**PLAIN, randaugment=magnitude), 300)
        assert views.min() >= 0
        assert views.max() <= 1
        moved.append((views - plain).abs().mean())
    assert moved[1] > 1.3 * moved[0]
    assert drawn(Augmentation(**PLAIN, randaugment=10), 1000).isfinite().all()  # the largest works, too


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pairs_are_of_both_images_by_the_shares_of_their_labels(kind):
    mix = mixing(Augmentation(**{kind: 1.0}), 5)
    shares = []
    for seed in range(50):
        images = torch.stack((torch.full((3, 16, 16), 0.25), torch.full((3, 16, 16), 0.75)))
        with seeded_elsewhere(seed):
            mixed, labels = mix(images, torch.tensor([1, 4]))
        share = labels[0, 1].item()
        shares.append(share)
        expected = torch.tensor([[0, share, 0, 0, 1 - share], [0, 1 - share, 0, 0, share]])
        torch.testing.assert_close(labels, expected)
        torch.testing.assert_close(mixed[0].mean().item(), 0.75 - 0.5 * share, rtol=0, atol=1e-5)
        torch.testing.assert_close(mixed.sum(0), torch.ones(3, 16, 16))
        assert len(mixed[0].unique()) == (1 if kind == "mixup" or share in (0.0, 1.0) else 2)
    assert min(shares) < 0.4
    assert max(shares) > 0.8


def test_nothing_is_mixed_unasked():
    assert mixing(Augmentation(), 5) is None
