"""Numbers that go bad in the middle of a run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gvit.errors import InputError
from gvit.models.gvit import GViT
from gvit.recipes import debug
from gvit.training.loop import Loop
from gvit.training.objective import GuidedObjective
from gvit.training.observers import Observer, Skipped, Start, Step
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.task import Task
from gvit.training.train import train

# 20 steps, of which those from 15 on may be guided; a checkpoint after 10, and gamma 10
CONFIG = debug()
CONFIG = replace(
    CONFIG,
    model=replace(CONFIG.model, img_size=16),
    schedule=replace(CONFIG.schedule, gamma=10.0, eval_every=10 / 44),
    optimizer=replace(CONFIG.optimizer, max_skipped=2),
)


class Watch(Observer):
    """Notes, and weights before and after each step."""

    def __init__(self) -> None:
        self.notes, self.skips, self.steps, self.weights = [], [], [], {}

    def start(self, start: Start) -> None:
        self.notes += start.notes

    def step(self, step: Step) -> None:
        self.steps.append(step)

    def skipped(self, skipped: Skipped) -> None:
        self.skips.append(skipped)


def begin(tmp_path: Path, config=CONFIG) -> tuple[Loop, Watch]:
    watch = Watch()
    return Loop(set_up(config), Run.create(tmp_path / "run", config), [watch]), watch


def poison(monkeypatch, bad) -> None:
    """The pixels of a step are NaN where ``bad`` says so of its number."""
    clean, step = Task._on_device, Task.step

    def stepped(task, number, parts, plan, rates):
        task.number = number
        return step(task, number, parts, plan, rates)

    def poisoned(task, batch):
        batch = clean(task, batch)
        return batch._replace(inputs=batch.inputs * torch.nan) if bad(task.number) else batch

    monkeypatch.setattr(Task, "step", stepped)
    monkeypatch.setattr(Task, "_on_device", poisoned)


def lines(folder: Path, kind: str) -> list[dict]:
    read = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in read if line["kind"] == kind]


def test_a_poisoned_batch_changes_nothing_and_is_counted(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step in (6, 7, 12))
    loop, watch = begin(tmp_path)
    parameters, seen = list(loop.setup.task.model.parameters()), []
    drop = loop.setup.task.drop

    def look() -> None:
        drop()
        seen.append([p.detach().clone() for p in parameters])

    monkeypatch.setattr(loop.setup.task, "drop", look)
    result = loop.fit()
    assert result.psnr > 5
    assert [(skip.step, skip.count) for skip in watch.skips] == [(7, 1), (8, 2), (13, 3)]
    # of the two in a row, the second finds the weights as the first did
    assert all(torch.equal(one, two) for one, two in zip(*seen[:2], strict=True))
    assert [line["step"] for line in lines(tmp_path, "skipped")] == [7, 8, 13]
    assert {step.number for step in watch.steps} == set(range(1, 21)) - {7, 8, 13}
    assert loop.step == 20


def test_a_gradient_that_is_not_finite_reaches_no_weight(tmp_path):
    loop, watch = begin(tmp_path)
    encoder = loop.setup.task.networks["encoder"]
    times = iter(range(100))
    weight = next(encoder.parameters())
    weight.register_hook(lambda gradient: gradient * torch.inf if next(times) == 4 else gradient)
    loop.fit()
    assert [(skip.step, skip.reason) for skip in watch.skips] in (
        [(5, "the gradient of the encoder has norm nan")],
        [(5, "the gradient of the encoder has norm inf")],
    )
    assert all(p.isfinite().all() for p in loop.setup.task.model.parameters())


def test_a_step_whose_effect_cannot_be_measured_is_taken(tmp_path, monkeypatch):
    measured, times = GuidedObjective.effect, iter(range(100))

    def effect(self, batch, turn):
        if turn.steered is not None and next(times) == 0:
            raise FloatingPointError("the Gaussians cannot be drawn")
        return measured(self, batch, turn)

    monkeypatch.setattr(GuidedObjective, "effect", effect)
    loop, watch = begin(tmp_path)
    loop.fit()
    assert watch.skips == []
    assert [step.number for step in watch.steps] == list(range(1, 21))
    guided = ["class_change" in step.measures for step in watch.steps if step.plan.guided]
    assert guided == [False] + [True] * (len(guided) - 1)
    assert len(guided) > 1


@pytest.mark.parametrize(("drawn", "said"), [(0, r"16 \(guide\)"), (1, r"20 \(evaluation\)")])
def test_a_motion_that_cannot_be_drawn_is_said_in_a_line(tmp_path, monkeypatch, drawn, said):
    encode_as_before, times = GViT.encode, iter(range(100))

    def encode(self, images, **drawing):
        if drawing or next(times) % 2 < drawn:  # an evaluation, or as the guided phase begins
            return encode_as_before(self, images, **drawing)
        raise ValueError("centers must be finite, got nan")

    monkeypatch.setattr("gvit.models.gvit.GViT.encode", encode)
    with pytest.raises(
        InputError,
        match=rf"diverged at step {said}: the Gaussians cannot be drawn: centers must be finite",
    ):
        train(CONFIG, tmp_path / "run")


def test_after_too_many_in_a_row_a_run_goes_back(tmp_path, monkeypatch):
    loop, watch = begin(tmp_path)
    poison(monkeypatch, lambda step: step >= 15 and loop.stumbling.gamma == 1)
    loop.fit()
    assert watch.notes[-1].startswith("training diverged at step 18 (guide)")
    assert watch.notes[-1].endswith("; the run goes back to its last checkpoint, with gamma halved")
    assert [skip.step for skip in watch.skips] == [16, 17]
    assert [step.number for step in watch.steps] == [*range(1, 16), *range(11, 21)]
    assert {step.plan.gamma for step in watch.steps if step.plan.guided} == {5.0}
    assert lines(tmp_path, "skipped") == []  # these steps were done again
    assert Run(tmp_path / "run").load_checkpoint()["stumbling"]["gamma"] == 0.5


@pytest.mark.parametrize(("bad", "at"), [(15, "18 \\(guide\\)"), (11, "14 \\(classify\\)")])
def test_it_goes_back_once_and_then_says_what_was_not_finite(tmp_path, monkeypatch, bad, at):
    """Only where guidance may have been what was wrong: other steps would do the same again."""
    loop, watch = begin(tmp_path)
    poison(monkeypatch, lambda step: step >= bad)
    with pytest.raises(
        InputError, match=rf"diverged at step {at}: .*must be finite.*; lower base_lr or gamma"
    ):
        loop.fit()
    assert Run(tmp_path / "run").load_checkpoint()["step"] == 10
    again = [*range(11, 16)] if bad == 15 else []
    assert [step.number for step in watch.steps] == [*range(1, bad + 1), *again]


def test_without_a_checkpoint_it_stops(tmp_path, monkeypatch):
    poison(monkeypatch, lambda step: step >= 3)
    with pytest.raises(InputError, match="diverged at step 6 "):
        train(CONFIG, tmp_path / "run")
