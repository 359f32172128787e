"""What the lengths on a command line do to those of a recipe."""

from collections.abc import Sequence
from dataclasses import replace

from gvit.training.budget import with_budget
from gvit.training.config import TrainConfig
from gvit.training.schedule import PHASES

_PHASES = {"--epochs", *(f"--{phase}-epochs" for phase in PHASES)}


def with_given_phases(recipe: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """Phases that are given are not stretched."""
    flags = _flags(args)
    if flags & _PHASES and "--min-steps" not in flags:
        return replace(recipe, schedule=replace(recipe.schedule, min_steps=None))
    return recipe


def with_its_warmup(config: TrainConfig, recipe: TrainConfig, args: Sequence[str]) -> TrainConfig:
    """The warm-up keeps the recipe's share of the epochs, unless it is given itself."""
    epochs = config.schedule.epochs
    if epochs is None or "--warmup-epochs" in _flags(args):
        return config
    warmup = with_budget(recipe, epochs).optimizer.warmup_epochs
    return replace(config, optimizer=replace(config.optimizer, warmup_epochs=warmup))


def _flags(args: Sequence[str]) -> set[str]:
    return {arg.split("=")[0].replace("_", "-") for arg in args}
