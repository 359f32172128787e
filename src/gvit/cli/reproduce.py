"""gvit reproduce: a table or figure of the paper."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.parsing import at_least_one, parse
from gvit.cli.signals import interruptions
from gvit.errors import InputError, for_command_line


@dataclass(frozen=True)
class Options:
    """Regenerate a table or figure of the paper.

    WHAT: table1a (scale factor), table1b (gamma), table1c (losses),

    table1d (source of the Gaussians), figure3 (their number),

    table2 (models and transfer), leakage (cross-training),

    table4 (Gaussians or pictures), figure4, figure5 (pictures),

    comparison (beside the patch ViT), guidance (ways to guide),

    tokens (what the classifier reads): not of the paper.

    Writes RECIPE/WHAT.json, .csv and .png, and a page over all results.

    Runs are kept and shared: started again, it goes on where it stopped.

    Example: gvit reproduce table1b --seeds 3

    Attributes:
        what: the table or figure.
        recipe: which is varied: digits_paper, cifar10_paper, ...; without _paper, those with another encoder.
        rows: of the table, those to do; all when not given.
        seeds: repetitions of every run, with seeds from 0 on.
        data_dir: folder that holds the recipe's images.
        transfer_dir: for table2: has folders cifar10, pets, ... of images.
        epochs: of a run; a sixth of the recipe's when not given.
        full: all of the recipe's epochs.
        init: for guidance: run, weights file or pretrained model that all rows start from, to be guided at once.
        jobs: at a time; one a CPU core, or one on a GPU, when not given.
        out: folder for the results; the page gets its name with .md.
        runs: folder for the runs.
        dry_run: tell what would be done, and how long it would take.
        device: cpu, cuda, or auto: cuda where there is one.
        workers: processes that load images, of each run; 0 loads them in the run's own.
        graphs: on a GPU, start the kernels of an encoder's turn all at once, as a CUDA graph.
        accumulate: parts that a run splits each batch into, to save memory; the recipe's when not given.
        eval_every: epochs from one evaluation, and checkpoint, of a run to the next; the recipe's when not given. The
            results are of the last one.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    recipe: str = "digits_paper"
    rows: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="NAME...")] = None
    seeds: int = 3
    data_dir: Path | None = None
    transfer_dir: Path | None = None
    epochs: float | None = None
    full: bool = False
    init: str | None = None
    jobs: int | None = None
    out: Path = Path("results")
    runs: Path = Path("runs/reproduce")
    dry_run: bool = False
    device: str = "auto"
    workers: int = 0
    graphs: bool = False
    eval_every: float | None = None
    accumulate: int | None = None


def run(args: list[str]) -> int:
    """Do what is not done yet, and print the table."""
    options = parse(Options, args, "gvit reproduce")
    device = find_device(options.device)
    parallel = options.jobs if options.jobs is not None else 1 if device != "cpu" else os.cpu_count() or 1
    at_least_one(seeds=options.seeds, jobs=parallel)
    if options.accumulate is not None:
        at_least_one(accumulate=options.accumulate)
    if options.workers < 0:
        raise InputError(f"--workers must be at least 0, got {options.workers}")
    if options.rows == ():
        raise InputError("--rows needs a value")
    for flag, epochs in (("--epochs", options.epochs), ("--eval-every", options.eval_every)):
        if epochs is not None and not 0 < epochs < float("inf"):
            raise InputError(f"{flag} must be above 0 and finite, got {epochs:g}")

    from gvit.progress import Terminal
    from gvit.reproduction.jobs import Machine
    from gvit.reproduction.reproduce import plan, reproduce

    target = plan(
        options.what,
        options.recipe,
        options.seeds,
        options.runs / options.recipe,
        data_dir=options.data_dir,
        transfer_dir=options.transfer_dir,
        epochs=options.epochs,
        full=options.full,
        rows=options.rows,
        init=options.init,
    )
    with interruptions() as interruption:
        try:
            answer = reproduce(
                target,
                options.recipe,
                _command(options),
                options.out,
                machine=Machine(
                    *(device, options.workers, options.graphs, options.eval_every, options.accumulate)
                ),
                parallel=parallel,
                dry_run=options.dry_run,
                console=Terminal(file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False),
                worded=for_command_line,
            )
        except KeyboardInterrupt:
            print("stopped, saved; the same command goes on", file=sys.stderr)
            return interruption.exit_code
    print(answer)
    return 0


def _command(options: Options) -> str:
    """What stands beside the results: without the folders, which are nobody's business."""
    from gvit.reproduction.jobs import start_shown

    shown = [f"--recipe {options.recipe}", f"--seeds {options.seeds}"]
    shown += [f"--epochs {options.epochs:g}"] if options.epochs is not None else ["--full"] * options.full
    shown += [f"--init {shlex.quote(start_shown(Path(options.init)))}"] if options.init is not None else []
    shown += [f"--rows {shlex.join(options.rows)}"] if options.rows else []
    shown += ["--data-dir FOLDER"] * (options.data_dir is not None)
    shown += ["--transfer-dir FOLDER"] * (options.transfer_dir is not None)
    return f"gvit reproduce {options.what} {' '.join(shown)}"
