"""What share of a digits training step its augmentation takes, and what timm's more would take.

    python benchmarks/augmentation.py [--steps N]

A step of the digits recipe's guided phase: 64 images are read and augmented, then learned from. ``data`` is all that
comes before the model, in the main process; ``augmentation`` is ``data`` less what the same batch takes without any.
Cases take turns within each round, so that a machine that slows down meanwhile slows all of them; medians over rounds.
Prints a table last and writes ``benchmarks/results/augmentation.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch

from gvit.recipes import digits
from gvit.training.config import PixelConfig
from gvit.training.setup import Setup, set_up
from provenance import describe, provenance, write_results

CASES = {
    "none": None,
    "the recipe's": PixelConfig(),
    "and RandAugment": PixelConfig(randaugment=9),
    "and random erasing": PixelConfig(random_erase=0.25),
    "and Mixup, CutMix": PixelConfig(mixup=0.8, cutmix=1.0),
}


def prepare(pixels: PixelConfig | None) -> Setup:
    config = digits()
    if pixels is None:
        return set_up(replace(config, data=replace(config.data, rotate=0.0, translate=0.0, zoom=0.0)))
    return set_up(replace(config, pixels=pixels))


def read(setup: Setup, step: int) -> None:
    next(iter(setup.feed.batches(step, step + 1, workers=0)))


def learn(setup: Setup, step: int) -> Callable[[], None]:
    (parts,) = setup.feed.batches(step, step + 1, workers=0)
    return partial(setup.task.step, step, parts, setup.schedule.plan(step), setup.rates(step))


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=25)
    rounds = parser.parse_args().steps
    setups = {name: prepare(pixels) for name, pixels in CASES.items()}
    learning = setups["the recipe's"]
    learning.task.model.train()
    step = learning.schedule.steps_of("guide").start + 1  # an ordinary one
    step_ms, data_ms = [], {name: list[float]() for name in CASES}
    for turn in range(rounds + 2):
        data = {name: timed(partial(read, setup, step)) for name, setup in setups.items()}
        learned = timed(learn(learning, step))
        if turn >= 2:  # what comes before warms up
            step_ms.append(learned)
            for name, taken in data.items():
                data_ms[name].append(taken)
    learned, bare = statistics.median(step_ms), statistics.median(data_ms["none"])
    rows = []
    for name, taken in data_ms.items():
        data = statistics.median(taken)
        whole = data + learned
        rows.append({"case": name, "data_ms": data, "data_share": data / whole})
        rows[-1]["augmentation_share"] = (data - bare) / whole
    settings = {"seed": 0, "steps": rounds, "batch": learning.feed.batch_size, "learn_ms": learned}
    settings["threads"] = torch.get_num_threads()
    write_results("augmentation", settings, rows)
    print(f"{'augmentation':<22}{'data, ms':>10}{'of the step':>13}{'augmentation':>14}")
    for row in rows:
        print(
            f"{row['case']:<22}{row['data_ms']:>10.1f}{100 * row['data_share']:>11.1f} %"
            f"{100 * row['augmentation_share']:>12.1f} %"
        )
    print(f"learning: {learned:.1f} ms; {rounds} rounds, {describe(provenance())}")


if __name__ == "__main__":
    main()
