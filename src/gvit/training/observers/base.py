"""Who is told how a training run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gvit.data.sources import Split
from gvit.evaluation import Evaluation
from gvit.training.motion import Motion
from gvit.training.schedule import StepPlan


@dataclass(frozen=True)
class Start:
    """A run begins or goes on.

    Attributes:
        total: steps in all.
        done: steps done before.
        steps_per_epoch: images over batch size.
        notes: lines that the user should read.
        initialized: it began with the weights of another.
    """

    total: int
    done: int
    steps_per_epoch: int
    notes: tuple[str, ...] = ()
    initialized: bool = False


@dataclass(frozen=True)
class Step:
    """A step is done.

    Attributes:
        number: steps done so far, this one included.
        epoch: epochs done so far.
        plan: what it did.
        rates: learning rates by network.
        measures: what the objective measured.
        images_per_second: of this step.
    """

    number: int
    epoch: float
    plan: StepPlan
    rates: Mapping[str, float]
    measures: Mapping[str, float]
    images_per_second: float


@dataclass(frozen=True)
class Evaluated:
    """The test images have been gone through.

    Attributes:
        step: steps done so far.
        epoch: epochs done so far.
        result: what was measured.
        motion: how far guidance has moved the Gaussians; None where there is nothing to tell.
    """

    step: int
    epoch: float
    result: Evaluation
    motion: Motion | None


@dataclass(frozen=True)
class BrokenImage:
    """An image that cannot be read is met for the first time.

    Attributes:
        step: steps done so far.
        split: train or test.
        index: in its split.
        error: what is wrong, with its name.
        count: broken images of the split that are known so far, this one included.
        total: images of the split.
    """

    step: int
    split: Split
    index: int
    error: str
    count: int
    total: int


@dataclass(frozen=True)
class Skipped:
    """A step was left out from where its losses, Gaussians or gradients were not finite.

    That is all of it, but for an encoder of several looks, which learns at each, and a guided step that was added to an
    ordinary one.

    Attributes:
        step: steps gone by so far, this one included.
        reason: which of them it was.
        count: such steps so far.
    """

    step: int
    reason: str
    count: int


class Observer:
    """Is told, in the main process; a subclass listens to what it wants."""

    def start(self, start: Start) -> None:
        """Once, before the first step."""

    def step(self, step: Step) -> None:
        """After every step."""

    def evaluation(self, evaluated: Evaluated) -> None:
        """After every evaluation."""

    def broken(self, image: BrokenImage) -> None:
        """For every image that cannot be read, once, before the step or evaluation that met it."""

    def skipped(self, skipped: Skipped) -> None:
        """Instead of ``step``, for a step that was left out."""
