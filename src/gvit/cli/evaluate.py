"""gvit evaluate: a trained model on its test images."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gvit.cli.devices import find_device
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import printable


@dataclass(frozen=True)
class Options:
    """Measure a trained model on the test images of its data set.

    evaluation.json and confusion.png go into the run folder.

    Example: gvit evaluate runs/digits

    Attributes:
        run: run folder.
        batch_size: images at a time.
        broken_test_images: fail, or wrong, which counts what cannot be read as a wrong answer; as in training when
            not given.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    batch_size: int = 64
    broken_test_images: Annotated[
        Literal["fail", "wrong"] | None, tyro.conf.arg(metavar="{None}|{fail,wrong}")
    ] = None
    device: str = "auto"


def run(args: list[str]) -> int:
    """Print the measures; the library writes them into the run."""
    options = parse(Options, args, "gvit evaluate")
    at_least_one(batch_size=options.batch_size)

    from gvit.training.report import evaluate_run
    from gvit.training.run import Run

    device = find_device(options.device)
    result = evaluate_run(options.run, options.batch_size, device, options.broken_test_images)
    for error in result.broken:
        print(f"gvit: broken, counted as wrong: {printable(error)}", file=sys.stderr)
    print(f"images  {result.num_images}")
    if result.top1 is not None:
        print(f"top-1   {100 * result.top1:.2f} %")
    if result.top5 is not None:
        print(f"top-5   {100 * result.top5:.2f} %")
    if result.psnr is not None:
        print(f"PSNR    {result.psnr:.2f} dB")
        print(f"SSIM    {result.ssim:.4f}")
    files = Run(options.run)
    print(f"confusion matrix: {files.evaluation_file} and {files.confusion_file}")
    return 0
