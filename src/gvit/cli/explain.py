"""gvit explain: what a decision rests on, a score for each Gaussian."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import at_least_one, check_seed, parse
from gvit.cli.predict import choose_background
from gvit.errors import InputError, printable, unknown_name

if TYPE_CHECKING:
    from gvit.models.base import ImageClassifier
    from gvit.targets import Target

_ENDINGS = (".png", ".csv")


@dataclass(frozen=True)
class Options:
    """Tell what a decision rests on: a score for each Gaussian of an image.

    Writes NAME.png (image, drawing, and each method's scores over the picture).

    And NAME.csv: the Gaussians and their scores.

    Scores are of the class's logit: above 0 for the class, below 0 against it.

    Methods: cdam, det, opacity, attention, ixg, ig, occlusion, shap, random,
    edges.

    Example: gvit explain runs/digits scans/ --method cdam shap --target 7

    Attributes:
        run: run folder, model.safetensors file, or pretrained model.
        images: image files, folders (searched recursively) or quoted patterns.
        method: one or several, a column each.
        target: class whose logit is explained, its name or its number; where not given, the most probable one.
        out: folder for the results.
        samples: orders of shap, steps of ig; where not given, 32 and 64.
        seed: of the orders of shap, and of random.
        json: print JSON.
        background: what transparent pixels lie over: a name (white) or code (#ff8800); black where not given.
        num_gaussians: another number of Gaussians than the model's own, where its encoder draws any number.
        looks: how often an encoder that looks at its own picture does; as often as in training when not given.
        batch_size: inputs of the classifier at a time; where not given, as many as take some hundred MB.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ]
    method: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME...")] = ("cdam", "occlusion")
    target: str | None = None
    out: Path = Path("explained")
    samples: int | None = None
    seed: int = 0
    json: bool = False
    background: str | None = None
    num_gaussians: int | None = None
    looks: int | None = None
    batch_size: int | None = None
    device: str = "auto"


def run(args: list[str]) -> int:
    """Explain each image; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit explain")
    check_seed(options.seed)
    at_least_one(
        **{name: value for name in ("samples", "batch_size") if (value := getattr(options, name)) is not None}
    )
    if not options.method:
        raise InputError("--method needs a value")

    from gvit.analysis.explanation import METHODS

    for name in options.method:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
    if not options.images:
        raise InputError("no images given; name image files, folders or quoted patterns after the run")

    from gvit.analysis.attribution import check_reads_gaussians
    from gvit.data.images import EXTENSIONS
    from gvit.data.sources.gaussians import GAUSSIAN_EXTENSIONS
    from gvit.models.weights import load_model
    from gvit.prediction import check_classifies, find_class
    from gvit.progress import ProgressBar
    from gvit.targets import plan_targets

    model = load_model(options.run).to(find_device(options.device)).eval()
    check_classifies(model)
    check_reads_gaussians(model)
    background = choose_background(options.background, model)
    target = None if options.target is None else find_class(model, options.target)
    warn_of_left_out(options.images)
    extensions = GAUSSIAN_EXTENSIONS if model.reads == "gaussians" else EXTENSIONS
    targets = plan_targets(options.images, options.out, _ENDINGS, extensions)
    failed, rows = False, []
    with ProgressBar("explaining", len(targets)) as bar:
        for number, file in enumerate(targets):
            bar.update(number, printable(file.source.name))
            try:
                row = _explain(model, target, file, background, options)
            except _Unreadable as error:
                failed = True
                print_error(error)
                continue
            if options.json:
                rows.append(row)
            else:
                print(printable(f"{row['file']}  {_guess(row)}  {row['picture']}"), flush=True)
    if options.json:
        print(json.dumps(rows, indent=2))
    return 2 if failed else 0


class _Unreadable(InputError):
    """An image, which doesn't cost the others."""


def _explain(
    model: "ImageClassifier", target: int | None, file: "Target", background: str, options: Options
) -> dict[str, Any]:
    """Write the files of one image, and tell what is in them."""
    import torch

    from gvit.analysis.explanation import attribute, read_gaussians
    from gvit.files import write_text
    from gvit.prediction import class_names, load_images
    from gvit.viewing.ellipses import COLUMNS, to_rows
    from gvit.viewing.figures import save_figure
    from gvit.viewing.scores import scores_figure

    try:
        inputs = load_images([file.source], model, background)
    except InputError as error:
        raise _Unreadable(*error.args) from None
    inputs = inputs.to(next(model.parameters()).device)
    with torch.inference_mode():
        gaussians = read_gaussians(model, inputs, num_gaussians=options.num_gaussians, looks=options.looks)
        probabilities = model.classifier.classify(gaussians).float().softmax(-1)[0].cpu()
    image = None if model.reads == "gaussians" else inputs
    predicted = int(probabilities.argmax())
    chosen = predicted if target is None else target
    settings = {"samples": options.samples, "seed": options.seed, "batch_size": options.batch_size}
    scores = {
        name: attribute(model, gaussians, name, chosen, image, **settings)[0] for name in options.method
    }

    names = class_names(model)
    picture, table = file.files
    told = {
        "file": str(file.source),
        "picture": str(picture),
        "table": str(table),
        "predicted": names[predicted],
        "probability": probabilities[predicted].item(),
        "class": names[chosen],
        "class_probability": probabilities[chosen].item(),
    }
    side = model.img_size
    shown = None if image is None else image[0]
    figure = scores_figure(gaussians[0], scores, side, side, shown, f"{file.source.name}: {_guess(told)}")
    # seven digits are what float32 has
    numbers = {name: [float(f"{value:.7g}") for value in values.tolist()] for name, values in scores.items()}
    beside = {name: column for name, column in numbers.items() if name not in COLUMNS}  # all but opacity
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *beside])
    rows = to_rows(gaussians[0], side, side)
    writer.writerows([*row, *more] for row, *more in zip(rows, *beside.values(), strict=True))
    try:
        file.name.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, picture)
        write_text(table, text.getvalue())
    except OSError as error:
        raise InputError(f"{file.name.parent}: cannot write results here ({error.strerror})") from error
    return told | {"scores": numbers}


def _guess(told: dict[str, Any]) -> str:
    guess = f"{told['predicted']} {100 * told['probability']:.1f} %"
    if told["class"] == told["predicted"]:
        return guess
    return f"{guess}, explained: {told['class']} {100 * told['class_probability']:.1f} %"
