"""What a run takes from its training images, and what one that is extended takes from what it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gvit.errors import InputError, option
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


def balanced_weights(labels: Sequence[int], num_classes: int) -> Tensor:
    """Of the class loss [num_classes]: inverse to the number of images, with mean 1 over images (scikit-learn's rule).

    A class without images gets 0: none is of it.
    """
    counts = torch.bincount(torch.as_tensor(labels), minlength=num_classes).double()
    present = counts > 0
    weights = torch.zeros(num_classes, dtype=torch.float64)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights.float()


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


def extended(schedule: ScheduleConfig, epochs: float) -> ScheduleConfig:
    """A run's schedule with ``epochs`` in all: the last of its phases lasts longer, those before stay what they are.

    The learning rate follows the cosine that ends with the new total, as if that had been planned from the start: at
    the step at which a run goes on, it is higher than it was.

    Args:
        schedule: of the run, with its total written out.
        epochs: as many as the schedule has, or more.

    Raises:
        InputError: they are fewer, or not finite.
    """
    lengths = list(schedule.phase_epochs())
    usual = sum(lengths)
    if math.isclose(epochs, usual):
        return schedule
    if not usual < epochs < math.inf:
        raise InputError(
            f"{option('epochs', epochs)}: the run has {usual:g} epochs; more extend it, and without a number it goes on"
        )
    last = max(number for number, length in enumerate(lengths) if length)
    lengths[last] += epochs - usual
    # the phases as they are, not stretched: the steps before have to be what they were
    return replace(schedule.with_phases(lengths), epochs=None, min_steps=None)
