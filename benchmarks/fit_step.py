"""What a step of a fit costs, and what that grows with: covered area, not N*H*W.

    python benchmarks/fit_step.py

A step: draw, mean squared error, backward, Adam. Round Gaussians of one size at random places, opacity 0.7, seed 0.
The covered area counts a pixel as often as it lies inside of a Gaussian's ellipse of alpha 1/255. Medians over steps
that go round the scenes, so that a machine that slows down meanwhile slows all of them. Prints a table last and writes
``benchmarks/results/fit_step.json``.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch
from torch import Tensor

import gvit
from gvit.fitting.optimise import default_scale_factor
from gvit.gaussians import Gaussians
from provenance import describe, provenance, write_results

OPACITY, BLUR = 0.7, 0.3
# what is changed, number, standard deviation in pixels, height, width
SCENES = (
    ("where it starts", 4000, 4.0, 512, 768),
    ("4 times the Gaussians, half as wide", 16000, 2.0, 512, 768),
    ("a quarter of the Gaussians, twice as wide", 1000, 8.0, 512, 768),
    ("4 times the area", 4000, 8.0, 512, 768),
    ("4 times the Gaussians and the area", 16000, 4.0, 512, 768),
    ("4 times the pixels", 4000, 4.0, 1024, 1536),
)


def scene(count: int, deviation: float, height: int, width: int) -> tuple[Gaussians, Tensor]:
    draw = torch.Generator().manual_seed(0)
    aspect = height / width
    extent = torch.tensor([min(1.0, 1 / aspect), min(1.0, aspect)])
    gaussians = Gaussians.from_values(
        (2 * torch.rand(1, count, 2, generator=draw) - 1) * extent,
        torch.full((1, count, 2), deviation * 2 / max(height, width)),
        torch.zeros(1, count),
        torch.rand(1, count, 3, generator=draw),
        torch.full((1, count), OPACITY),
        scale_factor=default_scale_factor(count),
        aspect=aspect,
    )
    return gaussians, torch.rand(1, 3, height, width, generator=draw)


def step(gaussians: Gaussians, image: Tensor, optimizer: torch.optim.Adam) -> None:
    optimizer.zero_grad()
    (gvit.render(gaussians, *image.shape[-2:]) - image).square().mean().backward()
    optimizer.step()


def prepare(count: int, deviation: float, height: int, width: int) -> Callable[[], None]:
    gaussians, image = scene(count, deviation, height, width)
    raw = gaussians.raw.requires_grad_()
    # so slow that nothing moves: every step is of the same scene
    return partial(step, gaussians.replace_raw(raw), image, torch.optim.Adam([raw], lr=1e-9))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=15, help="of each scene")
    steps = parser.parse_args().steps
    work = {name: prepare(*sizes) for name, *sizes in SCENES}
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for run in work.values():
        run()
    for _ in range(steps):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, count, deviation, height, width in SCENES:
        covered = count * math.pi * 2 * math.log(255 * OPACITY) * (deviation**2 + BLUR)
        median = statistics.median(seconds[name])
        rows.append({"scene": name, "count": count, "deviation": deviation, "height": height, "width": width})
        rows[-1] |= {"covered": covered, "seconds": median}
    first = rows[0]
    lines = ["| | N | std px | image | covered area | N*H*W | ms a step |", "| --- " * 7 + "|"]
    for row in rows:
        dense = row["count"] * row["height"] * row["width"]
        relative = dense / (first["count"] * first["height"] * first["width"])
        lines.append(
            f"| {row['scene']} | {row['count']} | {row['deviation']:g} | {row['width']}x{row['height']}"
            f" | {row['covered'] / first['covered']:.2f} | {relative:.2f}"
            f" | {1000 * row['seconds']:.1f} ({row['seconds'] / first['seconds']:.2f}) |"
        )
    write_results("fit_step", {"steps": steps, "seed": 0, "threads": torch.get_num_threads()}, rows)
    print(*lines, sep="\n")
    print(f"\n{steps} steps, {torch.get_num_threads()} threads, {describe(provenance())}")


if __name__ == "__main__":
    main()
