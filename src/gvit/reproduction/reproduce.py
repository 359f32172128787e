"""One target from its name to its results."""

from __future__ import annotations

import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from gvit.errors import InputError, Note, for_python, option, unknown_name
from gvit.files import check_writable
from gvit.models.base import ImageClassifier
from gvit.models.registry import registered
from gvit.models.weights import load_model
from gvit.progress import clock
from gvit.recipes import load_recipe
from gvit.recipes.transfer import TRANSFER_DATA
from gvit.reproduction.execute import check_data, execute, say, threads_per_job, unfinished
from gvit.reproduction.jobs import Collection, Job, Machine, Training, Trunk, architecture_of
from gvit.reproduction.page import read_material, write_page
from gvit.reproduction.pictures import figure4, figure5
from gvit.reproduction.report import collect, remarks, table, write_target
from gvit.reproduction.same_images import data_now
from gvit.reproduction.study import Study, Target, change
from gvit.reproduction.targets import (
    SLOWER,
    comparison,
    figure3,
    guidance,
    leakage,
    table1a,
    table1b,
    table1c,
    table1d,
    table4,
    tokens,
)
from gvit.reproduction.transfer import table2
from gvit.training.budget import with_budget
from gvit.training.build import settle_start
from gvit.training.config import AUTO, TrainConfig
from gvit.training.distributed import ALONE
from gvit.training.dry_run import DryRun, dry_run
from gvit.training.feed import Feed
from gvit.training.setup import set_up

TARGETS: dict[str, Callable[[Study], Target]] = {
    "comparison": comparison,
    "guidance": guidance,
    "tokens": tokens,
    "table1a": table1a,
    "table1b": table1b,
    "table1c": table1c,
    "table1d": table1d,
    "figure3": figure3,
    "table2": table2,
    "leakage": leakage,
    "table4": table4,
    "figure4": figure4,
    "figure5": figure5,
}
REDUCED = 1 / 6  # of the recipe's epochs, unless the whole is asked for


def plan(
    what: str,
    recipe: str,
    seeds: int,
    store: str | Path,
    *,
    data_dir: Path | None = None,
    transfer_dir: Path | None = None,
    epochs: float | None = None,
    full: bool = False,
    rows: Sequence[str] | None = None,
    init: str | None = None,
) -> Target:
    """What a target consists of, or of its rows those with the labels ``rows``.

    ``guidance`` can start from trained networks, the run, weights file or pretrained model ``init``: all epochs are
    the guided phase's then, at a quarter of the recipe's learning rate. ``seeds`` is how often each run is repeated,
    ``store`` the folder of the runs.

    Raises:
        InputError: an unknown name, a recipe that trains no GViT of its own, or options that can't be.
    """
    if what not in TARGETS:
        raise unknown_name("target", what, TARGETS)
    if seeds < 1:
        raise InputError(f"{option('seeds')} must be at least 1, got {seeds}")
    if rows is not None and not rows:
        raise InputError(f"{option('rows')} needs a value: the name of a row, or of several")
    config = load_recipe(recipe)
    if config.model.init == AUTO:  # what is compared with the paper starts from nothing
        config = change(config, model={"init": None})
    # its jobs are planned by their epochs
    config = change(config, schedule={"min_steps": None})
    if config.model.model is None or config.model.init is not None:
        raise InputError(
            f"recipe {recipe} starts from another run; name one that doesn't: digits_paper, imagenette_paper, ..."
        )
    if config.data.dataset == "gaussians":
        raise InputError(
            "recipe 'gaussians' has frozen Gaussians, which nothing can guide; name one of images"
        )
    model = registered(config.model.model)
    if model.patches is None or model.frozen is None:
        raise InputError(
            f"recipe {recipe} trains {config.model.model}, which is registered without patches and frozen: there is "
            "nothing to compare it with"
        )
    *_, classify, guide = config.schedule.phase_epochs()
    if not classify + guide:
        raise InputError(f"recipe {recipe} never classifies: there is nothing to compare")
    if what == "guidance" and not guide:
        raise InputError(
            f"recipe {recipe} has no guided phase, in which all that {what} compares would differ"
        )
    if full and epochs is not None:
        raise InputError(f"{option('full')} and {option('epochs')} contradict each other; give one of them")
    if transfer_dir is not None:
        _check_transfers(what, config, transfer_dir)
    if init is not None and what != "guidance":
        raise InputError(
            f"{what} trains its networks from the beginning; leave out {option('init')}, which only guidance has"
        )
    if data_dir is not None:
        config = change(config, data={"data_dir": data_dir})
    whole = sum(config.schedule.phase_epochs())
    if init is not None:
        config = _from_trained(config, init)
    if not full:
        config = with_budget(config, REDUCED * whole if epochs is None else epochs)
    target = TARGETS[what](Study(config, range(seeds), Path(store).absolute(), transfer_dir))
    return target if rows is None else target.choose(rows)


def _check_transfers(what: str, config: TrainConfig, folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"{option('transfer_dir', folder)}: no such folder")
    if what != "table2" or config.data.dataset == "digits":
        doing = f"{what} transfers nothing" if what != "table2" else "digits are transferred to digits"
        raise InputError(f"{doing}; leave out {option('transfer_dir')}, which only table2 of photographs has")
    if not any((folder / name).is_dir() for name in TRANSFER_DATA):
        raise InputError(
            f"{option('transfer_dir', folder)}: has none of the folders {', '.join(TRANSFER_DATA)}"
        )


def _from_trained(config: TrainConfig, init: str) -> TrainConfig:
    """The guided phase alone, as long as the recipe's phases together.

    Raises:
        InputError: there is no such model, or its classifier is none for this one, which would begin anew.
    """
    others = dict.fromkeys(("reconstruct_epochs", "perceptual_epochs", "classify_epochs"), 0.0)
    # with its checksum: other weights of the same name are other runs
    model, _ = settle_start(replace(config.model, init=Path(init)))
    assert model.init is not None
    start = load_model(model.init)
    if start.card.encoder_only:
        raise InputError(f"{option('init', init)}: its classifier has learned nothing that could guide")
    if start.encoder is not None and _body(start) != _body(architecture_of(config).build()):
        raise InputError(
            f"{option('init', init)}: its classifier does not fit the recipe's, which would begin anew"
        )
    return change(
        replace(config, model=model),
        schedule=others | {"guide_epochs": sum(config.schedule.phase_epochs())},
        optimizer={"base_lr": config.optimizer.base_lr / SLOWER},
    )


def _body(model: ImageClassifier) -> dict[str, torch.Size]:
    """The shapes of a classifier's weights, those of its head aside, which depend on the data."""
    weights = model.classifier.state_dict()
    return {name: value.shape for name, value in weights.items() if not name.startswith("head.")}


def check(jobs: Sequence[Job], machine: Machine) -> list[Note]:
    """Set up every kind of training that can be: hours of runs should not end with what can be known before.

    Returns:
        What is to be said of them, each line once.

    Raises:
        InputError: a configuration or its data can't be used.
    """
    kinds = _kinds(jobs)
    # graphs are a GPU's alone; without them, this process leaves it to those that train
    device = machine.device if machine.graphs else "cpu"
    notes = [note for config in kinds for note in set_up(machine.set_up(config), device).notes]
    # a start from another run has to wait for it, its data have not
    known = {config.data for config in kinds}
    for job in jobs:
        made_before = any(isinstance(need, Collection) for need in job.needs)
        if isinstance(job, Training) and not made_before and job.config.data not in known:
            known.add(job.config.data)
            Feed(machine.set_up(job.config), ALONE)
    return list(dict.fromkeys(notes))


def try_out(jobs: Sequence[Job], machine: Machine, threads: int) -> dict[Job, float]:
    """Seconds of each training on its own, from a few steps of every phase of every kind.

    It lacks jobs that are no trainings, and trainings that need another job's result first.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    costs: dict[Job, float] = {}
    for config, members in _kinds(jobs).items():
        trial = dry_run(set_up(machine.set_up(config), machine.device))
        costs |= {job: _seconds(job, trial) for job in members}
    torch.set_num_threads(before)
    return costs


def _kinds(jobs: Sequence[Job]) -> dict[TrainConfig, list[Job]]:
    """The trainings that can be set up now, by configuration; what seed and gamma are makes no difference in cost."""
    kinds: dict[TrainConfig, list[Job]] = defaultdict(list)
    for job in jobs:
        if isinstance(job, Trunk | Training) and all(isinstance(n, Trunk) or n.done for n in job.needs):
            kinds[change(replace(job.config, seed=0), schedule={"gamma": 0.1})].append(job)
    return kinds


def _seconds(job: Job, trial: DryRun) -> float:
    """Of a job's own steps: a trunk does the first of them only, its branches the others."""
    total = sum(phase.steps for phase in trial.phases)
    first, last = 0, total
    if isinstance(job, Trunk):
        last = job.steps
    elif isinstance(job, Training) and job.trunk is not None:
        first = job.trunk.steps
    seconds, start = 0.0, 0
    for phase in trial.phases:
        own = range(max(start, first), min(start + phase.steps, last))
        seconds, start = seconds + len(own) * phase.step_seconds, start + phase.steps
    return seconds + trial.evaluations * trial.evaluation_seconds * (last - first) / total


def _has_other_images(target: Target, before: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a target's trainings have images that no row of an earlier result had."""
    then = {row["data"] for row in before if row.get("data")}  # an older gvit wrote none
    jobs = [row.job for row in target.rows if isinstance(row.job, Training) and not row.job.needs]
    try:
        return bool(then) and not {data_now(job.config.data)[1] for job in jobs} <= then
    except InputError:  # what is done needs no data any more
        return False


def reproduce(
    target: Target,
    recipe: str,
    command: str,
    out: Path,
    *,
    machine: Machine,
    parallel: int,
    dry_run: bool,
    console: Console,
    worded: Callable[[str], str] = for_python,
) -> str:
    """Do what is not done yet, write the results, and give the table.

    Each job has a process of its own, which reads a script that calls this once more: there, the call has to stand
    below ``if __name__ == "__main__":``.

    Args:
        target: from ``plan``.
        recipe: its name.
        command: stands beside the results.
        out: folder for the results; their page lies beside it.
        machine: where to compute.
        parallel: jobs at a time.
        dry_run: tell the plan only.
        console: where progress is shown.
        worded: how settings are named there: ``gvit.errors.for_python`` or ``for_command_line``.

    Raises:
        KeyboardInterrupt: everything is saved, the same call goes on.
        InputError: the configuration, the data or the folder can't be used; or a job's process has come here.
    """
    # a process that reads its script has its name already, and not yet a parent
    if multiprocessing.current_process().name != "MainProcess" and not multiprocessing.parent_process():
        raise InputError(
            "a job's process came to reproduce() by reading the script; there, call it below "
            "if __name__ == '__main__':"
        )
    wanted = {row.job.folder: row.job for row in target.rows}
    jobs = unfinished(wanted.values())
    check_data([*wanted.values(), *jobs])
    for note in check(jobs, machine):
        say(console, worded(note))
    done = sum(job.done for job in wanted.values())
    state = (
        f"{target.name}, {target.title}: {len(wanted)} runs, {done} of them done; "
        f"{len(jobs)} jobs left, {parallel} at a time"
    )
    if dry_run:
        costs = try_out(jobs, machine, threads_per_job(parallel))
        left = "" if len(costs) == len(jobs) else " and those marked ?, which can't be tried yet"
        say(console, f"{state}, about {clock(sum(costs.values()) / parallel)}{left}")
        return "\n".join(
            f"{clock(costs[job]) if job in costs else '?':>8}  {job.folder.name}" for job in jobs
        )
    say(console, state)
    out = Path(os.path.abspath(out))
    for there in read_material(out, list(TARGETS)).contents:
        same = (there["recipe"], there["target"]) == (recipe, target.name)
        if same and (there["command"] != command or _has_other_images(target, there["rows"])):
            say(console, f"it replaces the result in {out}, which is that of: {there['command']}")
    check_writable(out)
    check_writable(out.parent)
    execute(jobs, parallel, machine, console, worded)
    content, figure = collect(target, recipe, command, machine.device)
    try:
        name = write_target(content, figure, out)
        page = write_page(out, list(TARGETS))
    except OSError as error:
        raise InputError(f"{out}: cannot write results here ({error.strerror})") from error
    said = "".join(f"\n{remark}" for remark in remarks(content["rows"]))
    return f"{table(content)}\n{said}\n{name}.json, .csv, .png; {page}"
