"""What a byte buys: quantised Gaussians beside JPEG, WebP and AVIF, in PSNR, MS-SSIM and accuracy.

    python benchmarks/rate_distortion.py pictures IMAGE_OR_FOLDER... [--counts 1000 4000 16000] [--bits 4 6]
    python benchmarks/rate_distortion.py accuracy FOLDER_OF_CIFAR10 [--images 1000]

``pictures`` fits Gaussians to photographs (the 24 of Kodak, or any others) and writes ``rate_distortion.json``;
``accuracy`` has ``gvit_tiny.cifar10`` classify test images that went through each format, and writes
``rate_accuracy.json``. Bytes are those of ``Gaussians.to_bytes`` and of whole files of the others, all by Pillow, at
its defaults but for the quality. A format that Pillow lacks is left out with a line. A row that is there of the same
bytes and setting is not measured again: an interrupted benchmark goes on, and rows of other code have to be deleted by
hand. The table is of the images that were asked for; rows of others stay in the file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch
from PIL import Image, features
from torch import Tensor

import gvit
from gvit.data.convert import as_pixels
from gvit.data.images import find_images
from gvit.losses import ms_ssim, psnr
from provenance import ROOT, describe, provenance, write_results

QUALITIES = {
    "jpeg": (5, 10, 20, 40, 60, 80, 90),
    "webp": (1, 10, 25, 50, 75, 90),
    "avif": (10, 25, 40, 60, 75, 90),
}


def formats() -> list[str]:
    found = ["jpeg", *(name for name in ("webp", "avif") if features.check(name))]
    for name in QUALITIES.keys() - set(found):
        print(f"this Pillow has no {name.upper()}: left out")
    return found


def through_codec(pixels: Tensor, name: str, quality: int) -> tuple[Tensor, int]:
    """An image [3, H, W] in [0, 1] as a format gives it back, and the bytes that it took."""
    content = io.BytesIO()
    array = (255 * pixels).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(array).save(content, name, quality=quality)
    return as_pixels(Image.open(content).convert("RGB")), len(content.getvalue())


def compare(drawn: Tensor, pixels: Tensor, size: int) -> dict[str, float | None]:
    similarity = ms_ssim(drawn.clamp(0, 1), pixels)
    return {
        "psnr": psnr(drawn.clamp(0, 1), pixels).item(),
        "ms_ssim": None if similarity is None else similarity.item(),
        "bits_per_pixel": 8 * size / pixels[0].numel(),
    }


def pictures(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What is to be measured, and what measures it."""
    for file in find_images(options.places):
        pixels = as_pixels(file)[:3]
        image = {"image": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}

        def of_codec(name: str, quality: int, pixels: Tensor = pixels) -> dict[str, Any]:
            drawn, size = through_codec(pixels, name, quality)
            return compare(drawn, pixels, size)

        def of_fit(count: int, bits: int, pixels: Tensor = pixels) -> dict[str, Any]:
            fitted = gvit.fit(pixels[None], count, options.steps, bits=bits).gaussians[0]
            content = fitted.to_bytes(bits)
            drawn = gvit.render(gvit.Gaussians.from_bytes(content), *pixels.shape[-2:])
            return compare(drawn, pixels, len(content))

        for name in formats():
            for quality in QUALITIES[name]:
                yield (
                    image | {"format": name, "setting": f"quality {quality}"},
                    lambda n=name, q=quality: of_codec(n, q),
                )
        for count in options.counts:
            for bits in options.bits:
                setting = f"{count} Gaussians, {bits} bits, {options.steps} steps"
                yield image | {"format": "gvit", "setting": setting}, lambda c=count, b=bits: of_fit(c, b)


def accuracy(options: argparse.Namespace) -> Iterator[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    import pyarrow.parquet as pq

    (folder,) = options.places
    files = sorted(Path(folder).rglob("test-*.parquet"))
    if not files:
        raise SystemExit(f"{folder}: no test-*.parquet of CIFAR-10 here")
    rows = pq.read_table(files[0]).slice(0, options.images).to_pylist()
    images = torch.stack(
        [as_pixels(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")) for row in rows]
    )
    labels = torch.tensor([row["label"] for row in rows])
    model = gvit.load_model("gvit_tiny.cifar10").eval()

    @torch.no_grad()
    def top1(gaussians: list[Any]) -> float:
        right = 0
        for begin in range(0, len(labels), 100):
            raw = torch.stack([one.raw for one in gaussians[begin : begin + 100]])
            logits = model.classify(gaussians[begin].replace_raw(raw))
            right += (logits.argmax(-1) == labels[begin : begin + 100]).sum().item()
        return 100 * right / len(labels)

    def drawn_by_encoder(batch: Tensor) -> list[Any]:
        with torch.no_grad():
            return [image for part in batch.split(100) for image in _each(model.encode(part))]

    def of_gaussians(bits: int | None) -> dict[str, Any]:
        gaussians = drawn_by_encoder(images)
        if bits is None:
            return {"top1": top1(gaussians), "bytes": 4.0 * gaussians[0].raw.numel()}
        packed = [one.to_bytes(bits) for one in gaussians]
        again = [gvit.Gaussians.from_bytes(content) for content in packed]
        return {"top1": top1(again), "bytes": statistics.mean(map(len, packed))}

    def of_codec(name: str, quality: int) -> dict[str, Any]:
        found = [through_codec(image, name, quality) for image in images]
        read = torch.stack([image for image, _ in found])
        return {"top1": top1(drawn_by_encoder(read)), "bytes": statistics.mean(size for _, size in found)}

    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    named = {"image": f"{len(labels)} test images", "sha256": digest}
    for bits in (None, 2, 3, 4, 5, 6, 8):
        yield (
            named | {"format": "gvit", "setting": "all bits" if bits is None else f"{bits} bits"},
            lambda b=bits: of_gaussians(b),
        )
    for name in formats():
        for quality in QUALITIES[name]:
            yield (
                named | {"format": name, "setting": f"quality {quality}"},
                lambda n=name, q=quality: of_codec(n, q),
            )


def _each(batch: Any) -> list[Any]:
    return [batch[number] for number in range(len(batch.raw))]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pictures", "accuracy"])
    parser.add_argument("places", nargs="+")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 6])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    name = {"pictures": "rate_distortion", "accuracy": "rate_accuracy"}[options.what]
    path = options.out / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    chosen = []
    for named, measure in {"pictures": pictures, "accuracy": accuracy}[options.what](options):
        row = next((row for row in rows if named.items() <= row.items()), None)
        if row is None:
            row = named | measure()
            rows.append(row)
            write_results(
                name,
                {"steps": options.steps, "seed": 0, "threads": torch.get_num_threads()},
                rows,
                options.out,
            )
            print(row, flush=True)
        chosen.append(row)
    values = [key for key in ("psnr", "ms_ssim", "bits_per_pixel", "top1", "bytes") if key in chosen[0]]
    means = defaultdict(list)
    for row in chosen:
        means[row["format"], row["setting"]].append([row[value] for value in values])
    print("| format | setting |", " | ".join(values), "|\n" + "| --- " * (len(values) + 2) + "|")
    for (kind, setting), found in means.items():
        columns = [
            statistics.mean(column) if None not in column else float("nan")
            for column in zip(*found, strict=True)
        ]
        print(f"| {kind} | {setting} |", " | ".join(f"{column:.4g}" for column in columns), "|")
    print(describe(provenance()))


if __name__ == "__main__":
    main()
