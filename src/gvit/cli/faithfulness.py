"""gvit faithfulness: how far explanations of a trained model hold."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import warn_of_left_out
from gvit.cli.parsing import at_least_one, check_seed, parse
from gvit.cli.sets import is_data_set
from gvit.errors import InputError, printable


@dataclass(frozen=True)
class Options:
    """Measure how far explanations of a trained model hold, beside chance.

    Insertion: how soon the most relevant Gaussians alone give the class back.

    Deletion: how long the class stays without them. Of patch ViTs: patches.

    Also by pixels, and how alike scores are with random weights in the classifier.

    Without DATA on the run's own test images. DATA: a folder or a data set's name.

    Example: gvit faithfulness runs/digits --images 50

    Example: gvit faithfulness digits digits --against runs/patches --out table.json

    Attributes:
        run: run folder, weights file of one (RUN/best.safetensors), or pretrained model.
        data: labelled images: a folder for each class, or of Parquet files; or a data set (digits).
        images: how many, drawn at random.
        methods: as of 'gvit explain'; all when not given. Random and centre are always there.
        against: another model, to be compared on the same images: a patch ViT beside a GViT.
        out: JSON file for all measures, each image's among them.
        json: print JSON.
        pixels: by pixels, too, where the model makes Gaussians of images: half of the time.
        steps: parts that are put in or taken out one after the other.
        samples: orders of shap; ig takes four times as many steps.
        draws: of random scores.
        seed: of all that is random.
        data_dir: folder of a data set that is named.
        dataset: how the images lie in DATA (parquet, gaussians, ...).
        batch_size: images at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = ""
    images: int = 200
    methods: tuple[str, ...] = ()
    against: Path | None = None
    out: Path | None = None
    json: bool = False
    pixels: bool = True
    steps: int = 8
    samples: int = 4
    draws: int = 3
    seed: int = 0
    data_dir: Path | None = None
    dataset: str | None = None
    batch_size: int = 64
    device: str = "auto"


def run(args: list[str]) -> int:
    """Print the tables; the library measures."""
    options = parse(Options, args, "gvit faithfulness")
    check_seed(options.seed)
    at_least_one(
        images=options.images,
        steps=options.steps,
        samples=options.samples,
        draws=options.draws,
        batch_size=options.batch_size,
    )
    data_dir, dataset = _data(options)
    if data_dir is not None:
        warn_of_left_out([data_dir])

    from gvit.models.pretrained import is_pretrained_name

    if not options.data and not options.run.exists() and is_pretrained_name(options.run.as_posix()):
        raise InputError(
            f"{options.run}: pretrained weights, without test images of their own; name labelled images, a data set "
            f"('gvit faithfulness {options.run} digits') or a folder"
        )

    from gvit.analysis.faithfulness_table import tables
    from gvit.files import check_writable, write_text
    from gvit.progress import ProgressBar
    from gvit.training.faithfulness import assess_faithfulness
    from gvit.viewing.replaceable import check_replaceable

    if options.out is not None:  # minutes later would be late
        if options.out.is_dir():
            raise InputError(f"--out {options.out}: is a folder; name a file in it")
        if options.out.suffix != ".json":
            raise InputError(
                f"--out {options.out}: a JSON file is written; give it a name that ends in .json"
            )
        check_writable(options.out.parent)
        check_replaceable(options.out)
    with ProgressBar("measuring", 1) as bar:
        content = assess_faithfulness(
            options.run,
            data_dir,
            dataset,
            against=options.against,
            num_images=options.images,
            batch_size=options.batch_size,
            device=find_device(options.device),
            seed=options.seed,
            progress=lambda done, total, text: bar.update(done / total, text),
            methods=options.methods or None,
            steps=options.steps,
            samples=options.samples,
            draws=options.draws,
            pixels=options.pixels,
        )
    names = [result["model"] for result in content["results"]]
    content = {"command": _command(options, names), **content}
    for error in content["broken"]:
        print(f"gvit: broken, left out: {printable(error)}", file=sys.stderr)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, json.dumps(content) + "\n")
    print(json.dumps(content, indent=2) if options.json else tables(content))
    return 0


def _data(options: Options) -> tuple[Path | None, str | None]:
    """The folder with the images, and how they lie there; None and None for the run's own."""
    if not options.data:
        return options.data_dir, options.dataset
    if options.dataset is None and is_data_set([options.data]):
        return options.data_dir, options.data
    if options.data_dir is not None:
        raise InputError(f"--data-dir goes with the name of a data set, but DATA is {options.data}")
    return Path(options.data), options.dataset


def _command(options: Options, names: list[str]) -> str:
    """What was asked for, to stand beside the results; where things lie is nobody's business."""
    words = ["gvit faithfulness", names[0]]
    words += [os.path.basename(os.path.abspath(options.data))] if options.data else []
    words += [f"--dataset {options.dataset}"] if options.dataset else []
    words += [f"--against {names[1]}"] if options.against else []
    words += [f"--methods {' '.join(options.methods)}"] if options.methods else []
    for name in ("images", "steps", "samples", "draws", "seed"):
        value = getattr(options, name)
        words += [f"--{name} {value}"] if value != getattr(Options, name) else []
    return " ".join(words + ["--no-pixels"] * (not options.pixels))
