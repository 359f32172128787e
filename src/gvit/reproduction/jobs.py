"""What a reproduction is made of: trainings, frozen sets of Gaussians, evaluations, each with a folder of its own.

A job's folder is named after all that decides its result: targets share what they have in common, and what is done
stays done.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import Source, Split, load_source
from gvit.data.transforms import eval_transform
from gvit.evaluation import Evaluation, evaluate
from gvit.fitting.optimise import fit
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.models.card import Preprocessing
from gvit.models.gvit import GViT
from gvit.models.registry import create_model, load_model
from gvit.provenance import provenance
from gvit.rendering import render
from gvit.training.config import DataConfig, ScheduleConfig, TrainConfig
from gvit.training.loop import resume
from gvit.training.run import Run, write_atomically
from gvit.training.schedule import Schedule, StepPlan

Progress = Callable[[float], None]  # is called with the share of a job that is done, from 0 to 1

BATCH = 64  # images that are turned into Gaussians at a time
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
        name = config.model.model or "transfer"
        return cls(_folder(store, f"{name}-seed{config.seed}", config.to_json()), needs, config)

    def run(self, device: str, progress: Progress) -> None:
        _begin(self.folder, self.config, self.trunk)
        resume(self.folder, _Watcher(progress), device=device)
        lines = [json.loads(line) for line in Run(self.folder).metrics_file.read_text().splitlines()]
        last = next(line for line in reversed(lines) if line["kind"] == "evaluation")
        self.finish(**{name: last.get(name) for name in _MEASURES}, epochs=last["epoch"])


@dataclass(frozen=True)
class Collection(Job):
    """A frozen set of Gaussians: every image of a data set once, not augmented, in class folders.

    Attributes:
        config: whose images, at whose size, with whose number and bound of Gaussians.
        source: the training whose encoder makes them; None fits each image by itself.
        fit_steps: of those fits.
    """

    config: TrainConfig
    source: Training | None = None
    fit_steps: int = 300

    @classmethod
    def of(cls, store: Path, config: TrainConfig, source: Training | None = None) -> Collection:
        if source is not None:
            return cls(_folder(store, "gaussians", source.folder.name), (source,), config, source)
        alike = TrainConfig(model=config.model, data=replace(config.data, batch_size=1))
        return cls(_folder(store, "fits", f"{alike.to_json()}{cls.fit_steps}"), (), alike)

    @property
    def data_dir(self) -> Path:
        return self.folder / "images"

    def images(self, split: Split) -> tuple[Source, EvaluationSamples]:
        """The data set, and its images as the model wants them."""
        data = self.config.data
        images = load_source(data.dataset, split, data.data_dir)
        size = gaussian_model(self.config).img_size
        return images, EvaluationSamples(
            images, eval_transform(Preprocessing(size, data.crop_mode, data.crop_pct))
        )

    def run(self, device: str, progress: Progress) -> None:
        encode = self._encoder(device)
        splits: tuple[Split, ...] = ("train", "test")
        loaded = {split: self.images(split) for split in splits}
        total, done = sum(len(images) for images, _ in loaded.values()), 0
        quality = []
        for split, (labelled, prepared) in loaded.items():
            names = labelled.class_names
            files = [
                self.data_dir / split / names[label] / f"{i:07}.safetensors"
                for i, label in enumerate(labelled.labels)
            ]
            for folder in {file.parent for file in files}:
                folder.mkdir(parents=True, exist_ok=True)
            for first in range(0, len(files), BATCH):
                rows = range(first, min(first + BATCH, len(files)))
                if not all(files[row].exists() for row in rows):
                    pictures = torch.stack([prepared[row][0] for row in rows])
                    gaussians = encode(pictures)
                    for row, single in zip(rows, gaussians.raw, strict=True):
                        gaussians.replace_raw(single).save(files[row])
                done += len(rows)
                progress(done / total)
            if split == "test":
                quality = [self._psnr(file, prepared[row][0]) for row, file in enumerate(files)]
        self.finish(psnr=sum(quality) / len(quality), num_images=total)

    def estimate(self, device: str) -> float:
        """Seconds, from a few steps of one batch's fit; an encoder's one pass over the images counts for nothing."""
        if self.source is not None:
            return 0.0
        images, prepared = self.images("test")
        few = torch.stack([prepared[row][0] for row in range(min(BATCH, len(prepared)))]).to(device)
        model, trial = gaussian_model(self.config).encoder, 10
        fit(few, model.num_gaussians, 1)  # what happens only once
        started = time.perf_counter()
        fit(few, model.num_gaussians, trial, scale_factor=model.scale_factor)
        each = (time.perf_counter() - started) / trial / len(few)
        return each * self.fit_steps * (len(images) + len(self.images("train")[0]))

    def _encoder(self, device: str) -> Callable[[Tensor], Gaussians]:
        if self.source is None:
            like = gaussian_model(self.config).encoder
            return lambda images: fit(
                images.to(device), like.num_gaussians, self.fit_steps, scale_factor=like.scale_factor
            ).gaussians.to("cpu")
        model = load_model(self.source.folder).to(device)
        assert isinstance(model, GViT)

        def encode(images: Tensor) -> Gaussians:
            with torch.inference_mode():
                return model.encode(images.to(device)).to("cpu")

        return encode

    def _psnr(self, file: Path, image: Tensor) -> float:
        drawn = render(Gaussians.load(file), *image.shape[-2:])
        return psnr(drawn.clamp(0, 1), image).item()


@dataclass(frozen=True)
class CrossEvaluation(Job):
    """A classifier on test Gaussians that it was not trained on.

    Attributes:
        training: of the classifier.
        collection: the Gaussians.
    """

    training: Training
    collection: Collection

    @classmethod
    def of(cls, store: Path, training: Training, collection: Collection) -> CrossEvaluation:
        names = training.folder.name + collection.folder.name
        return cls(_folder(store, "evaluation", names), (training, collection), training, collection)

    def run(self, device: str, progress: Progress) -> None:
        self.folder.mkdir(exist_ok=True)
        model = load_model(self.training.folder)
        source = load_source("gaussians", "test", self.collection.data_dir)
        loader = evaluation_loader(EvaluationSamples(source, eval_input(model, source)), BATCH)
        result = evaluate(model.to(device), loader)
        self.finish(top1=result.top1, num_images=result.num_images, epochs=self.training.result["epochs"])


def gaussian_model(config: TrainConfig) -> GViT:
    """A GViT as the configuration has it, without weights: what it tells about itself."""
    assert config.model.model is not None
    with torch.device("meta"):
        model = create_model(config.model.model, **config.model.kwargs())
    assert isinstance(model, GViT)
    return model


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
    digest = hashlib.sha256(identity.replace(json.dumps(str(store))[1:-1], ".").encode()).hexdigest()[:12]
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


@functools.cache
def _steps_per_epoch(data: DataConfig) -> int:
    images = load_source(data.dataset, "train", data.data_dir)
    return len(images) // min(data.batch_size, len(images))


def share_trunks(trainings: Sequence[Training]) -> list[Training]:
    """The same trainings, those that begin alike from one trunk.

    Trainings begin alike when they differ in nothing but phases and guidance, up to the first step that one of them
    does in another way: the first phases don't depend on gamma.
    """
    groups: dict[TrainConfig, list[Training]] = {}
    for training in dict.fromkeys(trainings):
        if not training.done and not training.needs:
            alike = replace(training.config, schedule=ScheduleConfig())
            groups.setdefault(alike, []).append(training)
    branches: dict[Training, Training] = {}
    for members in groups.values():
        if len(members) == 1:
            continue
        steps_per_epoch = _steps_per_epoch(members[0].config.data)
        schedules = [Schedule.from_config(member.config.schedule, steps_per_epoch) for member in members]
        steps = _common_steps(schedules)
        if not steps:
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
