"""Smaller benchmarks: what they print is of what they were asked for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gvit.recipes import digits
from gvit.training.setup import set_up

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # for its import of provenance

    def load(name: str):
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_fits_that_go_on_are_in_one_table_with_new_ones(script, monkeypatch, tmp_path):
    fit_start = script("fit_start")

    class Fits:
        encode_seconds = 0.1

        def __init__(self, image, count, start, model, seed) -> None: ...

        def curve(self, steps: int) -> list[float]:
            return [10.0 + step for step in range(steps + 1)]

        def shortest(self, target, plans):
            return None

    monkeypatch.setattr(fit_start, "Fits", Fits)
    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(file)
    rows = fit_start.measure(file, 10, ["random", "--start"], None, 10, 0)
    before = json.loads(json.dumps(rows))
    assert [row["curve"] for row in before] == [row["curve"] for row in rows]
    (curve,) = [line for line in fit_start.tables([*before, *rows], 8) if line.startswith("| random | 10.00")]
    assert curve == "| random | 10.00 | 20.00 |"


def test_what_a_byte_buys_is_measured_of_each_image_by_its_content(script, tmp_path, capsys):
    bench, found = script("rate_distortion"), {}
    for seed, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / "kodim01.png")
    for folder in ("one", "two", "one"):
        flags = ["--counts", "20", "--bits", "6", "--steps", "2", "--out", str(tmp_path / "out")]
        bench.main(["pictures", str(tmp_path / folder), *flags])
        lines = capsys.readouterr().out.splitlines()
        measured = [line for line in lines if line.startswith("{")]
        table = [line for line in lines if line.startswith("| gvit |")]
        assert bool(measured) == (folder not in found)
        assert found.setdefault(folder, table) == table
    assert found["one"] != found["two"]


def test_a_step_in_parts_has_the_losses_of_the_recipe(script, monkeypatch):
    train_step = script("train_step")
    config = digits()
    assert (config.objective.pixel_loss, config.objective.perceptual_weight) == ("psnr", 0)
    kinds = []

    def pixel_loss(picture, images, kind="bce"):
        kinds.append(kind)
        return (picture - images).square().mean()

    monkeypatch.setattr(train_step, "pixel_loss", pixel_loss)
    monkeypatch.setattr(train_step, "ssim", None)  # it is not called
    setup = set_up(config)
    (parts,) = setup.feed.batches(0, 1, workers=0)
    watch = train_step.Stopwatch()
    train_step.step_in_parts(setup.task, parts[0], watch)
    assert kinds == ["psnr"]
    assert watch.seconds.keys() == {"encoder", "renderer", "losses", "classifier", "optimizer"}
    assert all(torch.isfinite(weight).all() for weight in setup.task.model.parameters())


def test_gradients_are_told_beside_each_loss_of_the_picture(script, tmp_path, capsys):
    bench = script("guidance_weight")
    bench.main(["gvit_tiny.digits", "digits", "--images", "8", "--out", str(tmp_path)])
    (file,) = tmp_path.iterdir()
    psnr, paper = json.loads(file.read_text())["rows"]
    assert psnr["guiding_norm"] == paper["guiding_norm"] > 0
    # minus 10 log10 of the squared error: its gradient is that of the error times 4.3 / error
    assert psnr["norm"] > 100 * paper["norm"]
    assert f"| {psnr['loss']} | {psnr['norm']:.3g} |" in capsys.readouterr().out
