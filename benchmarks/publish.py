"""Put trained weights into the package: a file in half precision, its line in the index, its card.

    PYTHONPATH=src python benchmarks/publish.py RUN MODEL.TAG --about TEXT --data TEXT --licence TEXT --command TEXT

``RUN`` is a run folder or a weights file. ``--encoder-only`` leaves the classifier out, for a run that trained it not
at all or for nothing. What half precision costs is measured on the test images of the run, or on those of
``--images FOLDER`` (any size, uncut, ``--num-gaussians`` of each): more than 0.1 dB, or than one image in a thousand
more or fewer classified right, and nothing is written. ``--commit`` is that of the code which trained, where that is
not the present one. ``--hub OWNER/NAME`` only writes index and card into the package, and the file into ``--out``, to
be uploaded. The same name again replaces what is there.

Hardware and time: any CPU, a minute.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import torch

from gvit.data.images import find_images, read_pixels
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.splits import load_test
from gvit.errors import InputError
from gvit.evaluation import evaluate
from gvit.files import check_writable, replacing, write_text
from gvit.losses import psnr
from gvit.models import pretrained
from gvit.models.base import ImageClassifier
from gvit.models.pretrained import INDEX_NAME, Pretrained, shipped
from gvit.models.weights import load_model, save_model
from gvit.rendering import render
from gvit.training.run import Run
from provenance import describe, provenance

LIMIT = 15_000_000  # bytes, of all files in the package
COST = 0.1  # dB that half precision may cost
MOST_TURNED = (
    0.001  # share of the images by which the number of right classes may differ; one image at the least
)


def measured(model: ImageClassifier, options: argparse.Namespace) -> dict[str, float]:
    """PSNR, and top-1 where there are classes, on the test images of the run or on the images of a folder."""
    if options.images is not None:
        errors = []
        for path in find_images([options.images]):
            image = read_pixels(path)[None]
            with torch.no_grad():
                drawn = model.encode(image, num_gaussians=options.num_gaussians, looks=options.looks)
                errors.append(psnr(render(drawn, *image.shape[-2:]).clamp(0, 1), image).item())
        return {"images": len(errors), "psnr": sum(errors) / len(errors)}
    run = Run.open(options.run)
    data = run.load_config().data
    source = load_test(data.dataset, data.data_dir, run.load_split())
    if options.encoder_only:  # any head will do: the classes are not looked at
        model.reset_classifier(len(source.class_names))
    result = evaluate(model, evaluation_loader(EvaluationSamples(source, eval_input(model, source)), 64))
    rows: dict[str, float | None] = {"images": result.num_images, "psnr": result.psnr, "ssim": result.ssim}
    if result.top1 is not None and not options.encoder_only:
        rows["top1"] = 100 * result.top1
    return {name: value for name, value in rows.items() if value is not None}


def card(
    entry: Pretrained, model: ImageClassifier, whole: dict, half: dict, options: argparse.Namespace
) -> str:
    """Markdown: what it is, data, commit, command, numbers, licence."""
    classes = model.card.class_names
    shown = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
    kind = "the encoder only" if model.card.encoder_only else f"{model.num_classes} classes ({shown})"
    names = {"psnr": "PSNR dB", "ssim": "SSIM", "top1": "top-1 %"}
    rows = "\n".join(
        f"| {names[name]} | {whole[name]:.3f} | {half[name]:.3f} |" for name in names if name in whole
    )
    drawing = "".join(
        f", {value} {what}"
        for what, value in (("Gaussians", options.num_gaussians), ("looks", options.looks))
        if value is not None
    )
    where = options.on or "the test images of the run"
    return f"""# {entry.name}

{entry.about[0].upper()}{entry.about[1:]}.

- architecture: `{model.card.name}`, {kind}
- file: {entry.bytes / 1e6:.2f} MB, SHA-256 `{entry.sha256}`

## Data

{options.data}

## Training

    {options.command}

Trained at commit {options.commit or provenance()["commit"]}.

## Numbers

On {whole["images"]} images: {where}{drawing}.
The file holds 16-bit weights; they are computed with in 32 bits.

|  | 32-bit weights | this file |
| --- | --- | --- |
{rows}

Measured at {describe(provenance())}.

## Licence

{options.licence}
"""


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name", metavar="MODEL.TAG")
    for text in ("about", "data", "licence", "command"):
        parser.add_argument(f"--{text}", required=True)
    parser.add_argument("--commit")
    parser.add_argument("--on", help="what the images are that it is measured on")
    parser.add_argument("--encoder-only", action="store_true")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--num-gaussians", type=int)
    parser.add_argument("--looks", type=int)
    parser.add_argument("--hub")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    if not re.fullmatch(r"[\w-]+\.[\w-]+", options.name):
        parser.error(f"{options.name}: names are MODEL.TAG")
    if (options.hub is None) != (options.out is None):
        parser.error("--hub and --out belong together: a file for the Hub lies outside of the package")
    if options.out is not None and options.out.resolve() == pretrained.FOLDER.resolve():
        parser.error(f"--out {options.out}: this is the package's own folder")
    if options.images is None and (options.num_gaussians, options.looks) != (None, None):
        parser.error(
            "--num-gaussians and --looks are for --images: a run's test images are measured as in its training"
        )
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    model = load_model(options.run)
    if model.card.name != options.name.partition(".")[0]:
        sys.exit(f"{options.name}: {options.run} is a {model.card.name}")
    folder = options.out or pretrained.FOLDER
    check_writable(folder)
    whole = measured(load_model(options.run), options)
    weights = dict(model.state_dict())
    if options.encoder_only:
        model.reset_classifier(0)
        model.card = replace(model.card, encoder_only=True)
        weights = {name: value for name, value in weights.items() if name.startswith("encoder.")}
    with tempfile.TemporaryDirectory() as temporary:
        trial = Path(temporary) / "model.safetensors"
        save_model(model, trial, weights, dtype=torch.float16)
        content, half = trial.read_bytes(), measured(load_model(trial), options)
    lost = whole.get("psnr", 0.0) - half.get("psnr", 0.0)
    turned = round(abs(whole.get("top1", 0.0) - half.get("top1", 0.0)) * whole["images"] / 100)
    if not lost <= COST or turned > max(1, MOST_TURNED * whole["images"]):
        sys.exit(f"half precision costs {lost:.2f} dB and {turned} images' classes: nothing written")

    file, checksum = f"{options.name}.safetensors", hashlib.sha256(content).hexdigest()
    entry = Pretrained(options.name, options.about, file, checksum, len(content), options.hub)
    known = shipped() | {entry.name: entry}
    total = sum(e.bytes for e in known.values() if e.hub is None)
    if total > LIMIT:
        sys.exit(f"{total / 1e6:.1f} MB in the package, at most {LIMIT / 1e6:g}: put it on the Hub (--hub)")
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / file) as partial:
        partial.write_bytes(content)
    if options.hub is not None:  # one of that name in the package would be taken for it
        (pretrained.FOLDER / file).unlink(missing_ok=True)
    index = {name: asdict(e) for name, e in sorted(known.items())}
    for row in index.values():
        del row["name"]
    write_text(pretrained.FOLDER / INDEX_NAME, json.dumps(index, indent=2) + "\n")
    write_text(pretrained.FOLDER / f"{entry.name}.md", card(entry, model, whole, half, options))
    pretrained._read.cache_clear()
    print(f"{folder / file}: {len(content) / 1e6:.2f} MB, {lost:+.4f} dB lost; {total / 1e6:.2f} MB in all")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(str(error))
