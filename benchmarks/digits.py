"""What ``gvit train digits`` reaches, over seeds, and whether it repeats to the last bit.

python benchmarks/digits.py --seeds 0 0 1 2

A seed named twice is trained twice; equal rows have equal checksums of the weights. ``--unguided`` gives the guided
phase's epochs to the phase before it.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

from gvit.evaluation import Evaluation
from gvit.recipes import digits
from gvit.training.config import TrainConfig
from gvit.training.loop import train
from gvit.training.run import Run
from gvit.training.schedule import StepPlan
from provenance import describe, provenance, write_results


class Silent:
    """An observer that only shows that something happens."""

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None: ...

    def step(self, step: int, plan: StepPlan, losses: dict[str, float], images_per_second: float) -> None: ...

    def evaluation(self, step: int, result: Evaluation) -> None:
        print(".", end="", file=sys.stderr, flush=True)


def measure(config: TrainConfig, folder: Path) -> dict[str, float | int | str]:
    started = time.perf_counter()
    result = train(config, folder, Silent())
    seconds = time.perf_counter() - started
    checksum = hashlib.sha256(Run(folder).weights_file.read_bytes()).hexdigest()[:16]
    return {
        "seed": config.seed,
        "top1": result.top1,
        "psnr": result.psnr,
        "ssim": result.ssim,
        "seconds": round(seconds, 1),
        "weights_sha256": checksum,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--unguided", action="store_true")
    arguments = parser.parse_args()
    seeds, recipe = arguments.seeds, digits()
    if arguments.unguided:
        phases = recipe.schedule
        classify = phases.classify_epochs + phases.guide_epochs
        recipe = replace(recipe, schedule=replace(phases, classify_epochs=classify, guide_epochs=0.0))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds):
            rows.append(measure(replace(recipe, seed=seed), Path(folder) / str(number)))
            print(file=sys.stderr)
    settings = {"recipe": "digits", "seeds": seeds, "guided": not arguments.unguided}
    path = write_results("digits_unguided" if arguments.unguided else "digits", settings, rows)
    print("| seed | top-1 % | PSNR dB | SSIM | seconds | weights |\n| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['seed']} | {100 * row['top1']:.2f} | {row['psnr']:.2f} | {row['ssim']:.3f} "
            f"| {row['seconds']:.0f} | {row['weights_sha256']} |"
        )
    single = list({row["seed"]: row for row in rows}.values())
    if len(single) > 1:
        summary = (f"{mean(v):.2f} ± {stdev(v):.2f}" for v in _columns(single))
        print(f"| mean ± std | {' | '.join(summary)} | | | |")
    print(f"\n{describe(provenance())}; {path.name}")


def _columns(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [100 * row["top1"] for row in rows], [row["psnr"] for row in rows]


if __name__ == "__main__":
    main()
