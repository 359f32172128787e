"""A training run from its configuration to its folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from gvit.errors import InputError, Note
from gvit.evaluation import Evaluation
from gvit.models.architecture import Architecture
from gvit.models.weights import load_model
from gvit.training.build import Known
from gvit.training.config import TrainConfig
from gvit.training.distributed import ALONE, World
from gvit.training.loop import Interrupted, Loop, never
from gvit.training.observers.base import Observer
from gvit.training.report import write_curves, write_report
from gvit.training.run import Run
from gvit.training.scaling import extended
from gvit.training.setup import set_up
from gvit.training.task import generators_kept

__all__ = ["Interrupted", "resume", "train"]


def train(
    config: TrainConfig,
    out: str | Path,
    observers: Iterable[Observer] = (),
    *,
    overwrite: bool = False,
    device: str = "cpu",
    world: World = ALONE,
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Train a model into a new run folder; see ``gvit.training.run.Run`` for what it holds at the end.

    Torch's own random numbers go on afterwards as if nothing had been trained.

    Args:
        config: for example ``gvit.recipes.digits()``.
        out: the run folder.
        observers: are told how it goes on, for example ``gvit.training.observers.ConsoleObserver()``.
        overwrite: replace a run that the folder holds.
        device: where to train.
        world: the processes that train together; see ``gvit.training.distributed.joined``.
        stop: is asked after every step whether to stop.

    Returns:
        The evaluation after the last step.

    Raises:
        InputError: unusable configuration, data or folder; another process is training in it; or the disk is full.
        Interrupted: ``stop`` said so; everything is saved, and ``resume`` goes on.
    """
    with generators_kept(device):
        # everything that can be wrong with the configuration shows before anything is written
        setup = set_up(config, device, world)
        run, observers = Run(Path(out)), list(observers)
        with _alone(run, world):
            if world.is_main:
                Run.create(run.folder, setup.config, overwrite).remove_partial()
                run.save_split(setup.feed.recorded)
            world.barrier()
            return _fit(Loop(setup, run, observers, world), stop)


def resume(
    out: str | Path,
    observers: Iterable[Observer] = (),
    *,
    device: str = "cpu",
    world: World = ALONE,
    stop: Callable[[], bool] = never,
    until: int | None = None,
    epochs: float | None = None,
) -> Evaluation:
    """Go on with an interrupted run, to the same result as if it had not been interrupted; or extend a run.

    Torch's own random numbers are left alone, as by ``train``.

    Args:
        out: the run folder; or a checkpoint in it, to which the run goes back.
        observers: are told how it goes on.
        device: where to train.
        world: the processes that train together.
        stop: is asked after every step whether to stop.
        until: stop again, saved, when so many steps are done in all.
        epochs: in all, more than the run has: its last phase lasts longer (see ``gvit.training.scaling.extended``).

    Raises:
        InputError: there is no run, or its checkpoint is damaged or lost; another process is training in it; or it
            has more epochs than ``epochs``.
        Interrupted: again.
    """
    folder, checkpoint = Run.of_checkpoint(Path(out))
    run = Run.open(folder)
    with generators_kept(device), _alone(run, world):
        return _resume(run, checkpoint, list(observers), device, world, stop, until, epochs)


def _resume(
    run: Run,
    checkpoint: Path | None,
    observers: list[Observer],
    device: str,
    world: World,
    stop: Callable[[], bool],
    until: int | None,
    epochs: float | None,
) -> Evaluation:
    config, state = run.load_config(), run.load_checkpoint(checkpoint)
    if state is None and run.weights_file.exists():
        raise InputError(
            f"{run.folder}: has weights, but no {run.checkpoint_file.name} to go on from; "
            f"{run.instead_of(run.checkpoint_file)}"
        )
    if epochs is not None:
        config = replace(config, schedule=extended(config.schedule, epochs))
    # the checkpoint has all that is in the weights' file
    behind = state is not None and (checkpoint is not None or not _is_readable(run))
    split, known = run.load_split(), _known(run, state)
    setup = set_up(config, device, world, known=known, initialize=state is None, recorded=split)
    loop = Loop(setup, run, observers, world)
    if state is not None:
        loop.load(state)
        loop.setup = replace(setup, notes=(*setup.notes, *_changes(loop, state)))
    world.barrier()
    if world.is_main:
        run.remove_partial()
        run.save_config(setup.config)
        run.save_split(setup.feed.recorded)
        if loop.step < setup.schedule.total:
            run.forget_measured()
        run.forget_checkpoints(after=loop.step)
    if behind:
        loop.save()
    return _fit(loop, stop, until)


def _changes(loop: Loop, state: dict[str, Any]) -> list[Note]:
    """A line where there are other numbers of training images than there were.

    Raises:
        InputError: there are so few that the run would be over.
    """
    before, now = state.get("images"), len(loop.setup.feed.train)
    if loop.step > loop.setup.schedule.total:
        number = "" if before is None else f" ({before})"  # an older gvit did not write it down
        raise InputError(
            f"{loop.run.folder}: is at step {loop.step}, where its {now} training images make "
            f"{loop.setup.schedule.total} steps in all; put those back that it began with{number}"
        )
    if before in (None, now):
        return []
    return [
        Note(
            f"{now} training images, {before} when this was saved: from here on, phases are as long as {now} make them"
        )
    ]


def _alone(run: Run, world: World) -> AbstractContextManager[None]:
    """The main process writes the run's files, and sees to it that no other run does."""
    return run.locked() if world.is_main else nullcontext()


def _is_readable(run: Run) -> bool:
    try:
        load_model(run.folder)
    except InputError:
        return False
    return True


def _known(run: Run, state: dict[str, Any] | None) -> Known | None:
    """The model that a run began with, whatever its name stands for by now."""
    if state is not None and "architecture" in state:
        return state["name"], Architecture(**state["architecture"])
    if state is not None and run.weights_file.exists():  # of gvit's first version
        model = load_model(run.folder)
        return model.card.name, Architecture.of(model)
    return None


def _fit(loop: Loop, stop: Callable[[], bool], until: int | None = None) -> Evaluation:
    result = loop.fit(stop, until)
    if loop.world.is_main and loop.step == loop.setup.schedule.total:
        write_report(loop.run)
        write_curves(loop.run)
    return result
