"""What weights that come with gvit are worth to somebody who has few photographs.

    python benchmarks/few_photographs.py --data-dir FOLDER

Trains the recipe ``folder`` on the first images of some classes of a folder of photographs (by name of the files), and
tests it on all images that its ``val`` has of them: from the weights that come with gvit, the same in half of the
epochs, from random numbers, and the patch ViT. Started again, it goes on with the runs that are missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from gvit.recipes import folder as recipe
from gvit.reproduction.report import spread
from gvit.training.config import TrainConfig
from gvit.training.setup import set_up
from gvit.training.train import train
from provenance import ROOT, describe, provenance, write_results

SETS = {"10 x 20": (range(10), 20), "5 x 30": (range(4, 9), 30)}  # which classes, images of each
PATCHES = "vit_tiny_patch8"


def link(source: Path, target: Path, classes: range, count: int) -> None:
    """The part of a folder that a set consists of."""
    names = sorted(path.name for path in (source / "train").iterdir() if path.is_dir())
    for name in [names[number] for number in classes]:
        for split, most in (("train", count), ("val", None)):
            (target / split / name).mkdir(parents=True)
            for file in sorted((source / split / name).iterdir())[:most]:
                (target / split / name / file.name).symlink_to(file.absolute())


def arms(data_dir: Path, seed: int) -> dict[str, TrainConfig]:
    """Configurations by name."""
    usual = recipe()
    usual = replace(usual, data=replace(usual.data, data_dir=data_dir), seed=seed)
    epochs = sum(set_up(usual).config.schedule.phase_epochs())
    half = replace(usual.schedule, min_steps=None, epochs=epochs / 2)
    return {
        "pretrained": usual,
        "pretrained, half of the epochs": replace(usual, schedule=half),
        "from random numbers": replace(usual, model=replace(usual.model, init=None)),
        "patch ViT": replace(usual, model=replace(usual.model, model=PATCHES, init=None)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="has train/CLASS and val/CLASS")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    file = options.out / "few_photographs.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    done = {(row["set"], row["arm"], row["seed"]) for row in rows}
    for seed in options.seeds:
        for name in options.sets:
            classes, count = SETS[name]
            with tempfile.TemporaryDirectory() as place:
                link(options.data_dir, Path(place) / "images", classes, count)
                for arm, config in arms(Path(place) / "images", seed).items():
                    if (name, arm, seed) in done:
                        continue
                    started = time.perf_counter()
                    result = train(config, Path(place) / "run", overwrite=True)
                    seconds = time.perf_counter() - started
                    measured = {"top1": result.top1, "psnr": result.psnr, "seconds": seconds}
                    measured["commit"] = provenance()["commit"]  # it may go on with another one
                    rows.append({"set": name, "arm": arm, "seed": seed} | measured)
                    settings = {
                        "sets": list(dict.fromkeys(row["set"] for row in rows)),
                        "seeds": sorted({row["seed"] for row in rows}),
                    }
                    write_results(file.stem, settings, rows, options.out)
                    print(rows[-1], flush=True)
    print(f"\n{file}, {describe(provenance())}\n\n{table(rows)}")


def table(rows: list[dict]) -> str:
    """Markdown; mean and standard deviation over the seeds, of seconds the median."""
    lines = [
        "| photographs | | seeds | top-1 % | PSNR dB | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, arm in dict.fromkeys((row["set"], row["arm"]) for row in rows):
        mine = [row for row in rows if (row["set"], row["arm"]) == (name, arm)]
        top1, psnr = (
            spread([100 * row["top1"] for row in mine]),
            spread([row["psnr"] for row in mine]),
        )
        seconds = statistics.median(row["seconds"] for row in mine)
        lines.append(f"| {name} | {arm} | {len(mine)} | {top1} | {psnr} | {seconds:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
