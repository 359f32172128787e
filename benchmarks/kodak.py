"""How well fits by optimisation draw photographs, per number of Gaussians and initialiser.

    python benchmarks/kodak.py --data-dir FOLDER [--counts 1000 5000 10000] [--steps 750] [--inits gradient random]

FOLDER holds the 24 images of the Kodak set (768x512 and 512x768), or any others. Prints a table last: means of PSNR,
MS-SSIM, bits a pixel and seconds per image. ``benchmarks/results/kodak.json`` has a row per image and setting. A row
is used again only where the image's bytes, the settings, gvit's source, the machine and the number of threads are
those of now, so that an interrupted benchmark goes on; otherwise the fit is measured anew and its row replaced.
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
from gvit.fitting.optimise import INITIALISERS
from gvit.losses import ms_ssim
from provenance import ROOT, describe, provenance, write_results

RESULTS = ROOT / "benchmarks" / "results"
_IDENTITY = ("sha256", "count", "init", "adaptive", "steps", "seed", "bits", "code", "machine", "threads")
_REPLACED = ("sha256", "count", "init", "adaptive", "steps", "seed", "bits")


def source_digest(folder: Path = Path(gvit.__file__).parent) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of all Python files of a package, names and bytes."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:16]


def measure(
    file: Path, count: int, init: str, adaptive: bool, steps: int, seed: int, bits: int | None
) -> dict[str, float | None]:
    """PSNR in dB, MS-SSIM (None for small images), bits a pixel of the numbers, and seconds of one fit."""
    image = torch.from_numpy(np.array(open_image(file))).permute(2, 0, 1)[None].float() / 255
    begun = time.perf_counter()
    result = gvit.fit(image, count, steps, init, seed, adaptive=adaptive, bits=bits)
    seconds = time.perf_counter() - begun
    height, width = image.shape[-2:]
    similarity = ms_ssim(gvit.render(result.gaussians, height, width), image)
    size = 4 * result.gaussians.raw.numel() if bits is None else len(result.gaussians[0].to_bytes(bits))
    return {
        "psnr": result.psnr.item(),
        "ms_ssim": None if similarity is None else similarity.item(),
        "bits_per_pixel": 8 * size / (height * width),
        "seconds": seconds,
    }


def _same(row: dict[str, Any], other: dict[str, Any], keys: Sequence[str]) -> bool:
    return all(row.get(key) == other[key] for key in keys)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 5000, 10000])
    parser.add_argument("--inits", nargs="+", choices=list(INITIALISERS), default=["gradient", "random"])
    parser.add_argument("--no-adaptive", action="store_true", help="all Gaussians from the start, none moved")
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bits", type=int, help="quantised, as by gvit fit --bits")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of kodak.json")
    options = parser.parse_args(arguments)

    # rows of other images and settings stay in the file
    path = options.out / "kodak.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    files = find_images([options.data_dir])
    digests = {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    commit, machine = describe(provenance()).removeprefix("commit ").split(", ", 1)
    now = {"code": source_digest(), "machine": machine, "threads": torch.get_num_threads()}
    gvit.fit(torch.rand(1, 3, 32, 32), 10, 2)  # compilation is nobody's time
    table, commits = [], []
    for count in options.counts:
        for init in options.inits:
            setting = {"count": count, "init": init, "adaptive": not options.no_adaptive}
            setting |= {"steps": options.steps, "seed": options.seed, "bits": options.bits}
            chosen = []
            for file in files:
                wanted = {"image": file.name, "sha256": digests[file]} | setting | now
                row = next((row for row in rows if _same(row, wanted, _IDENTITY)), None)
                if row is None:
                    row = wanted | measure(file, **setting) | {"commit": commit}
                    rows = [old for old in rows if not _same(old, wanted, _REPLACED)] + [row]
                    write_results("kodak", {}, rows, options.out)
                    print(f"{file.name} N={count} {init}: {row['psnr']:.2f} dB", flush=True)
                chosen.append(row)
            commits += [row["commit"] for row in chosen]
            psnr = statistics.mean(row["psnr"] for row in chosen)
            similar = [row["ms_ssim"] for row in chosen]
            told = "" if None in similar else f"{statistics.mean(similar):.4f}"
            rate = statistics.mean(row["bits_per_pixel"] for row in chosen)
            seconds = statistics.mean(row["seconds"] for row in chosen)
            table.append(
                f"| {count} | {init} | {len(chosen)} | {psnr:.2f} | {told} | {rate:.3f} | {seconds:.1f} |"
            )

    measured = " and ".join(dict.fromkeys(commits))
    print(f"\n{options.steps} steps, seed {options.seed}, commit {measured}, {machine}")
    print("| N | init | images | PSNR dB | MS-SSIM | bits a pixel | seconds |", "| --- " * 7 + "|", sep="\n")
    print(*table, sep="\n")


if __name__ == "__main__":
    main()
