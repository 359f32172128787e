"""What looks, the number of Gaussians, the size and the aspect do to a trained model of any number of Gaussians.

python benchmarks/looks.py RUN --fit-steps 300
python benchmarks/looks.py RUN --images 'kodak/*.png' --sizes 128 256 --aspects 0.667 1.5

Test images of the run's own data set (or ``--images``), prepared as in its evaluation, through one set of weights:
PSNR over looks and over numbers of Gaussians, with top-1 where the images have labels, and PSNR over sizes (side of the
square, pixels) and aspects (height divided by width, of equal area). Images of other sizes are resized from the files.
``--fit-steps`` fits as many Gaussians to the same images, too, as ``gvit fit`` does, without the model.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

import gvit
from gvit.data.images import find_images, open_image
from gvit.losses import psnr
from gvit.models.base import evaluating
from gvit.training.report import load_with_test_images
from gvit.training.run import Run
from provenance import describe, provenance, write_results

BATCH = 50


class Bench:
    """One model and its test images."""

    def __init__(self, run: Path, count: int, patterns: list[str]) -> None:
        self.model, tests = load_with_test_images(Run.open(run))
        if self.model.encoder is None or not self.model.encoder.any_number:
            raise SystemExit(f"{run}: its encoder draws one number of Gaussians only")
        self.labels = None
        step = max(1, len(tests) // count)
        chosen = list(range(0, len(tests), step))[:count]
        if patterns:
            self.photographs = [open_image(path) for path in find_images(patterns)]
            side = self.model.img_size
            self.images = torch.stack([_resized(photo, side, side) for photo in self.photographs])
            return
        pairs = [tests[i] for i in chosen]
        self.images = torch.stack([image for image, _ in pairs])
        self.labels = torch.tensor([int(label) for _, label in pairs])
        self.photographs = [tests.source.load(i) for i in chosen]

    def measure(self, images: Tensor, num_gaussians: int, looks: int) -> dict[str, float | int | None]:
        """Of one setting: PSNR, top-1, and milliseconds an image from pixels to Gaussians."""
        setting = {"num_gaussians": num_gaussians, "looks": looks}
        return self._draw(images, setting, lambda batch: self.model.encode(batch, **setting))

    def fit(self, num_gaussians: int, steps: int) -> dict[str, float | int | None]:
        """The same of Gaussians found by gradient descent, which the classifier has never seen."""
        setting = {"num_gaussians": num_gaussians, "fit_steps": steps}
        return self._draw(self.images, setting, lambda batch: gvit.fit(batch, num_gaussians, steps).gaussians)

    @torch.inference_mode()
    def _draw(
        self, images: Tensor, setting: dict[str, int], make: Callable[[Tensor], gvit.Gaussians]
    ) -> dict[str, float | int | None]:
        quality, hits, seconds = [], 0, 0.0
        with evaluating(self.model):
            for first, batch in _batches(images):
                began = time.perf_counter()
                gaussians = make(batch)
                seconds += time.perf_counter() - began
                drawn = gvit.render(gaussians, *batch.shape[-2:]).clamp(0, 1)
                quality.append(psnr(drawn, batch))
                if self.labels is not None:
                    guesses = self.model.classify(gaussians).argmax(-1)
                    hits += int((guesses == self.labels[first : first + len(batch)]).sum())
        return {
            **{"height": images.shape[-2], "width": images.shape[-1]},
            **setting,
            "psnr": torch.cat(quality).mean().item(),
            "top1": None if self.labels is None else hits / len(images),
            "ms_an_image": 1e3 * seconds / len(images),
        }

    def of_size(self, height: int, width: int) -> Tensor:
        """The same photographs at another size."""
        return torch.stack([_resized(photo, height, width) for photo in self.photographs])


def _batches(images: Tensor) -> Iterator[tuple[int, Tensor]]:
    size = max(1, BATCH * 128**2 // images[0, 0].numel())
    return ((first, images[first : first + size]) for first in range(0, len(images), size))


def _resized(photo: Image.Image, height: int, width: int) -> Tensor:
    """The middle of a photograph, of this aspect, resized."""
    share = min(photo.width / width, photo.height / height)
    middle = transforms.center_crop(photo, [round(share * height), round(share * width)])
    small = middle.resize((width, height), Image.Resampling.BICUBIC)
    return transforms.to_dtype(transforms.to_image(small.convert("RGB")), torch.float32, scale=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--looks", type=int, nargs="*", default=[1, 2, 3, 4, 6, 8, 12, 16, 24])
    parser.add_argument("--numbers", type=int, nargs="*", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--sizes", type=int, nargs="*", default=[])
    parser.add_argument("--aspects", type=float, nargs="*", default=[])
    parser.add_argument("--images", nargs="*", default=[], help="files, folders or quoted patterns")
    parser.add_argument("--count", type=int, default=750, help="how many test images, spread evenly")
    parser.add_argument("--fit-steps", type=int, help="beside fits of so many steps")
    parser.add_argument("--name", default="looks", help="of the JSON file")
    options = parser.parse_args()
    bench = Bench(options.run, options.count, options.images)
    encoder = bench.model.encoder
    own, looks, side = encoder.num_gaussians, encoder.turns, bench.model.img_size
    rows = []

    def tell(row: dict[str, float | int | None]) -> None:
        rows.append(row)
        looks = row["looks"] if "looks" in row else f"fit of {row['fit_steps']} steps"
        top1 = "–" if row["top1"] is None else f"{100 * row['top1']:.1f}"
        print(
            f"| {row['height']}x{row['width']} | {row['num_gaussians']} | {looks} | {row['psnr']:.2f} | {top1} "
            f"| {row['ms_an_image']:.1f} |",
            flush=True,
        )

    print(f"{len(bench.images)} images, {describe(provenance())}\n")
    print(
        "| pixels | Gaussians | looks | PSNR dB | top-1 % | ms an image |\n| --- | --- | --- | --- | --- | --- |"
    )
    bench.measure(bench.images[:1], own, 1)  # what is compiled and set up once is nobody's time
    for number in options.looks:
        tell(bench.measure(bench.images, own, number))
    for number in options.numbers:
        tell(bench.measure(bench.images, number, looks))
    for size in options.sizes:
        tell(bench.measure(bench.of_size(size, size), own, looks))
        tell(bench.measure(bench.of_size(size, size), max(1, round(own * (size / side) ** 2)), looks))
    for aspect in options.aspects:
        height, width = round(side * aspect**0.5), round(side / aspect**0.5)
        tell(bench.measure(bench.of_size(height, width), own, looks))
    if options.fit_steps:
        tell(bench.fit(own, options.fit_steps))
    settings = {"run": options.run.name, "images": len(bench.images), "model": bench.model.card.name}
    print(f"\n{write_results(options.name, settings, rows)}")


if __name__ == "__main__":
    main()
