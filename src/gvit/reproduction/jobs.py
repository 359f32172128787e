"""What a reproduction is made of: trainings, frozen sets of Gaussians, evaluations, each with a folder of its own.

A job's folder is named after all that decides its result: targets share what they have in common, and what is done
stays done.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gvit.evaluation import Evaluation
from gvit.provenance import provenance
from gvit.training.config import ScheduleConfig, TrainConfig
from gvit.training.loop import resume
from gvit.training.run import Run, write_atomically
from gvit.training.schedule import Schedule, StepPlan

Progress = Callable[[float], None]  # is called with the share of a job that is done, from 0 to 1

_MEASURES = ("num_images", "top1", "psnr", "ssim", "moved")


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        folder: for what it makes; ``result.json`` in it says that it is done.
        needs: jobs that have to be done before.
    """

    folder: Path
    needs: tuple[Job, ...]

    @property
    def done(self) -> bool:
        return self._result_file.is_file()

    @property
    def result(self) -> dict[str, Any]:
        """What was measured, and on which machine."""
        return json.loads(self._result_file.read_text())

    @property
    def _result_file(self) -> Path:
        return self.folder / "result.json"

    def run(self, device: str, progress: Progress) -> None:
        """Do it, or go on with it."""
        raise NotImplementedError

    def finish(self, **measured: Any) -> None:
        write_atomically(self._result_file, json.dumps(measured | {"provenance": provenance()}) + "\n")


@dataclass(frozen=True)
class Trunk(Job):
    """The steps that several trainings have in common.

    Attributes:
        config: of one of them.
        steps: how many they are.
    """

    config: TrainConfig
    steps: int

    def run(self, device: str, progress: Progress) -> None:
        _begin(self.folder, self.config)
        resume(self.folder, _Watcher(progress, self.steps), device=device, until=self.steps)
        self.finish(steps=self.steps)


@dataclass(frozen=True)
class Training(Job):
    """One training run.

    Attributes:
        config: complete.
        trunk: where it branches off; it has the same result without one.
    """

    config: TrainConfig
    trunk: Trunk | None = None

    @classmethod
    def of(cls, store: Path, config: TrainConfig, *needs: Job) -> Training:
        return cls(_folder(store, f"{config.model.model}-seed{config.seed}", config.to_json()), needs, config)

    def run(self, device: str, progress: Progress) -> None:
        _begin(self.folder, self.config, self.trunk)
        resume(self.folder, _Watcher(progress), device=device)
        lines = [json.loads(line) for line in Run(self.folder).metrics_file.read_text().splitlines()]
        last = next(line for line in reversed(lines) if line["kind"] == "evaluation")
        self.finish(**{name: last.get(name) for name in _MEASURES}, epochs=last["epoch"])


class _Watcher:
    """A training's observer that only counts."""

    def __init__(self, progress: Progress, until: int | None = None) -> None:
        self.progress, self.until = progress, until

    def note(self, text: str) -> None: ...

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None:
        self.first, self.last = done, self.until or total_steps

    def step(self, step: int, plan: StepPlan, measures: dict[str, float], images_per_second: float) -> None:
        self.progress((step - self.first) / max(1, self.last - self.first))

    def evaluation(self, step: int, result: Evaluation, moved: float | None) -> None: ...


def _folder(store: Path, name: str, identity: str) -> Path:
    # wherever the store lies, the same jobs have the same folders in it
    digest = hashlib.sha256(identity.replace(str(store), ".").encode()).hexdigest()[:12]
    return store / f"{name}-{digest}"


def _begin(folder: Path, config: TrainConfig, trunk: Trunk | None = None) -> None:
    """A run folder to go on with: the one that is there, a copy of the trunk's, or a new one."""
    if (folder / "config.json").exists():
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    run = Run.create(partial, config)
    if trunk is not None:
        start = Run(trunk.folder)
        shutil.copy(start.checkpoint_file, run.checkpoint_file)
        shutil.copy(start.metrics_file, run.metrics_file)
    os.replace(partial, folder)


def share_trunks(trainings: Sequence[Training], steps_per_epoch: int) -> list[Training]:
    """The same trainings, those that begin alike from one trunk.

    Trainings begin alike when they differ in nothing but phases and guidance, up to the first step that one of them
    does in another way: the first phases don't depend on gamma.

    Args:
        trainings: whose ``trunk`` is None.
        steps_per_epoch: of all of them.
    """
    groups: dict[TrainConfig, list[Training]] = {}
    for training in dict.fromkeys(trainings):
        if not training.done and not training.needs:
            alike = replace(training.config, schedule=ScheduleConfig())
            groups.setdefault(alike, []).append(training)
    branches: dict[Training, Training] = {}
    for members in groups.values():
        schedules = [Schedule.from_config(member.config.schedule, steps_per_epoch) for member in members]
        steps = _common_steps(schedules)
        if len(members) == 1 or steps < steps_per_epoch:
            continue
        config, plans = members[0].config, [asdict(schedules[0].plan(step)) for step in range(steps)]
        identity = replace(config, schedule=ScheduleConfig()).to_json() + json.dumps(
            [schedules[0].total, schedules[0].classify_start, plans]
        )
        store = members[0].folder.parent
        trunk = Trunk(_folder(store, f"trunk-seed{config.seed}", identity), (), config, steps)
        branches |= {member: replace(member, trunk=trunk, needs=(trunk,)) for member in members}
    return [branches.get(training, training) for training in trainings]


def _common_steps(schedules: Sequence[Schedule]) -> int:
    """Up to which step all of them do the same, learning rates included."""
    first = schedules[0]
    # the cosine ends with the run, and the classifier's begins with its phase
    if any((s.total, s.classify_start) != (first.total, first.classify_start) for s in schedules):
        return 0
    return next(
        (step for step in range(first.total) if len({schedule.plan(step) for schedule in schedules}) > 1),
        first.total,
    )
