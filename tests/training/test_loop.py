"""Training runs end to end on a few digits with a model that fits a test."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gvit
from gvit.data import datasets
from gvit.data.datasets import LabelledImages
from gvit.data.loading import training_loader
from gvit.errors import InputError
from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from gvit.training.loop import Interrupted, Trainer, resume, train
from gvit.training.run import Run

# 4 steps an epoch; phases end at 4, 8, 14 and 20; guided steps are 14 and 17
CONFIG = TrainConfig(
    model=ModelConfig("gvit_tiny", num_gaussians=8, drop_path_rate=0.1),
    data=DataConfig("few_digits", batch_size=8, crop_mode="squash", hflip=False, min_crop=0.8),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 1, "perceptual_epochs": 1, "classify_epochs": 1.5, "guide_epochs": 1.5},
        **{"guide_every": 3, "eval_every": 2},
    ),
    optimizer=OptimizerConfig(base_lr=3e-2, warmup_epochs=0.5, clip_grad=1.0),
)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    def load(split, data_dir=None) -> LabelledImages:
        whole = datasets.digits(split)
        return LabelledImages(whole.load, whole.labels[: {"train": 35, "test": 12}[split]], whole.class_names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(datasets.DATASETS, "few_digits", load)
        yield


class Recorder:
    """An observer that remembers, and may do something at a step."""

    def __init__(self, at: int | None = None, action=None) -> None:
        self.at, self.action, self.steps, self.phases, self.results = at, action, [], [], []

    def start(self, total_steps, done, steps_per_epoch) -> None:
        self.total, self.done, self.steps_per_epoch = total_steps, done, steps_per_epoch

    def step(self, step, plan, losses, images_per_second) -> None:
        self.steps.append(step)
        self.phases.append(plan.phase)
        if step == self.at:
            self.action()

    def evaluation(self, step, result) -> None:
        self.results.append((step, result))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return gvit.load_model(folder).state_dict()


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in Run(folder).metrics_file.read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)  # time is not repeatable
    return lines


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert metrics(other) == metrics(one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, folder, Recorder())
    return folder


def test_a_run_holds_what_it_promises(finished):
    run = Run.open(finished)
    assert run.load_config() == CONFIG
    lines = metrics(finished)
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [8, 16, 20]
    assert [line["phase"] for line in lines if line["kind"] == "train"] == ["classify", "guide"]
    assert run.load_checkpoint()["step"] == 20
    model = gvit.load_model(finished)
    assert list(model.card.class_names) == list("0123456789")
    assert model.card.preprocessing.crop_mode == "squash"
    assert not list(finished.glob("*.partial"))


def test_the_observer_sees_every_step(finished, tmp_path):
    recorder = Recorder()
    result = train(CONFIG, tmp_path / "run", recorder)
    assert recorder.steps == list(range(1, 21))
    assert recorder.phases == ["reconstruct"] * 4 + ["perceptual"] * 4 + ["classify"] * 6 + ["guide"] * 6
    assert recorder.results[-1] == (20, result)
    assert result.num_images == 12


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, tmp_path):
    train(CONFIG, tmp_path / "again", Recorder())
    assert_same_run(finished, tmp_path / "again")
    train(replace(CONFIG, seed=1), tmp_path / "other", Recorder())
    name = "encoder.head.2.weight"
    assert not torch.equal(weights(tmp_path / "other")[name], weights(finished)[name])


@pytest.mark.parametrize("cut", [3, 8, 15])  # inside an epoch, at the end of a phase, between guided steps
def test_an_interrupted_run_goes_on_to_the_same_result(finished, tmp_path, cut):
    folder = tmp_path / "run"
    stop = Recorder(cut, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted) as caught:
        train(CONFIG, folder, stop)
    assert caught.value.step == cut
    recorder = Recorder()
    resume(folder, recorder)
    assert recorder.steps[0] == cut + 1
    assert_same_run(finished, folder)


def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, tmp_path):
    folder = tmp_path / "run"

    class PowerFailure(Exception):
        pass

    def fail() -> None:
        raise PowerFailure

    with pytest.raises(PowerFailure):
        train(CONFIG, folder, Recorder(11, fail))
    with Run(folder).metrics_file.open("a") as file:
        file.write('{"kind": "train", "st')  # half a line
    recorder = Recorder()
    resume(folder, recorder)
    assert recorder.steps[0] == 9
    assert_same_run(finished, folder)


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    recorder = Recorder()
    result = resume(finished, recorder)
    assert recorder.steps == []
    assert result.psnr == metrics(finished)[-1]["psnr"]
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def networks_that_move(trainer: Trainer, step: int) -> set[str]:
    trainer.step = step
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    (batch,) = training_loader(trainer.images, trainer.batch_size, step, step + 1, workers=0)
    trainer._train_step(batch, trainer.schedule.plan(step))
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    return {name.split(".")[0] for name in moved}


def test_in_a_frozen_phase_no_weight_moves(tmp_path):
    trainer = Trainer(CONFIG, Run(tmp_path))
    torch.nn.init.normal_(trainer.model.encoder.head[-1].weight, std=0.1)
    assert networks_that_move(trainer, 2) == {"encoder"}
    assert networks_that_move(trainer, 6) == {"encoder"}
    assert networks_that_move(trainer, 9) == {"encoder", "classifier"}
    assert networks_that_move(trainer, 14) == {"encoder"}  # guided: weight decay and momentum included
    assert networks_that_move(trainer, 15) == {"encoder", "classifier"}


def test_a_folder_with_a_run_is_never_overwritten_unasked(finished, tmp_path):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    with pytest.raises(InputError, match=r"already holds a run.*--resume.*--overwrite"):
        train(replace(CONFIG, seed=5), finished, Recorder())
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_overwrite_replaces_the_run_and_leaves_other_files_alone(tmp_path):
    folder = tmp_path / "run"
    short = replace(CONFIG, schedule=replace(CONFIG.schedule, epochs=0.5))
    train(short, folder, Recorder())
    (folder / "notes.txt").write_text("mine")
    train(replace(short, seed=2), folder, Recorder(), overwrite=True)
    assert Run(folder).load_config().seed == 2
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_unusable_configuration_writes_nothing(tmp_path):
    for bad in (
        replace(CONFIG, model=ModelConfig("gvit_tinny")),
        replace(CONFIG, data=replace(CONFIG.data, dataset="few")),
        replace(CONFIG, schedule=replace(CONFIG.schedule, epochs=0.01)),
    ):
        with pytest.raises(InputError, match=r"nearest|shorter than one step"):
            train(bad, tmp_path / "run", Recorder())
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run: cannot write a run here"):
        train(CONFIG, tmp_path / "file" / "run", Recorder())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    wild = replace(CONFIG, optimizer=OptimizerConfig(base_lr=1e30, warmup_epochs=0))
    with pytest.raises(InputError, match=r"diverged at step \d+ \(\w+\): .*; lower --base-lr"):
        train(wild, tmp_path / "run", Recorder())


def test_damaged_run_files_are_named(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run = Run(folder)
    whole = run.checkpoint_file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"junk" * 100):
        run.checkpoint_file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt: damaged"):
            resume(folder, Recorder())
    run.config_file.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        resume(folder, Recorder())
    with pytest.raises(InputError, match="no run here"):
        resume(tmp_path / "nowhere", Recorder())
