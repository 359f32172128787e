import numpy as np
import pytest
import torch
from PIL import Image

from gvit.data.datasets import LabelledImages, load_dataset
from gvit.data.loading import (
    Augmentation,
    EverySampler,
    StepSampler,
    TrainingImages,
    eval_transform,
    seeded,
    train_transform,
    training_loader,
)
from gvit.errors import InputError
from gvit.models.card import Preprocessing


@pytest.fixture(scope="module")
def source() -> LabelledImages:
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20, 30, 3), np.uint8)
    return LabelledImages(lambda i: Image.fromarray(pixels[i]), [i % 3 for i in range(10)], ("a", "b", "c"))


def images(source: LabelledImages, seed: int = 0) -> TrainingImages:
    transform = train_transform(Preprocessing(16), Augmentation(rotate=10, translate=0.1, zoom=0.1))
    return TrainingImages(source, transform, (5, 9), seed)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_digits_are_the_documented_split():
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    shares = np.bincount(test.labels) / 360
    np.testing.assert_allclose(shares, np.bincount(train.labels) / 1437, atol=0.003)
    assert train.load(0).size == (8, 8)
    assert train.load(0).mode == "RGB"
    of_train = {train.load(i).tobytes() for i in range(len(train))}
    assert sum(test.load(i).tobytes() in of_train for i in range(360)) <= 1
    assert load_dataset("digits", "test").labels == test.labels


def test_unknown_data_set():
    with pytest.raises(InputError, match="unknown data set 'digit'; nearest: digits"):
        load_dataset("digit", "train")


def test_a_sample_depends_on_seed_epoch_and_index_alone(source):
    sample = images(source)[(3, 4)]
    assert sample.images.shape == (3, 16, 16)
    assert sample.noise.shape == (5, 9)
    torch.manual_seed(123)
    assert same(images(source)[(3, 4)], sample)
    for other in (images(source)[(3, 5)], images(source)[(2, 4)], images(source, seed=1)[(3, 4)]):
        assert not torch.equal(other.noise, sample.noise)
        assert not torch.equal(other.images, sample.images)


def test_sampling_leaves_the_global_generator_alone(source):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    images(source)[(0, 0)]
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_pure_function_of_the_step(source, workers):
    whole = list(training_loader(images(source), StepSampler(10, 3, seed=0, start=0, stop=8)))
    rest = list(training_loader(images(source), StepSampler(10, 3, seed=0, start=5, stop=8), workers))
    assert len(rest) == 3
    for expected, batch in zip(whole[5:], rest, strict=True):
        assert same(batch, expected)


def test_an_epoch_shows_each_image_at_most_once_and_the_next_in_another_order():
    steps = list(StepSampler(10, 3, seed=0, start=0, stop=6))
    epochs = [[index for batch in steps[i : i + 3] for _, index in batch] for i in (0, 3)]
    assert [{epoch for epoch, _ in batch} for batch in steps] == [{0}] * 3 + [{1}] * 3
    for order in epochs:
        assert len(set(order)) == 9
    assert epochs[0] != epochs[1]
    assert steps != list(StepSampler(10, 3, seed=1, start=0, stop=6))


def test_processes_and_parts_share_a_batch_without_overlap():
    whole = list(StepSampler(40, 12, seed=3, start=1, stop=5))
    shares = [
        list(StepSampler(40, 12, seed=3, start=1, stop=5, rank=rank, world_size=2, parts=3))
        for rank in range(2)
    ]
    assert [len(part) for share in shares for part in share] == [2] * 24
    for step, batch in enumerate(whole):
        assert [pair for share in shares for part in share[3 * step : 3 * step + 3] for pair in part] == batch


@pytest.mark.parametrize("count", [7, 8, 2])
def test_evaluation_shares_are_of_equal_length_and_cover_every_image(count):
    shares = [list(EverySampler(count, rank, 3)) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    interleaved = [index for column in zip(*shares, strict=True) for index in column]
    assert interleaved[:count] == list(range(count))


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


def test_without_augmentation_training_sees_the_evaluation_image():
    transform = train_transform(Preprocessing(16, "squash"), Augmentation(hflip=False, min_crop=1.0))
    image = gradient_image(40, 20)
    assert torch.equal(transform(image), eval_transform(Preprocessing(16, "squash"))(image))


@pytest.mark.parametrize(
    "changed", [{"hflip": True}, {"min_crop": 0.5}, {"rotate": 20.0}, {"translate": 0.2}, {"zoom": 0.3}]
)
def test_every_augmentation_does_something(changed):
    plain = {"hflip": False, "min_crop": 1.0}
    transform = train_transform(Preprocessing(16, "squash"), Augmentation(**(plain | changed)))
    fixed = eval_transform(Preprocessing(16, "squash"))(gradient_image(16, 16))
    torch.manual_seed(0)
    assert any(not torch.allclose(transform(gradient_image(16, 16)), fixed) for _ in range(5))
