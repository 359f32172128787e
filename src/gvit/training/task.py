"""What a run trains: its networks, how a step goes through them, and how good they are. Knows nothing of time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from gvit.data.loading import Batch, derive_seed
from gvit.errors import InputError, first_line
from gvit.evaluation import measure
from gvit.models.base import ImageClassifier, without_weights
from gvit.models.geometry import keep_float32
from gvit.models.gvit import GViT
from gvit.training.build import build_optimizer
from gvit.training.config import TrainConfig
from gvit.training.distributed import (
    World,
    distribute,
    gradient_norm,
    load_optimizer,
    load_weights,
    synchronized,
    whole,
    whole_optimizer,
    whole_weights,
)
from gvit.training.feed import augmentation_of
from gvit.training.graphs import GraphedTurns
from gvit.training.guidance import Guidance
from gvit.training.kept import KeptGaussians
from gvit.training.motion import GaussianMotion, Motion
from gvit.training.objective import ClassificationObjective, GuidedObjective, Objective, Turn
from gvit.training.precision import autocast
from gvit.training.schedule import Phase, Schedule, StepPlan

_COUNT = 1  # sets the stream that the numbers of Gaussians come from apart from the batches' own


class Task:
    """Classification by one network; a base for what trains more than that.

    Args:
        model: on the CPU; it is moved and, where asked for, compiled, wrapped or sharded.
        config: the run's.
        device: of this process.
        world: the processes that share each batch.

    Attributes:
        networks: what learns, by name, each with its own optimizer.
        graphs: those of them that are called as CUDA graphs.
        ema: the moving average that is evaluated and saved instead of the model; None for none.
        turns: how far the encoder has come with each part of the last batch.
        draw_noise: what a training sample needs of chance beside its augmentation, from torch's global generator; None
            for nothing.
    """

    turns: list[Turn]
    draw_noise: Callable[[], Tensor] | None = None

    def __init__(
        self, model: ImageClassifier, config: TrainConfig, device: torch.device, world: World
    ) -> None:
        compute, optimizer = config.compute, config.optimizer
        self.config = config
        self.device = device
        self.world = world
        self.model: ImageClassifier = model.to(
            device, torch.float64 if compute.precision == "float64" else torch.float32
        )
        if compute.grad_checkpointing:
            model.set_grad_checkpointing(True)
        self.ema: ModelEmaV3 | None = (
            None if optimizer.ema_decay is None else ModelEmaV3(model, optimizer.ema_decay)
        )
        self.networks: dict[str, nn.Module] = self.split(model)
        if compute.precision == "bf16":
            keep_float32(*model.geometry())
        if compute.compile:
            for network in self.networks.values():
                network.compile()
        self.parallel: dict[str, nn.Module] = {
            name: distribute(net, world, compute.fsdp) for name, net in self.networks.items()
        }
        self.graphs: dict[str, nn.Module] = self.graphed() if compute.graphs else {}
        self.parallel |= self.graphs
        self.optimizers: dict[str, torch.optim.AdamW] = {
            # the layer-wise decay is the classifier's: what an encoder learned to draw is not to be forgotten by layers
            name: build_optimizer(net, optimizer, optimizer.layer_decay if name == "classifier" else None)
            for name, net in self.networks.items()
        }
        self.objective: Objective = self.make_objective()

    @property
    def keeps_gaussians(self) -> bool:
        """Whether each image is encoded once, and its Gaussians are kept."""
        return False

    def split(self, model: ImageClassifier) -> dict[str, nn.Module]:
        """The networks that learn, by name."""
        return {"classifier": model}

    def graphed(self) -> dict[str, nn.Module]:
        """Those of the networks that can be called as CUDA graphs, so called."""
        return {}

    @property
    def can_be_graphed(self) -> bool:
        """Whether there are any."""
        return False

    def make_objective(self) -> Objective:
        """What a step descends."""
        return ClassificationObjective(self.parallel["classifier"], self.autocast)

    @property
    def autocast(self) -> Any:
        """Makes the context that the networks are called in."""
        return partial(autocast, self.config.compute.precision, self.device)

    def fit_schedule(self, schedule: Schedule) -> Schedule:
        """The phases that there are for it: a network without Gaussians has nothing to do but to classify."""
        return schedule.classify_only()

    def draw_count(self, step: int) -> int | None:
        """How many Gaussians a step draws; None for as many as ever."""
        return None

    def weigh_classes(self, weights: Tensor) -> None:
        """What the class loss of an image counts, by its class [classes]."""
        self.objective.class_weights = weights.to(self.device)

    def watch(self, inputs: Callable[[], Tensor]) -> None:
        """Some test inputs, [N, ...], that can be looked at on the way."""

    def begin(self, phase: Phase) -> None:
        """A phase begins."""

    def has_begun(self, phase: Phase) -> bool:
        """Whether a phase has, or needs nothing; with fewer images than before, a run may go on inside of a new one."""
        return True

    def measure_motion(self) -> Motion | None:
        """How far guidance has moved the Gaussians; None where there is nothing to tell."""
        return None

    def step(
        self, step: int, parts: Sequence[Batch], plan: StepPlan, rates: dict[str, float]
    ) -> dict[str, float]:
        """One batch: an optimizer step, or one for each of the encoder's turns.

        Args:
            step: its number, from 0.
            parts: this process's share of the batch.
            plan: what the step does.
            rates: learning rates of the networks that learn in it.

        Returns:
            Means over this process's parts of what the objective measures.

        Raises:
            FloatingPointError: Gaussians, a loss or a gradient are NaN or infinite; what was wrong changed no weight.
        """
        count = self.objective.turns(plan)
        self.turns = [Turn(of=count, num_gaussians=self.draw_count(step)) for _ in parts]
        parts = [self._on_device(part) for part in parts]
        first = plan.ordinary() if plan.added else plan
        for number in range(count):
            if number:
                self.turns = [turn.then() for turn in self.turns]
            # what learns from the last turn only has no gradient before
            learning = rates if number == count - 1 else {"encoder": rates["encoder"]}
            measures = self._turn(step, parts, first, learning)
        if plan.added:  # one optimizer step more, whatever the number of turns
            self.turns = [turn.again() for turn in self.turns]
            measures = self._turn(step, parts, plan, {"encoder": rates["encoder"]})
        if self.ema is not None:
            self.ema.update(self.model)
        return measures

    def drop(self) -> None:
        """Forget the gradients of a step that came to nothing."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def effect(self, step: int, parts: Sequence[Batch]) -> dict[str, float]:
        """What the step that has just been taken did to its own batch; empty where there is nothing to tell.

        Or where its Gaussians are NaN or infinite.
        """
        return {}

    def _turn(
        self, step: int, parts: Sequence[Batch], plan: StepPlan, rates: dict[str, float]
    ) -> dict[str, float]:
        """One optimizer step of the networks that have a rate, and means of what is measured."""
        measured: list[dict[str, Tensor]] = []
        for index, part in enumerate(parts):
            self._seed(step, index, len(parts))
            with synchronized(self.parallel, last=index == len(parts) - 1):
                measured.append(self.objective.backward(part, plan, 1 / len(parts), self.turns[index]))
        norms = {name: gradient_norm(self.networks[name]) for name in rates}
        states = [turn.state.raw.isfinite().all() for turn in self.turns if turn.state is not None]
        # in one go: a GPU is waited for once
        values = [value for measures in measured for value in measures.values()]
        count = len(values)
        values += [*map(whole, norms.values()), *states]
        read = torch.stack([value.detach().to(self.device, torch.float64) for value in values]).tolist()
        names = [name for measures in measured for name in measures]
        with self.world.agreed():
            _check_finite(names, read[:count], dict(zip(norms, read[count:], strict=False)))
            if not all(read[count + len(norms) :]):  # the next turn would draw them
                raise FloatingPointError("the encoder's Gaussians are not finite")
        self._optimize(rates, norms)
        numbers = iter(read)
        return _mean([{name: next(numbers) for name in measures} for measures in measured])

    def _seed(self, step: int, index: int, parts: int) -> None:
        """Dropout and stochastic depth, too, depend on nothing but seed, step and place in the batch."""
        seed = derive_seed(self.config.seed, step, self.world.rank * parts + index)
        # as torch.manual_seed, which formats a stack trace for every kind of device that there is not
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _on_device(self, batch: Batch) -> Batch:
        dtype = next(self.model.parameters()).dtype
        inputs = batch.inputs.to(self.device, dtype, non_blocking=True)
        noise = None if batch.noise is None else batch.noise.to(self.device, dtype, non_blocking=True)
        return Batch(inputs, batch.labels.to(self.device, non_blocking=True), noise)

    def _optimize(self, rates: dict[str, float], norms: dict[str, Tensor]) -> None:
        largest = self.config.optimizer.clip_grad
        for name, optimizer in self.optimizers.items():
            if name not in rates:
                continue
            for group in optimizer.param_groups:
                group["lr"] = rates[name] * group.get("lr_scale", 1.0)
            if largest is not None:
                nn.utils.clip_grads_with_norm_(self.networks[name].parameters(), largest, norms[name])
            optimizer.step()
            optimizer.zero_grad()

    def measure(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """What ``gvit.evaluation.measure`` gives for the model, or for its moving average.

        Raises:
            FloatingPointError: its Gaussians cannot be drawn; where weights are sharded, in this process or another.
        """
        model = self.model if self.ema is None else self.ema.module
        if not self.config.compute.fsdp:
            return _measure_finite(model, batches)
        # each batch needs the shards of all processes: none may go on where one has stopped
        parts = []
        for batch in batches:
            with self.world.agreed():
                parts.append(_measure_finite(model, [batch]))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def state(self) -> dict[str, Any]:
        """All that changes while it trains; every process has to call it, the main one gets it whole."""
        state: dict[str, Any] = {"model": whole_weights(self.model)}
        state |= {name: whole_optimizer(self.networks[name], o) for name, o in self.optimizers.items()}
        if self.ema is not None:
            state["ema"] = self.ema.module.state_dict()
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to what ``state`` gave.

        Raises:
            KeyError, RuntimeError, ValueError: it is of another model.
        """
        load_weights(self.model, state["model"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(self.networks[name], optimizer, state[name])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])


class GuidedTask(Task):
    """GViT: an encoder that learns to draw, a classifier that learns to read, and guidance of the one by the other."""

    model: GViT
    objective: GuidedObjective

    def __init__(
        self, model: ImageClassifier, config: TrainConfig, device: torch.device, world: World
    ) -> None:
        assert model.encoder is not None
        # processes that load images are given it: none of the weights, which may be on a GPU or sharded
        self.draw_noise: Callable[[], Tensor] | None = (
            without_weights(model.encoder).draw_noise if model.encoder.noisy else None
        )
        super().__init__(model, config, device, world)

    def split(self, model: ImageClassifier) -> dict[str, nn.Module]:
        assert model.encoder is not None
        return {"encoder": model.encoder, "classifier": model.classifier}

    def graphed(self) -> dict[str, nn.Module]:
        return {"encoder": GraphedTurns(self.model.encoder)} if self.can_be_graphed else {}

    @property
    def can_be_graphed(self) -> bool:
        encoder, compute = self.model.encoder, self.config.compute
        if self._stands_still:  # it is called without gradients, and for all of its turns at once
            return False
        alone = self.device.type == "cuda" and self.world.size == 1 and compute.accumulate == 1
        plain = compute.precision == "float32" and not (compute.grad_checkpointing or compute.compile)
        return alone and plain and encoder.turns > 1 and self.config.objective.gaussians_range is None

    def make_objective(self) -> Objective:
        self.motion: GaussianMotion | None = None
        self._guiding = False  # the guided phase has begun
        self.guidance: Guidance = Guidance(self.config.guidance, GraphedTurns if self.graphs else None)
        objective = GuidedObjective(
            *(self.model, self.config.objective, self.parallel, self.autocast, self.guidance),
            self.world.agreed,
        )
        if self.keeps_gaussians:
            objective.kept = KeptGaussians(self.model.encoder)
        return objective

    @property
    def keeps_gaussians(self) -> bool:
        """The encoder stands still from the first step to the last, and images come again: each is encoded once."""
        encoder, still = self.model.encoder, self._stands_still
        alike = not encoder.noisy and self.config.objective.gaussians_range is None
        # a sharded encoder is called by all processes at once, or by none
        return still and alike and augmentation_of(self.config).repeats and not self.config.compute.fsdp

    @property
    def _stands_still(self) -> bool:
        schedule = self.config.schedule
        *others, classify, guide = schedule.phase_epochs()
        return schedule.freeze_encoder and classify > 0 and not sum(others) + guide

    def fit_schedule(self, schedule: Schedule) -> Schedule:
        return schedule

    def draw_count(self, step: int) -> int | None:
        if self.config.objective.gaussians_range is None:
            return None
        low, high = map(math.log, self.config.objective.gaussians_range)
        # log-uniform: twice as many make as much of a difference everywhere
        share = random.Random(derive_seed(self.config.seed, step, _COUNT)).random()
        return round(math.exp(low + share * (high - low)))

    def watch(self, inputs: Callable[[], Tensor]) -> None:
        # of what is evaluated, and saved
        model = self.model if self.ema is None else cast(GViT, self.ema.module)
        self.motion = GaussianMotion(model, inputs())

    def begin(self, phase: Phase) -> None:
        if phase != "guide":
            return
        self._guiding = True
        self.guidance.begin(self.model)
        if self.motion is not None:
            self.motion.begin()

    def has_begun(self, phase: Phase) -> bool:
        return phase != "guide" or self._guiding

    def step(
        self, step: int, parts: Sequence[Batch], plan: StepPlan, rates: dict[str, float]
    ) -> dict[str, float]:
        """As of every task; what guidance has cost decides how strong it is in the next guided step."""
        measures = super().step(step, parts, plan, rates)
        if "psnr_spent" in measures:
            self.guidance.settle(self.world.mean({"spent": measures["psnr_spent"]})["spent"])
        return measures

    def effect(self, step: int, parts: Sequence[Batch]) -> dict[str, float]:
        if self.turns[0].steered is None:
            return {}
        measured = []
        try:
            for index, (part, turn) in enumerate(zip(parts, self.turns, strict=True)):
                with self.world.agreed():  # after each part: all processes measure the same ones
                    self._seed(step, index, len(parts))
                    measures = self.objective.effect(self._on_device(part), turn)
                    measured.append({name: value.item() for name, value in measures.items()})
        except (
            FloatingPointError
        ):  # the step is taken: what its Gaussians can't be measured for, the next one finds
            return {}
        return _mean(measured)

    def _optimize(self, rates: dict[str, float], norms: dict[str, Tensor]) -> None:
        super()._optimize(rates, norms)
        if "classifier" in rates:
            self.guidance.follow(self.model.classifier)

    def measure_motion(self) -> Motion | None:
        return None if self.motion is None else self.motion.measure()

    def state(self) -> dict[str, Any]:
        found = super().state() | {"guidance": self.guidance.state(), "guiding": self._guiding}
        if self.motion is not None:
            found |= {"motion": self.motion.start, "motion_averaged": self.ema is not None}
        return found

    def load_state(self, state: dict[str, Any]) -> None:
        super().load_state(state)
        self.guidance.load_state(state.get("guidance", {}), self.model)
        if self.motion is not None:
            start = state["motion"]
            self._guiding = state.get("guiding", start is not None)  # an older gvit's has the one alone
            # where another number of these images can be read by now, there is nothing to compare them with; nor is
            # there with an average of weights, whose Gaussians an older gvit did not keep
            averaged = state.get("motion_averaged", False) == (self.ema is not None)
            alike = start is not None and len(start) == len(self.motion.images) and averaged
            self.motion.start = start if alike else None


def _measure_finite(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    try:
        return measure(cast(ImageClassifier, model), batches)
    except InputError:
        raise
    except ValueError as error:  # what the renderer says of numbers that are not finite
        raise FloatingPointError(first_line(error)) from error


def _check_finite(names: Sequence[str], values: Sequence[float], norms: Mapping[str, float]) -> None:
    """Raise FloatingPointError where a loss, or the norm of a network's gradient, is NaN or infinite."""
    for name, value in zip(names, values, strict=True):
        if name.endswith("_loss") and not math.isfinite(value):
            raise FloatingPointError(f"{name} is {value}")
    for name, norm in norms.items():
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient of the {name} has norm {norm}")


def _mean(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in measured) / len(measured) for name in measured[0]}


def generators_kept(device: str | torch.device) -> AbstractContextManager[None]:
    """Inside, training seeds torch's generators, the CPU's and a GPU's; after, they go on as if it had not."""
    on_gpu = torch.device(device).type == "cuda" and torch.cuda.is_available()
    return torch.random.fork_rng([device] if on_gpu else [])


def make_task(model: ImageClassifier, config: TrainConfig, device: torch.device, world: World) -> Task:
    """The task for what the model declares: with an encoder it is guided."""
    return (Task if model.encoder is None else GuidedTask)(model, config, device, world)
