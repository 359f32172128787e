"""Time: steps, evaluation, logging, saving. What a step descends is the objective's business."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from timm.utils import ModelEmaV3
from torch import nn

from gvit.data.inputs import eval_input, train_input
from gvit.data.loading import (
    Batch,
    EvaluationSamples,
    StepSampler,
    TrainingSamples,
    derive_seed,
    evaluation_loader,
    training_loader,
)
from gvit.data.sources import load_source
from gvit.data.transforms import Augmentation
from gvit.errors import InputError, first_line
from gvit.evaluation import Evaluation, measure, summarize
from gvit.gaussians import NUM_FIELDS
from gvit.models.frozen import GaussianViT
from gvit.models.gvit import GViT
from gvit.models.registry import save_model
from gvit.training.build import build_model, build_optimizer
from gvit.training.config import TrainConfig
from gvit.training.distributed import (
    ALONE,
    World,
    distribute,
    load_optimizer,
    load_weights,
    synchronized,
    whole_optimizer,
    whole_weights,
)
from gvit.training.motion import GaussianMotion
from gvit.training.objective import ClassificationObjective, GuidedObjective, Objective
from gvit.training.precision import autocast, keep_float32
from gvit.training.run import Run
from gvit.training.schedule import Schedule, StepPlan, learning_rate

_LOG_EVERY = 10
_NUM_PROBES = 32  # test images that show how far Gaussians move


class Observer(Protocol):
    """Who is told how a training run goes on."""

    def note(self, text: str) -> None: ...

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None: ...

    def step(
        self, step: int, plan: StepPlan, measures: dict[str, float], images_per_second: float
    ) -> None: ...

    def evaluation(self, step: int, result: Evaluation, moved: float | None) -> None: ...


class Interrupted(Exception):
    """Training stopped by a signal; everything up to that step is saved."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


class Trainer:
    """One training run, in this process's part.

    Every step is a pure function of the configuration, the step and the state that a checkpoint holds, so a run
    that was interrupted goes on to the same weights as one that was not.

    Args:
        config: the run's.
        run: its folder; the main process writes there.
        device: of this process.
        world: the processes that share each batch.
        initialize: read ``config.model.init``; a checkpoint makes that superfluous.

    Raises:
        InputError: unusable configuration or data.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        device: str = "cpu",
        world: World = ALONE,
        initialize: bool = True,
    ) -> None:
        self.config, self.run, self.device, self.world = config, run, torch.device(device), world
        self.step = 0
        self._load_data()
        self._build_networks(initialize)
        self._build_loaders()

    def _load_data(self) -> None:
        data = self.config.data
        self.train_images = load_source(data.dataset, "train", data.data_dir)
        self.test_images = load_source(data.dataset, "test", data.data_dir)
        self.batch_size = min(data.batch_size, len(self.train_images))
        parts = self.world.size * self.config.compute.accumulate
        if self.batch_size % parts:
            raise InputError(
                f"a batch of {self.batch_size} images cannot be split evenly over {self.world.size} processes "
                f"times --accumulate {self.config.compute.accumulate}; make --batch-size a multiple of {parts}"
            )
        self.steps_per_epoch = len(self.train_images) // self.batch_size

    def _build_networks(self, initialize: bool) -> None:
        config, compute = self.config, self.config.compute
        self.model, self.notes = build_model(
            config, list(self.train_images.class_names), initialize, self.train_images.example
        )
        model = self.model.to(self.device, torch.float64 if compute.precision == "float64" else torch.float32)
        if compute.grad_checkpointing:
            model.set_grad_checkpointing(True)
        decay = config.optimizer.ema_decay
        self.ema = None if decay is None else ModelEmaV3(model, decay)
        networks: dict[str, nn.Module]
        if isinstance(model, GViT):
            networks = {"encoder": model.encoder, "classifier": model.classifier}
        else:
            networks = {"classifier": model}
        if compute.precision == "bf16":
            if isinstance(model, GViT):
                keep_float32(model.encoder.head, model.classifier.patch_embed)
                if model.encoder.kind == "denoising":
                    keep_float32(model.encoder.gaussian_embed)
            elif isinstance(model, GaussianViT):
                keep_float32(model.patch_embed)
        if compute.compile:
            for network in networks.values():
                network.compile()
        self.networks = networks
        self.parallel = {name: distribute(net, self.world, compute.fsdp) for name, net in networks.items()}
        self.optimizers = {name: build_optimizer(net, config.optimizer) for name, net in networks.items()}
        self.schedule = Schedule.from_config(config.schedule, self.steps_per_epoch)
        if not self.schedule.total:
            raise InputError("the phases are shorter than one step; raise --epochs")
        context = partial(autocast, compute.precision, self.device)
        self.objective: Objective
        if isinstance(model, GViT):
            self.objective = GuidedObjective(model, config.objective, self.parallel, context)
        else:
            self.objective = ClassificationObjective(self.parallel["classifier"], context)
            self.schedule = self.schedule.classify_only()
        if self.batch_size < config.data.batch_size:
            self.notes.append(
                f"{len(self.train_images)} images to train on: a batch is all of them, not {config.data.batch_size}"
            )
        learning = self.schedule.total - self.schedule.classify_start
        if 0 < learning < 2 * self.warmup_steps:
            epochs, whole = learning / self.steps_per_epoch, self.schedule.total / self.steps_per_epoch
            self.notes.append(
                f"the warm-up, {config.optimizer.warmup_epochs:g} epochs, takes over half of the classifier's "
                f"{epochs:.3g}; --warmup-epochs {whole / 20:.2g} would be in proportion"
            )

    @property
    def warmup_steps(self) -> int:
        return round(self.config.optimizer.warmup_epochs * self.steps_per_epoch)

    def _build_loaders(self) -> None:
        data = self.config.data
        augmentation = Augmentation(data.hflip, data.min_crop, data.rotate, data.translate, data.zoom)
        noise_shape = (self.model.encoder.num_gaussians, NUM_FIELDS) if isinstance(self.model, GViT) else (0,)
        self.images = TrainingSamples(
            self.train_images,
            train_input(self.model, self.train_images, augmentation),
            partial(torch.randn, noise_shape),
            self.config.seed,
        )
        size = max(1, self.batch_size // (self.world.size * self.config.compute.accumulate))
        shard = {"rank": self.world.rank, "world_size": self.world.size}
        tests = EvaluationSamples(self.test_images, eval_input(self.model, self.test_images))
        self.test_loader = evaluation_loader(tests, size, data.workers, **shard)
        self.motion = None
        if isinstance(self.model, GViT):
            few = range(0, len(tests), -(-len(tests) // _NUM_PROBES))
            self.motion = GaussianMotion(self.model, torch.stack([tests[i][0] for i in few]))

    def resume(self) -> None:
        """Go back to the run's last checkpoint.

        Raises:
            InputError: it is damaged or of another model.
        """
        state = self.run.load_checkpoint()
        if state is not None:
            try:
                load_weights(self.model, state["model"])
                for name, optimizer in self.optimizers.items():
                    load_optimizer(self.networks[name], optimizer, state[name])
                if self.ema is not None:
                    self.ema.module.load_state_dict(state["ema"])
                if self.motion is not None:
                    self.motion.start = state["motion"]
                self.step = state["step"]
            except (KeyError, RuntimeError, ValueError) as error:
                reason = first_line(error)
                raise InputError(f"{self.run.checkpoint_file}: not of this run's model ({reason})") from error
        if self.world.is_main:
            self.run.forget_after(self.step)

    def fit(self, observer: Observer, until: int | None = None) -> Evaluation:
        """Train from the current step to the last, evaluating and saving on the way.

        Args:
            observer: is told how it goes on.
            until: stop, saved, when so many steps are done; ``resume`` goes on.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after saving.
            InputError: training diverged (NaN or infinite losses); the last checkpoint stays as it was.
        """
        total = self.schedule.total
        last = total if until is None else min(until, total)
        eval_steps = max(1, round(self.config.schedule.eval_every * self.steps_per_epoch))
        for note in self.notes:
            observer.note(note)
        observer.start(total, self.step, self.steps_per_epoch)
        self.model.train()
        result = None
        with _stop_requests() as stop:
            started = time.perf_counter()
            for parts in self.batches(self.step, last, self.config.data.workers):
                plan = self.schedule.plan(self.step)
                measures = self.world.mean(self.train_step(parts, plan))
                speed = self.batch_size / (time.perf_counter() - started)
                observer.step(self.step, plan, measures, speed)
                if plan.guided or self.step % _LOG_EVERY == 0 or self.step == total:
                    self._log_step(plan, measures, speed)
                result = None
                if self.step % eval_steps == 0 or self.step == total:
                    result = self._evaluate(observer)
                if result is not None or self.step == last:
                    self.save()
                if self.world.any(stop.is_set()) and self.step < last:
                    self.save()
                    raise Interrupted(self.step)
                started = time.perf_counter()
        return result or self.evaluate()

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Sequence[Batch]]:
        """This process's share of each step's images, in parts."""
        parts = self.config.compute.accumulate
        sampler = StepSampler(
            len(self.images),
            self.batch_size,
            self.config.seed,
            start,
            stop,
            rank=self.world.rank,
            world_size=self.world.size,
            parts=parts,
        )
        loader = iter(training_loader(self.images, sampler, workers))
        return zip(*[loader] * parts, strict=True)

    def train_step(self, parts: Sequence[Batch], plan: StepPlan) -> dict[str, float]:
        """One step of what the plan says; ``self.step`` counts it."""
        if (
            self.motion is not None
            and self.step == self.schedule.steps_of("guide").start < self.schedule.total
        ):
            self.motion.begin()
        measured: list[dict[str, float]] = []
        for index, part in enumerate(parts):
            # dropout and stochastic depth, too, depend on nothing but seed, step and place in the batch
            place = self.world.rank * len(parts) + index
            torch.manual_seed(derive_seed(self.config.seed, self.step, place))
            with synchronized(self.parallel, last=index == len(parts) - 1):
                measures = self._backward(part, plan, 1 / len(parts))
            measured.append({name: value.item() for name, value in measures.items()})
        self._optimize()
        self.step += 1
        return {name: sum(part[name] for part in measured) / len(measured) for name in measured[0]}

    def _backward(self, batch: Batch, plan: StepPlan, share: float) -> dict[str, torch.Tensor]:
        dtype = next(self.model.parameters()).dtype
        images, noise = (x.to(self.device, dtype, non_blocking=True) for x in (batch.inputs, batch.noise))
        labels = batch.labels.to(self.device, non_blocking=True)
        try:
            return self.objective.backward(Batch(images, labels, noise), plan, share)
        except FloatingPointError as error:
            raise self._diverged(f" ({plan.phase})", error) from error

    def _diverged(self, where: str, error: Exception) -> InputError:
        return InputError(
            f"training diverged at step {self.step}{where}: {first_line(error)}; lower --base-lr or --gamma. "
            f"The last checkpoint in {self.run.folder}, if there is one, is from before"
        )

    def _optimize(self) -> None:
        config = self.config.optimizer
        for name, rate in self.rates(self.step).items():
            optimizer = self.optimizers[name]
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            if config.clip_grad is not None:
                nn.utils.clip_grad_norm_(self.networks[name].parameters(), config.clip_grad)
            optimizer.step()
            optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)

    def rates(self, step: int) -> dict[str, float]:
        """The learning rates of a step, of the networks that learn in it.

        The peak is linear in the batch (GViT paper, Appendix A); each network warms up from its own first step.
        """
        config, schedule = self.config.optimizer, self.schedule
        plan = schedule.plan(step)
        peak = config.base_lr * self.batch_size / 256
        starts = {}
        if plan.train_encoder and "encoder" in self.networks:
            starts["encoder"] = 0
        if plan.classify and not plan.guided:
            starts["classifier"] = schedule.classify_start
        return {
            name: learning_rate(peak, step, first, schedule.total, self.warmup_steps)
            for name, first in starts.items()
        }

    def _log_step(self, plan: StepPlan, measures: dict[str, float], images_per_second: float) -> None:
        if self.world.is_main:
            self.run.log(
                kind="train",
                step=self.step,
                epoch=self.step / self.steps_per_epoch,
                phase=plan.phase,
                **{f"lr_{name}": rate for name, rate in self.rates(self.step - 1).items()},
                gamma=plan.gamma,
                **measures,
                images_per_second=round(images_per_second, 1),
            )

    def evaluate(self) -> Evaluation:
        """The model, or its moving average, on all test images."""
        model = self.model if self.ema is None else self.ema.module
        try:
            shard = measure(model, self.test_loader)
        except InputError:
            raise
        except ValueError as error:  # what the renderer says of Gaussians that cannot be drawn
            raise self._diverged(" (evaluation)", error) from error
        measured = self.world.interleave(shard, len(self.test_images))
        return summarize(measured, self.model.num_classes)

    def _evaluate(self, observer: Observer) -> Evaluation:
        result = self.evaluate()
        moved = None if self.motion is None else self.motion.moved()
        record: dict[str, Any] = result.to_dict()
        del record["confusion"]
        if moved is not None:
            record["moved"] = moved
        if self.world.is_main:
            self.run.log(kind="evaluation", step=self.step, epoch=self.step / self.steps_per_epoch, **record)
        observer.evaluation(self.step, result, moved)
        return result

    def save(self) -> None:
        """Write weights and a checkpoint to resume from; every process has to call it."""
        weights = whole_weights(self.model)
        state: dict[str, Any] = {"step": self.step, "model": weights}
        state |= {name: whole_optimizer(self.networks[name], o) for name, o in self.optimizers.items()}
        if self.ema is not None:
            state["ema"] = weights = self.ema.module.state_dict()
        if self.motion is not None:
            state["motion"] = self.motion.start
        if self.world.is_main:
            save_model(self.model, self.run.weights_file, weights)
            self.run.save_checkpoint(state)
        self.world.barrier()


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
    config: TrainConfig,
    out: str | Path,
    observer: Observer,
    *,
    overwrite: bool = False,
    device: str = "cpu",
    world: World = ALONE,
) -> Evaluation:
    """Train a model into a new run folder.

    Args:
        config: for example ``gvit.recipes.digits()``.
        out: the run folder; see ``gvit.training.run.Run``.
        observer: is told how it goes on.
        overwrite: replace a run that the folder holds.
        device: where to train.
        world: the processes that train together; see ``gvit.training.distributed.joined``.

    Returns:
        The evaluation after the last step.

    Raises:
        InputError: unusable configuration, data or folder.
        Interrupted: by SIGINT or SIGTERM; ``resume`` goes on.
    """
    # everything that can be wrong with the configuration shows before anything is written
    trainer = Trainer(config, Run(Path(out)), device, world)
    if world.is_main:
        Run.create(Path(out), config, overwrite)
    world.barrier()
    return trainer.fit(observer)


def resume(
    out: str | Path,
    observer: Observer,
    *,
    device: str = "cpu",
    world: World = ALONE,
    until: int | None = None,
) -> Evaluation:
    """Go on with an interrupted run, to the same result as if it had not been interrupted.

    Args:
        out: the run folder.
        observer: is told how it goes on.
        device: where to train.
        world: the processes that train together.
        until: stop again, saved, when so many steps are done in all.

    Raises:
        InputError: there is no run, or its checkpoint is damaged.
        Interrupted: again.
    """
    run = Run.open(Path(out))
    trainer = Trainer(run.load_config(), run, device, world, initialize=not run.checkpoint_file.exists())
    trainer.resume()
    world.barrier()
    return trainer.fit(observer, until)
