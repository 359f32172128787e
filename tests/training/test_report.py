"""What is written of a model that was shown labelled images."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import gvit
from gvit.models.weights import save_model
from gvit.training import report

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


def test_what_was_measured_is_written_before_it_is_drawn(weights, tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(report, "confusion_figure", fail)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "evaluation.json").write_text("of an earlier one")
    with pytest.raises(MemoryError):
        report.assess(weights, data_dir=tmp_path / "prices", out=tmp_path / "out")
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "mistakes.csv").open()))
    assert told["class_names"] == list(NAMES)
    assert told["num_images"] == 6
    assert len(rows) == 6 - told["confusion"][0][0] - told["confusion"][1][1]
