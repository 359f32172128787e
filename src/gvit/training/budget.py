"""A recipe for more or fewer epochs."""

from __future__ import annotations

from dataclasses import replace

from gvit.training.config import TrainConfig


def with_budget(config: TrainConfig, epochs: float) -> TrainConfig:
    """The same with phases and warm-up stretched or shrunk to ``epochs`` in all, as the flag ``--epochs`` does.

    However few the images are, they make no more of them: ``min_steps`` becomes None.
    """
    factor = epochs / sum(config.schedule.phase_epochs())
    warmup = config.optimizer.warmup_epochs
    return replace(
        config,
        schedule=replace(config.schedule, epochs=epochs, min_steps=None),
        optimizer=replace(config.optimizer, warmup_epochs=None if warmup is None else warmup * factor),
    )
