"""The last checkpoints, and the weights that are best by a chosen measure."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

from gvit.cli import main
from gvit.errors import InputError
from gvit.evaluation import Evaluation
from gvit.recipes import debug
from gvit.training.config import ModelConfig, SavingConfig
from gvit.training.loop import Loop
from gvit.training.observers import Observer, Step
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.train import resume, train

CONFIG = replace(
    debug(),
    model=replace(debug().model, img_size=16),
    schedule=replace(debug().schedule, eval_every=4 / 44),  # after 4, 8, ... 20 steps
)


def kept(run: Run) -> list[str]:
    return sorted(str(file.relative_to(run.folder)) for file in run.folder.rglob("*.pt*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        for drawn in ("write_report", "write_curves"):
            patch.setattr(f"gvit.training.train.{drawn}", lambda run: None)
        train(replace(CONFIG, saving=SavingConfig(3)), folder)
    return Run(folder)


@pytest.fixture
def run(finished, tmp_path) -> Run:
    shutil.copytree(finished.folder, tmp_path / "run")
    return Run(tmp_path / "run")


def test_the_last_checkpoints_stay(finished):
    run = finished
    assert kept(run) == ["checkpoint.pt", *(f"checkpoints/step-0000{step}.pt" for step in (12, 16, 20))]
    assert run.load_checkpoint(run.folder / "checkpoints/step-000012.pt")["step"] == 12
    # two names of one file: the last takes no room twice
    assert (run.folder / "checkpoints/step-000020.pt").samefile(run.checkpoint_file)


def test_a_run_goes_back_to_one_of_them_and_on_to_the_same_weights(run, capsys):
    whole, lines = run.load_checkpoint()["model"], run.metrics_file.read_text().splitlines()
    back = run.folder / "checkpoints/step-000012.pt"
    steps = []

    def stop() -> bool:
        steps.append(kept(run))
        return False

    resume(back, stop=stop)
    assert len(steps) == 8
    assert steps[0] == ["checkpoint.pt", "checkpoints/step-000012.pt"]  # those of steps to come are forgotten
    assert all(torch.equal(whole[name], value) for name, value in run.load_checkpoint()["model"].items())
    assert len(run.metrics_file.read_text().splitlines()) == len(lines)
    assert main(["train", "--resume", str(run.folder / "checkpoints/step-000016.pt"), "--device", "cpu"]) == 0
    assert "test images" in capsys.readouterr().out
    assert len(kept(run)) == 4


def test_where_the_last_is_damaged_the_one_before_it_is_named(run, capsys):
    last = run.folder / "checkpoints/step-000020.pt"
    last.unlink()
    os.link(run.checkpoint_file, last)  # two names of one file, as in the run that was copied
    run.checkpoint_file.write_bytes(b"cut off")
    assert main(["train", "--resume", str(run.folder), "--device", "cpu"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    earlier = run.folder / "checkpoints/step-000016.pt"
    assert "checkpoint.pt: damaged" in line
    assert f"go on from 'gvit train --resume {earlier}'" in line
    resume(earlier)
    assert run.load_checkpoint()["step"] == 20


def test_a_new_run_in_the_folder_keeps_none_of_the_old_ones(run):
    other = run.folder / "checkpoints/mine.txt"
    other.touch()
    Run.create(run.folder, CONFIG, overwrite=True)
    assert kept(run) == []
    assert other.exists()


def test_where_files_cannot_be_linked_they_are_copied(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    run = Run(tmp_path)
    for step in (1, 2, 3):
        run.save_checkpoint({"step": step}, keep=2)
    assert kept(run) == ["checkpoint.pt", "checkpoints/step-000002.pt", "checkpoints/step-000003.pt"]
    assert run.load_checkpoint(tmp_path / "checkpoints/step-000002.pt") == {"step": 2}


def test_another_file_is_no_checkpoint(run, capsys):
    for name in ("config.json", "model.safetensors"):
        assert main(["train", "--resume", str(run.folder / name)]) == 2
        assert "no run's folder, and no checkpoint in one" in capsys.readouterr().err


@pytest.mark.parametrize(("measure", "best"), [(None, 12), ("psnr", 20), ("ssim", 16)])
def test_the_best_weights_are_those_of_the_chosen_measure(tmp_path, monkeypatch, measure, best):
    values = {12: (0.9, 8.0, 0.1), 16: (0.8, 9.0, 0.5), 20: (0.7, 10.0, 0.4)}

    def evaluate(loop: Loop, _) -> Evaluation:
        top1, psnr, ssim = values.get(loop.step, (0.0, 0.0, 0.0))
        return Evaluation(12, top1, None, psnr, ssim, [])

    run, weights = Run(tmp_path), {}

    class Keep(Observer):
        def step(self, step: Step) -> None:  # what the evaluation before it has left
            weights[step.number - 1] = run.weights_file.read_bytes() if run.weights_file.exists() else b""

    monkeypatch.setattr(Loop, "_evaluate", evaluate)
    train(replace(CONFIG, saving=SavingConfig(best_measure=measure)), run.folder, [Keep()])
    weights[20] = run.weights_file.read_bytes()
    assert len({weights[step] for step in values}) == 3
    assert run.best_file.read_bytes() == weights[best]


@pytest.mark.parametrize(
    ("change", "measure", "missing"),
    [
        ({"model": ModelConfig("vit_tiny_patch8", img_size=32)}, "psnr", "a model that draws"),
        (
            {"schedule": replace(CONFIG.schedule, classify_epochs=0.0, guide_epochs=0.0)},
            "top1",
            "a classifier that is trained",
        ),
    ],
)
def test_a_measure_that_there_is_not_is_refused(change, measure, missing):
    with pytest.raises(InputError, match=f"^best_measure='{measure}' needs {missing}$"):
        set_up(replace(CONFIG, saving=SavingConfig(best_measure=measure), **change))
