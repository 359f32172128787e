"""Which phase a step belongs to, and what happens in it: pure functions of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

from gvit.training.config import ScheduleConfig

Phase = Literal["reconstruct", "perceptual", "classify", "guide"]
PHASES: tuple[Phase, ...] = ("reconstruct", "perceptual", "classify", "guide")


@dataclass(frozen=True)
class StepPlan:
    """What one step does.

    Attributes:
        phase: name of the phase.
        perceptual: 1 - SSIM is part of the reconstruction loss.
        classify: the classifier reads the Gaussians.
        guided: the classifier's gradient steers the Gaussians, and the classifier itself stands still.
        gamma: weight of that gradient; 0 on steps that are not guided.
        train_encoder: the encoder learns; otherwise it stands still.
        added: the batch takes an ordinary step before the guided one.
    """

    phase: Phase
    perceptual: bool
    classify: bool
    guided: bool
    gamma: float
    train_encoder: bool = True
    added: bool = False

    def ordinary(self) -> StepPlan:
        """What the step would do without its guidance."""
        return replace(self, guided=False, gamma=0.0, added=False)


@dataclass(frozen=True)
class Schedule:
    """The four phases in steps (GViT paper, Section 2.2 and Appendix A).

    Attributes:
        ends: the first step after each phase.
        guide_every: one step in so many of the guided phase is guided.
        gamma: weight of the classifier's gradient on those.
        freeze_encoder: the encoder stands still in the classify phase.
        guided_steps: whether they replace ordinary ones, are added to them, or are left out.
    """

    ends: tuple[int, int, int, int]
    guide_every: int
    gamma: float
    freeze_encoder: bool = False
    guided_steps: Literal["replacing", "added", "none"] = "replacing"

    @classmethod
    def from_config(cls, config: ScheduleConfig, steps_per_epoch: int) -> Schedule:
        ends = tuple(round(epochs * steps_per_epoch) for epochs in accumulate(config.phase_epochs()))
        return cls(
            ends,  # type: ignore[arg-type]
            config.guide_every,
            config.gamma,
            config.freeze_encoder,
            config.guided_steps,
        )

    def classify_only(self) -> Schedule:
        """As many steps, all of them of the classify phase: what a network without Gaussians has."""
        return Schedule((0, 0, self.total, self.total), self.guide_every, self.gamma)

    @property
    def total(self) -> int:
        """Number of steps."""
        return self.ends[-1]

    def steps_of(self, phase: Phase) -> range:
        """The steps of a phase; empty where it has none."""
        index = PHASES.index(phase)
        return range((0, *self.ends)[index], self.ends[index])

    @property
    def classify_start(self) -> int:
        """The first step that trains the classifier."""
        return self.ends[1]

    @property
    def encoder_only(self) -> bool:
        """No step trains the classifier."""
        return self.classify_start == self.total

    def plan(self, step: int) -> StepPlan:
        """What step ``step`` (from 0) does."""
        index = sum(step >= end for end in self.ends[:-1])
        turn = index == 3 and (step - self.ends[2]) % self.guide_every == 0
        guided = turn and self.guided_steps != "none"
        return StepPlan(
            phase=PHASES[index],
            perceptual=index >= 1,
            classify=index >= 2,
            guided=guided,
            gamma=self.gamma if guided else 0.0,
            train_encoder=not (self.freeze_encoder and index == 2),
            added=guided and self.guided_steps == "added",
        )


def learning_rate(peak: float, step: int, start: int, stop: int, warmup: int) -> float:
    """Linear warm-up from ``start``, then half a cosine down to 0 at ``stop``."""
    done = step - start
    if done < warmup:
        return peak * (done + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, stop - start - warmup)))


def learning_rates(
    schedule: Schedule, step: int, peak: float, warmup: int, guide_peak: float | None = None
) -> dict[str, float]:
    """Of a step, of the networks that learn in it: each warms up from its own first step.

    Args:
        schedule: of the run.
        step: from 0.
        peak: the largest rate.
        warmup: steps from 0 to the peak.
        guide_peak: what the guided phase begins with, to end with 0 by half a cosine of its own; None goes on.
    """
    plan = schedule.plan(step)
    starts = {}
    if plan.train_encoder:
        starts["encoder"] = 0
    if plan.classify and (plan.added or not plan.guided):
        starts["classifier"] = schedule.classify_start
    if guide_peak is not None and plan.phase == "guide":
        peak, warmup = guide_peak, 0
        starts = dict.fromkeys(starts, schedule.steps_of("guide").start)
    return {name: learning_rate(peak, step, first, schedule.total, warmup) for name, first in starts.items()}
