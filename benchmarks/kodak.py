"""How well fits by optimisation draw photographs, per number of Gaussians and initialiser.

    python benchmarks/kodak.py --data-dir FOLDER [--counts 1000 5000 10000] [--steps 750] [--inits gradient random]

FOLDER holds the 24 images of the Kodak set (768x512 and 512x768), or any others. Prints a table last: mean PSNR and
seconds per image. ``benchmarks/results/kodak.json`` grows by a row per image and setting; what is there is not measured
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import numpy as np
import torch

import gvit
from gvit.data.images import find_images, open_image
from gvit.fitting.optimise import INITIALISERS
from provenance import ROOT, describe, provenance, write_results

RESULTS = ROOT / "benchmarks" / "results" / "kodak.json"


def measure(file: Path, count: int, init: str, adaptive: bool, steps: int, seed: int) -> dict:
    image = torch.from_numpy(np.array(open_image(file))).permute(2, 0, 1)[None].float() / 255
    begun = time.perf_counter()
    result = gvit.fit(image, count, steps, init, seed, adaptive=adaptive)
    seconds = time.perf_counter() - begun
    row = {
        "image": file.name,
        "count": count,
        "init": init,
        "adaptive": adaptive,
        "steps": steps,
        "seed": seed,
    }
    measured = {"psnr": result.psnr.item(), "seconds": seconds, "threads": torch.get_num_threads()}
    return row | measured | {"commit": provenance()["commit"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--inits", nargs="+", choices=list(INITIALISERS), default=["gradient", "random"])
    parser.add_argument("--no-adaptive", action="store_true", help="all Gaussians from the start, none moved")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # rows of other settings stay in the file
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    files = find_images([options.data_dir])
    gvit.fit(torch.rand(1, 3, 32, 32), 10, 2)  # compilation is nobody's time
    table = []
    for count in options.counts:
        for init in options.inits:
            adaptive = not options.no_adaptive
            setting = {"count": count, "init": init, "adaptive": adaptive}
            setting |= {"steps": options.steps, "seed": options.seed}
            found = {row["image"]: row for row in rows if setting.items() <= row.items()}
            for file in files:
                if file.name not in found:
                    found[file.name] = measure(file, **setting)
                    rows.append(found[file.name])
                    write_results("kodak", {}, rows)
                    print(f"{file.name} N={count} {init}: {rows[-1]['psnr']:.2f} dB", flush=True)
            chosen = [found[file.name] for file in files]
            psnr = statistics.mean(row["psnr"] for row in chosen)
            seconds = statistics.mean(row["seconds"] for row in chosen)
            table.append(f"| {count} | {init} | {len(chosen)} | {psnr:.2f} | {seconds:.1f} |")

    print(f"\n{options.steps} steps, seed {options.seed}, {describe(provenance())}")
    print("| N | init | images | PSNR dB | seconds |\n| --- | --- | --- | --- | --- |", *table, sep="\n")


if __name__ == "__main__":
    main()
