"""gvit train: a new run by a recipe, or an interrupted one that goes on."""

import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from gvit.cli.devices import find_device
from gvit.cli.grouping import grouped, regrouped
from gvit.cli.lengths import with_given_phases, with_its_warmup
from gvit.cli.messages import describe
from gvit.cli.parsing import flags_of, parse
from gvit.cli.signals import stop_requests
from gvit.errors import InputError, for_command_line, printable
from gvit.recipes import RECIPES, load_recipe
from gvit.training.config import TrainConfig

if TYPE_CHECKING:
    from gvit.evaluation import Evaluation
    from gvit.training.observers import Observer

# what the help begins with
_COMMON = (
    *("data_dir", "out", "overwrite", "epochs", "batch_size", "base_lr", "model", "init"),
    *("img_size", "num_gaussians", "dataset", "seed", "device", "dry_run"),
)


@dataclass(frozen=True)
class Output:
    """Where the run goes, and what computes it.

    Attributes:
        out: run folder; runs/RECIPE when not given.
        overwrite: replace the run that the folder holds.
        download: fetch a data set torch/NAME into --data-dir first, where it is not there yet.
        dry_run: build everything, run some steps of every phase, print the plan; write nothing, but what is downloaded.
        tensorboard: write event files into the run folder, too.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    out: Path | None = None
    overwrite: bool = False
    download: bool = False
    dry_run: bool = False
    tensorboard: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class NewRun:
    """What a recipe lets be changed."""

    output: Output
    config: TrainConfig


@dataclass(frozen=True)
class Resume:
    """Go on with an interrupted run, or extend one by --epochs.

    Attributes:
        resume: the run folder; or a checkpoint in it, to which the run goes back.
        epochs: in all, more than the run has: its last phase lasts longer.
        tensorboard: write event files into the run folder, too.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    resume: Path
    epochs: float | None = None
    tensorboard: bool = False
    device: str = "auto"


def run(args: list[str]) -> int:
    """Train and print the result."""
    if any(arg.split("=")[0] == "--resume" for arg in args):
        _refuse_settings(args)
        again = parse(Resume, args, "gvit train")
        from gvit.training.run import Run
        from gvit.training.train import resume

        folder, _ = Run.of_checkpoint(again.resume)
        return _watch(partial(resume, again.resume, epochs=again.epochs), folder, "", again)
    recipe, new = _parse_new_run(args)
    return start_run(new.config, new.output, recipe)


def start_run(config: TrainConfig, output: Output, name: str) -> int:
    """Train, or only tell what it would take; ``name`` of its folder in ``runs``, where none is given."""
    folder = output.out or Path("runs") / name
    if output.download:
        from gvit.data.sources import download

        download(config.data.dataset, config.data.data_dir)
    if output.dry_run:
        return _dry_run(config, output.device)
    from gvit.training.train import train

    start = partial(train, config, folder, overwrite=output.overwrite)
    return _watch(start, folder, describe(config), output)


def _refuse_settings(args: list[str]) -> None:
    """What decides a run's result was decided when it began."""
    settings = set(flags_of(NewRun)) - set(flags_of(Resume))
    wrong = next((arg.split("=")[0] for arg in args if arg.split("=")[0] in settings), None)
    if wrong is None and args[0] in RECIPES:
        wrong = f"the recipe {args[0]}"
    if wrong is not None:
        raise InputError(f"{wrong} cannot be given with --resume: a run goes on with its own settings")


def _parse_new_run(args: list[str]) -> tuple[str, NewRun]:
    named = bool(args) and not args[0].startswith("-")
    recipe = args[0] if named else "digits"
    defaults = load_recipe(recipe)
    # tyro makes one line of a paragraph
    recipes = "\n\n".join(textwrap.wrap(f"Recipes: {', '.join(sorted(RECIPES))}.", 80))
    usual, prog = NewRun(Output(), with_given_phases(defaults, args)), f"gvit train {recipe}"
    form = grouped(usual, _COMMON)
    parsed = parse(
        type(form),
        args[1:] if named else args,
        prog,
        misplaced=_where_it_belongs,
        also=flags_of(Resume),
        default=form,
        description=(
            f"Train a model by a recipe.\n\n{recipes}\n\n"
            f"Below are the values of recipe '{recipe}', each of which can be changed.\n\n"
            "Example: gvit train digits --epochs 10 --out runs/short\n\n"
            "Interrupted? Go on with: gvit train --resume runs/short\n\n"
            "Longer? Extend it by: gvit train --resume runs/short --epochs 15"
        ),
    )
    try:
        new = regrouped(usual, parsed)
    except InputError as error:
        raise InputError(f"{error.args[0]}; see '{prog} --help'") from None
    return recipe, replace(new, config=with_its_warmup(new.config, defaults, args))


def _where_it_belongs(word: str) -> str | None:
    if Path(word).is_dir():
        return f"a folder of images is given as --data-dir {quote(word)}"
    return f"give the recipe first: gvit train {word} ..." if word in RECIPES else None


def _watch(start: "Callable[..., Evaluation]", folder: Path, header: str, options: Output | Resume) -> int:
    """Train in this process's part of the world, and tell how it goes and ends."""
    from gvit.training.distributed import joined
    from gvit.training.observers import ConsoleObserver, TensorBoardObserver
    from gvit.training.run import Run
    from gvit.training.train import Interrupted

    with joined(find_device(options.device)) as (world, device), ExitStack() as stack:
        observers: list[Observer] = []
        if world.is_main:
            observers.append(stack.enter_context(ConsoleObserver(header, for_command_line)))
            if options.tensorboard:
                observers.append(stack.enter_context(TensorBoardObserver(folder)))
        stop = stack.enter_context(stop_requests())
        try:
            result = start(observers, device=device, world=world, stop=stop)
        except Interrupted as stopped:
            stack.close()
            if world.is_main:
                print(
                    f"stopped at step {stopped.step}, saved; go on with: gvit train --resume {quote(str(folder))}",
                    file=sys.stderr,
                )
            return stop.exit_code
        stack.close()
        if world.is_main:
            report = Run(folder).report_file
            print(printable(f"{folder}: {result}" + (f"; look at {report}" if report.exists() else "")))
    return 0


def _dry_run(config: TrainConfig, device_name: str) -> int:
    from gvit.training.distributed import joined
    from gvit.training.dry_run import dry_run
    from gvit.training.setup import set_up

    with joined(find_device(device_name)) as (world, device):
        setup = set_up(config, device, world)
        plan = dry_run(setup)
        if world.is_main:
            print(describe(setup.config), *map(for_command_line, setup.notes), plan, sep="\n")
    return 0
