"""Frozen Gaussians as a data set: read, augmented as images are, given to the models."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2.functional import InterpolationMode

import gvit
from gvit.cli import main
from gvit.data.datasets import load_dataset
from gvit.data.loading import Augmentation, eval_transform, seeded, train_transform, transform_gaussians
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.card import Preprocessing

SIZE = 48
BILINEAR = InterpolationMode.BILINEAR


def scene(count: int = 6, spread: float = 0.35) -> Gaussians:
    """Soft blobs around the middle, well inside of the canvas."""
    draw = torch.Generator().manual_seed(0)
    return Gaussians.from_values(
        spread * (2 * torch.rand(count, 2, generator=draw) - 1),
        0.08 + 0.12 * torch.rand(count, 2, generator=draw),
        math.pi * torch.rand(count, generator=draw),
        torch.rand(count, 3, generator=draw),
        0.3 + 0.6 * torch.rand(count, generator=draw),
        scale_factor=2.0,
        nominal_count=16,
    )


def draw(gaussians: Gaussians) -> torch.Tensor:
    return gvit.render(gaussians, SIZE, SIZE)


def map_by(gaussians: Gaussians, matrix, shift=(0.0, 0.0)) -> torch.Tensor:
    return draw(gaussians.transform(torch.tensor(matrix), torch.tensor(shift)))


def test_mirrored_gaussians_draw_the_mirrored_picture():
    torch.testing.assert_close(
        map_by(scene(), [[-1.0, 0.0], [0.0, 1.0]]), draw(scene()).flip(-1), atol=1e-4, rtol=0
    )


def test_turned_gaussians_draw_the_turned_picture():
    # +x to +y, which points down: clockwise
    turned = map_by(scene(), [[0.0, -1.0], [1.0, 0.0]])
    torch.testing.assert_close(turned, draw(scene()).rot90(-1, (-2, -1)), atol=1e-4, rtol=0)


def test_shifted_gaussians_draw_the_shifted_picture():
    shifted = map_by(scene(), [[1.0, 0.0], [0.0, 1.0]], (3 * 2 / SIZE, -5 * 2 / SIZE))
    expected = draw(scene()).roll((-5, 3), (-2, -1))
    torch.testing.assert_close(shifted[:, 8:-8, 8:-8], expected[:, 8:-8, 8:-8], atol=1e-4, rtol=0)


def test_a_sheared_gaussian_has_the_sheared_covariance():
    matrix = torch.tensor([[1.0, 0.3], [-0.2, 0.8]])
    before, after = scene(), scene().transform(matrix, torch.zeros(2))
    torch.testing.assert_close(
        after.covariances, matrix @ before.covariances @ matrix.mT, atol=1e-6, rtol=1e-4
    )


def test_what_leaves_the_canvas_is_not_drawn():
    gone = scene().transform(torch.eye(2), torch.tensor([2.0, 0.0]))
    assert gone.opacities.max() < 1 / 255
    assert draw(gone).abs().max() == 0


def test_another_bound_keeps_the_picture():
    other = scene().rebound(scale_factor=1.0, nominal_count=16)
    assert not torch.allclose(other.raw, scene().raw)
    torch.testing.assert_close(draw(other), draw(scene()), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(hflip=False, min_crop=1.0, rotate=30.0, translate=0.1, zoom=0.2),
        Augmentation(hflip=True, min_crop=1.0),
        Augmentation(hflip=False, min_crop=0.5),
    ],
    ids=["affine", "mirror", "crop"],
)
def test_gaussians_are_augmented_as_their_picture_is(augmentation, seed):
    """The same draw of random numbers gives the same picture, but for interpolation."""
    picture = draw(scene())
    transforms = []
    if augmentation.min_crop < 1:
        transforms.append(v2.RandomResizedCrop((SIZE, SIZE), (augmentation.min_crop, 1.0)))
    if augmentation.rotate:
        transforms.append(v2.RandomAffine(30.0, (0.1, 0.1), (0.8, 1.2), interpolation=BILINEAR))
    with seeded(seed):
        by_pixels = picture
        for transform in transforms:
            by_pixels = transform(by_pixels)
        if augmentation.hflip:
            by_pixels = picture.flip(-1) if torch.rand(()) < 0.5 else picture
    with seeded(seed):
        by_gaussians = draw(transform_gaussians(scene(), SIZE, augmentation))
    assert (by_pixels - by_gaussians).abs().mean() < 0.01
    if not torch.equal(by_pixels, picture):
        assert (by_gaussians - picture).abs().mean() > (by_pixels - by_gaussians).abs().mean()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Class folders of photographs as a person has them, fitted by ``gvit fit``."""
    root = tmp_path_factory.mktemp("sets")
    draw_colours = np.random.default_rng(0)
    for name, shade in (("dark", 40), ("light", 200)):
        (root / "photos" / name).mkdir(parents=True)
        for i in range(6):
            pixels = draw_colours.integers(shade - 30, shade + 30, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / name / f"{i}.png")
    flags = ["--num-gaussians", "8", "--steps", "5"]
    assert main(["fit", str(root / "photos"), "--out", str(root / "fits"), *flags]) == 0
    return root / "fits"


TRAIN = (
    "--dataset",
    "gaussians",
    "--img-size",
    "16",
    "--batch-size",
    "4",
    "--epochs",
    "3",
    "--base-lr",
    "0.1",
)


@pytest.mark.parametrize("model", ["gaussian_vit_tiny", "vit_tiny_patch8"])
def test_fits_of_class_folders_are_a_training_set(fitted, model, tmp_path, capsys):
    gaussians = ("--num-gaussians", "8", "--model", model)
    args = [*TRAIN, *gaussians, "--data-dir", str(fitted), "--out", str(tmp_path / "run")]
    assert main(["train", "digits", *args]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    result = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert result["class_names"] == ["dark", "light"]
    assert result["num_images"] == 2


def test_each_model_gets_what_it_reads(fitted):
    single = load_dataset("gaussians", "train", fitted).load(0)
    raw = eval_transform(Preprocessing(16, num_gaussians=8, scale_factor=0.7))(single)
    assert raw.shape == (8, 9)
    again = Gaussians(raw, 0.7, 8)
    torch.testing.assert_close(again.centers, single.centers, atol=1e-5, rtol=0)
    torch.testing.assert_close(again.colors, single.colors, atol=1e-4, rtol=0)
    picture = eval_transform(Preprocessing(16))(single)
    torch.testing.assert_close(picture, gvit.render(single, 16, 16), atol=1e-4, rtol=0)
    with seeded(0):
        augmented = train_transform(Preprocessing(16), Augmentation(rotate=90.0))(single)
    assert augmented.shape == (3, 16, 16)
    assert not torch.allclose(augmented, picture, atol=1e-3)


def test_a_model_of_gaussians_says_so_to_images_and_to_other_counts(fitted):
    single = load_dataset("gaussians", "train", fitted).load(0)
    with pytest.raises(InputError, match="reads 9 Gaussians, the data have 8: --num-gaussians 8"):
        eval_transform(Preprocessing(16, num_gaussians=9))(single)
    with pytest.raises(InputError, match="reads Gaussians, not images: train it with --dataset gaussians"):
        eval_transform(Preprocessing(16, num_gaussians=9))(Image.new("RGB", (16, 16)))


def test_damaged_and_odd_files_are_named(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(5):
            scene().save(tmp_path / name / f"{i}.safetensors")
    scene(count=7).save(tmp_path / "b" / "3.safetensors")
    (tmp_path / "b" / "4.safetensors").write_bytes(b"nothing")
    images = [load_dataset("gaussians", split, tmp_path) for split in ("train", "test")]
    messages = []
    for split in images:
        for i in range(len(split)):
            try:
                split.load(i)
            except InputError as error:
                messages.append(str(error))
    assert len(messages) == 2
    assert any("3.safetensors: has 7 Gaussians" in m and "has 6" in m for m in messages)
    assert any("4.safetensors: not a file of Gaussians" in m for m in messages)
