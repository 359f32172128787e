"""What a run's folder keeps of its data."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gvit.errors import InputError
from gvit.recipes import debug
from gvit.training.report import assess, load_with_test_images
from gvit.training.run import Run
from gvit.training.train import Interrupted, resume, train


def write(folder, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        noise = np.random.default_rng(n).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{n:03}.png")


def test_a_run_keeps_which_images_it_tests_with(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "run"
    for name in ("cat", "dog"):
        write(photos / name, 10, 50)
    config = debug()
    config = replace(
        config,
        data=replace(config.data, dataset="folder", data_dir=photos, batch_size=4),
        model=replace(config.model, model="vit_tiny_patch8", num_gaussians=None),
        schedule=replace(config.schedule, epochs=2.0),
    )
    whole = train(config, tmp_path / "whole")
    steps = iter(range(100))
    with pytest.raises(Interrupted):
        train(config, out, stop=lambda: next(steps) == 2)
    recorded = json.loads((out / "split.json").read_text())
    assert (len(recorded["train"]), len(recorded["test"])) == (16, 4)
    write(photos / "cat", 30)  # of which a fifth would be new in the test, and others no longer
    assert resume(out) == assess(out).evaluation == whole
    shares: list[float] = []
    assess(out, batch_size=3, progress=shares.append)
    assert shares == [0.75, 1]
    assert json.loads((out / "split.json").read_text()) == recorded
    assert list(load_with_test_images(Run.open(out))[1].source.keys) == recorded["test"]
    again = train(config, out, overwrite=True)  # a new run is of what is there now
    assert again != whole
    assert len(json.loads((out / "split.json").read_text())["train"]) == 40
    (out / "split.json").write_text("[]")
    with pytest.raises(InputError, match=r"split\.json: damaged"):
        assess(out)
