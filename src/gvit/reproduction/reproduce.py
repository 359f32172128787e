"""One target from its name to its results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from gvit.data.datasets import load_dataset
from gvit.errors import InputError, unknown_name
from gvit.recipes import load_recipe
from gvit.reproduction.execute import execute, unfinished
from gvit.reproduction.jobs import Job, Training, Trunk, share_trunks
from gvit.reproduction.report import collect, table, write_page, write_target
from gvit.reproduction.targets import TARGETS, Study, Target, change, with_budget
from gvit.training.config import TrainConfig
from gvit.training.dry_run import DryRun, dry_run
from gvit.training.loop import Trainer
from gvit.training.progress import clock
from gvit.training.run import Run

REDUCED = 0.25  # of the recipe's epochs, unless the whole is asked for


def plan(
    what: str,
    recipe: str,
    seeds: int,
    store: Path,
    *,
    data_dir: Path | None = None,
    epochs: float | None = None,
    full: bool = False,
) -> Target:
    """A target's rows, those that begin alike with a common trunk.

    Raises:
        InputError: an unknown name, a recipe that trains no GViT of its own, or its data are not there.
    """
    if what not in TARGETS:
        raise unknown_name("target", what, TARGETS)
    config = load_recipe(recipe)
    if config.model.model is None or config.model.init is not None:
        raise InputError(
            f"recipe {recipe} starts from another run; name one that doesn't: digits, imagenette, ..."
        )
    if data_dir is not None:
        config = change(config, data={"data_dir": data_dir})
    whole = sum(config.schedule.phase_epochs())
    if not full or epochs is not None:
        config = with_budget(config, REDUCED * whole if epochs is None else epochs)
    target = TARGETS[what](Study(config, range(seeds), store.absolute()))
    images = load_dataset(config.data.dataset, "train", config.data.data_dir)
    steps_per_epoch = len(images) // min(config.data.batch_size, len(images))
    jobs = [row.job for row in target.rows]
    shared = share_trunks([job for job in jobs if isinstance(job, Training)], steps_per_epoch)
    by_folder: dict[Path, Job] = {job.folder: job for job in shared}
    rows = [replace(row, job=by_folder.get(row.job.folder, row.job)) for row in target.rows]
    return replace(target, rows=rows)


def estimate(jobs: Sequence[Job], device: str, threads: int) -> dict[Job, float]:
    """Seconds of each job on its own, from two steps of every phase of everything that differs in cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    known: dict[TrainConfig, DryRun] = {}

    def cost(config: TrainConfig, first: int, last: int | None) -> float:
        like = change(replace(config, seed=0), schedule={"gamma": 0.1})
        if like not in known:
            known[like] = dry_run(Trainer(like, Run(Path()), device))
        seconds, start = 0.0, 0
        for phase in known[like].phases:
            stop = start + phase.steps
            own = min(stop, last or stop) - max(start, first)
            seconds, start = seconds + max(0, own) * phase.step_seconds, stop
        return seconds + (known[like].evaluations * known[like].evaluation_seconds if last is None else 0.0)

    costs: dict[Job, float] = {}
    for job in jobs:
        if isinstance(job, Trunk):
            costs[job] = cost(job.config, 0, job.steps)
        elif isinstance(job, Training):
            costs[job] = cost(job.config, 0 if job.trunk is None else job.trunk.steps, None)
    torch.set_num_threads(before)
    return costs


def reproduce(
    target: Target,
    recipe: str,
    command: str,
    out: Path,
    *,
    device: str,
    parallel: int,
    dry_run: bool,
    console: Console,
) -> str:
    """Do what is not done yet, write the results, and give the table.

    Args:
        target: from ``plan``.
        recipe: its name.
        command: stands beside the results.
        out: folder for the results; their page lies beside it.
        device: where to compute.
        parallel: jobs at a time.
        dry_run: tell the plan only.
        console: where progress is shown.

    Raises:
        KeyboardInterrupt: everything is saved, the same call goes on.
        InputError: the configuration, the data or the folder can't be used.
    """
    jobs = unfinished(row.job for row in target.rows)
    threads = max(1, (os.cpu_count() or 1) // parallel)
    costs: Mapping[Job, float] = estimate(jobs, device, threads)
    wanted = {row.job for row in target.rows}
    done = sum(job.done for job in wanted)
    seconds = sum(costs.values()) / parallel
    console.print(
        f"{target.name}, {target.title}: {len(wanted)} runs, {done} of them done; "
        f"{len(jobs)} jobs left, {parallel} at a time, about {clock(seconds)}"
    )
    if dry_run:
        return "\n".join(f"{clock(costs[job]):>8}  {job.folder.name}" for job in jobs)
    execute(jobs, parallel, device, costs, console)
    content = collect(target, recipe, command)
    try:
        name = write_target(content, out)
        page = write_page(out, list(TARGETS))
    except OSError as error:
        raise InputError(f"{out}: cannot write results here ({error.strerror})") from error
    return f"{table(content)}\n\n{name}.json, .csv, .png; {page}"
