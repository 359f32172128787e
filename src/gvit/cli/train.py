"""gvit train: a new run by a recipe, or an interrupted one that goes on."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from gvit.cli.devices import find_device
from gvit.cli.parsing import flags_of, parse
from gvit.cli.report import write_report
from gvit.evaluation import Evaluation
from gvit.recipes import RECIPES, load_recipe
from gvit.training.config import TrainConfig
from gvit.training.distributed import World, joined
from gvit.training.dry_run import dry_run
from gvit.training.loop import Interrupted, Observer, Trainer, resume, train
from gvit.training.progress import ConsoleObserver
from gvit.training.run import Run
from gvit.training.tensorboard import TensorBoardObserver


@dataclass(frozen=True)
class Output:
    """Where the run goes, and what computes it.

    Attributes:
        out: run folder; runs/RECIPE when not given.
        overwrite: replace the run that the folder holds.
        dry_run: build everything, run two steps of every phase, print the plan, write nothing.
        tensorboard: write event files into the run folder, too.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    out: Path | None = None
    overwrite: bool = False
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
    """Go on with an interrupted run.

    Attributes:
        resume: the run folder.
        tensorboard: write event files into the run folder, too.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    resume: Path
    tensorboard: bool = False
    device: str = "auto"


def run(args: list[str]) -> int:
    """Train, draw the report, print the result."""
    if any(arg.split("=")[0] == "--resume" for arg in args):
        again = parse(Resume, args, "gvit train")
        return _watch(partial(resume, again.resume), again.resume, "", again)
    recipe, new = _parse_new_run(args)
    output, config = new.output, new.config
    folder = output.out or Path("runs") / recipe
    if output.dry_run:
        return _dry_run(config, output.device)
    start = partial(train, config, folder, overwrite=output.overwrite)
    return _watch(start, folder, _describe(config), output)


def _parse_new_run(args: list[str]) -> tuple[str, NewRun]:
    named = bool(args) and not args[0].startswith("-")
    recipe = args[0] if named else "digits"
    defaults = load_recipe(recipe)
    # tyro makes one line of a paragraph
    recipes = "\n\n".join(textwrap.wrap(f"Recipes: {', '.join(sorted(RECIPES))}.", 80))
    return recipe, parse(
        NewRun,
        args[1:] if named else args,
        f"gvit train {recipe}",
        also=flags_of(Resume),
        default=NewRun(Output(), defaults),
        description=(
            f"Train a model by a recipe.\n\n{recipes}\n\n"
            f"Below are the values of recipe '{recipe}', each of which can be changed.\n\n"
            "Example: gvit train digits --epochs 30 --out runs/short\n\n"
            "Interrupted? Go on with: gvit train --resume runs/short"
        ),
    )


def _watch(start: Callable[..., Evaluation], folder: Path, header: str, options: Output | Resume) -> int:
    """Train in this process's part of the world, and tell how it goes and ends."""
    with joined(find_device(options.device)) as (world, device):
        try:
            with _observers(header, folder, options.tensorboard, world) as observer:
                result = start(observer, device=device, world=world)
        except Interrupted as stop:
            if world.is_main:
                print(
                    f"stopped at step {stop.step}, saved; go on with: gvit train --resume {folder}",
                    file=sys.stderr,
                )
            return 130
        if world.is_main:
            report = write_report(Run.open(folder))
            print(f"{folder}: {result}" + (f"; look at {report}" if report else ""))
    return 0


@contextmanager
def _observers(header: str, folder: Path, tensorboard: bool, world: World) -> Iterator[Observer]:
    """Who watches: the console of the main process, and TensorBoard where it is asked for."""
    with ConsoleObserver(header, quiet=not world.is_main) as console:
        if tensorboard and world.is_main:
            with TensorBoardObserver(folder, console) as both:
                yield both
        else:
            yield console


def _dry_run(config: TrainConfig, device_name: str) -> int:
    with joined(find_device(device_name)) as (world, device):
        trainer = Trainer(config, Run(Path()), device, world)
        plan = dry_run(trainer)
        if world.is_main:
            print(_describe(config), *trainer.notes, plan, sep="\n")
    return 0


def _describe(config: TrainConfig) -> str:
    """The resolved configuration, a line per group."""
    lines = []
    for group, values in asdict(config).items():
        if isinstance(values, dict):
            values = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        lines.append(f"{group:<10}{values}")
    return "\n".join(lines)
