"""What is written of a model that was shown labelled images."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import gvit
from gvit.errors import InputError
from gvit.models.weights import save_model
from gvit.training import report
from gvit.training.config import TrainConfig
from gvit.training.run import MEASURED, Run

NAMES = ("$0_$10", "$10_$50")  # no formula


@pytest.fixture
def weights(tmp_path):
    """Of a model that has learned nothing; images of its classes lie beside it."""
    for number, name in enumerate(NAMES):
        (tmp_path / "prices" / name).mkdir(parents=True)
        for seed in range(3):
            noise = np.random.default_rng(10 * number + seed).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "prices" / name / f"{seed}.png")
    model = gvit.create_model("vit_tiny_patch8", num_classes=2)
    model.card = replace(model.card, class_names=NAMES)
    save_model(model, tmp_path / "prices.safetensors")
    return tmp_path / "prices.safetensors"


def test_classes_may_be_called_what_would_be_a_formula(weights, tmp_path):
    assessed = report.assess(weights, data_dir=tmp_path / "prices", out=tmp_path / "out")
    assert {file.name for file in assessed.files} == {
        "evaluation.json",
        "confusion.png",
        "mistakes.csv",
        "mistakes.png",
    }


def test_measured_is_the_folder_that_holds_the_classes_of_the_model(weights, tmp_path):
    photos = tmp_path / "photos"
    shutil.copytree(tmp_path / "prices", photos / "val")
    shutil.copytree(tmp_path / "prices" / NAMES[0], photos / "test" / "images")
    _, samples = report.load_with_images(weights, photos)
    assert {key.partition("/")[0] for key in samples.source.keys} == {"val"}


def test_what_was_measured_is_written_before_it_is_drawn(weights, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(report, "confusion_figure", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text('{"num_images": 3, "top1": 0.5, "top5": null, "damaged')
    with pytest.raises(MemoryError):
        report.assess(weights, data_dir=tmp_path / "prices", out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert "right" not in told  # a line for every image
    rows = list(csv.DictReader((tmp_path / "out" / "mistakes.csv").open()))
    assert told["class_names"] == list(NAMES)
    assert told["num_images"] == 6
    assert len(rows) == 6 - told["confusion"][0][0] - told["confusion"][1][1]


@pytest.mark.parametrize("name", MEASURED)
def test_a_file_that_is_somebody_elses_is_refused_before_anything_is_measured(
    weights, tmp_path, monkeypatch, name
):
    monkeypatch.setattr(report, "measure", lambda *_, **__: pytest.fail("measured"))
    theirs = tmp_path / "mine" / name
    theirs.parent.mkdir()
    theirs.write_text('{"image": "mine"}')
    with pytest.raises(InputError, match=f"{name} is there and was not written by gvit; .* another out"):
        report.assess(weights, data_dir=tmp_path / "prices", out=theirs.parent)
    assert theirs.read_text() == '{"image": "mine"}'
    assert list(theirs.parent.iterdir()) == [theirs]


@pytest.fixture
def others(weights, tmp_path):
    """Two weights files of one name, in folders of their own."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    shutil.copy(weights, tmp_path / "a" / "model.safetensors")
    model = gvit.load_model(weights)
    model.head.bias.data += 1
    save_model(model, tmp_path / "b" / "model.safetensors")
    return [tmp_path / folder / "model.safetensors" for folder in ("a", "b")]


@pytest.mark.usefixtures("undrawn")
def test_results_of_other_weights_of_the_same_name_are_not_replaced_unasked(others, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, theirs = others
    images = tmp_path / "prices"
    first = report.assess(ours, data_dir=images)
    told = first.folder / "evaluation.json"
    (first.folder / "mistakes.png").write_bytes(b"as an older gvit drew it, which did not sign it")
    assert report.assess(ours, data_dir=images).weights == json.loads(told.read_text())["weights"]
    before = told.read_bytes()
    with pytest.raises(
        InputError, match=rf"holds the results of other weights \(SHA-256 {first.weights[:12]}\)"
    ):
        report.assess(theirs, data_dir=images)
    assert told.read_bytes() == before
    assert report.assess(theirs, data_dir=images, out=first.folder).weights != first.weights  # asked for
    # an older gvit did not write down whose they are
    told.write_text(json.dumps({k: v for k, v in json.loads(told.read_text()).items() if k != "weights"}))
    assert report.assess(ours, data_dir=images) == first


@pytest.mark.usefixtures("undrawn")
def test_in_its_own_folder_a_runs_newer_weights_replace_older_results(others, tmp_path):
    ours, theirs = others
    run = Run(ours.parent)
    run.save_config(TrainConfig())
    before = report.assess(run.folder, data_dir=tmp_path / "prices")
    assert before.folder == run.folder / "evaluation-prices"
    shutil.copy(theirs, run.weights_file)  # as if it had been trained further
    assert report.assess(run.folder, data_dir=tmp_path / "prices").weights != before.weights
