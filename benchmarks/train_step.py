"""Where a training step's time goes: data, encoder, renderer, losses, classifier, optimizer.

    python benchmarks/train_step.py [--quick]

For an ordinary step of the guided phase, in which all parts are at work: of the digits recipe, and of GViT-S at
224 px with 512 Gaussians (8 images, random pixels: there is no data part). The parts are taken apart at the Gaussians
and at the picture, the same operations as in the training loop, whose own time for the same step stands beside the sum.
Prints a table last and writes ``benchmarks/results/train_step.json``. Medians over steps; ``--quick`` makes few of
them and leaves GViT-S out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch
from torch.nn import functional as F

from gvit.data.loading import Batch
from gvit.data.sources import SOURCES, Source
from gvit.losses import pixel_loss, ssim
from gvit.recipes import digits, imagenet1k
from gvit.rendering import render
from gvit.training.config import ComputeConfig, TrainConfig
from gvit.training.setup import set_up
from gvit.training.task import GuidedTask
from provenance import describe, provenance, write_results

PARTS = ("data", "encoder", "renderer", "losses", "classifier", "optimizer")


class Stopwatch:
    """Seconds by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started


def step_in_parts(task: GuidedTask, batch: Batch, watch: Stopwatch) -> None:
    """What ``GuidedObjective.backward`` and the optimizers do in an ordinary step."""
    model, config = task.model, task.config
    weight, largest = config.objective.perceptual_weight, config.optimizer.clip_grad
    images = batch.inputs
    with watch("encoder"):
        raw = model.encoder(images, batch.noise)
    with watch("renderer"):
        leaf = raw.detach().requires_grad_()
        rendered = render(model.encoder.gaussians(leaf), *images.shape[-2:])
    with watch("losses"):
        picture = rendered.detach().requires_grad_()
        loss = pixel_loss(picture, images, config.objective.pixel_loss)
        if weight:
            loss = loss + weight * (1 - ssim(picture, images).mean())
        (pull,) = torch.autograd.grad(loss, picture)
    with watch("renderer"):
        (gradient,) = torch.autograd.grad(rendered, leaf, pull)
    with watch("classifier"):
        F.cross_entropy(model.classifier(raw.detach()), batch.labels).backward()
    with watch("encoder"):
        raw.backward(gradient)
    with watch("optimizer"):
        for name, optimizer in task.optimizers.items():
            if largest is not None:
                torch.nn.utils.clip_grad_norm_(task.networks[name].parameters(), largest)
            optimizer.step()
            optimizer.zero_grad()


def measure(name: str, config: TrainConfig, steps: int, load: bool) -> dict:
    """Medians over steps, milliseconds."""
    setup = set_up(config)
    task, schedule = setup.task, setup.schedule
    task.model.train()
    first = schedule.steps_of("guide").start + 1
    by_part: dict[str, list[float]] = defaultdict(list)
    whole = []
    for turn in range(steps + 2):
        watch = Stopwatch()
        with watch("data"):
            (parts,) = setup.feed.batches(first, first + 1, workers=0)
        step_in_parts(task, parts[0], watch)
        started = time.perf_counter()
        task.step(first, parts, schedule.plan(first), setup.rates(first))
        if turn >= 2:  # what comes before warms up
            whole.append(1000 * (time.perf_counter() - started) + 1000 * load * watch.seconds["data"])
            for part in PARTS:
                by_part[part].append(1000 * watch.seconds[part] * (load or part != "data"))
    row = {"case": name, "batch": setup.feed.batch_size, "loop_ms": statistics.median(whole)}
    return row | {part: statistics.median(times) for part, times in by_part.items()}


def gvit_small() -> TrainConfig:
    """The paper's model in float32 on a few images, without compilation."""

    def noise(split: str, data_dir: Path | None = None) -> Source:
        from PIL import Image

        image = Image.effect_noise((224, 224), 80).convert("RGB")
        return Source(lambda i: image, [i % 10 for i in range(16)], [str(i) for i in range(10)])

    SOURCES["noise"] = noise
    config = imagenet1k()
    return replace(
        config,
        data=replace(config.data, dataset="noise", batch_size=8, workers=0),
        compute=ComputeConfig(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    rows = [measure("digits", digits(), 3 if options.quick else 40, load=True)]
    if not options.quick:
        rows.append(measure("GViT-S, 224 px", gvit_small(), 5, load=False))
    lines = [f"{'milliseconds':<16}{'batch':>6}" + "".join(f"{part:>11}" for part in (*PARTS, "sum", "loop"))]
    for row in rows:
        total = sum(row[part] for part in PARTS)
        lines.append(
            f"{row['case']:<16}{row['batch']:>6}"
            + "".join(f"{row[part]:>11.1f}" for part in PARTS)
            + f"{total:>11.1f}{row['loop_ms']:>11.1f}"
        )
        lines.append(f"{'  share %':<22}" + "".join(f"{100 * row[part] / total:>11.1f}" for part in PARTS))
    if not options.quick:
        write_results("train_step", {"seed": 0, "steps": [40, 5]}, rows)
    print(f"seed 0, {describe(provenance())}", *lines, sep="\n")


if __name__ == "__main__":
    main()
