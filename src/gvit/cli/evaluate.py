"""gvit evaluate: a trained model on its test images."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.parsing import at_least_one, parse


@dataclass(frozen=True)
class Options:
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


def run(args: list[str]) -> int:
    """Print the measures; they and the confusion matrix are written, too."""
    options = parse(Options, args, "gvit evaluate")
    at_least_one(batch_size=options.batch_size)

    from gvit.cli.report import load_with_test_images
    from gvit.data.loading import evaluation_loader
    from gvit.evaluation import evaluate
    from gvit.training.run import Run, write_atomically
    from gvit.viewing.figures import confusion_figure, save_figure

    run = Run.open(options.run)
    model, images = load_with_test_images(run)
    result = evaluate(model.to(find_device(options.device)), evaluation_loader(images, options.batch_size))
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
