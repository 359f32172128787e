"""What a reproduction is made of: trainings, frozen sets of Gaussians, evaluations, each with a folder of its own.

A job's folder is named after all that decides its result: targets share what they have in common, and what is done
stays done.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from filelock import Timeout
from torch import Tensor

from gvit.data.collections import encode_with, write_collection
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import load_source
from gvit.data.splits import load_splits
from gvit.data.transforms import eval_transform
from gvit.errors import InputError, counted, first_line, option, wording
from gvit.evaluation import evaluate
from gvit.files import write_text
from gvit.fitting.optimise import fit
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.models.architecture import Architecture
from gvit.models.card import Preprocessing
from gvit.models.gvit import GViT
from gvit.models.pretrained import is_on_hub, is_pretrained_name, weights_checksum
from gvit.models.registry import architecture
from gvit.models.weights import load_model
from gvit.provenance import provenance
from gvit.rendering import render
from gvit.reproduction.answers import pack
from gvit.reproduction.same_images import checksum_of, data_now
from gvit.training.config import GuidanceConfig, ScheduleConfig, TrainConfig
from gvit.training.loop import never
from gvit.training.observers import Observer, Start, Step
from gvit.training.run import Run
from gvit.training.train import Interrupted, resume

Progress = Callable[[float], None]  # is called with the share of a job that is done, from 0 to 1
Stop = Callable[[], bool]  # is asked now and then whether to end early


@dataclass(frozen=True)
class Machine:
    """What jobs run on; their results depend on it by rounding, and by what a part of a batch draws or measures itself.

    Attributes:
        device: where to compute.
        workers: processes that load a training's images.
        graphs: as ``ComputeConfig.graphs``.
        eval_every: as ``ScheduleConfig.eval_every``; the configuration's own when None.
        accumulate: as ``ComputeConfig.accumulate``; the configuration's own when None.
    """

    device: str = "cpu"
    workers: int = 0
    graphs: bool = False
    eval_every: float | None = None
    accumulate: int | None = None

    def set_up(self, config: TrainConfig) -> TrainConfig:
        """A training's configuration here."""
        data, compute, schedule = config.data, config.compute, config.schedule
        return replace(
            config,
            data=replace(data, workers=self.workers),
            compute=replace(compute, graphs=self.graphs, accumulate=self.accumulate or compute.accumulate),
            schedule=replace(schedule, eval_every=self.eval_every or schedule.eval_every),
        )


_COMMITS_NAME = "commits.txt"
BATCH = 64  # images that are turned into Gaussians at a time
_KEYS_OF_A_ROW = frozenset({"top1", "num_images", "epochs", "provenance"})
_MEASURES = ("num_images", "top1", "psnr", "ssim", "moved", "drift", "decision_distance")


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Attributes:
        folder: for what it makes; ``result.json`` in it says that it is done.
        needs: jobs that have to be done before.
    """

    folder: Path
    needs: tuple[Job, ...]
    # what a result has at least
    keys: ClassVar[frozenset[str]] = frozenset({"provenance"})

    @property
    def done(self) -> bool:
        return self._result_file.is_file()

    @property
    def result(self) -> dict[str, Any]:
        """What was measured, and on which machine.

        Raises:
            InputError: the file is damaged.
        """
        try:
            result = json.loads(self._result_file.read_text(encoding="utf-8"))
            missing = self.keys - result.keys()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{self._result_file}: damaged ({first_line(error)}); remove it") from error
        if missing:
            raise InputError(f"{self._result_file}: damaged (it has no {min(missing)!r}); remove it")
        return result

    @property
    def _result_file(self) -> Path:
        return self.folder / "result.json"

    def run(self, machine: Machine, progress: Progress, stop: Stop = never) -> None:
        """Do it, or go on with it.

        Raises:
            Interrupted: by ``stop``; what was done is kept.
            InputError: unusable configuration or data.
        """
        raise NotImplementedError

    def finish(self, device: str, **measured: Any) -> None:
        made = provenance(device) | ({"commits": commits} if (commits := _commits(self.folder)) else {})
        write_text(self._result_file, json.dumps(measured | {"provenance": made}) + "\n")


@dataclass(frozen=True)
class Trunk(Job):
    """The steps that several trainings have in common.

    Attributes:
        config: of one of them.
        steps: how many they are.
    """

    config: TrainConfig
    steps: int

    @property
    def done(self) -> bool:
        """Whether there is something to branch off from: large files may have been removed to have more room."""
        run = Run(self.folder)
        return super().done and run.checkpoint_file.is_file() and run.metrics_file.is_file()

    def run(self, machine: Machine, progress: Progress, stop: Stop = never) -> None:
        if self.done:  # meanwhile, by another process
            return
        if super().done:  # but nothing to branch off from
            shutil.rmtree(self.folder)
        _begin(self.folder, machine.set_up(self.config))
        with _advising(self.folder):
            resume(
                self.folder,
                [_Share(progress, self.steps)],
                device=machine.device,
                stop=stop,
                until=self.steps,
            )
        self.finish(
            machine.device,
            steps=self.steps,
            config=json.loads(self.config.to_json()),
            begins=identity_of(beginning_of(self.config)),
            data=checksum_of(self.config, self.folder),
        )


@dataclass(frozen=True)
class Training(Job):
    """One training run.

    Attributes:
        config: complete.
        trunk: where it branches off; it has the same result without one.
    """

    config: TrainConfig
    trunk: Trunk | None = None
    keys: ClassVar[frozenset[str]] = _KEYS_OF_A_ROW

    @classmethod
    def of(cls, store: Path, config: TrainConfig, *needs: Job) -> Training:
        name = config.model.model or "transfer"
        # a start that is made here is known by its folder, and is not there yet
        identity = config.identity() if needs else identity_of(config)
        return cls(job_folder(store, f"{name}-seed{config.seed}", identity), needs, config)

    def run(self, machine: Machine, progress: Progress, stop: Stop = never) -> None:
        _begin(self.folder, machine.set_up(self.config), self.trunk)
        with _advising(self.folder):
            evaluation = resume(self.folder, [_Share(progress)], device=machine.device, stop=stop)
        lines = [json.loads(line) for line in Run(self.folder).metrics_file.read_text().splitlines()]
        last = next(line for line in reversed(lines) if line["kind"] == "evaluation")
        self.finish(
            machine.device,
            **{name: last.get(name) for name in _MEASURES},
            epochs=last["epoch"],
            right=pack(evaluation.right),
            broken=sum(line["kind"] == "broken" and line["split"] == "train" for line in lines),
            stumbling=cast(dict[str, Any], Run(self.folder).load_checkpoint()).get("stumbling", {}),
            data=checksum_of(self.config, self.folder),
        )


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
            return cls(job_folder(store, "gaussians", source.folder.name), (source,), config, source)
        alike = TrainConfig(model=config.model, data=replace(config.data, batch_size=1))
        return cls(job_folder(store, "fits", f"{alike.identity()}{cls.fit_steps}"), (), alike)

    @property
    def data_dir(self) -> Path:
        return self.folder / "images"

    @property
    def begun_with(self) -> str | None:
        """The checksum of the images that are fitted; None for an encoder's set, and where an older gvit began."""
        return self._data_file.read_text().strip() if self._data_file.is_file() else None

    @property
    def _data_file(self) -> Path:
        return self.folder / "data.txt"

    def images(self) -> tuple[EvaluationSamples, EvaluationSamples]:
        """The data set's splits, those of the encoder's training, as the encoder, or the fit, wants them."""
        data = self.config.data
        size = tokens(self.config)["img_size"]
        recorded = None if self.source is None else Run(self.source.folder).load_split()
        prepare = eval_transform(Preprocessing(size, data.crop_mode, data.crop_pct))
        train, test = load_splits(data.dataset, data.data_dir, recorded)
        return EvaluationSamples(train, prepare), EvaluationSamples(test, prepare)

    def run(self, machine: Machine, progress: Progress, stop: Stop = never) -> None:
        encode = self._encoder(machine.device)
        if self.source is None and self.begun_with is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self._data_file, data_now(self.config.data)[1] + "\n")
        train, test = self.images()
        total = len(train) + len(test)

        def tell(done: int) -> None:
            progress(done / total)
            if stop():
                raise Interrupted(done)

        write_collection(self.data_dir, "train", train, encode, BATCH, tell)
        files = write_collection(
            self.data_dir, "test", test, encode, BATCH, lambda done: tell(len(train) + done)
        )
        quality = [self._psnr(file, test[row][0]) for row, file in enumerate(files)]
        self.finish(machine.device, psnr=sum(quality) / len(quality), num_images=total, data=self.begun_with)

    def _encoder(self, device: str) -> Callable[[Tensor], Gaussians]:
        if self.source is not None:
            return encode_with(load_gvit(self.source).to(device))
        like = tokens(self.config)
        count, factor = like["num_gaussians"], like["scale_factor"]
        return lambda images: fit(images.to(device), count, self.fit_steps, scale_factor=factor).gaussians

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
    keys: ClassVar[frozenset[str]] = _KEYS_OF_A_ROW

    @classmethod
    def of(cls, store: Path, training: Training, collection: Collection) -> CrossEvaluation:
        names = training.folder.name + collection.folder.name
        return cls(job_folder(store, "evaluation", names), (training, collection), training, collection)

    def run(self, machine: Machine, progress: Progress, stop: Stop = never) -> None:
        self.folder.mkdir(exist_ok=True)
        model = load_model(self.training.folder)
        source = load_source("gaussians", "test", self.collection.data_dir)
        loader = evaluation_loader(EvaluationSamples(source, eval_input(model, source)), BATCH)
        result = evaluate(model.to(machine.device), loader)
        epochs = self.training.result["epochs"]
        measured = {"top1": result.top1, "num_images": result.num_images, "right": pack(result.right)}
        self.finish(machine.device, **measured, epochs=epochs)


def tokens(config: TrainConfig) -> Mapping[str, Any]:
    """What the configured model's transformer reads: ``img_size``, and of Gaussians number and bound."""
    return architecture_of(config).tokens


def architecture_of(config: TrainConfig) -> Architecture:
    """The configured model's."""
    assert config.model.model is not None
    settings = {name: value for name, value in config.model.settings().items() if value is not None}
    return architecture(config.model.model, **settings)


def load_gvit(training: Training) -> GViT:
    """What a training of a model with an encoder has learned."""
    return cast(GViT, load_model(training.folder))


class _Share(Observer):
    """Tells which share of its steps a training has done since it was started.

    Args:
        progress: is told.
        until: the last step; that of the schedule when None.
    """

    def __init__(self, progress: Progress, until: int | None = None) -> None:
        self.progress, self.until = progress, until

    def start(self, start: Start) -> None:
        self.first, self.last = start.done, self.until or start.total

    def step(self, step: Step) -> None:
        self.progress((step.number - self.first) / (self.last - self.first))


@contextmanager
def _advising(folder: Path) -> Iterator[None]:
    """A training's errors, with what helps here instead of what helps with ``gvit train``.

    Raises:
        InputError: the block raised one.
    """
    try:
        yield
    except InputError as error:
        # a process that loads images wraps its traceback around what went wrong
        told = error.args[0].rpartition("gvit.errors.InputError: ")[2].strip()
        reason = told.rpartition("; ")[0] or told
        helps = (
            f"wait for it, or begin elsewhere with another {wording('store', '--runs')}"
            if isinstance(error.__context__, Timeout)
            else f"the same {wording('call', 'command')} tries again, from the beginning where {folder} is removed, "
            f"and {option('rows')} leaves rows out"
        )
        raise InputError(f"{reason}; {helps}") from error


def identity_of(config: TrainConfig) -> str:
    """That of a configuration, with a checksum of weights to start from that their name does not tell apart."""
    init = config.model.init
    if init is None or not (init.is_absolute() or is_on_hub(init.as_posix())):  # a name, with its checksum
        return config.identity()
    return config.identity() + weights_checksum(init)


def start_shown(init: Path) -> str:
    """Weights to start from without the folders that they lie in: a file's name, and how its checksum begins.

    Raises:
        InputError: there is no such file.
    """
    if is_pretrained_name(init.as_posix()):
        return init.as_posix()
    return f"{init.absolute().name}@{weights_checksum(init)[:8]}"


def job_folder(store: Path, name: str, identity: str) -> Path:
    """Where a job with this identity lies in a store."""
    # wherever the store lies, the same jobs have the same folders in it
    digest = hashlib.sha256(identity.replace(json.dumps(str(store))[1:-1], ".").encode()).hexdigest()[:12]
    return store / f"{name}-{digest}"


def _begin(folder: Path, config: TrainConfig, trunk: Trunk | None = None) -> None:
    """A run folder to go on with: the one that is there, a copy of the trunk's, or a new one."""
    if (folder / "config.json").exists():
        Run(folder).save_config(config)  # it may go on on another machine
        _add_commit(folder)
        return
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # what an interruption left
    run = Run.create(unfinished, config)
    if trunk is not None:
        start = Run(trunk.folder)
        shutil.copy(start.checkpoint_file, run.checkpoint_file)
        shutil.copy(start.metrics_file, run.metrics_file)
        if start.split_file.exists():
            shutil.copy(start.split_file, run.split_file)
        commits = _commits(trunk.folder) or [trunk.result["provenance"]["commit"]]  # of an older gvit
        write_text(unfinished / _COMMITS_NAME, "\n".join(commits) + "\n")
    _add_commit(unfinished)
    unfinished.rename(folder)


def _commits(folder: Path) -> list[str]:
    """Those at which a run was trained, its trunk's before it, in their order; none of other jobs."""
    file = folder / _COMMITS_NAME
    return file.read_text().split() if file.exists() else []


def _add_commit(folder: Path) -> None:
    known, now = _commits(folder), provenance()["commit"]
    if not known and Run(folder).checkpoint_file.exists():  # trained by a gvit that did not write it down
        known = ["unknown"]
    if now not in known:
        write_text(folder / _COMMITS_NAME, "\n".join([*known, now]) + "\n")


def beginning_of(config: TrainConfig) -> TrainConfig:
    """What decides a training's beginning, beside its schedule."""
    return replace(config, schedule=ScheduleConfig(), guidance=GuidanceConfig())


def unusual(result: Mapping[str, Any]) -> list[str]:
    """What was not as planned in a training that has a result."""
    stumbling = result.get("stumbling", {})
    said = []
    if stumbling.get("gamma", 1) != 1:
        said.append(f"gamma was multiplied by {stumbling['gamma']:g} after numbers that were not finite")
    if stumbling.get("skipped"):
        said.append(f"{counted(int(stumbling['skipped']), 'step')} skipped, whose numbers were not finite")
    if result.get("broken"):
        said.append(f"{counted(result['broken'], 'image')} left out, which could not be read")
    return said
