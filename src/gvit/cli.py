"""The command line: one subcommand per verb, thin. Nothing heavy is imported before it is needed."""

import contextlib
import difflib
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit import __version__
from gvit.errors import InputError, unknown_name

if TYPE_CHECKING:
    from torch import Tensor

    from gvit.data.loading import EvaluationImages
    from gvit.fitting.files import FittedFile
    from gvit.fitting.optimise import Fit
    from gvit.gaussians import Gaussians
    from gvit.models.registry import ImageClassifier
    from gvit.training.config import TrainConfig
    from gvit.training.distributed import World
    from gvit.training.loop import Observer
    from gvit.training.run import Run

# OpenMP threads that wait by spinning take the cores from the renderer's threads, and from everybody else's.
# It is read when torch is loaded, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_HELP = """\
usage: gvit COMMAND [options]

Images as a few hundred 2D Gaussians, and a vision transformer that classifies
from those alone.

commands:
  train      train a model; with no argument, on handwritten digits
  predict    classify image files with a trained model
  evaluate   measure a trained model on its test images
  fit        fit Gaussians to image files; with no argument, to a photograph
  reproduce  regenerate a table or figure of the paper
  models     list the models that can be trained, with their size and cost

options:
  -h, --help     this text; 'gvit COMMAND --help' tells a command's options
  --version      the version

example:
  gvit train
  gvit predict runs/digits photo.png
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 for an interruption."""
    code = _run(argv)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        # under torchrun PyTorch's threads have been seen to abort while the interpreter is taken down
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(argv: Sequence[str] | None) -> int:
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
        # a data loader's worker wraps its traceback around what went wrong
        message = error.for_command_line().splitlines()[-1].removeprefix("gvit.errors.InputError: ")
        print(f"gvit: error: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gvit: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # 'gvit predict ... | head'
        return 0


def _parse(target: Any, args: list[str], prog: str, **kwargs: Any) -> Any:
    """tyro's parser with its boxed errors folded into one line."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(target, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **kwargs)
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        raise InputError(f"{_one_line(errors.getvalue(), args)}; see '{prog} --help'") from None


def _one_line(boxed: str, args: list[str]) -> str:
    """What tyro says in a box over many lines, with the nearest flags where it names some."""
    # a title, a paragraph that says what is wrong, more paragraphs; drawn in ASCII where the stream can't take more
    plain = (re.sub(r"^[│|╭╰+]|[│|╮╯+]$|[─-]{4,}", "", line).strip() for line in boxed.splitlines())
    lines = list(dropwhile(lambda line: not line, list(dropwhile(lambda line: not line, plain))[1:]))
    end = lines.index("") if "" in lines else len(lines)
    message = re.sub(r"^Error parsing [a-z]+(\.[a-z]+)*: ", "", " ".join(lines[:end])).rstrip(".")
    suggested = [line.split()[0] for line in lines[end:] if line.startswith("--")]
    if not message.startswith("Unrecognized") or not suggested:
        return message
    wrong = next((arg for arg in args if arg.startswith("--") and arg in message), "")
    near = difflib.get_close_matches(wrong, suggested, n=3, cutoff=0)
    return f"{message}; nearest: {', '.join(near)}"


@dataclass(frozen=True)
class _Output:
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
class _Resume:
    """Go on with an interrupted run.

    Attributes:
        resume: the run folder.
        tensorboard: write event files into the run folder, too.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    resume: Path
    tensorboard: bool = False
    device: str = "auto"


def _train(args: list[str]) -> int:
    from gvit.training.distributed import joined
    from gvit.training.loop import Interrupted, resume, train
    from gvit.training.run import Run

    config = None
    if any(arg.split("=")[0] == "--resume" for arg in args):
        options = _parse(_Resume, args, "gvit train")
        folder = options.resume
    else:
        recipe, config, options = _parse_training(args)
        folder = options.out or Path("runs") / recipe
        if options.dry_run:
            return _dry_run(config, options)
    with joined(_device(options.device)) as (world, device):
        try:
            with _observers("" if config is None else _describe(config), folder, options, world) as observer:
                if config is None:
                    result = resume(folder, observer, device=device, world=world)
                else:
                    overwrite = options.overwrite
                    result = train(config, folder, observer, overwrite=overwrite, device=device, world=world)
        except Interrupted as stop:
            if world.is_main:
                print(
                    f"stopped at step {stop.step}, saved; go on with: gvit train --resume {folder}",
                    file=sys.stderr,
                )
            return 130
        if world.is_main:
            report = _write_report(Run.open(folder))
            print(f"{folder}: {result}" + (f"; look at {report}" if report else ""))
    return 0


@contextlib.contextmanager
def _observers(
    header: str, folder: Path, options: "_Output | _Resume", world: "World"
) -> "Iterator[Observer]":
    """Who watches: the console of the main process, and TensorBoard where it is asked for."""
    from gvit.training.progress import ConsoleObserver
    from gvit.training.tensorboard import TensorBoardObserver

    with ConsoleObserver(header, quiet=not world.is_main) as console:
        if options.tensorboard and world.is_main:
            with TensorBoardObserver(folder, console) as both:
                yield both
        else:
            yield console


def _dry_run(config: "TrainConfig", options: _Output) -> int:
    from gvit.training.distributed import joined
    from gvit.training.dry_run import dry_run
    from gvit.training.loop import Trainer
    from gvit.training.run import Run

    with joined(_device(options.device)) as (world, device):
        trainer = Trainer(config, Run(Path()), device, world)
        plan = dry_run(trainer)
        if world.is_main:
            print(_describe(config), *trainer.notes, plan, sep="\n")
    return 0


def _parse_training(args: list[str]) -> "tuple[str, TrainConfig, _Output]":
    from gvit.recipes import RECIPES, load_recipe
    from gvit.training.config import TrainConfig

    named = bool(args) and not args[0].startswith("-")
    recipe = args[0] if named else "digits"
    defaults = load_recipe(recipe)

    # tyro makes one line of a paragraph
    recipes = "\n\n".join(textwrap.wrap(f"Recipes: {', '.join(sorted(RECIPES))}.", 80))

    def options(output: _Output = _Output(), config: TrainConfig = defaults) -> tuple[_Output, TrainConfig]:
        return output, config

    output, config = _parse(
        options,
        args[1:] if named else args,
        f"gvit train {recipe}",
        description=(
            f"Train a model by a recipe.\n\n{recipes}\n\n"
            f"Below are the values of recipe '{recipe}', each of which can be changed.\n\n"
            "Example: gvit train digits --epochs 30 --out runs/short\n\n"
            "Interrupted? Go on with: gvit train --resume runs/short"
        ),
    )
    return recipe, config, output


def _describe(config: "TrainConfig") -> str:
    """The resolved configuration, a line per group."""
    lines = []
    for group, values in asdict(config).items():
        if isinstance(values, dict):
            values = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        lines.append(f"{group:<10}{values}")
    return "\n".join(lines)


def _write_report(run: "Run") -> Path | None:
    """The picture of a dozen test images, spread over the test set; a model without an encoder has none."""
    import torch

    from gvit.models.gvit import GViT
    from gvit.viewing.figures import report_figure, save_figure

    model, images = _load_with_test_images(run)
    if not isinstance(model, GViT):
        return None
    count = min(12, len(images))
    rows = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    pictures, labels = zip(*(images[row] for row in rows), strict=True)
    figure = report_figure(model, torch.stack(pictures), [int(label) for label in labels])
    save_figure(figure, run.report_file)
    return run.report_file


def _load_with_test_images(run: "Run") -> "tuple[ImageClassifier, EvaluationImages]":
    from gvit.data.datasets import load_dataset
    from gvit.data.inputs import eval_input
    from gvit.data.loading import EvaluationImages
    from gvit.models.registry import load_model

    data = run.load_config().data
    model = load_model(run.folder)
    source = load_dataset(data.dataset, "test", data.data_dir)
    known, found = list(model.card.class_names), list(source.class_names)
    if known != found:
        changed = sorted(set(known) ^ set(found))
        raise InputError(
            f"{run.folder}: trained on {len(known)} classes, but its data set has {len(found)} now "
            f"(differing: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''})"
        )
    return model, EvaluationImages(source, eval_input(model, source))


@dataclass(frozen=True)
class _Predict:
    """Classify image files with a trained model.

    Example: gvit predict runs/digits scans/ 'more/*.png' --top-k 1

    Attributes:
        run: run folder, or a model.safetensors file.
        images: image files, folders (searched recursively) or quoted patterns.
        top_k: how many classes to show.
        json: print JSON.
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ]
    top_k: int = 3
    json: bool = False
    batch_size: int = 32
    device: str = "auto"


def _predict(args: list[str]) -> int:
    from gvit.data.files import EXTENSIONS, GAUSSIAN_EXTENSIONS, find_images
    from gvit.models.frozen import GaussianViT
    from gvit.models.registry import load_model
    from gvit.prediction import predict_files

    options: _Predict = _parse(_Predict, args, "gvit predict")
    _at_least_one(top_k=options.top_k, batch_size=options.batch_size)
    if not options.images:
        raise InputError("no images given; name image files, folders or quoted patterns after the run")
    model = load_model(options.run).to(_device(options.device))
    files = find_images(options.images, GAUSSIAN_EXTENSIONS if isinstance(model, GaussianViT) else EXTENSIONS)
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

    evaluation.json and confusion.png go into the run folder.

    Example: gvit evaluate runs/digits

    Attributes:
        run: run folder.
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    batch_size: int = 64
    device: str = "auto"


def _evaluate(args: list[str]) -> int:
    from gvit.data.loading import evaluation_loader
    from gvit.evaluation import evaluate
    from gvit.training.run import Run, write_atomically
    from gvit.viewing.figures import confusion_figure, save_figure

    options: _Evaluate = _parse(_Evaluate, args, "gvit evaluate")
    _at_least_one(batch_size=options.batch_size)
    run = Run.open(options.run)
    model, images = _load_with_test_images(run)
    result = evaluate(model.to(_device(options.device)), evaluation_loader(images, options.batch_size))
    names = list(model.card.class_names)
    write_atomically(run.evaluation_file, json.dumps(asdict(result) | {"class_names": names}) + "\n")
    save_figure(confusion_figure(result.confusion, names), run.confusion_file)
    print(f"images  {result.num_images}")
    print(f"top-1   {100 * result.top1:.2f} %")
    if result.top5 is not None:
        print(f"top-5   {100 * result.top5:.2f} %")
    if result.psnr is not None:
        print(f"PSNR    {result.psnr:.2f} dB")
        print(f"SSIM    {result.ssim:.4f}")
    print(f"confusion matrix: {run.evaluation_file} and {run.confusion_file}")
    return 0


@dataclass(frozen=True)
class _Fit:
    """Fit Gaussians to image files by optimisation.

    When no image is named, to a photograph of an astronaut.

    Writes NAME.safetensors (the Gaussians), NAME.png (the drawing) and

    NAME-fit.png (image, drawing and ellipses side by side).

    What is fitted already is skipped: after an interruption, it goes on.

    Example: gvit fit photos/ 'more/*.png' --num-gaussians 5000 --out fits

    Attributes:
        images: image files, folders (searched recursively) or quoted patterns.
        out: folder for the results.
        num_gaussians: per image.
        steps: of the optimisation.
        init: random, grid, kmeans, felzenszwalb, kanezaki or gradient.
        adaptive: put half of the Gaussians where the error is largest.
        loss: mse or bce.
        ssim_weight: weight of 1 - SSIM in the loss.
        seed: of everything that is random.
        overwrite: fit again what is fitted already.
        batch_size: images of equal size at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(default: a photograph)"),
    ] = ()
    out: Path = Path("fits")
    num_gaussians: int = 1000
    steps: int = 500
    init: str = "gradient"
    adaptive: bool = True
    loss: str = "mse"
    ssim_weight: float = 0.0
    seed: int = 0
    overwrite: bool = False
    batch_size: int = 4
    device: str = "auto"


def _fit(args: list[str]) -> int:
    from gvit.fitting.files import fit_files, plan_targets
    from gvit.fitting.optimise import check_settings, fit
    from gvit.progress import ProgressBar

    options: _Fit = _parse(_Fit, args, "gvit fit")
    _at_least_one(num_gaussians=options.num_gaussians, steps=options.steps, batch_size=options.batch_size)
    settings: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num_gaussians", "steps", "init", "loss", "ssim_weight", "seed")
    }
    check_settings(**settings)
    device = _device(options.device)
    targets = plan_targets(options.images or [_photograph()], options.out)
    waiting = []
    for target in targets:
        if target.gaussians_file.exists() and not options.overwrite:
            if (count := len(_load_fitted(target.gaussians_file))) != options.num_gaussians:
                raise InputError(
                    f"{target.gaussians_file} has {count} Gaussians, not {options.num_gaussians}: "
                    f"--num-gaussians {count} goes on, --overwrite fits it again, --out FOLDER writes elsewhere"
                )
            print(f"{target.source}  skipped: {target.gaussians_file} is there, --overwrite fits it again")
        else:
            waiting.append(target)

    def fit_images(images: "Tensor") -> "Fit":
        steps = options.steps
        with ProgressBar("fitting", steps) as bar:
            return fit(
                images,
                **settings,
                adaptive=options.adaptive,
                progress=lambda done, psnr: bar.update(done, f"{done}/{steps} {psnr:.2f} dB"),
            )

    failed = False
    for answer in fit_files(waiting, fit_images, options.batch_size, device):
        if isinstance(answer, InputError):
            failed = True
            print(f"gvit: error: {answer.for_command_line()}", file=sys.stderr)
        else:
            _write_fit(answer)
            print(
                f"{answer.target.source}  {answer.psnr:.2f} dB  {answer.seconds:.1f} s"
                f"  {answer.target.gaussians_file}",
                flush=True,
            )
    return 2 if failed else 0


def _load_fitted(file: Path) -> "Gaussians":
    from gvit.gaussians import Gaussians

    try:
        return Gaussians.load(file)
    except ValueError as error:
        raise InputError(f"{error}; --overwrite fits it again") from error


def _photograph() -> Path:
    """The one that comes with scikit-image: an astronaut, 512 x 512."""
    from skimage.data import data_dir

    return Path(data_dir) / "astronaut.png"


def _write_fit(fitted: "FittedFile") -> None:
    from gvit.rendering import render
    from gvit.viewing.figures import fit_figure, save_figure, save_picture

    target, gaussians = fitted.target, fitted.gaussians
    try:
        target.name.parent.mkdir(parents=True, exist_ok=True)
        save_picture(render(gaussians, *fitted.image.shape[-2:]), target.picture_file)
        save_figure(fit_figure(fitted.image, gaussians), target.figure_file)
        # the last one: where it is, the others are, too
        gaussians.save(target.gaussians_file)
    except OSError as error:
        raise InputError(f"{target.name.parent}: cannot write results here ({error.strerror})") from error


@dataclass(frozen=True)
class _Models:
    """List the models that can be trained, with their size and cost.

    Tokens: the Gaussians or patches that the classifier reads.

    Parameters: in millions, the classifier's without its head for 1000 classes.

    GMACs: 1e9 multiply-adds, for one image going forward.

    Example: gvit models 'vit_*'

    Attributes:
        pattern: names to list; * stands for anything.
        json: print JSON.
    """

    pattern: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATTERN")] = "*"
    json: bool = False


def _models(args: list[str]) -> int:
    from gvit.models.complexity import model_complexity
    from gvit.models.registry import list_models

    options: _Models = _parse(_Models, args, "gvit models")
    names = list_models(options.pattern)
    if not names:
        raise unknown_name("model", options.pattern, list_models())
    costs = [model_complexity(name) for name in names]
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=2))
        return 0
    print(f"{'':30} {'million parameters':>27} {'GMACs':>20}")
    print(
        f"{'model':18} {'px':>4} {'tokens':>6}"
        f" {'encoder':>8} {'classifier':>10} {'head':>7} {'encoder':>9} {'classifier':>10}"
    )
    for cost in costs:
        print(
            f"{cost.name:18} {cost.img_size:4} {cost.tokens:6} {cost.encoder_parameters / 1e6:8.2f}"
            f" {cost.classifier_parameters / 1e6:10.2f} {cost.head_parameters / 1e6:7.2f}"
            f" {cost.encoder_gmacs:9.3f} {cost.classifier_gmacs:10.3f}"
        )
    return 0


@dataclass(frozen=True)
class _Reproduce:
    """Regenerate a table or figure of the paper.

    WHAT: table1a (scale factor), table1b (gamma), table1c (losses),

    table1d (source of the Gaussians), figure3 (their number),

    table2 (models and transfer), leakage (cross-training),

    table4 (Gaussians or pictures), figure4, figure5 (pictures),

    comparison (beside the patch ViT: not of the paper).

    Writes RECIPE/WHAT.json, .csv and .png, and a page over all results.

    Runs are kept and shared: started again, it goes on where it stopped.

    Example: gvit reproduce table1b --seeds 3

    Attributes:
        what: the table or figure.
        recipe: which is varied: digits, cifar10, imagenette, ...
        seeds: repetitions of every run, with seeds from 0 on.
        data_dir: folder that holds the recipe's images.
        transfer_dir: for table2: has folders cifar10, pets, ... of images.
        epochs: of a run; a sixth of the recipe's when not given.
        full: all of the recipe's epochs.
        jobs: at a time; one a CPU core, or one on a GPU, when not given.
        out: folder for the results; the page gets its name with .md.
        runs: folder for the runs.
        dry_run: tell what would be done, and how long it would take.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    recipe: str = "digits"
    seeds: int = 3
    data_dir: Path | None = None
    transfer_dir: Path | None = None
    epochs: float | None = None
    full: bool = False
    jobs: int | None = None
    out: Path = Path("results")
    runs: Path = Path("runs/reproduce")
    dry_run: bool = False
    device: str = "auto"


def _reproduce(args: list[str]) -> int:
    from rich.console import Console

    from gvit.reproduction.execute import terminable
    from gvit.reproduction.reproduce import plan, reproduce

    options: _Reproduce = _parse(_Reproduce, args, "gvit reproduce")
    device = _device(options.device)
    parallel = options.jobs if options.jobs is not None else 1 if device != "cpu" else os.cpu_count() or 1
    _at_least_one(seeds=options.seeds, jobs=parallel)
    if options.epochs is not None and not 0 < options.epochs < float("inf"):
        raise InputError(f"--epochs must be above 0 and finite, got {options.epochs:g}")
    shown = [f"--recipe {options.recipe}", f"--seeds {options.seeds}"]
    shown += [f"--epochs {options.epochs:g}"] if options.epochs is not None else ["--full"] * options.full
    shown += ["--data-dir FOLDER"] * (options.data_dir is not None)
    shown += ["--transfer-dir FOLDER"] * (options.transfer_dir is not None)
    target = plan(
        options.what,
        options.recipe,
        options.seeds,
        options.runs / options.recipe,
        data_dir=options.data_dir,
        transfer_dir=options.transfer_dir,
        epochs=options.epochs,
        full=options.full,
    )
    try:
        with terminable():
            answer = reproduce(
                target,
                options.recipe,
                f"gvit reproduce {options.what} {' '.join(shown)}",
                options.out,
                device=device,
                parallel=parallel,
                dry_run=options.dry_run,
                console=Console(file=sys.stderr, highlight=False, soft_wrap=True),
            )
    except KeyboardInterrupt:
        print("stopped, saved; the same command goes on", file=sys.stderr)
        return 130
    print(answer)
    return 0


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _device(name: str) -> str:
    """``auto`` resolved.

    Raises:
        InputError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device {name}: not available here; use cpu or auto") from None
    return name


_COMMANDS = {
    "train": _train,
    "predict": _predict,
    "evaluate": _evaluate,
    "fit": _fit,
    "reproduce": _reproduce,
    "models": _models,
}
