"""gvit predict: image files in, classes out."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError, printable

if TYPE_CHECKING:
    from gvit.models.base import ImageClassifier


@dataclass(frozen=True)
class Options:
    """Classify image files with a trained model.

    Without training: gvit predict digits scans/

    Example: gvit predict runs/digits scans/ 'more/*.png' --top-k 1

    Attributes:
        run: run folder, model.safetensors file, or pretrained model.
        images: image files, folders (searched recursively) or quoted patterns.
        top_k: how many classes to show.
        json: print JSON.
        background: what transparent pixels lie over: a name (white) or code (#ff8800); black where not given.
        num_gaussians: another number of Gaussians than the model's own, where its encoder draws any number.
        looks: how often an encoder that looks at its own picture does; as often as in training when not given.
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ]
    top_k: int = 3
    json: bool = False
    background: str | None = None
    num_gaussians: int | None = None
    looks: int | None = None
    batch_size: int = 32
    device: str = "auto"


def run(args: list[str]) -> int:
    """Print a line per image, or JSON; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit predict")
    at_least_one(top_k=options.top_k, batch_size=options.batch_size)
    if not options.images:
        raise InputError("no images given; name image files, folders or quoted patterns after the run")

    from gvit.data.images import EXTENSIONS, find_images
    from gvit.data.sources.gaussians import GAUSSIAN_EXTENSIONS
    from gvit.models.weights import load_model
    from gvit.prediction import check_classifies, predict_files

    model = load_model(options.run).to(find_device(options.device))
    check_classifies(model)  # before anything is said of the files
    background = choose_background(options.background, model)
    warn_of_left_out(options.images)
    files = find_images(options.images, GAUSSIAN_EXTENSIONS if model.reads == "gaussians" else EXTENSIONS)
    failed, rows = False, []
    drawing = {"num_gaussians": options.num_gaussians, "looks": options.looks}
    for file, answer in predict_files(model, files, options.top_k, options.batch_size, background, **drawing):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
        elif options.json:
            rows.append({"file": str(file), "predictions": [asdict(guess) for guess in answer]})
        else:
            guesses = "  ".join(f"{guess.class_name} {100 * guess.probability:5.1f} %" for guess in answer)
            print(f"{printable(str(file))}  {printable(guesses)}", flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    return 2 if failed else 0


def choose_background(color: str | None, model: "ImageClassifier") -> str:
    """What transparent pixels lie over, black where no colour is given.

    Raises:
        InputError: there is no such colour, or the model reads no pixels.
    """
    from gvit.data.convert import parse_color

    if color is None:
        return "black"
    if model.reads == "gaussians":
        raise InputError(f"{model.card.name} reads Gaussians: --background has no meaning for it")
    parse_color(color)
    return color
