"""How many steps a fit saves that starts from an encoder's Gaussians.

    python benchmarks/fit_start.py --data-dir FOLDER --start RUN [--counts 1000 10000] [--inits felzenszwalb gradient]

FOLDER holds images, the Kodak set for example; RUN is a run or a shipped model whose encoder draws any number of
Gaussians, and its start is what ``gvit fit --start RUN`` does. Rows that are there of the same settings are kept, so
that a benchmark that was stopped goes on. Every image is fitted from every start with ``--steps`` steps. What a fit has
gained is its PSNR above that of the image's mean colour, which is what there is before anything is drawn: the same
zero for all starts. Three numbers of steps, from the strictest to the loosest comparison:

- planned: the shortest fit, of ``PLANS``, that ends at the target. A fit of fewer steps is planned for them, growth
  and decay of the rates, so this is what a user has to ask for. Found by bisection: longer fits are taken to be better.
- reached: the step of the long fit at which the target is first reached.
- own: the step of the long fit at which it first has 95 % of its own final gain.

The target is the same PSNR for all starts of an image: 95 % of the final gain of the other start that ends best.
Starts other than RUN add Gaussians until 40 % of their steps, which "reached" and "own" of a long fit hold against
them. The encoder's looks are no steps; a look draws and takes a gradient as a step does, so "with looks" counts them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import numpy as np
import torch

import gvit
from gvit.data.images import find_images, open_image
from gvit.fitting.optimise import FIRST_SHARE, INITIALISERS
from gvit.losses import psnr
from gvit.models.gvit import GViT
from gvit.models.weights import locate
from provenance import ROOT, describe, provenance, write_results

SHOWN = (0, 10, 20, 30, 50, 75, 100, 150, 250, 500)
PLANS = (10, 15, 20, 25, 30, 40, 50, 60, 75, 90, 110, 130, 150, 175, 200, 250, 300, 400, 500)
_SHARE = 0.95
_ENCODER = "--start"


class Fits:
    """Fits of one image with one number of Gaussians from one start."""

    def __init__(self, image: torch.Tensor, count: int, start: str, model: GViT, seed: int) -> None:
        self.image, self.count, self.seed = image, count, seed
        self.init: Any = start
        self.encode_seconds = 0.0
        if start == _ENCODER:
            begun = time.perf_counter()
            with torch.no_grad():
                self.init = model.encode(image, num_gaussians=max(1, round(FIRST_SHARE * count)))
            self.encode_seconds = time.perf_counter() - begun

    def curve(self, steps: int) -> list[float]:
        """PSNR in dB after 0, 1, ... steps."""
        found: list[float] = []
        result = gvit.fit(
            *(self.image, self.count, steps, self.init, self.seed),
            progress=lambda _, quality: found.append(quality),
        )
        return [*found, result.psnr.item()]

    def shortest(self, target: float, plans: Sequence[int]) -> int | None:
        """Of ``plans``, rising, the first whose fit ends at ``target`` dB or above."""
        low, high = 0, len(plans)
        while low < high:
            middle = (low + high) // 2
            if self.curve(plans[middle])[-1] >= target:
                high = middle
            else:
                low = middle + 1
        return plans[low] if low < len(plans) else None


def first_at(curve: Sequence[float], target: float) -> int | None:
    """The first step with that PSNR or more."""
    return next((step for step, quality in enumerate(curve) if quality >= target), None)


def measure(file: Path, count: int, starts: Sequence[str], model: GViT, steps: int, seed: int) -> list[dict]:
    """A row per start."""
    image = torch.from_numpy(np.array(open_image(file))).permute(2, 0, 1)[None].float() / 255
    nothing = psnr(image.mean((2, 3), keepdim=True).expand_as(image), image).item()
    rows, fits, curves = [], {}, {}
    for start in starts:
        fits[start] = Fits(image, count, start, model, seed)
        begun = time.perf_counter()
        curves[start] = fits[start].curve(steps)
        rows.append({"start": start, "fit_seconds": time.perf_counter() - begun})
    best = max(curve[-1] for start, curve in curves.items() if start != _ENCODER)
    target = nothing + _SHARE * (best - nothing)
    for row in rows:
        start = row["start"]
        curve = curves[start]
        row |= {
            "image": file.name,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "count": count,
            "mean_colour": nothing,
            "final": curve[-1],
            "target": target,
            "curve": {str(step): curve[step] for step in (*SHOWN, steps) if step <= steps},
            "planned": fits[start].shortest(target, [plan for plan in PLANS if plan <= steps]),
            "reached": first_at(curve, target),
            "own": first_at(curve, nothing + _SHARE * (curve[-1] - nothing)),
            "encode_seconds": fits[start].encode_seconds,
        }
    return rows


def tables(rows: Sequence[dict], looks: int) -> list[str]:
    """Means over the images as two Markdown tables a number of Gaussians, and how the encoder's start compares."""
    lines = []
    for count in dict.fromkeys(row["count"] for row in rows):
        here = [row for row in rows if row["count"] == count]
        starts = list(dict.fromkeys(row["start"] for row in here))
        images = len({row["image"] for row in here})
        steps = list(here[0]["curve"])
        lines += [f"\n{count} Gaussians, {images} images: PSNR in dB after so many of {steps[-1]} steps\n"]
        lines += [f"| start | {' | '.join(map(str, steps))} |", f"| --- |{' --- |' * len(steps)}"]
        for start in starts:
            means = (
                statistics.mean(row["curve"][step] for row in here if row["start"] == start) for step in steps
            )
            lines.append(f"| {start} | {' | '.join(f'{mean:.2f}' for mean in means)} |")
        lines += [
            "\n| start | planned | reached | own | seconds of 500 steps |".replace("500", str(steps[-1]))
        ]
        lines += ["| --- | --- | --- | --- | --- |"]
        needed: dict[str, dict[str, float | None]] = {}
        for start in starts:
            mine = [row for row in here if row["start"] == start]
            needed[start] = {
                name: _mean([row[name] for row in mine]) for name in ("planned", "reached", "own")
            }
            shown = " | ".join("never" if n is None else f"{n:.0f}" for n in needed[start].values())
            seconds = statistics.mean(row["fit_seconds"] for row in mine)
            lines.append(f"| {start} | {shown} | {seconds:.1f} |")
        drawn = statistics.mean(row["encode_seconds"] for row in here if row["start"] == _ENCODER)
        lines.append(f"\nThe encoder took {drawn:.2f} s an image ({looks} looks).")
        for name in ("planned", "reached", "own"):
            ours = needed[_ENCODER][name]
            others = {s: n[name] for s, n in needed.items() if s != _ENCODER and n[name] is not None}
            if ours is not None and others:
                best = min(others, key=lambda start: others[start] or 0)
                steps_of_best = others[best] or 0.0
                lines.append(
                    f"{name}: {ours:.0f} steps against {steps_of_best:.0f} ({best}), a ratio of "
                    f"{ours / steps_of_best:.2f}; with looks {(ours + looks) / steps_of_best:.2f}"
                )
    return lines


def _mean(numbers: Sequence[int | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return statistics.mean(known) if len(known) == len(numbers) else None


def _known(file: Path, settings: dict) -> list[dict]:
    """The rows of a results file, if they were measured with these settings."""
    known = json.loads(file.read_text()) if file.exists() else {"settings": None}
    return known["rows"] if known["settings"] == settings else []


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--start", required=True, help="run folder, weights file, or name of a shipped model")
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--inits", nargs="+", choices=list(INITIALISERS), default=list(INITIALISERS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of fit_start.json"
    )
    options = parser.parse_args(arguments)

    model = gvit.load_model(options.start)
    if not isinstance(model, GViT) or not model.encoder.any_number:
        parser.error(f"--start {options.start}: it takes an encoder of any number of Gaussians")
    starts = [*options.inits, _ENCODER]
    settings = {
        "steps": options.steps,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        "start_sha256": hashlib.sha256(locate(options.start).read_bytes()).hexdigest(),
        "looks": model.encoder.turns,
        "starts": starts,
    }
    gvit.fit(torch.rand(1, 3, 32, 32), 10, 2)  # compilation is nobody's time
    rows = _known(options.out / "fit_start.json", settings)
    for file in find_images([options.data_dir]):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        for count in options.counts:
            if any((row["sha256"], row["count"]) == (digest, count) for row in rows):
                continue
            rows += measure(file, count, starts, model, options.steps, options.seed)
            write_results("fit_start", settings, rows, options.out)
            for row in rows[-len(starts) :]:
                shown = f"planned {row['planned']} reached {row['reached']} own {row['own']}"
                print(
                    f"{file.name} N={count} {row['start']}: {row['final']:.2f} dB, {shown}",
                    flush=True,
                )
    print("\n".join(tables(rows, model.encoder.turns)))
    print(f"\nseed {options.seed}, {describe(provenance())}")


if __name__ == "__main__":
    main()
