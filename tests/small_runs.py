"""A training of twenty steps, for tests of several files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import gvit
from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from gvit.training.observers import Evaluated, Observer, Start, Step
from gvit.training.run import Run
from gvit.training.train import Interrupted, train

# 4 steps an epoch; phases end at 4, 8, 14 and 20; guided steps are 14 and 17
CONFIG = TrainConfig(
    model=ModelConfig("gvit_tiny_denoising", img_size=16, num_gaussians=8, drop_path_rate=0.1),
    data=DataConfig("few_digits", batch_size=8, crop_mode="squash", hflip=False, min_crop=0.8),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 1, "perceptual_epochs": 1, "classify_epochs": 1.5, "guide_epochs": 1.5},
        **{"guide_every": 3, "eval_every": 2},
    ),
    optimizer=OptimizerConfig(base_lr=3e-2, warmup_epochs=0.5, clip_grad=1.0),
)


class Recorder(Observer):
    """Remembers, may do something after a step, and asks to stop after another."""

    def __init__(self, stop_at: int | None = None, at: int | None = None, action=None) -> None:
        self.stop_at, self.at, self.action = stop_at, at, action
        self.notes, self.steps, self.phases, self.results = (), [], [], []

    def start(self, start: Start) -> None:
        self.notes = start.notes

    def step(self, step: Step) -> None:
        self.steps.append(step.number)
        self.phases.append(step.plan.phase)
        if step.number == self.at:
            self.action()

    def evaluation(self, evaluated: Evaluated) -> None:
        self.results.append((evaluated.step, evaluated.result))

    def stop(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.stop_at


def interrupt(config: TrainConfig, folder: Path, step: int) -> Interrupted:
    recorder = Recorder(step)
    with pytest.raises(Interrupted) as caught:
        train(config, folder, [recorder], stop=recorder.stop)
    return caught.value


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return gvit.load_model(folder).state_dict()


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in Run(folder).metrics_file.read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)  # time is not repeatable
    return lines


def assert_same_weights(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def assert_same_run(one: Path, other: Path) -> None:
    assert_same_weights(one, other)
    assert metrics(other) == metrics(one)


def with_(config: TrainConfig = CONFIG, **groups) -> TrainConfig:
    """The configuration with some fields of some groups replaced."""
    changed = {name: replace(getattr(config, name), **fields) for name, fields in groups.items()}
    return replace(config, **changed)


def damaged_copy(finished: Path, tmp_path: Path) -> Run:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Run(folder)
