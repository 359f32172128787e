"""Resident memory and open files of a process that trains, evaluates and fits for an hour.

    python benchmarks/soak.py [--minutes 60] [--seed 0]

One process does the same small round again and again: a run of the recipe ``debug`` on digits, one on made-up image
files in class folders with a loading process and random augmentation, the evaluation of both with its figures and
tables, a prediction, and a ``fit`` of a photograph, adaptive. After each round it is measured what ``/proc/self``
says: resident memory, open files, threads. The first third of the time is warm-up: libraries are imported, caches
filled, the allocator finds the size that it needs. From then on the straight line through resident memory may rise by
2 % in an hour (or 20 MiB), and at the end no more files and threads may be open than when the warm-up ended. Exit code
1 where it is not so. Writes ``benchmarks/results/soak.json``. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.data import astronaut

import gvit
from gvit.recipes import debug
from gvit.training.config import TrainConfig
from gvit.training.report import assess
from gvit.training.train import train
from provenance import describe, provenance, write_results

WARM_UP = 1 / 3  # of the time
MAX_GROWTH, MIN_GROWTH_MIB = 0.02, 20.0  # an hour; below the latter it is the allocator's noise
SHOWN = 13  # rows of the table


def write_images(folder: Path, seed: int) -> None:
    """Two classes of 40 pieces of a photograph, as JPEG and PNG files."""
    whole, rng = Image.fromarray(astronaut()), random.Random(seed)
    for number in range(80):
        left, top = rng.randrange(400), rng.randrange(400)
        piece = whole.crop((left, top, left + 100, top + 90))
        file = folder / str(number % 2) / f"{number:02}.{('jpg', 'png')[number % 3 == 0]}"
        file.parent.mkdir(exist_ok=True)
        piece.save(file)


def of_folder(config: TrainConfig, folder: Path, workers: int) -> TrainConfig:
    """The same training on image files, with a loading process and everything that happens to images."""
    data = replace(config.data, dataset="folder", data_dir=folder, workers=workers, hflip=True, batch_size=16)
    schedule = replace(config.schedule, epochs=5.0)  # of 4 steps
    return replace(
        config, data=data, schedule=schedule, pixels=replace(config.pixels, randaugment=5, mixup=0.2)
    )


def one_round(images: Path, seed: int) -> None:
    config = replace(debug(), seed=seed)
    with tempfile.TemporaryDirectory() as place:
        for name, of in (("digits", config), ("folder", of_folder(config, images, workers=1))):
            train(of, Path(place) / name)
            assess(Path(place) / name)
        files = sorted(images.rglob("*.*"))[:8]
        gvit.predict(gvit.load_model(Path(place) / "folder"), files)
        gvit.fit(Image.open(files[0]), num_gaussians=50, steps=30, seed=seed).gaussians.save(
            Path(place) / "fit.safetensors"
        )
        gvit.render(gvit.Gaussians.load(Path(place) / "fit.safetensors"), 64, 64)


def measured(started: float) -> dict[str, float]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "minutes": round((time.monotonic() - started) / 60, 2),
        "resident_mib": round(int(status["VmRSS"].split()[0]) / 1024, 1),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
    }


def verdict(rows: list[dict[str, float]]) -> tuple[bool, str]:
    """Whether the rows after the warm-up are flat, and a line that says it."""
    warm = [row for row in rows if row["minutes"] >= WARM_UP * rows[-1]["minutes"]]
    minutes, memory = (np.array([row[name] for row in warm]) for name in ("minutes", "resident_mib"))
    per_hour = 60 * np.polyfit(minutes, memory, 1)[0] if len(warm) > 2 else np.inf
    allowed = max(MIN_GROWTH_MIB, MAX_GROWTH * memory[0])
    same = all(warm[-1][name] <= warm[0][name] for name in ("open_files", "threads"))
    flat = bool(per_hour <= allowed) and same
    return flat, (
        f"{'flat' if flat else 'NOT FLAT'} from minute {minutes[0]:.0f} on: {memory[0]:.0f} to {memory[-1]:.0f} MiB, "
        f"{per_hour:+.1f} MiB an hour ({allowed:.0f} allowed), open files {warm[0]['open_files']} to "
        f"{warm[-1]['open_files']}, threads {warm[0]['threads']} to {warm[-1]['threads']}; {len(rows)} rounds in "
        f"{rows[-1]['minutes']:.0f} minutes"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    # of the code that runs, not of what the clone holds an hour later
    os.environ["GVIT_COMMIT"] = provenance()["commit"]
    started, rows, shown = time.monotonic(), [], 0
    print(f"{'minutes':>8}{'rounds':>8}{'MiB':>8}{'files':>8}{'threads':>9}")
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.seed)
        while not rows or rows[-1]["minutes"] < options.minutes:
            one_round(Path(folder), options.seed + len(rows))
            rows.append(measured(started))
            row = rows[-1]
            if row["minutes"] >= shown * options.minutes / SHOWN:
                shown += 1
                print(
                    f"{row['minutes']:>8.1f}{len(rows):>8}{row['resident_mib']:>8.0f}{row['open_files']:>8}"
                    f"{row['threads']:>9}",
                    flush=True,
                )
    flat, said = verdict(rows)
    print(said)
    write_results("soak", {"minutes": options.minutes, "seed": options.seed, "verdict": said}, rows)
    print(describe(provenance()))
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
