"""Training on frozen Gaussians goes through the same loop as everything else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.data.collections import save_collection
from gvit.errors import InputError, for_command_line
from gvit.gaussians import Gaussians
from gvit.recipes import gaussians
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> Path:
    """Two classes that differ in where the first Gaussian is and how bright."""
    folder = tmp_path_factory.mktemp("frozen")
    for split, count in (("train", 32), ("test", 16)):
        generator = torch.Generator().manual_seed(count)
        raw = 0.1 * torch.randn(count, 5, 9, generator=generator)
        labels = [i % 2 for i in range(count)]
        for row, label in enumerate(labels):
            raw[row, 0, 0] += 1 - 2 * label
            raw[row, 0, 5:] += 4
        save_collection(folder, split, ["left", "right"], labels, Gaussians(raw, 1.5, 5))
    return folder


def config(frozen: Path, model: str, epochs: float = 3, **fields):
    base = gaussians()
    return replace(
        base,
        model=replace(base.model, model=model, img_size=32, **fields),
        data=replace(base.data, data_dir=frozen, batch_size=8, hflip=False, min_crop=0.9, rotate=5.0),
        schedule=replace(base.schedule, epochs=epochs, eval_every=2),
        optimizer=replace(base.optimizer, base_lr=6e-2, warmup_epochs=1.0),
    )


@pytest.mark.parametrize("model", ["gaussian_vit_tiny", "vit_tiny_patch8"])
def test_a_classifier_learns_from_frozen_gaussians_and_goes_on_where_it_stopped(frozen, tmp_path, model):
    settings = config(frozen, model, epochs=6)
    result = train(settings, tmp_path / "whole")
    assert result.top1 > 0.9
    assert result.psnr is None
    answers = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        train(settings, tmp_path / "cut", stop=lambda: next(answers))
    resume(tmp_path / "cut")
    expected, found = (gvit.load_model(tmp_path / name).state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert main(["evaluate", str(tmp_path / "whole")]) == 0
    if model == "gaussian_vit_tiny":
        assert main(["predict", str(tmp_path / "whole"), str(frozen / "test")]) == 0
    evaluation = json.loads((tmp_path / "whole" / "evaluation.json").read_text())
    assert evaluation["top1"] == result.top1


def test_number_and_largest_size_come_from_the_data(frozen, tmp_path):
    setup = set_up(config(frozen, "gaussian_vit_tiny"))
    assert setup.task.model.tokens.bounds == {"scale_factor": 1.5, "nominal_count": 5}
    assert setup.notes == ()
    assert {setup.schedule.plan(step).phase for step in range(setup.schedule.total)} == {"classify"}
    smaller = set_up(config(frozen, "gaussian_vit_tiny", scale_factor=0.5))
    assert smaller.task.model.tokens.bounds == {"scale_factor": 0.5, "nominal_count": 5}
    assert [for_command_line(note) for note in smaller.notes] == [
        "scales are cut to 0.5 spacings, the data's reach to 1.5; --scale-factor 1.5 keeps them"
    ]
    for model, fields, message in (
        ("gvit_tiny_denoising", {}, "reads images, but the data set holds Gaussians"),
        ("gaussian_vit_tiny", {"num_gaussians": 6}, "take num_gaussians=5"),
    ):
        with pytest.raises(InputError, match=message):
            set_up(config(frozen, model, **fields))
    images = replace(config(frozen, "gaussian_vit_tiny"), data=replace(gaussians().data, dataset="digits"))
    with pytest.raises(InputError, match="take dataset='gaussians'"):
        set_up(images)


def test_gaussians_stay_in_float32_under_bf16(frozen, tmp_path):
    settings = config(frozen, "gaussian_vit_tiny")
    setup = set_up(replace(settings, compute=replace(settings.compute, precision="bf16")))
    seen = {}
    for name in ("patch_embed", "blocks.0.mlp.fc1"):
        setup.task.model.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: out.dtype})
        )
    (parts,) = setup.feed.batches(0, 1, workers=0)
    setup.task.step(0, parts, setup.schedule.plan(0), setup.rates(0))
    assert seen == {"patch_embed": torch.float32, "blocks.0.mlp.fc1": torch.bfloat16}


@pytest.mark.parametrize("parts", [[""], ["train", "val"]], ids=["classes", "splits"])
def test_from_photographs_to_a_classifier_of_their_gaussians(tmp_path, monkeypatch, capsys, parts):
    monkeypatch.chdir(tmp_path)
    for part in parts:
        for number, name in enumerate(("cat", "dog")):
            place = tmp_path / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(5):
                pixels = np.full((12, 16, 3), 40 * i + 20 * number, np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    assert main(["fit", "photos", "--num-gaussians", "6", "--steps", "2", "--init", "grid"]) == 0
    few = ["--epochs", "1", "--batch-size", "4"]
    assert main(["train", "gaussians", "--data-dir", "fits", *few, "--out", "run"]) == 0
    assert main(["evaluate", "run"]) == 0
    capsys.readouterr()
    files = sorted(map(str, (tmp_path / "fits").rglob("*.safetensors")))
    assert main(["predict", "run", *files]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10 * len(parts)
    gvit.Gaussians(torch.zeros(7, 9)).save("other.safetensors")
    assert main(["predict", "run", "other.safetensors"]) == 2
    assert capsys.readouterr().err == (
        "gvit: error: other.safetensors: there are 7 Gaussians, but the model reads at most 6\n"
    )


def test_a_classifier_of_gaussians_can_start_from_another(frozen, tmp_path):
    train(config(frozen, "gaussian_vit_tiny", epochs=1), tmp_path / "first")
    started = set_up(config(frozen, None, init=tmp_path / "first")).task.model.state_dict()
    source = gvit.load_model(tmp_path / "first").state_dict()
    assert all(torch.equal(value, source[name]) for name, value in started.items())
    with pytest.raises(InputError, match="which vit_tiny_patch8 cannot start from"):
        set_up(config(frozen, "vit_tiny_patch8", init=tmp_path / "first"))
