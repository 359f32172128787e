"""gvit evaluate: a trained model on labelled images."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import printable

if TYPE_CHECKING:
    from gvit.training.report import Assessment

_MOST_ROWS = 20  # of the table of classes


@dataclass(frozen=True)
class Options:
    """Measure a trained model on the test images of its data set, or on others.

    Without --data-dir on its own test images, and the files go into the run folder:

    evaluation.json (all measures), confusion.png, mistakes.csv and mistakes.png

    (the images that were taken for another class, the most confident first).

    Example: gvit evaluate runs/photos --data-dir new/

    Example: gvit evaluate runs/photos --num-gaussians 256 --looks 24

    Attributes:
        run: run folder, weights file of one (RUN/best.safetensors), or pretrained model.
        data_dir: labelled images: a folder for each class, called as in training, or val/ (test/) with such folders.
        out: folder for the files; RUN/evaluation-NAME for other images, or other numbers, when not given.
        json: print JSON.
        dataset: how the images lie in that folder (parquet, gaussians, ...), or a data set that needs none (digits).
        batch_size: images at a time.
        broken_test_images: fail, or wrong, which counts what cannot be read as a wrong answer; as in training when
            not given.
        num_gaussians: another number of Gaussians than the model's own, where its encoder draws any number.
        looks: how often an encoder that looks at its own picture does; as often as in training when not given.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    data_dir: Path | None = None
    out: Path | None = None
    json: bool = False
    dataset: str | None = None
    batch_size: int = 64
    broken_test_images: Annotated[
        Literal["fail", "wrong"] | None, tyro.conf.arg(metavar="{None}|{fail,wrong}")
    ] = None
    num_gaussians: int | None = None
    looks: int | None = None
    device: str = "auto"


def run(args: list[str]) -> int:
    """Print the measures; the library writes them into files."""
    options = parse(Options, args, "gvit evaluate")
    at_least_one(batch_size=options.batch_size)
    if options.data_dir is not None:
        warn_of_left_out([options.data_dir])

    from gvit.progress import ProgressBar
    from gvit.training.report import assess

    with ProgressBar("evaluating", 1.0) as bar:
        assessed = assess(
            options.run,
            options.batch_size,
            find_device(options.device),
            data_dir=options.data_dir,
            dataset=options.dataset,
            out=options.out,
            broken_test_images=options.broken_test_images,
            num_gaussians=options.num_gaussians,
            looks=options.looks,
            progress=bar.update,
        )
    result = assessed.evaluation
    for error in result.broken:
        print(f"gvit: broken, counted as wrong: {printable(error)}", file=sys.stderr)
    if options.json:
        print(json.dumps(assessed.to_dict(), indent=2))
        return 0
    print(f"images  {result.num_images}")
    if (options.num_gaussians, options.looks) != (None, None):
        looks = "" if assessed.looks is None else f", {assessed.looks} looks"
        print(f"of      {assessed.num_gaussians} Gaussians{looks}")
    if result.top1 is not None:
        print(f"top-1   {100 * result.top1:.2f} %")
    if result.top5 is not None:
        print(f"top-5   {100 * result.top5:.2f} %")
    if result.psnr is not None:
        print(f"PSNR    {result.psnr:.2f} dB")
        print(f"SSIM    {result.ssim:.4f}")
    print(_table(assessed), end="")
    for file in assessed.files:
        print(printable(str(file)))
    return 0


def _table(assessed: "Assessment") -> str:
    """A line for each class that there are images of, if these are not too many."""
    classes = [c for c in assessed.evaluation.per_class(assessed.class_names) if c.num_images]
    if not 0 < len(classes) <= _MOST_ROWS:
        return ""
    names = [printable(c.class_name) for c in classes]
    width = max(len("class"), *map(len, names))
    lines = [f"{'class':<{width}}  {'images':>6}  precision  recall"]
    for name, one in zip(names, classes, strict=True):
        precision, recall = (
            "-" if share is None else f"{100 * share:.1f} %" for share in (one.precision, one.recall)
        )
        lines.append(f"{name:<{width}}  {one.num_images:>6}  {precision:>9}  {recall:>7}")
    return "\n".join(lines) + "\n"
