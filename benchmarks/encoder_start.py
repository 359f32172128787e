"""How the start of the encoder's position embeddings and of g0 decides how soon it learns to draw.

python benchmarks/encoder_start.py

Trains the encoder of the digits_paper recipe alone for 10 epochs (pixel loss and SSIM, cosine down to 0), once per
start.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from gvit.recipes import digits_paper
from gvit.training.config import TrainConfig
from gvit.training.loop import Loop
from gvit.training.run import Run
from gvit.training.setup import set_up
from provenance import describe, provenance, write_results

# standard deviation of the patches' embeddings (None: sines and cosines), of the Gaussians', of g0
STARTS = (
    (0.02, 0.02, 1.0),
    (0.3, 0.02, 1.0),
    (None, 0.02, 1.0),
    (None, 0.3, 1.0),
    (None, 0.02, 0.5),
    (None, 0.3, 0.5),
    (None, 1.0, 0.5),
    (None, 0.3, 0.25),
)


def measure(config: TrainConfig, patch_std: float | None, gaussian_std: float, folder: Path) -> float:
    setup = set_up(config)
    encoder = setup.task.model.encoder
    torch.manual_seed(config.seed)
    with torch.no_grad():
        encoder.gaussian_pos_embed.normal_(std=gaussian_std)
        if patch_std is not None:
            encoder.patch_pos_embed.normal_(std=patch_std)
    return Loop(setup, Run.create(folder, setup.config)).fit().psnr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    seeds = parser.parse_args().seeds
    recipe = digits_paper()
    schedule = replace(
        recipe.schedule, reconstruct_epochs=0.0, perceptual_epochs=10.0, classify_epochs=0.0, guide_epochs=0.0
    )
    rows = []
    print("| patches start from | Gaussians start from | std of g0 | PSNR dB |\n| --- | --- | --- | --- |")
    for patch_std, gaussian_std, noise_std in STARTS:
        psnrs = []
        for seed in seeds:
            model = replace(recipe.model, noise_std=noise_std)
            optimizer = replace(recipe.optimizer, warmup_epochs=2.0)
            config = replace(recipe, seed=seed, model=model, schedule=schedule, optimizer=optimizer)
            with tempfile.TemporaryDirectory() as folder:
                psnrs.append(measure(config, patch_std, gaussian_std, Path(folder)))
        patches = "sines and cosines" if patch_std is None else f"normal {patch_std}"
        shown = ", ".join(f"{value:.2f}" for value in psnrs)
        print(f"| {patches} | normal {gaussian_std} | {noise_std} | {shown} |", flush=True)
        rows.append(
            {"patch_std": patch_std, "gaussian_std": gaussian_std, "noise_std": noise_std, "psnr": psnrs}
        )
    path = write_results("encoder_start", {"recipe": "digits_paper", "seeds": seeds, "epochs": 10}, rows)
    print(f"\nseeds {seeds}, {describe(provenance())}; {path.name}")


if __name__ == "__main__":
    main()
