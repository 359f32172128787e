"""A recipe for more or fewer epochs."""

from __future__ import annotations

from dataclasses import replace

from gvit.training.config import TrainConfig


def with_budget(config: TrainConfig, epochs: float) -> TrainConfig:
    """Phases and warm-up stretched or shrunk to ``epochs`` in all."""
    factor = epochs / sum(config.schedule.phase_epochs())
    warmup = config.optimizer.warmup_epochs
    return replace(
        config,
        schedule=replace(config.schedule, epochs=epochs),
        optimizer=replace(config.optimizer, warmup_epochs=None if warmup is None else warmup * factor),
    )
