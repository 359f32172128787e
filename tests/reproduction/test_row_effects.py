"""What rows do when they run: which Gaussians are written, read, tested on and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import gvit
from gvit.fitting.optimise import fit
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.reproduction import pictures
from gvit.reproduction.jobs import Collection, Job, Machine, Training
from gvit.reproduction.reproduce import TARGETS
from gvit.reproduction.study import Study, Target, change
from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from gvit.training.setup import set_up

SEED = 1
SIZE = 32  # of the model's images, pixels
BOUND = 0.4  # scale factor, well below what a fit would take
BASE = TrainConfig(
    model=ModelConfig("gvit_tiny_denoising", num_gaussians=6, scale_factor=BOUND),
    data=DataConfig("folder", batch_size=8, crop_mode="squash", hflip=False, min_crop=1.0),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 1, "perceptual_epochs": 0, "classify_epochs": 3, "guide_epochs": 4},
        **{"guide_every": 2, "gamma": 0.1, "eval_every": 100},
    ),
    optimizer=OptimizerConfig(base_lr=6e-2, warmup_epochs=0.5, clip_grad=1.0),
)


# How jobs are made and run; the only functions here that know.


def silent(share: float) -> None: ...


def do(job: Job) -> Job:
    job.run(Machine(), silent)
    return job


def write(collection: Collection, split: str, raw: Tensor, labels: list[int], names: list[str]) -> None:
    """Stands for the collection's own work: these Gaussians, in its place, and it is done."""
    for row, label in enumerate(labels):
        file = collection.data_dir / split / names[label] / f"{row:07}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        Gaussians(raw[row], BOUND, 6).save(file)
    collection.finish("cpu", psnr=0.0, num_images=len(labels))


def first_batch(training: Training) -> Tensor:
    """What the training's network reads in its first step."""
    ((part,),) = set_up(training.config).feed.batches(0, 1, workers=0)
    return part.inputs


def jobs(target: Target) -> dict[str, Job]:
    return {row.label: row.job for row in target.rows}


def save(folder: Path, split: str, images: list[np.ndarray]) -> None:
    for row, image in enumerate(images):
        place = folder / split / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Sixteen blocky images of the model's size, which no resizing changes, and four to test with.

    Channels are 0 or 255: fits repeat bit by bit only where pixels do, and 0 and 1 have no rounding.
    """
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 4)):
        blocks = 255 * random.integers(0, 2, (count, 4, 4, 3), np.uint8)
        save(folder, split, list(blocks.repeat(8, 1).repeat(8, 2)))
    return folder


@pytest.fixture
def study(photographs, tmp_path) -> Study:
    return Study(change(BASE, data={"data_dir": photographs}), [SEED], tmp_path)


def written(collection: Collection, split: str) -> list[Gaussians]:
    return [Gaussians.load(file) for file in sorted((collection.data_dir / split).rglob("*.safetensors"))]


def pixels(folder: Path, split: str) -> Tensor:
    files = sorted((folder / split).rglob("*.png"))
    images = [torch.from_numpy(np.asarray(Image.open(file)).copy()) for file in files]
    return torch.stack(images).permute(0, 3, 1, 2) / 255


def test_fits_are_bounded_as_the_models_gaussians_are(study, photographs):
    collection = replace(study.collect(None, SEED), fit_steps=25)
    do(collection)
    for split, count in (("train", 16), ("test", 4)):
        images = pixels(photographs, split)
        found = written(collection, split)
        assert len(found) == count
        for gaussians in found:
            assert (len(gaussians), gaussians.scale_factor, gaussians.nominal_count) == (6, BOUND, 6)
            assert gaussians.scales.max() <= BOUND * 2 / 6**0.5
        # without the bound they would be larger, and it is not the bound's name alone that is written
        assert fit(images, 6, 25).gaussians.scales.max() > BOUND * 2 / 6**0.5
        expected = fit(images, 6, 25, scale_factor=BOUND).gaussians.raw
        torch.testing.assert_close(torch.stack([gaussians.raw for gaussians in found]), expected)


def test_collections_hold_what_evaluation_keeps_of_an_image(study, tmp_path):
    # the middle is white, and half of the shorter side lies inside of it
    image = np.zeros((48, 64, 3), np.uint8)
    image[8:40, 16:48] = 255
    for split in ("train", "test"):
        save(tmp_path / "framed", split, [image] * 4)
    cropped = {"data_dir": tmp_path / "framed", "crop_mode": "center", "crop_pct": 0.5}
    study = replace(study, base=change(study.base, data=cropped))
    collection = replace(study.collect(None, SEED), fit_steps=1)
    do(collection)
    expected = fit(torch.ones(1, 3, SIZE, SIZE), 6, 1, scale_factor=BOUND).gaussians.raw[0]
    for gaussians in written(collection, "train"):
        torch.testing.assert_close(gaussians.raw, expected)


def test_a_classifier_is_tested_on_the_other_collection(study):
    """Colours mean the one class in one collection and the other in the other: crossed, everything is wrong."""
    study = replace(study, base=change(study.base, schedule={"epochs": 24.0}))
    rows = jobs(TARGETS["leakage"](study))
    sets = {
        name: rows[f"trained on {name}, tested on {name}"].needs[0]  # what the row reads
        for name in ("SGD", "learned")
    }
    labels = [row % 2 for row in range(16)]
    for sign, (name, tests) in zip((1, -1), {"SGD": 10, "learned": 6}.items(), strict=True):
        for split, count in (("train", 16), ("test", tests)):
            raw = 0.1 * torch.randn(count, 6, 9, generator=torch.Generator().manual_seed(count))
            raw[..., 8] = 3.0
            for row, label in enumerate(labels[:count]):
                raw[row, :, 5:8] = 3.0 * sign * (1 - 2 * label)
            write(sets[name], split, raw, labels[:count], ["dark", "light"])
    for row in rows.values():
        for job in (*(need for need in row.needs if not isinstance(need, Collection)), row):
            if not job.done:
                do(job)
    found = {label: (row.result["top1"], row.result["num_images"]) for label, row in rows.items()}
    assert {label: images for label, (_, images) in found.items()} == {
        "trained on SGD, tested on SGD": 10,
        "trained on SGD, tested on learned": 6,
        "trained on learned, tested on learned": 6,
        "trained on learned, tested on SGD": 10,
    }
    assert {label: top1 for label, (top1, _) in found.items()} == {
        "trained on SGD, tested on SGD": 1.0,
        "trained on SGD, tested on learned": 0.0,
        "trained on learned, tested on learned": 1.0,
        "trained on learned, tested on SGD": 0.0,
    }


def test_rows_on_gaussians_read_numbers_and_rows_on_pictures_read_drawings(study):
    rows = jobs(TARGETS["table4"](study))
    raw = torch.randn(8, 6, 9, generator=torch.Generator().manual_seed(0))
    (collection,) = rows["SGD, Gaussians"].needs
    for split in ("train", "test"):
        write(collection, split, raw, [0, 1] * 4, ["a", "b"])
    # without augmentation a batch is the whole collection, in an order of its own
    numbers, drawings = first_batch(rows["SGD, Gaussians"]), first_batch(rows["SGD, pictures"])
    assert numbers.shape == (8, 6, 9)
    assert drawings.shape == (8, 3, SIZE, SIZE)
    stored = Gaussians(raw, BOUND, 6)
    order = [(numbers[:, :, 5:] - row[:, 5:]).abs().amax((1, 2)).argmin().item() for row in raw]
    assert sorted(order) == list(range(8))
    read = Gaussians(numbers[order], BOUND, 6)
    torch.testing.assert_close(read.centers, stored.centers, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read.covariances, stored.covariances, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(drawings[order], render(stored, SIZE, SIZE).clamp(0, 1), rtol=1e-3, atol=1e-3)


def test_figure_4_shows_each_trainings_own_gaussians_and_bounded_fits(study, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        pictures, "regimes_figure", lambda images, gaussians: shown.update(gaussians, images=images)
    )
    monkeypatch.setattr(pictures, "_FIT_STEPS", 2)
    target = TARGETS["figure4"](study)
    rows = jobs(target)
    for job in rows.values():
        do(job)
    target.picture("cpu")
    images = shown.pop("images")
    assert shown.keys() == {"SGD Gaussians", "No guidance", "Gradient guidance"}
    for label, job in rows.items():
        with torch.no_grad():
            expected = gvit.load_model(job.folder).encode(images).raw
        torch.testing.assert_close(shown[label].raw, expected)
    assert not torch.equal(shown["No guidance"].raw, shown["Gradient guidance"].raw)
    fitted = fit(images, 6, 2, scale_factor=BOUND).gaussians
    assert (shown["SGD Gaussians"].scale_factor, shown["SGD Gaussians"].nominal_count) == (BOUND, 6)
    torch.testing.assert_close(shown["SGD Gaussians"].raw, fitted.raw)
