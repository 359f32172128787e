"""The command line: one subcommand per verb, thin. Nothing heavy is imported before it is needed."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit import __version__
from gvit.errors import InputError, unknown_name

if TYPE_CHECKING:
    from gvit.models.gvit import GViT
    from gvit.training.config import TrainConfig
    from gvit.training.run import Run

_HELP = """\
usage: gvit COMMAND [options]

Images as a few hundred 2D Gaussians, and a vision transformer that classifies
from those alone.

commands:
  train      train a model; with no argument, on handwritten digits
  predict    classify image files with a trained model
  evaluate   measure a trained model on its test images

options:
  -h, --help     this text; 'gvit COMMAND --help' tells a command's options
  --version      the version

example:
  gvit train
  gvit predict runs/digits photo.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 for an interruption, 2 for bad input."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_HELP, end="")
        return 0
    if args[0] == "--version":
        print(f"gvit {__version__}")
        return 0
    try:
        if args[0] not in _COMMANDS:
            raise unknown_name("command", args[0], _COMMANDS)
        return _COMMANDS[args[0]](args[1:])
    except InputError as error:
        print(f"gvit: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # 'gvit predict ... | head'
        return 0


def _parse(target: Any, args: list[str], prog: str, **kwargs: Any) -> Any:
    """tyro's parser with its boxed errors folded into one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                target, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **kwargs
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        lines = [line.strip("│╭╮╰╯─ ") for line in errors.getvalue().splitlines()[1:]]
        message = " ".join(lines[: lines.index("")] if "" in lines else lines)
        message = re.sub(r"^Error parsing [a-z]+: ", "", message).rstrip(".")
        similar = [line.split()[0] for line in lines if line.startswith("--")]
        hint = f"; similar: {', '.join(dict.fromkeys(similar))}" if similar and "similar" in " ".join(lines) else ""
        raise InputError(f"{message}{hint}; see '{prog} --help'") from None


@dataclass(frozen=True)
class _Output:
    """Where the run goes, and what computes it.

    Attributes:
        out: run folder; runs/RECIPE when not given.
        overwrite: replace the run that the folder holds.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    out: Path | None = None
    overwrite: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class _Resume:
    """Go on with an interrupted run.

    Attributes:
        resume: the run folder.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    resume: Path
    device: str = "auto"


def _train(args: list[str]) -> int:
    from gvit.training.loop import Interrupted, resume, train
    from gvit.training.progress import ConsoleObserver
    from gvit.training.run import Run

    config = None
    if any(arg.split("=")[0] == "--resume" for arg in args):
        again = _parse(_Resume, args, "gvit train")
        folder, device = again.resume, _device(again.device)
    else:
        recipe, config, output = _parse_training(args)
        folder, device = output.out or Path("runs") / recipe, _device(output.device)
    try:
        with ConsoleObserver() as observer:
            if config is None:
                result = resume(folder, observer, device=device)
            else:
                _print_config(config)
                result = train(config, folder, observer, overwrite=output.overwrite, device=device)
    except Interrupted as stop:
        print(f"stopped at step {stop.step}, saved; go on with: gvit train --resume {folder}", file=sys.stderr)
        return 1
    run = Run.open(folder)
    _write_report(run)
    print(
        f"{folder}: top-1 {100 * result.top1:.2f} % of {result.num_images} test images, "
        f"PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.3f}; look at {run.report_file}"
    )
    return 0


def _parse_training(args: list[str]) -> "tuple[str, TrainConfig, _Output]":
    from gvit.recipes import RECIPES, load_recipe
    from gvit.training.config import TrainConfig

    named = bool(args) and not args[0].startswith("-")
    recipe = args[0] if named else "digits"
    defaults = load_recipe(recipe)

    def options(output: _Output = _Output(), config: TrainConfig = defaults) -> tuple[_Output, TrainConfig]:  # noqa: B008
        return output, config

    output, config = _parse(
        options,
        args[1:] if named else args,
        f"gvit train {recipe}",
        description=(
            f"Train a model by a recipe: {', '.join(sorted(RECIPES))}. What follows are the values of "
            f"'{recipe}'.\n\n"
            "Examples: gvit train; gvit train digits --epochs 30 --out runs/short;\n"
            "gvit train --resume runs/short goes on with an interrupted run."
        ),
    )
    return recipe, config, output


def _print_config(config: "TrainConfig") -> None:
    for group, values in asdict(config).items():
        if isinstance(values, dict):
            values = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        print(f"{group:<10}{values}", file=sys.stderr)


def _write_report(run: "Run") -> None:
    """The picture of a dozen test images, spread over the test set."""
    from gvit.viewing.figures import report_figure, save_figure

    model, images = _load_with_images(run, run.load_config())
    rows = [round(i * (len(images) - 1) / 11) for i in range(min(12, len(images)))]
    pictures, labels = zip(*(images[row] for row in rows), strict=True)
    figure = report_figure(model, torch_stack(pictures), [int(label) for label in labels], model.card.class_names)
    save_figure(figure, run.report_file)


@dataclass(frozen=True)
class _Predict:
    """Classify image files with a trained model: files, folders (searched recursively) or 'patterns*'.

    Example: gvit predict runs/digits scans/ 'more/*.png' --top-k 1

    Attributes:
        run: run folder, or a model.safetensors file.
        images: image files, folders or quoted patterns.
        top_k: how many classes to show.
        json: print JSON.
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional]
    images: Annotated[tuple[str, ...], tyro.conf.Positional]
    top_k: int = 3
    json: bool = False
    batch_size: int = 32
    device: str = "auto"


def _predict(args: list[str]) -> int:
    from gvit.data.files import find_images
    from gvit.inference import predict_files
    from gvit.models.registry import load_model

    options: _Predict = _parse(_Predict, args, "gvit predict")
    for flag, value in (("--top-k", options.top_k), ("--batch-size", options.batch_size)):
        if value < 1:
            raise InputError(f"{flag} must be at least 1, got {value}")
    model = load_model(options.run).to(_device(options.device))
    files = find_images(options.images)
    failed, rows = False, []
    for file, answer in predict_files(model, files, options.top_k, options.batch_size):
        if isinstance(answer, InputError):
            failed = True
            print(f"gvit: error: {answer}", file=sys.stderr)
        elif options.json:
            rows.append({"file": str(file), "predictions": [asdict(guess) for guess in answer]})
        else:
            guesses = "  ".join(f"{guess.class_name} {100 * guess.probability:5.1f} %" for guess in answer)
            print(f"{file}  {guesses}", flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    return 2 if failed else 0


@dataclass(frozen=True)
class _Evaluate:
    """Measure a trained model on the test images of its data set.

    Writes evaluation.json and confusion.png into the run folder.
    Example: gvit evaluate runs/digits

    Attributes:
        run: run folder.
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional]
    batch_size: int = 64
    device: str = "auto"
