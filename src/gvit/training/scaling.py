"""What a run that is told nothing else takes for its number of training images: pure functions of that."""

from __future__ import annotations

import math
from dataclasses import replace

from gvit.training.config import ScheduleConfig, TrainConfig

LEAST_BATCH, MOST_BATCH = 8, 64
_STEPS_AN_EPOCH = 8
_EVALUATIONS, _LEAST_BETWEEN = 12, 5.0  # of a run, and epochs from one to the next
_WARMUP = 20  # a run is so many times as long


def fitting_batch(num_images: int) -> int:
    """Images per step: the power of two nearest to an eighth of them, from 8 to 64."""
    nearest = 2 ** round(math.log2(max(1.0, num_images / _STEPS_AN_EPOCH)))
    return min(max(nearest, LEAST_BATCH), MOST_BATCH)


def stretched(schedule: ScheduleConfig, steps_per_epoch: int) -> ScheduleConfig:
    """As many whole epochs, in the proportions of its phases, as ``min_steps`` takes; the same where it has as many."""
    epochs = sum(schedule.phase_epochs())
    if schedule.min_steps is None or schedule.epochs is not None:
        return schedule
    if round(epochs * steps_per_epoch) >= schedule.min_steps:
        return schedule
    return replace(schedule, epochs=float(math.ceil(schedule.min_steps / steps_per_epoch)))


def in_proportion(config: TrainConfig) -> TrainConfig:
    """Warm-up and the time between evaluations in proportion to the phases, where they are left to these."""
    every, warmup = config.schedule.eval_every, config.optimizer.warmup_epochs
    epochs = sum(config.schedule.phase_epochs())
    if every is None:
        every = max(_LEAST_BETWEEN, epochs / _EVALUATIONS)
    if warmup is None:
        warmup = epochs / _WARMUP
    return replace(
        config,
        schedule=replace(config.schedule, eval_every=every),
        optimizer=replace(config.optimizer, warmup_epochs=warmup),
    )
