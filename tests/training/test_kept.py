"""Gaussians of an encoder that stands still are kept, and nothing else changes by it."""

from dataclasses import replace

import pytest
import torch

import gvit
from gvit.data.sources import SOURCES, Source, digits
from gvit.data.transforms import Augmentation
from gvit.recipes.transfer import finetune
from gvit.training.kept import KeptGaussians
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train


@pytest.fixture(autouse=True)
def few_digits(monkeypatch):
    def load(split, data_dir=None) -> Source:
        whole = digits.source(split, classes=range(5, 10))
        return whole.take(range({"train": 70, "test": 12}[split]))

    monkeypatch.setitem(SOURCES, "few_digits", load)


def config(**data):
    base = finetune("gvit_tiny.digits")
    return replace(
        base,
        data=replace(base.data, dataset="few_digits", batch_size=32, crop_mode="squash", **data),
        schedule=replace(base.schedule, epochs=3, min_steps=None, eval_every=3),
    )


def test_each_image_is_encoded_once_within_the_capacity():
    calls = []

    def encode(images):
        calls.append(len(images))
        return images.flatten(1)[:, None, :9] + 1

    images = torch.rand(4, 3, 2, 2)
    kept = KeptGaussians(encode)
    expected = images.flatten(1)[:, None, :9] + 1
    assert torch.equal(kept(images[:3]), expected[:3])
    assert torch.equal(kept(images[[3, 0, 3, 1]]), expected[[3, 0, 3, 1]])
    assert torch.equal(kept(images.flip(0)), expected.flip(0))
    assert torch.equal(kept(images.flip(-1)), encode(images.flip(-1)))  # mirrored: other images
    assert calls == [3, 2, 4, 4]
    small = KeptGaussians(encode, capacity=9 * 4)
    assert torch.equal(small(images), expected)
    assert torch.equal(small(images), expected)
    assert (len(small), calls[-1]) == (1, 3)


def test_training_on_kept_gaussians_is_training_on_the_images(tmp_path, monkeypatch):
    """The same weights as with the images encoded anew each time, resumed or not; and the encoder stands still."""
    settings = config(min_crop=1.0, hflip=True)
    assert set_up(settings).task.objective.kept is not None
    train(settings, tmp_path / "kept")
    answers = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "cut", stop=lambda: next(answers))
    resume(tmp_path / "cut")
    monkeypatch.setattr("gvit.training.task.GuidedTask.keeps_gaussians", False)
    train(settings, tmp_path / "anew")
    weights = {name: gvit.load_model(tmp_path / name).state_dict() for name in ("kept", "cut", "anew")}
    for name, value in weights["anew"].items():
        torch.testing.assert_close(weights["kept"][name], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(weights["cut"][name], weights["kept"][name], rtol=1e-5, atol=1e-6)
    start = gvit.load_model("gvit_tiny.digits").encoder.state_dict()
    for name, value in start.items():
        assert torch.equal(weights["kept"][f"encoder.{name}"], value)
    assert not torch.equal(
        weights["kept"]["classifier.blocks.0.attn.qkv.weight"],
        gvit.load_model("gvit_tiny.digits").state_dict()["classifier.blocks.0.attn.qkv.weight"],
    )


def test_where_images_never_come_again_or_the_encoder_moves_nothing_is_kept():
    assert set_up(config(min_crop=0.5)).task.objective.kept is None
    assert set_up(config(min_crop=1.0, rotate=5.0)).task.objective.kept is None
    still = config(min_crop=1.0)
    for schedule in ({"freeze_encoder": False}, {"guide_epochs": 1.0}):
        moving = replace(still, schedule=replace(still.schedule, **schedule))
        assert set_up(moving).task.objective.kept is None
    assert Augmentation(min_crop=1.0).repeats
    assert not Augmentation(min_crop=1.0, zoom=0.1).repeats
