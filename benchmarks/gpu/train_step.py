"""What a training step of GViT-S costs on a GPU: images a second, each part's share, memory.

    PYTHONPATH=src python benchmarks/gpu/train_step.py

Hardware: one GPU of 80 GB or more. Expected time: about five minutes, most of it compilation (an estimate, not
measured). Aim, at 224 px with 512 Gaussians, bf16, compiled: the renderer at most 10 % of the step, 3,000 images a
second on an H200; and 1,024 Gaussians at 448 px train at all.

The step is an ordinary one of the guided phase, in which all parts are at work, on random pixels that lie on the GPU
already: loading is nobody's time. ``loop`` is the training loop's own step, from which the images a second are; the
parts are those of ``benchmarks/train_step.py``, with the GPU brought to rest between them, so that their sum is a
little more. The batch is halved until it fits.

The small models' encoder looks at its own picture: a batch takes a step of the optimizer a look, and has no such parts.
Its rows have the loop's time, and the share of it in which a kernel runs; of
the same with CUDA graphs, too. ``--only`` runs the cases whose names contain
a text.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from session import Results, arguments, begin, forget_peak, markdown, milliseconds, peak_gib
from torch.profiler import ProfilerActivity, profile

from gvit.data.loading import Batch
from gvit.gaussians import NUM_FIELDS
from gvit.recipes import cifar10, debug, imagenette
from gvit.training.config import ComputeConfig, TrainConfig
from gvit.training.precision import autocast
from gvit.training.setup import set_up
from gvit.training.task import GuidedTask
from train_step import PARTS, Stopwatch, gvit_small, step_in_parts

COMPUTED = PARTS[1:]  # all but the data
AIM = {"renderer_share": 10, "images_per_second": 3000}
SEED = 0


class GpuStopwatch(Stopwatch):
    """Seconds by part until the GPU is done with it; the networks' parts in the precision that they train in."""

    def __init__(self, config: ComputeConfig, device: str) -> None:
        super().__init__()
        self.precision, self.device = config.precision, torch.device(device)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        networks = part in ("encoder", "classifier")
        with super().__call__(part), autocast(self.precision, self.device) if networks else nullcontext():
            yield
            if self.device.type == "cuda":
                torch.cuda.synchronize()


def cases(dry: bool) -> dict[str, tuple[TrainConfig, int]]:
    """Configuration and largest batch by name."""
    if dry:
        tiny = replace(debug(), compute=ComputeConfig(precision="bf16"))
        large = replace(tiny, model=replace(tiny.model, img_size=48, num_gaussians=24))
        looking = replace(tiny, model=replace(tiny.model, encoder="refining", looks=2))
        cases = {"tiny, 32 px, K=16": (tiny, 4), "tiny, 48 px, K=24": (large, 2)}
        return cases | {"tiny, two looks": (looking, 2), "tiny, two looks, graphs": (with_graphs(looking), 2)}
    small = replace(gvit_small(), compute=ComputeConfig(precision="bf16", compile=True))
    eager = replace(small, compute=ComputeConfig(precision="bf16"))
    large = replace(small, model=replace(small.model, img_size=448, num_gaussians=1024))
    looks = {
        "cifar10, 8 looks": (without_files(cifar10()), 128),
        "imagenette, 12 looks": (without_files(imagenette()), 64),
    }
    return {
        "GViT-S, 224 px, K=512": (small, 256),
        "GViT-S, 448 px, K=1024": (large, 128),
        "GViT-S, 224 px, K=512, not compiled": (eager, 256),
        **looks,
        **{f"{name}, graphs": (with_graphs(config), batch) for name, (config, batch) in looks.items()},
    }


def with_graphs(config: TrainConfig) -> TrainConfig:
    """The same, a look's kernels started at once."""
    return replace(config, compute=replace(config.compute, graphs=True))


def without_files(config: TrainConfig) -> TrainConfig:
    """The same with a data set that needs none: its classes and steps an epoch, at the recipe's own size."""
    return replace(config, data=replace(config.data, dataset="digits"))


def random_batch(task: GuidedTask, size: int) -> Batch:
    """Pixels of no picture, on the device."""
    torch.manual_seed(SEED)
    model = task.model
    return Batch(
        torch.rand(size, 3, model.img_size, model.img_size, device=task.device),
        torch.randint(model.num_classes, (size,), device=task.device),
        torch.randn(size, model.encoder.num_gaussians, NUM_FIELDS, device=task.device),
    )


def measure(config: TrainConfig, batch_size: int, steps: int, device: str) -> dict:
    """Medians over steps: milliseconds of the loop's step and of the parts."""
    setup = set_up(config, device)
    task, step = setup.task, setup.schedule.steps_of("guide").start + 1
    task.model.train()
    batch, plan, rates = random_batch(task, batch_size), setup.schedule.plan(step), setup.rates(step)

    def loop_step() -> None:
        task.step(step, [batch], plan, rates)

    warm_up = 3
    for _ in range(warm_up):
        loop_step()
    forget_peak(device)
    loop = statistics.median(milliseconds(device, loop_step) for _ in range(steps))
    row = {
        "batch": batch_size,
        "loop_ms": loop,
        "images_per_second": 1e3 * batch_size / loop,
        "peak_gib": peak_gib(device),
    }
    turns = task.model.encoder.turns
    if turns > 1:
        return row | {"turn_ms": loop / turns, "busy": busy(loop_step, loop) if device == "cuda" else None}
    seconds: dict[str, list[float]] = defaultdict(list)
    for turn in range(warm_up + steps):
        watch = GpuStopwatch(config.compute, device)
        step_in_parts(task, batch, watch)
        if turn >= warm_up:
            for part in COMPUTED:
                seconds[part].append(watch.seconds[part])
    parts = {part: 1e3 * statistics.median(times) for part, times in seconds.items()}
    return row | {"parts_ms": parts, "renderer_share": 100 * parts["renderer"] / sum(parts.values())}


def busy(step: Callable[[], object], alone: float) -> float:
    """Percent of a step's ``alone`` milliseconds in which a kernel runs."""
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        step()
        torch.cuda.synchronize()
    return 100 * sum(event.device_time_total for event in record.key_averages()) / (1e3 * alone)


def measure_what_fits(config: TrainConfig, batch_size: int, steps: int, device: str) -> dict:
    """The first of the batch and its halves that has room."""
    while batch_size:
        torch.compiler.reset()  # another batch would be compiled for any size, and be slower
        try:
            return measure(config, batch_size, steps, device)
        except torch.OutOfMemoryError:
            batch_size //= 2
    return {"problem": "one image does not fit"}


def table(rows: list[dict]) -> str:
    header = ["", "batch", "images/s", "step ms", "peak GiB", *(f"{part} %" for part in COMPUTED)]
    lines = []
    for row in rows:
        if "problem" in row:
            lines.append([row["case"], row["problem"], *[None] * (len(header) - 2)])
            continue
        known = [row["case"], row["batch"], row["images_per_second"], row["loop_ms"], row["peak_gib"]]
        if "turn_ms" in row:
            busy_share = "–" if row["busy"] is None else f"{row['busy']:.0f}"
            note = f"{row['turn_ms']:.2f} ms a look, kernels run in {busy_share} % of the time"
            lines.append([*known, note, *[None] * (len(COMPUTED) - 1)])
            continue
        total = sum(row["parts_ms"].values())
        shares = [100 * row["parts_ms"][part] / total for part in COMPUTED]
        lines.append([*known, *shares])
    return markdown(header, lines)


def verdict(rows: list[dict]) -> str:
    """The aims beside what was measured."""
    lines = []
    for row in rows:
        if "renderer_share" in row:
            lines += [
                f"{row['case']}: renderer {row['renderer_share']:.1f} % of the step, aim at most "
                f"{AIM['renderer_share']} %; {row['images_per_second']:.0f} images a second, aim "
                f"{AIM['images_per_second']} on an H200 at 224 px"
            ]
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=30, help="steps that are timed")
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose names contain one of these")
    options = parser.parse_args()
    device = begin(options)
    steps = 1 if options.dry_run else options.steps
    results = Results("train_step", options, seed=SEED, timed=steps)
    chosen = cases(options.dry_run).items()
    for name, (config, batch_size) in ((n, case) for n, case in chosen if any(o in n for o in options.only)):
        results.add({"case": name} | measure_what_fits(config, batch_size, steps, device))
    results.finish(f"{table(results.rows)}\n\n{verdict(results.rows)}")


if __name__ == "__main__":
    main()
