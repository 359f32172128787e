"""GViT beside the patch ViT of the same size, by one recipe and budget; guidance beside none.

    python benchmarks/compare.py digits --seeds 0 1 2
    python benchmarks/compare.py cifar10 --data-dir FOLDER --epochs 2 --warmup-epochs 0.2

Prints a table last, writes ``docs/results/compare_DATA.json``, and from all such files ``docs/results.md``. Runs go to
``runs/compare``, ``--jobs`` at a time with an equal share of the cores; started again, it goes on where it stopped.
Flags that it does not know itself (``--epochs``, ``--warmup-epochs``) go to ``gvit train``, for every row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from gvit.recipes import load_recipe
from provenance import ROOT, describe, provenance


def rows(recipe: str) -> dict[str, list[str]]:
    """Name and flags of each row; without guidance its epochs go to the phase before."""
    schedule = load_recipe(recipe).schedule
    both = schedule.classify_epochs + schedule.guide_epochs
    unguided = ["--classify-epochs", str(both), "--guide-epochs", "0"]
    return {
        "patch ViT": ["--model", "vit_tiny_patch8"],
        "GViT, no guidance": unguided,
        "GViT, guided": [],
        "GViT, joint": [*unguided, "--gradient", "joint"],
        "GViT, guided, raw tokens": ["--tokens", "raw"],
    }


def train(recipe: str, name: str, seed: int, flags: list[str], threads: int) -> dict:
    """Train, or go on; the last evaluation of the run."""
    label = name.lower().replace(",", "").replace(" ", "-")
    out = ROOT / "runs" / "compare" / recipe / f"{label}-{seed}"
    command = [sys.executable, "-m", "gvit", "train"]
    if (out / "config.json").exists():
        command += ["--resume", str(out)]
    else:
        command += [recipe, *flags, "--seed", str(seed), "--out", str(out)]
    started = time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    subprocess.run(command, env=environment, check=True, stderr=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "evaluation"][-1]
    keep = ("num_images", "top1", "psnr", "ssim", "step", "epoch", "moved")
    result = {"row": name, "seed": seed, "flags": flags} | {key: last.get(key) for key in keep}
    return result | {"seconds": round(time.perf_counter() - started)}


def table(results: list[dict]) -> str:
    """Markdown; mean and standard deviation over the seeds."""
    lines = ["| | seeds | top-1 % | PSNR dB | SSIM |", "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == name]
        cells = [spread([100 * r["top1"] for r in mine])]
        cells += [spread([r[key] for r in mine], digits) for key, digits in (("psnr", 2), ("ssim", 3))]
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def write_page() -> None:
    """``docs/results.md`` from the JSON files: no number there is typed by hand."""
    parts = [_PREFACE]
    for path in sorted((ROOT / "docs" / "results").glob("compare_*.json"), reverse=True):
        content = json.loads(path.read_text())
        settings, rows_, name = content["settings"], content["rows"], content["settings"]["recipe"]
        epochs = rows_[0]["epoch"]
        command = f"python benchmarks/compare.py {name} --seeds {' '.join(map(str, settings['seeds']))}"
        command += "".join(f" {word}" for word in settings["extra"])
        if name != "digits":
            command += " --data-dir FOLDER"
        guided = [row for row in rows_ if row["moved"] is not None]
        moved = spread([100 * row["moved"] for row in guided if row["row"] == "GViT, guided"], 0)
        parts.append(
            f"## {name}\n\n`{command}`: {epochs:g} epochs, {rows_[0]['num_images']} test images; "
            f"{describe(content['provenance'])}. {settings['remark']}\n\n{table(rows_)}\n\n"
            f"Share of Gaussians that moved by more than a pixel in the guided phase: {moved} %.\n"
        )
    (ROOT / "docs" / "results.md").write_text("\n".join(parts))


_PREFACE = """# Results

Written by `benchmarks/compare.py` from the JSON files in `docs/results/`. Top-1 on the test images after the last epoch
(no validation split, no choice of the best epoch), mean ± standard deviation over seeds. All rows of a table have the
same data, augmentation, batch size, learning rate, weight decay and epochs. The patch ViT is GViT's classifier over
patches of pixels; it learns to classify in all epochs, GViT's classifier in those after the first two phases only. "No
guidance" gives the guided phase's epochs to the phase before it; "joint" lets the classifier's gradient into the
encoder in every step of both.
What the numbers say is discussed in [experiments](experiments.md).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", help="positions of the rows, from 0; all of them when not given"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data-dir")
    parser.add_argument("--remark", default="", help="what a reader of the table has to know about the data")
    options, extra = parser.parse_known_args()
    shared = extra + ([] if options.data_dir is None else ["--data-dir", options.data_dir])
    named = list(rows(options.recipe).items())
    chosen = named if options.rows is None else [named[i] for i in options.rows]
    threads = max(1, (os.cpu_count() or 1) // options.jobs)
    machine = provenance()
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [
            pool.submit(train, options.recipe, name, seed, flags + shared, threads)
            for seed in options.seeds
            for name, flags in chosen
        ]
        results = [job.result() for job in waiting]
    for result in results:  # where the data lie is nobody's business
        result["flags"] = [flag for flag in result["flags"] if flag not in ("--data-dir", options.data_dir)]
    settings = {
        "recipe": options.recipe,
        "extra": extra,
        "remark": options.remark,
        "seeds": options.seeds,
        "jobs": options.jobs,
    }
    path = ROOT / "docs" / "results" / f"compare_{options.recipe}.json"
    path.parent.mkdir(exist_ok=True)
    content = {"settings": settings, "provenance": machine, "rows": results}
    path.write_text(json.dumps(content, indent=2) + "\n")
    write_page()
    print(f"{options.recipe}, {describe(machine)}\n\n{table(results)}")


if __name__ == "__main__":
    main()
