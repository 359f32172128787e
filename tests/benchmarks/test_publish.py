"""What is put among the shipped weights is what was measured, whole, and within the limits."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import gvit
from gvit.models import pretrained

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """The script's ``main``, over a package of its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # for its import of provenance
    spec = importlib.util.spec_from_file_location("publish", BENCHMARKS / "publish.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "publish", module)
    package = tmp_path / "package"
    package.mkdir()
    (package / "index.json").write_text("{}")
    monkeypatch.setattr(pretrained, "FOLDER", package)
    pretrained._read.cache_clear()
    spec.loader.exec_module(module)  # takes the folder as it is now
    yield module
    pretrained._read.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    from gvit.cli import main

    folder = tmp_path_factory.mktemp("runs") / "digits"
    flags = ["--epochs", "0.5", "--num-gaussians", "6", "--looks", "2", "--out", str(folder)]
    assert main(["train", "digits", *flags]) == 0
    return folder


TEXTS = ["--about", "a test", "--data", "none", "--licence", "any", "--command", "gvit train digits"]


def test_a_run_becomes_a_name(publish, run, capsys):
    publish.main([str(run), "gvit_tiny.half", *TEXTS, "--commit", "0123456789"])
    assert "gvit_tiny.half.safetensors: 0." in capsys.readouterr().out
    assert gvit.list_models(pretrained=True) == ["gvit_tiny.half"]
    whole, half = gvit.load_model(run).state_dict(), gvit.load_model("half").state_dict()
    assert all(torch.equal(half[n], w.half().float()) for n, w in whole.items())
    card = (pretrained.FOLDER / "gvit_tiny.half.md").read_text()
    for text in (
        *(
            "# gvit_tiny.half",
            "A test.",
            "10 classes (0, 1, ",
            "\n    gvit train digits\n",
            "commit 0123456789.",
        ),
        *("On 360 images", "| PSNR dB | ", "| top-1 % | ", pretrained.shipped()["gvit_tiny.half"].sha256),
    ):
        assert text in card, text


def test_an_encoder_alone_measured_on_photographs_of_any_size(publish, run, tmp_path):
    for number, size in enumerate(((30, 20), (20, 44))):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    measure = ["--images", str(tmp_path), "--num-gaussians", "20", "--on", "noise"]
    publish.main([str(run), "gvit_tiny.photos", *TEXTS, "--encoder-only", *measure])
    stored = load_file(pretrained.FOLDER / "gvit_tiny.photos.safetensors")
    assert stored
    assert all(name.startswith("encoder.") for name in stored)
    assert gvit.load_model("photos").card.encoder_only
    card = (pretrained.FOLDER / "gvit_tiny.photos.md").read_text()
    assert "On 2 images: noise, 20 Gaussians." in card
    assert "top-1" not in card
    # the same name again replaces it, and leaves the others
    publish.main([str(run), "gvit_tiny.half", *TEXTS])
    publish.main(
        [str(run), "gvit_tiny.photos", *TEXTS, "--encoder-only", "--hub", "a/b", "--out", str(tmp_path)]
    )
    index = json.loads((pretrained.FOLDER / "index.json").read_text())
    assert {name: entry["hub"] for name, entry in index.items()} == {
        "gvit_tiny.half": None,
        "gvit_tiny.photos": "a/b",
    }
    assert (tmp_path / "gvit_tiny.photos.safetensors").exists()
    assert not pretrained.shipped()["gvit_tiny.photos"].installed  # another one of the name, as it were


def test_weights_that_half_precision_spoils_or_that_are_too_large_are_not_published(
    publish, run, tmp_path, monkeypatch
):
    measured = publish.measured
    calls = []

    def worse(model, options):
        calls.append(model)
        found = measured(model, options)
        return found if len(calls) == 1 else found | {"psnr": found["psnr"] - 0.2}

    monkeypatch.setattr(publish, "measured", worse)
    with pytest.raises(SystemExit, match=r"costs 0.20 dB and \d images' classes: nothing written"):
        publish.main([str(run), "gvit_tiny.half", *TEXTS])
    monkeypatch.setattr(publish, "measured", measured)
    monkeypatch.setattr(publish, "LIMIT", 10_000)
    with pytest.raises(SystemExit, match="MB in the package"):
        publish.main([str(run), "gvit_tiny.half", *TEXTS])
    assert [file.name for file in pretrained.FOLDER.iterdir()] == ["index.json"]


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("gvit_tiny.x", ["--hub", "a/b"], "--hub and --out belong together"),
        ("gvit_tiny.x", ["--out", "elsewhere"], "--hub and --out belong together"),
        ("gvit_tiny.x", ["--num-gaussians", "5"], "--num-gaussians and --looks are for --images"),
        ("vit_tiny_patch8.x", [], "vit_tiny_patch8.x: "),
    ],
)
def test_entries_that_would_be_false_are_not_written(publish, run, capsys, name, flags, said):
    with pytest.raises(SystemExit) as error:
        publish.main([str(run), name, *TEXTS, *flags])
    assert said in capsys.readouterr().err + str(error.value)
    assert [file.name for file in pretrained.FOLDER.iterdir()] == ["index.json"]
