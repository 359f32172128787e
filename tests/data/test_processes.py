"""Processes that load images are spawned where they are not forked, as on macOS: what they load has to be sent."""

import io
import pickle
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

import gvit
from gvit.data import processes
from gvit.data.inputs import eval_input, train_input
from gvit.data.loading import (
    EvaluationSamples,
    StepSampler,
    TrainingSamples,
    evaluation_loader,
    training_loader,
)
from gvit.data.sources import load_source
from gvit.data.sources.base import Keys, Source
from gvit.data.sources.torchvision_sets import _image_of
from gvit.data.splits import load_splits, record_splits
from gvit.data.transforms import Augmentation, mixing
from gvit.gaussians import Gaussians
from gvit.recipes import digits_paper
from gvit.training.setup import set_up

SIDE = 16


@pytest.fixture
def spawned(monkeypatch):
    monkeypatch.setattr(processes.sys, "platform", "darwin")


def picture(row: int) -> Image.Image:
    return Image.effect_noise((20, 24), 40 + row).convert("RGB")


def encoded(row: int) -> bytes:
    file = io.BytesIO()
    picture(row).save(file, "png")
    return file.getvalue()


def folders(root: Path) -> Path:
    for row in range(10):
        file = root / "ab"[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(row))
    return root


def parquet(root: Path) -> Path:
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    root.mkdir()
    images = [{"bytes": encoded(row), "path": None} for row in range(10)]
    table = pa.table({"image": images, "label": [row % 2 for row in range(10)]})
    pq.write_table(table, root / "train-0.parquet")
    return root


def tars(root: Path) -> Path:
    root.mkdir()
    with tarfile.open(root / "train-0.tar", "w") as file:
        for row in range(10):
            member = tarfile.TarInfo(f"{'ab'[row % 2]}/{row}.png")
            content = encoded(row)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return root


def hub(root: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    images = [{"bytes": encoded(row), "path": None} for row in range(10)]
    whole = {"image": images, "label": [row % 2 for row in range(10)]}
    datasets.Dataset.from_dict(whole, features=features).save_to_disk(str(root))
    return root


def gaussians(root: Path) -> Path:
    for row in range(10):
        file = root / "ab"[row % 2] / f"{row}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        Gaussians(torch.randn(6, 9), 1.0, 6).save(file)
    return root


def birds(root: Path) -> Path:
    folders(root / "images")
    (root / "classes.txt").write_text("1 001.A\n2 002.B\n")
    (root / "images.txt").write_text("".join(f"{row} {'ab'[row % 2]}/{row}.png\n" for row in range(10)))
    (root / "image_class_labels.txt").write_text("".join(f"{row} {row % 2 + 1}\n" for row in range(10)))
    (root / "train_test_split.txt").write_text("".join(f"{row} {int(row > 2)}\n" for row in range(10)))
    return root


KINDS = {
    "folder": folders,
    "parquet": parquet,
    "wds": tars,
    "hfds": hub,
    "gaussians": gaussians,
    "cub": birds,
}


def model_of(source: Source):
    if source.example is None:
        return gvit.create_model("vit_tiny_patch8", img_size=SIDE, num_classes=2)
    return gvit.create_model("gaussian_vit_tiny", num_gaussians=6, img_size=SIDE, num_classes=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_can_be_sent(tmp_path, kind):
    """Recorded splits, too, which are put together of both splits' images."""
    root = KINDS[kind](tmp_path / "data")
    train, test = load_splits(kind, root)
    recorded = record_splits(train, test)
    for source in (train, test, load_splits(kind, root, recorded)[0]):
        model = model_of(source)
        transform = eval_input(model, source)
        samples = EvaluationSamples(source, transform)
        again = pickle.loads(pickle.dumps(samples))
        for row in range(len(source)):
            assert torch.equal(again[row][0], samples[row][0])


def test_arrays_and_digits_can_be_sent():
    arrays = torch.zeros(3, 4, 4, 3, dtype=torch.uint8).numpy()
    for source in (
        load_source("digits", "test"),
        Source(partial(_image_of, arrays), [0, 0, 1], ["a", "b"], keys=Keys("abc")),
    ):
        assert pickle.loads(pickle.dumps(source)).load(2).tobytes() == source.load(2).tobytes()


def test_spawned_processes_load_what_the_main_one_would(tmp_path, spawned):
    source = load_source("folder", "train", folders(tmp_path / "data"))
    model = gvit.create_model("vit_tiny_patch8", img_size=SIDE, num_classes=2)
    augmentation = Augmentation(rotate=10, randaugment=5, random_erase=0.5, mixup=0.2)
    samples = TrainingSamples(
        source,
        train_input(model, source, augmentation),
        partial(torch.randn, 3, 9),
        0,
        mixing(augmentation, 2),
    )
    sampler = StepSampler(len(source), 4, seed=0, start=0, stop=2)
    for one, other in zip(*(training_loader(samples, sampler, workers) for workers in (0, 1)), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    tests = EvaluationSamples(source, eval_input(model, source))
    for one, other in zip(*(evaluation_loader(tests, 4, workers) for workers in (0, 1)), strict=True):
        assert torch.equal(one[0], other[0])


def test_no_weights_are_sent_with_what_a_model_wants_drawn():
    config = digits_paper()
    setup = set_up(replace(config, schedule=replace(config.schedule, epochs=1)))
    sent = len(pickle.dumps(setup.feed.samples.draw_noise))
    assert sent < 0.2 * sum(4 * weight.numel() for weight in setup.task.model.encoder.parameters())
    noise = pickle.loads(pickle.dumps(setup.feed.samples.draw_noise))()
    assert noise.shape == (setup.task.model.encoder.num_gaussians, 9)
