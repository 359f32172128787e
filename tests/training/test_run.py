"""What a run's folder keeps of its data."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gvit.errors import InputError
from gvit.recipes import debug
from gvit.training.config import TrainConfig
from gvit.training.observers import Observer
from gvit.training.report import assess, load_with_test_images
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def write(folder, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        noise = np.random.default_rng(n).integers(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{n:03}.png")


def of_folders(photos) -> TrainConfig:
    """Four images a step, two epochs."""
    config = debug()
    return replace(
        config,
        data=replace(config.data, dataset="folder", data_dir=photos, batch_size=4),
        model=replace(config.model, model="vit_tiny_patch8", num_gaussians=None),
        schedule=replace(config.schedule, epochs=2.0),
    )


class Notes(Observer):
    """Remembers."""

    def start(self, start) -> None:
        self.notes = start.notes


def test_other_numbers_of_training_images_are_told_and_end_no_run(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "run"
    for split, count in (("train", 10), ("val", 2)):
        for name in ("cat", "dog"):
            write(photos / split / name, count)
    steps = iter(range(100))
    with pytest.raises(Interrupted):
        train(of_folders(photos), out, stop=lambda: next(steps) == 5)  # after 6 of 10
    for number in range(3, 10):
        (photos / "train" / "cat" / f"{number:03}.png").unlink()
        (photos / "train" / "dog" / f"{number:03}.png").unlink()
    with pytest.raises(
        InputError, match=r"run: is at step 6, where its 6 training images make 2 steps in all; .*\(20\)$"
    ):
        resume(out)
    for name in ("cat", "dog"):
        write(photos / "train" / name, 11)
    notes = Notes()
    resume(out, [notes])
    assert (
        "22 training images, 20 when this was saved: from here on, phases are as long as 22 make them"
        in notes.notes
    )
    resume(out, [notes])
    assert not any("training images, " in note for note in notes.notes)


def test_a_run_that_is_replaced_leaves_nothing_to_go_on_with(tmp_path, monkeypatch):
    photos, out = tmp_path / "photos", tmp_path / "run"
    for name in ("cat", "dog"):
        write(photos / name, 5)
    train(of_folders(photos), out)
    run = Run(out)

    def dies(self, config):
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "save_config", dies)
    with pytest.raises(KeyboardInterrupt):
        Run.create(out, of_folders(photos), overwrite=True)
    assert not any(file.exists() for file in (run.checkpoint_file, run.weights_file, run.config_file))


def test_images_of_one_class_are_refused(tmp_path):
    table = pa.table(
        {"image": [{"bytes": png()} for _ in range(8)], "label": [0] * 8},
        schema=pa.schema([("image", pa.struct([("bytes", pa.binary())])), ("label", pa.int64())]),
    )
    pq.write_table(table, tmp_path / "train-0.parquet")
    config = of_folders(tmp_path)
    config = replace(config, data=replace(config.data, dataset="parquet"))
    with pytest.raises(InputError, match="all images are of one class, '0': there is nothing to tell apart"):
        set_up(config)
    alone = replace(
        config,
        model=replace(config.model, model="gvit_tiny_denoising"),
        schedule=replace(config.schedule, classify_epochs=0.0, guide_epochs=0.0),
    )
    assert set_up(alone).schedule.encoder_only


def test_a_run_keeps_which_images_it_tests_with(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "run"
    for name in ("cat", "dog"):
        write(photos / name, 10, 50)
    config = of_folders(photos)
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


@pytest.mark.parametrize("name", ["config.json", "report.png", "model.safetensors"])
def test_files_that_no_run_left_are_not_replaced(tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match=f"holds {name}, which no training of gvit left there"):
        Run.create(tmp_path, debug(), overwrite=True)
    assert (tmp_path / name).read_text() == '{"model_type": "vit"}'


def test_a_run_whose_configuration_is_lost_can_be_replaced(tmp_path):
    run = Run.create(tmp_path, debug())
    run.config_file.unlink()
    with pytest.raises(InputError, match="already holds a run"):
        Run.create(tmp_path, debug())
    Run.create(tmp_path, debug(), overwrite=True)
    run.metrics_file.unlink()  # as where a process was killed between the two
    Run.create(tmp_path, debug(), overwrite=True)


def test_replacing_a_run_that_failed_half_way_can_be_done_again(tmp_path, monkeypatch):
    run = Run.create(tmp_path, debug())
    run.weights_file.touch()
    remove = Path.unlink

    def refusing(file, missing_ok=False):
        if file == run.weights_file:
            raise PermissionError(13, "in use", str(file))
        remove(file, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refusing)
        with pytest.raises(InputError, match=r"cannot write a run here \(in use\)"):
            Run.create(tmp_path, debug(), overwrite=True)
    Run.create(tmp_path, debug(), overwrite=True)
    assert not run.weights_file.exists()
