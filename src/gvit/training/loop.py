"""Time: steps, evaluation, logging, saving. What a step descends is the objective's business."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from gvit.data.datasets import load_dataset
from gvit.data.loading import (
    Augmentation,
    Batch,
    EvaluationImages,
    TrainingImages,
    derive_seed,
    eval_transform,
    evaluation_loader,
    train_transform,
    training_loader,
)
from gvit.errors import InputError, first_line
from gvit.evaluation import Evaluation, evaluate
from gvit.gaussians import NUM_FIELDS
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.classifier import GaussianClassifier
from gvit.models.encoder import GaussianEncoder
from gvit.models.gvit import GViT
from gvit.models.registry import create_model, save_model
from gvit.training.config import OptimizerConfig, TrainConfig
from gvit.training.objective import GuidedObjective
from gvit.training.run import Run
from gvit.training.schedule import Schedule, StepPlan, learning_rate

_LOG_EVERY = 10
_Network = GaussianEncoder | GaussianClassifier


class Observer(Protocol):
    """Who is told how a training run goes on."""

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None: ...

    def step(self, step: int, plan: StepPlan, losses: dict[str, float], images_per_second: float) -> None: ...

    def evaluation(self, step: int, result: Evaluation) -> None: ...


class Interrupted(Exception):
    """Training stopped by a signal; everything up to that step is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


def build_model(config: TrainConfig, class_names: list[str]) -> GViT:
    """The configured model with its preprocessing and class names on its card; seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        kwargs = config.model.kwargs() | {"num_classes": len(class_names)}
        model = create_model(config.model.model, **kwargs)
    preprocessing = Preprocessing(model.img_size, config.data.crop_mode, config.data.crop_pct)
    model.card = ModelCard(config.model.model, kwargs, preprocessing, class_names)
    return model


def _optimizer(network: _Network, config: OptimizerConfig) -> torch.optim.AdamW:
    groups = param_groups_weight_decay(
        network, config.weight_decay, no_weight_decay_list=list(network.no_weight_decay())
    )
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2))


class Trainer:
    """One training run in one process.

    Every step is a pure function of the configuration, the step and the state that a checkpoint holds, so a run
    that was interrupted goes on to the same weights as one that was not.
    """

    def __init__(self, config: TrainConfig, run: Run, device: str = "cpu") -> None:
        self.config, self.run, self.device = config, run, torch.device(device)
        data = config.data
        train_images = load_dataset(data.dataset, "train", data.data_dir)
        test_images = load_dataset(data.dataset, "test", data.data_dir)
        self.model = build_model(config, list(train_images.class_names)).to(self.device)
        preprocessing = self.model.card.preprocessing
        self.batch_size = min(data.batch_size, len(train_images))
        self.steps_per_epoch = len(train_images) // self.batch_size
        self.schedule = Schedule.from_config(config.schedule, self.steps_per_epoch)
        if not self.schedule.total:
            raise InputError("the phases are shorter than one step; raise --epochs")
        augmentation = Augmentation(data.hflip, data.min_crop, data.rotate, data.translate, data.zoom)
        self.images = TrainingImages(
            train_images,
            train_transform(preprocessing, augmentation),
            (self.model.encoder.num_gaussians, NUM_FIELDS),
            config.seed,
        )
        self.test_loader = evaluation_loader(
            EvaluationImages(test_images, eval_transform(preprocessing)), self.batch_size, data.workers
        )
        self.objective = GuidedObjective(self.model, config.objective)
        self.networks: dict[str, GaussianEncoder | GaussianClassifier] = {
            "encoder": self.model.encoder,
            "classifier": self.model.classifier,
        }
        self.optimizers = {name: _optimizer(net, config.optimizer) for name, net in self.networks.items()}
        self.step = 0

    def resume(self) -> None:
        """Go back to the run's last checkpoint.

        Raises:
            InputError: it is damaged or of another model.
        """
        state = self.run.load_checkpoint()
        if state is not None:
            try:
                self.model.load_state_dict(state["model"])
                for name, optimizer in self.optimizers.items():
                    optimizer.load_state_dict(state[name])
                self.step = state["step"]
            except (KeyError, RuntimeError, ValueError) as error:
                reason = first_line(error)
                raise InputError(f"{self.run.checkpoint_file}: not of this run's model ({reason})") from error
        self.run.forget_after(self.step)

    def fit(self, observer: Observer) -> Evaluation:
        """Train from the current step to the last, evaluating and saving on the way.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after saving.
            InputError: training diverged (NaN or infinite losses); the last checkpoint stays as it was.
        """
        config, total = self.config, self.schedule.total
        eval_steps = max(1, round(config.schedule.eval_every * self.steps_per_epoch))
        loader = training_loader(self.images, self.batch_size, self.step, total, config.data.workers)
        observer.start(total, self.step, self.steps_per_epoch)
        self.model.train()
        result = None
        with _stop_requests() as stop:
            for batch in loader:
                started = time.perf_counter()
                plan = self.schedule.plan(self.step)
                losses = self._train_step(batch, plan)
                self.step += 1
                speed = self.batch_size / (time.perf_counter() - started)
                observer.step(self.step, plan, losses, speed)
                if self.step % _LOG_EVERY == 0 or self.step == total:
                    self._log_step(plan, losses, speed)
                result = None
                if self.step % eval_steps == 0 or self.step == total:
                    result = self._evaluate(observer)
                    self.save()
                if stop.is_set() and self.step < total:
                    self.save()
                    raise Interrupted(self.step)
        return result or evaluate(self.model, self.test_loader)

    def _train_step(self, batch: Batch, plan: StepPlan) -> dict[str, float]:
        config, total = self.config.optimizer, self.schedule.total
        # dropout and stochastic depth, too, depend on nothing but seed and step
        torch.manual_seed(derive_seed(self.config.seed, self.step))
        batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        try:
            losses = {name: value.item() for name, value in self.objective.backward(batch, plan).items()}
        except FloatingPointError as error:
            raise InputError(
                f"training diverged at step {self.step} ({plan.phase}): {error}; lower --base-lr or --gamma. "
                f"The last checkpoint in {self.run.folder} is from before"
            ) from error
        starts = {"encoder": 0}
        if plan.classify and not plan.guided:
            starts["classifier"] = self.schedule.classify_start
        peak = config.base_lr * self.batch_size / 256
        warmup = round(config.warmup_epochs * self.steps_per_epoch)
        for name, start in starts.items():
            optimizer = self.optimizers[name]
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(peak, self.step, start, total, warmup)
            if config.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.networks[name].parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
        return losses

    def _log_step(self, plan: StepPlan, losses: dict[str, float], images_per_second: float) -> None:
        self.run.log(
            kind="train",
            step=self.step,
            epoch=self.step / self.steps_per_epoch,
            phase=plan.phase,
            lr=self.optimizers["encoder"].param_groups[0]["lr"],
            gamma=plan.gamma,
            **losses,
            images_per_second=round(images_per_second, 1),
        )

    def _evaluate(self, observer: Observer) -> Evaluation:
        result = evaluate(self.model, self.test_loader)
        record: dict[str, Any] = result.to_dict()
        del record["confusion"]
        self.run.log(kind="evaluation", step=self.step, epoch=self.step / self.steps_per_epoch, **record)
        observer.evaluation(self.step, result)
        return result

    def save(self) -> None:
        """Write weights and a checkpoint to resume from."""
        save_model(self.model, self.run.weights_file)
        state: dict[str, Any] = {"step": self.step, "model": self.model.state_dict()}
        self.run.save_checkpoint(state | {name: o.state_dict() for name, o in self.optimizers.items()})


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that SIGINT (the first one) and SIGTERM set, so that the current step ends in peace."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def request(number: int, _frame: Any) -> None:
        event.set()
        signal.signal(number, previous[signal.Signals(number)])  # a second Ctrl-C stops at once

    previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig, out: str | Path, observer: Observer, *, overwrite: bool = False, device: str = "cpu"
) -> Evaluation:
    """Train a model into a new run folder.

    Args:
        config: for example ``gvit.recipes.digits()``.
        out: the run folder; see ``gvit.training.run.Run``.
        observer: is told how it goes on.
        overwrite: replace a run that the folder holds.
        device: where to train.

    Returns:
        The evaluation after the last step.

    Raises:
        InputError: unusable configuration, data or folder.
        Interrupted: by SIGINT or SIGTERM; ``resume`` goes on.
    """
    # everything that can be wrong with the configuration shows before anything is written
    trainer = Trainer(config, Run(Path(out)), device)
    trainer.run = Run.create(Path(out), config, overwrite)
    return trainer.fit(observer)


def resume(out: str | Path, observer: Observer, *, device: str = "cpu") -> Evaluation:
    """Go on with an interrupted run, to the same result as if it had not been interrupted.

    Raises:
        InputError: there is no run, or its checkpoint is damaged.
        Interrupted: again.
    """
    run = Run.open(Path(out))
    trainer = Trainer(run.load_config(), run, device)
    trainer.resume()
    return trainer.fit(observer)
