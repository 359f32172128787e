"""Gaussians on their way into a model move as the pixels of their picture do."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

import gvit
from gvit.data.inputs import eval_input, train_input
from gvit.data.loading import TrainingSamples, seeded
from gvit.data.sources import Source
from gvit.data.transforms import CROP_GRID, Augmentation, eval_transform, random_map, train_transform
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.card import Preprocessing

PLAIN = {"hflip": False, "min_crop": 1.0}
SIZE = 64


@pytest.fixture(scope="module", params=[1.0, 0.5])
def scene(request) -> Gaussians:
    """A few soft Gaussians near the middle."""
    raw = torch.randn(5, 9, generator=torch.Generator().manual_seed(3))
    raw[:, :2] = 0.2 * raw[:, :2].clamp(-1, 1)
    raw[:, 2:4] = raw[:, 2:4].clamp(-1, 0)
    return Gaussians(raw, scale_factor=1.0, nominal_count=40, aspect=request.param)


def data_set(gaussians: Gaussians) -> Source:
    return Source(lambda i: gaussians, [0] * 8, ["a"], gaussians)


def patch_model(**preprocessing):
    model = gvit.create_model("vit_tiny_patch8", img_size=SIZE, num_classes=2)
    model.card = replace(model.card, preprocessing=Preprocessing(SIZE, **preprocessing))
    return model


def picture(gaussians: Gaussians):
    """Of the size whose random crops are drawn alike."""
    height, width = (round(CROP_GRID * side) for side in reversed(gaussians.extent))
    return to_pil_image(gvit.render(gaussians, height, width))


@pytest.mark.parametrize("crop", [{"crop_mode": "squash"}, {"crop_mode": "center", "crop_pct": 2 / 3}])
@pytest.mark.parametrize(
    "augmentation",
    [
        PLAIN,
        {"hflip": True, "min_crop": 1.0},
        {"hflip": False, "min_crop": 0.4},
        PLAIN | {"rotate": 40.0},
        PLAIN | {"translate": 0.2},
        PLAIN | {"zoom": 0.4},
        {"rotate": 20.0, "translate": 0.1, "zoom": 0.1, "min_crop": 0.6},
    ],
    ids=str,
)
def test_the_same_draw_moves_gaussians_as_it_moves_pixels(scene, augmentation, crop):
    model = patch_model(**crop)
    of_gaussians = train_input(model, data_set(scene), Augmentation(**augmentation))
    of_pixels = train_transform(model.card.preprocessing, Augmentation(**augmentation))
    image = picture(scene)
    compared = 0
    for seed in range(8):
        with seeded(seed):
            moved = random_map(model.card.preprocessing, Augmentation(**augmentation), scene.extent)
        if (scene.centers @ moved.matrix.T + moved.shift).abs().max() > 1:
            continue  # what leaves the canvas is lost, and with it what still showed
        with seeded(seed):
            drawn = of_gaussians(scene)
        with seeded(seed):
            expected = of_pixels(image)
        assert (drawn - expected).abs().max() < 0.03
        assert expected.max() > 0.2
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("crop", [{"crop_mode": "squash"}, {"crop_mode": "center", "crop_pct": 2 / 3}])
def test_evaluation_crops_gaussians_as_it_crops_images(scene, crop):
    model = patch_model(**crop)
    drawn = eval_input(model, data_set(scene))(scene)
    assert drawn.shape == (3, SIZE, SIZE)
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert (drawn - eval_transform(model.card.preprocessing)(picture(scene))).abs().max() < 0.03


def test_the_numbers_are_those_of_the_picture(scene):
    """What a model of Gaussians reads, meant as it means it, draws what the patch model reads."""
    given = gvit.create_model("gaussian_vit_tiny", num_gaussians=5, num_classes=2, scale_factor=2.0)
    augmentation = Augmentation(rotate=20, translate=0.1, zoom=0.1)
    given.card = replace(given.card, preprocessing=Preprocessing(SIZE, "squash"))
    as_numbers = train_input(given, data_set(scene), augmentation)
    as_pixels = train_input(patch_model(crop_mode="squash"), data_set(scene), augmentation)
    with seeded(1):
        raw = as_numbers(scene)
    with seeded(1):
        drawn = as_pixels(scene)
    torch.testing.assert_close(gvit.render(Gaussians(raw, 2.0, 5), SIZE, SIZE), drawn, rtol=1e-3, atol=1e-4)


def test_augmented_gaussians_depend_on_seed_epoch_and_index_alone(scene):
    model = gvit.create_model("gaussian_vit_tiny", num_gaussians=5, num_classes=2)
    augmentation = Augmentation(rotate=10)
    transform = train_input(model, data_set(scene), augmentation)
    samples = [
        TrainingSamples(data_set(scene), transform, partial(torch.randn, 0), seed)[key].inputs
        for seed, key in ((0, (3, 4)), (0, (3, 4)), (0, (3, 5)), (0, (2, 4)), (1, (3, 4)))
    ]
    assert torch.equal(samples[0], samples[1])
    assert all(not torch.equal(samples[0], other) for other in samples[2:])


def test_what_does_not_go_together_says_what_would(scene):
    images = Source(lambda i: picture(scene), [0], ["a"])
    given = gvit.create_model("gaussian_vit_tiny", num_gaussians=6, num_classes=2)
    whole = gvit.create_model("gvit_tiny_denoising", num_classes=2)
    for model, source, message in (
        (given, images, "gaussian_vit_tiny reads Gaussians, .*take dataset=.gaussians."),
        (whole, data_set(scene), r"gvit_tiny_denoising reads images, .*take model=.gaussian_vit_\*"),
        (given, data_set(scene), "reads 6 Gaussians an image, .* holds 5; take num_gaussians=5"),
    ):
        with pytest.raises(InputError, match=message):
            eval_input(model, source)
        with pytest.raises(InputError, match=message):
            train_input(model, source, Augmentation())
