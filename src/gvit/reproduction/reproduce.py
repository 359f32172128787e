"""One target from its name to its results."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from gvit.errors import InputError, unknown_name
from gvit.recipes import load_recipe
from gvit.reproduction.execute import execute, unfinished
from gvit.reproduction.jobs import Collection, Job, Training, Trunk
from gvit.reproduction.pictures import figure4, figure5
from gvit.reproduction.report import collect, read_contents, table, write_page, write_target
from gvit.reproduction.targets import (
    PATCH_MODELS,
    Study,
    Target,
    change,
    comparison,
    figure3,
    leakage,
    table1a,
    table1b,
    table1c,
    table1d,
    table4,
    with_budget,
)
from gvit.reproduction.transfer import table2
from gvit.training.config import TrainConfig
from gvit.training.dry_run import DryRun, dry_run
from gvit.training.loop import Trainer
from gvit.training.progress import clock
from gvit.training.run import Run

TARGETS: dict[str, Callable[[Study], Target]] = {
    "comparison": comparison,
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
    store: Path,
    *,
    data_dir: Path | None = None,
    transfer_dir: Path | None = None,
    epochs: float | None = None,
    full: bool = False,
) -> Target:
    """A target's rows.

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
    if config.data.dataset == "gaussians":
        raise InputError(
            "recipe 'gaussians' has frozen Gaussians, which nothing can guide; name one of images"
        )
    if full and epochs is not None:
        raise InputError("--full and --epochs contradict each other; give one of them")
    if transfer_dir is not None and not transfer_dir.is_dir():
        raise InputError(f"--transfer-dir {transfer_dir}: no such folder")
    if data_dir is not None:
        config = change(config, data={"data_dir": data_dir})
    whole = sum(config.schedule.phase_epochs())
    if not full:
        config = with_budget(config, REDUCED * whole if epochs is None else epochs)
    return TARGETS[what](Study(config, range(seeds), store.absolute(), transfer_dir))


def estimate(jobs: Sequence[Job], device: str, threads: int) -> dict[Job, float]:
    """Seconds of each job on its own, from two steps of every phase of everything that differs in cost."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    known: dict[TrainConfig, DryRun] = {}

    def trial(config: TrainConfig) -> DryRun:
        like = change(replace(config, seed=0), schedule={"gamma": 0.1})
        if like not in known:
            known[like] = dry_run(Trainer(like, Run(Path()), device))
        return known[like]

    def steps(plan: DryRun, first: int, last: int | None) -> float:
        seconds, start = 0.0, 0
        for phase in plan.phases:
            stop = start + phase.steps
            own = min(stop, stop if last is None else last) - max(start, first)
            seconds, start = seconds + max(0, own) * phase.step_seconds, stop
        return seconds

    def cost(job: Job) -> float:
        if isinstance(job, Trunk):
            return steps(trial(job.config), 0, job.steps)
        if isinstance(job, Training):
            plan = trial(_stand_in(job))
            own = steps(plan, 0 if job.trunk is None else job.trunk.steps, None)
            return own + plan.evaluations * plan.evaluation_seconds
        return job.estimate(device) if isinstance(job, Collection) else 0.0

    costs = {job: cost(job) for job in jobs}
    torch.set_num_threads(before)
    return costs


def _stand_in(job: Training) -> TrainConfig:
    """A configuration of about the same cost that can be tried before what it needs is there."""
    config = job.config
    for need in job.needs:
        if isinstance(need, Collection):
            data = replace(need.config.data, batch_size=config.data.batch_size)
            name = (config.model.model or "").replace("gaussian_vit", "gvit")
            config = replace(
                config, data=data, model=replace(config.model, model=PATCH_MODELS.get(name, name))
            )
        elif isinstance(need, Training):
            model = need.config.model if config.model.model is None else replace(config.model, init=None)
            config = replace(config, model=model)
    return config


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
    wanted = {row.job.folder: row.job for row in target.rows}
    done = sum(job.done for job in wanted.values())
    seconds = sum(costs.values()) / parallel
    console.print(
        f"{target.name}, {target.title}: {len(wanted)} runs, {done} of them done; "
        f"{len(jobs)} jobs left, {parallel} at a time, about {clock(seconds)}"
    )
    if dry_run:
        return "\n".join(f"{clock(costs[job]):>8}  {job.folder.name}" for job in jobs)
    # hours of runs should not end with these
    read_contents(out, list(TARGETS))
    if not out.absolute().name:
        raise InputError(f"--out {out}: the page gets the folder's name, and this one has none")
    nearest = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{out}: cannot write results here ({nearest} is no folder that can be written)")
    execute(jobs, parallel, device, costs, console)
    content, figure = collect(target, recipe, command, device)
    try:
        name = write_target(content, figure, out)
        page = write_page(out, list(TARGETS))
    except OSError as error:
        raise InputError(f"{out}: cannot write results here ({error.strerror})") from error
    return f"{table(content)}\n\n{name}.json, .csv, .png; {page}"
