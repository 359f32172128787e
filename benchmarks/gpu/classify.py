"""GViT beside the patch ViT on one GPU: without guidance, with it, the joint gradient, the paper's encoder, raw tokens.

    PYTHONPATH=src python benchmarks/gpu/classify.py cifar10 --data-dir FOLDER --minutes 8
    PYTHONPATH=src python benchmarks/gpu/classify.py imagenette --data-dir FOLDER --minutes 8

Hardware: one GPU, 16 cores that load images. Aim: guidance gains 3 points of accuracy, as the paper says; the guided
GViT comes within 1.8 points of the patch ViT, then above it.

Expected time, an estimate: one core of an AMD EPYC prepares some 2,100 images a second at 32 px and 690 at 128 px
(400 images each, by process time), so 15 of them some 30,000 and 10,000. A row takes 30 epochs of 50,000 images on
CIFAR-10, 50 s at the least, and 100 epochs of 2,500 on Imagenette, 25 s at the least. With the encoder that looks at
its own picture a row takes 47,000 optimizer steps on either set, of about 350 small kernels each: starting them is
likely to decide, which is why several rows are trained at a time.

Rows are those of ``gvit reproduce comparison``, the paper's encoder and raw tokens, every row of a seed before the next
seed, each a ``gvit train`` of its own in ``runs/gpu``. What is finished there is not trained again, what was cut off
goes on from its last evaluation, and no new run begins once ``--minutes`` are over. Flags that are not this script's
(``--epochs``, ``--compile``) go to ``gvit train``, for every row.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from session import Results, arguments, begin

from gvit.recipes import load_recipe
from gvit.reproduction.report import spread
from provenance import ROOT

# Batches that a GPU is worth starting for. The rate per image falls with the root of the batch's growth.
FLAGS = {
    "cifar10": "--epochs 30 --batch-size 256 --base-lr 2.8e-3 --eval-every 10",
    "imagenette": "--epochs 100 --eval-every 25",
}
PAPER = "GViT, guided, the paper's encoder"  # and its recipe
TOY_FLAGS = (
    "--dataset digits --crop-mode squash --img-size 32 --num-gaussians 8 --epochs 0.2 --batch-size 32 "
    "--warmup-epochs 0.01 --eval-every 1"
)
GUIDED = "GViT, guided"
KEPT = ("num_images", "top1", "psnr", "ssim", "step", "epoch", "moved")


def rows(recipe: str) -> dict[str, list[str]]:
    """Name and flags of each row; without guidance its epochs go to the phase before."""
    schedule = load_recipe(recipe).schedule
    both = schedule.classify_epochs + schedule.guide_epochs
    unguided = ["--classify-epochs", str(both), "--guide-epochs", "0"]
    return {
        "patch ViT": ["--model", "vit_tiny_patch8"],
        "GViT, no guidance": unguided,
        GUIDED: [],
        "GViT, joint": [*unguided, "--gradient", "joint"],
        PAPER: [],
        "GViT, guided, raw tokens": ["--tokens", "raw"],
    }


def table(results: list[dict]) -> str:
    """Markdown; mean and standard deviation over the seeds."""
    lines = ["| | seeds | top-1 % | PSNR dB | SSIM |", "| --- | --- | --- | --- | --- |"]
    for name in dict.fromkeys(result["row"] for result in results):
        mine = [result for result in results if result["row"] == name]
        cells = [spread([100 * r["top1"] for r in mine])]
        cells += [spread([r[key] for r in mine], digits) for key, digits in (("psnr", 2), ("ssim", 3))]
        lines.append(f"| {name} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def train(
    out: Path, recipe: str, row: str, seed: int, flags: list[str], where: list[str], deadline: float
) -> dict | None:
    """One run from wherever it stands; None where it is too late to begin.

    ``flags`` decide its result, ``where`` only how it comes about.
    """
    finished = out / "result.json"
    if finished.exists():
        return json.loads(finished.read_text())
    if time.monotonic() > deadline:
        return None
    out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gvit", "train"]
    if (out / "config.json").exists():
        command += ["--resume", str(out)]
    else:
        command += [recipe, *flags, *where, "--seed", str(seed), "--out", str(out)]
    started = time.perf_counter()
    with (out / "log.txt").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode
    result = {"row": row, "seed": seed, "seconds": round(time.perf_counter() - started)}
    if code:
        said = (out / "log.txt").read_text().strip().splitlines()
        return result | {"problem": said[-1] if said else f"exit code {code}"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["images_per_second"] for line in lines if line["kind"] == "train"]
    last = [line for line in lines if line["kind"] == "evaluation"][-1]
    result |= {key: last.get(key) for key in KEPT}
    result["last_images_per_second"] = speeds[-1]
    finished.write_text(json.dumps(result))
    return result


def verdict(done: list[dict]) -> list[str]:
    """The aims beside what was measured: points of accuracy, over the seeds that both rows have."""
    lines = []
    for other, aim in (("GViT, no guidance", "at least +3"), ("patch ViT", "at least -1.8, then above 0")):
        top1 = {(result["row"], result["seed"]): result["top1"] for result in done}
        seeds = [seed for row, seed in top1 if row == other and (GUIDED, seed) in top1]
        if seeds:
            gain = 100 * statistics.mean(top1[GUIDED, seed] - top1[other, seed] for seed in seeds)
            lines.append(f"{GUIDED} against {other}: {gain:+.2f} points over {len(seeds)} seeds, aim {aim}")
    return lines


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("recipe", choices=list(FLAGS))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--rows", type=int, nargs="+", help="positions of the rows, from 0; all when not given"
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no new run begins")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--workers", type=int, help="processes that load images, per run; by the cores")
    options, extra = parser.parse_known_args()
    deadline = time.monotonic() + 60 * options.minutes
    device = begin(options)
    if not options.dry_run and options.data_dir is None:
        parser.error("--data-dir FOLDER is missing")

    cores = os.cpu_count() or 1
    workers = max(1, cores // options.jobs - 1) if options.workers is None else options.workers
    where = ["--device", device]
    if options.dry_run:
        shared, folder = [*TOY_FLAGS.split(), *extra], options.out / "runs"
    else:
        shared, folder = [*FLAGS[options.recipe].split(), *extra], ROOT / "runs" / "gpu"
        where += ["--data-dir", str(options.data_dir), "--workers", str(workers)]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // options.jobs)))

    named = rows(options.recipe)
    order = list(named) if options.rows is None else [list(named)[i] for i in options.rows]
    flags = {row: named[row] + shared for row in order}
    results = Results(f"classify_{options.recipe}", options, flags=flags, workers_used=workers)

    def job(row: str, seed: int) -> dict | None:
        # runs with other flags lie elsewhere
        decides = hashlib.sha1(" ".join(flags[row]).encode()).hexdigest()[:6]
        name = row.lower().replace(",", "").replace("'", "").replace(" ", "-")
        out = folder / options.recipe / f"{name}-{seed}-{decides}"
        recipe = f"{options.recipe}_paper" if row == PAPER else options.recipe
        return train(out, recipe, row, seed, flags[row], where, deadline)

    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = [pool.submit(job, row, seed) for seed in options.seeds for row in order]
        for run in as_completed(waiting):
            result = run.result()
            if result is not None:
                results.add(result)

    done = [result for result in results.rows if "problem" not in result]
    done.sort(key=lambda result: (order.index(result["row"]), result["seed"]))
    notes = [f"{r['row']}, seed {r['seed']}: {r['problem']}" for r in results.rows if "problem" in r]
    if len(results.rows) < len(waiting):
        notes.append(f"{len(waiting) - len(results.rows)} of {len(waiting)} runs not begun: out of time")
    results.finish("\n".join([table(done), "", *verdict(done), *notes]))


if __name__ == "__main__":
    main()
