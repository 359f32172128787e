"""One encoder for small pictures, trained to draw CIFAR-10 and Imagenette, small enough to publish.

    PYTHONPATH=src python benchmarks/gpu/pretrain.py --cifar10 FOLDER --imagenette FOLDER

Hardware: one GPU, 16 cores that load images. Expected time: 5 to 8 minutes for 120 epochs of 25,000 images (an estimate
from 20 ms a step, not measured; ``--epochs`` makes it shorter). Aim: a file of at most 15 MB, with its card.

At 64 px: CIFAR-10's images are enlarged, Imagenette's reduced. An epoch has as many of one set as of the other: 12,500
of CIFAR-10's training images, and each of Imagenette's 2,500 five times, always cropped differently. There are the
first two phases only, so the classifier in the file has learned nothing and has no head. Started again, it goes on from
the last evaluation. ``--publish`` is the folder for the checkpoint and its card.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from session import Results, arguments, begin, markdown
from torch import Tensor

from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import load_source
from gvit.data.transforms import eval_transform
from gvit.evaluation import measure
from gvit.models.base import ImageClassifier
from gvit.models.registry import register_model
from gvit.models.tokens import CanonicalTokens
from gvit.models.weights import load_model, save_model
from gvit.training.config import DataConfig, ModelConfig, OptimizerConfig, ScheduleConfig, TrainConfig
from gvit.training.observers import ConsoleObserver
from gvit.training.train import resume, train
from provenance import ROOT, describe, provenance

NAME = "gvit-encoder-64px"
LIMIT = 15_000_000  # bytes
register_model(
    "gvit_published",
    "what is trained here; the file that is written needs no such name",
    CanonicalTokens,
    "denoising",
    img_size=64,
    patch_size=8,
    num_gaussians=128,
    encoder_dim=192,
    encoder_depth=6,
    encoder_heads=3,
    embed_dim=128,
    depth=3,
    num_heads=4,
    mlp_ratio=4.0,
)
# set: kind, training images to take, how often each comes in an epoch
SETS = {"cifar10": ("parquet", 12_500, 1), "imagenette": ("folder", 2_500, 5)}
TERMS = """\
- CIFAR-10 (Krizhevsky 2009), here re-encoded as JPEG of quality 75: its page states no licence and asks to cite
  "Learning Multiple Layers of Features from Tiny Images"; the photographs are third parties', for research use.
- Imagenette (fast.ai): ImageNet photographs, for non-commercial research and education; the copyright of each stays
  with its owner.

The weights hold no image, but were learned from these: research use.
"""


def assemble(folder: Path, sources: dict[str, Path | None], dry: bool) -> None:
    """Both sets as class folders, a class for each set: ``train/SET/*.ppm`` and ``val/SET/*.ppm``.

    Decoded once and kept so, which spares the loader the decoding.
    """
    if folder.exists():
        return
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    for name, (kind, count, times) in SETS.items():
        for split, place in (("train", "train"), ("test", "val")):
            images = load_source("digits" if dry else kind, split, sources[name])
            target = unfinished / place / name
            target.mkdir(parents=True, exist_ok=True)
            for i in range(min(len(images), 4 if dry else count if split == "train" else len(images))):
                images.load(i).save(target / f"{i:05}.ppm")
                for again in range(1, times if split == "train" else 1):
                    (target / f"{i:05}-{again}.ppm").unlink(missing_ok=True)
                    (target / f"{i:05}-{again}.ppm").symlink_to(f"{i:05}.ppm")
    unfinished.rename(folder)


def configuration(images: Path, epochs: float, workers: int, dry: bool) -> TrainConfig:
    return TrainConfig(
        model=ModelConfig("gvit_published", num_gaussians=8 if dry else None),
        data=DataConfig(
            "folder",
            images,
            batch_size=8 if dry else 256,
            workers=0 if dry else workers,
            crop_pct=1.0,
            min_crop=0.5,
        ),
        schedule=ScheduleConfig(
            epochs=epochs,
            reconstruct_epochs=1.0,
            perceptual_epochs=2.0,
            classify_epochs=0.0,
            guide_epochs=0.0,
            eval_every=epochs if dry else epochs / 4,
        ),
        optimizer=OptimizerConfig(base_lr=1e-3, warmup_epochs=epochs / 24, clip_grad=1.0),
    )


def publish(run: Path, file: Path) -> ImageClassifier:
    """Write the encoder's weights with a classifier that has no head, under no name: who reads them has none for it."""
    model = load_model(run)
    model.reset_classifier(0)
    model.card = replace(model.card, name="")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, file)
    return load_model(file)


def fidelity(model: ImageClassifier, config: TrainConfig, device: str) -> list[dict]:
    """PSNR and SSIM on the test images of each set."""
    tests = load_source(config.data.dataset, "test", config.data.data_dir)
    images = EvaluationSamples(tests, eval_transform(model.card.preprocessing))
    # any head will do: the classes are not looked at
    model.reset_classifier(len(tests.class_names))
    loader = evaluation_loader(images, config.data.batch_size, config.data.workers)
    measured: dict[str, Tensor] = measure(model.to(device), loader)
    rows = []
    for label, name in enumerate(tests.class_names):
        mine = measured["label"] == label
        means = {key: measured[key][mine].double().mean().item() for key in ("psnr", "ssim")}
        rows.append({"set": name, "images": int(mine.sum())} | means)
    return rows


def card(file: Path, count: int, config: TrainConfig, rows: list[dict]) -> str:
    """Markdown; ``count`` is the number of Gaussians."""
    epochs = config.schedule.epochs
    return f"""# {NAME}

A GViT encoder that turns a picture of 64 px into {count} Gaussians that draw it. It was trained for reconstruction
only: the classifier in the file is untrained and has no head. {file.stat().st_size / 1e6:.1f} MB, safetensors.

    import gvit
    model = gvit.load_model("{file.name}")
    gaussians = model.encode(images)  # [B, 3, 64, 64] in [0, 1]

To train a classifier on top:

    gvit train folder --model None --init {file.name} --num-gaussians {count} --data-dir FOLDER

## Test images

{table(rows)}

PSNR is against the images as they came, enlarged or reduced to 64 px: CIFAR-10's are enlarged from 32 px and have
JPEG's artefacts, so it does not compare with published numbers.

## Training

    python benchmarks/gpu/pretrain.py --cifar10 FOLDER --imagenette FOLDER --epochs {epochs:g}

{describe(provenance())}. Seed {config.seed}, batch {config.data.batch_size}; pixel loss, from a third of the epochs
on with SSIM. An epoch has 12,500 training images of CIFAR-10 and five times 2,500 of Imagenette.

## Data and terms

{TERMS}"""


def table(rows: list[dict]) -> str:
    return markdown(
        ["test images of", "images", "PSNR dB", "SSIM"],
        [[r["set"], r["images"], f"{r['psnr']:.2f}", f"{r['ssim']:.3f}"] for r in rows],
    )


def main() -> None:
    parser = arguments(__doc__)
    for name in SETS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--epochs", type=float, default=120.0)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 1))
    parser.add_argument("--publish", type=Path, help="folder for the checkpoint; runs/gpu/published")
    options = parser.parse_args()
    device = begin(options)
    sources = {name: getattr(options, name) for name in SETS}
    if not options.dry_run and None in sources.values():
        parser.error("--cifar10 FOLDER and --imagenette FOLDER are missing")
    runs = options.out / "runs" if options.dry_run else ROOT / "runs" / "gpu"
    epochs = 1.0 if options.dry_run else options.epochs
    file = (options.publish or runs / "published") / f"{NAME}.safetensors"

    assemble(runs / "pretrain-images", sources, options.dry_run)
    config = configuration(runs / "pretrain-images", epochs, options.workers, options.dry_run)
    run = runs / f"pretrain-{epochs:g}"
    with ConsoleObserver() as observer:
        if (run / "config.json").exists():
            resume(run, [observer], device=device)
        else:
            train(config, run, [observer], device=device)

    model = publish(run, file)
    size = file.stat().st_size
    if size > LIMIT:
        sys.exit(f"{file}: {size / 1e6:.1f} MB, which is more than {LIMIT / 1e6:g}: make the model smaller")
    parameters = sum(p.numel() for p in model.parameters())
    results = Results(
        "pretrain", options, seed=config.seed, epochs_trained=epochs, bytes=size, parameters=parameters
    )
    with torch.no_grad():
        for row in fidelity(model, config, device):
            results.add(row)
    file.with_suffix(".md").write_text(card(file, model.tokens.num_patches, config, results.rows))
    results.finish(f"{file}: {size / 1e6:.1f} MB, at most {LIMIT / 1e6:g} wanted\n\n{table(results.rows)}")


if __name__ == "__main__":
    main()
