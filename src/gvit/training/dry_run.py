"""What a run would cost on this machine, from a few steps of every phase."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gvit.errors import InputError, first_line
from gvit.progress import clock
from gvit.training.schedule import PHASES, Phase
from gvit.training.setup import Setup
from gvit.training.task import generators_kept


@dataclass(frozen=True)
class PhaseCost:
    """One phase.

    Attributes:
        phase: its name.
        steps: how many.
        learning_rates: in the middle of the phase, of the networks that learn in it.
        step_seconds: a step's time, in the guided phase the mean of guided and ordinary ones; where each step draws
            a number of Gaussians of its own, that of a step with about as many as the mean.
    """

    phase: Phase
    steps: int
    learning_rates: dict[str, float]
    step_seconds: float


@dataclass(frozen=True)
class DryRun:
    """The plan of a run.

    Attributes:
        phases: those that have steps.
        evaluations: how many.
        evaluation_seconds: time of one, from one batch.
        peak_memory: largest memory so far, bytes: of the GPU, or of this process; None where it is not known.
    """

    phases: list[PhaseCost]
    evaluations: int
    evaluation_seconds: float
    peak_memory: int | None

    @property
    def seconds(self) -> float:
        """Expected time of the whole run."""
        return sum(p.steps * p.step_seconds for p in self.phases) + self.evaluations * self.evaluation_seconds

    def __str__(self) -> str:
        lines = [
            f"{'phase':<12}{'steps':>9}{'lr encoder':>12}{'lr classifier':>15}{'ms a step':>11}{'time':>10}"
        ]
        for cost in self.phases:
            rates = [
                f"{cost.learning_rates[name]:.2e}" if name in cost.learning_rates else "-"
                for name in ("encoder", "classifier")
            ]
            lines.append(
                f"{cost.phase:<12}{cost.steps:>9}{rates[0]:>12}{rates[1]:>15}{1000 * cost.step_seconds:>11.1f}"
                f"{clock(cost.steps * cost.step_seconds):>10}"
            )
        lines.append(f"evaluations: {self.evaluations}, {self.evaluation_seconds:.1f} s each")
        if self.peak_memory is not None:
            lines.append(f"peak memory: {self.peak_memory / 2**30:.2f} GiB")
        lines.append(f"expected time: {clock(self.seconds)}")
        return "\n".join(lines)


def dry_run(setup: Setup) -> DryRun:
    """A few steps of every phase that has any; the setup is of no use afterwards, and nothing is written.

    Torch's own random numbers go on afterwards as if nothing had been computed.

    Raises:
        InputError: training diverges at once.
    """
    with generators_kept(setup.task.device):
        return _tried(setup)


def _tried(setup: Setup) -> DryRun:
    schedule, feed = setup.schedule, setup.feed
    setup.task.model.train()
    phases = []
    for phase in PHASES:
        steps = schedule.steps_of(phase)
        if not steps:
            continue
        with _diverging():
            setup.task.begin(phase)
        largest, *pair = _steps_to_take(setup, steps)
        if largest not in pair:
            _timed_step(setup, largest)
        # networks are compiled and recorded once, not in every step
        if setup.config.compute.compile or setup.task.graphs:
            for step in pair:
                _timed_step(setup, step)
        first, second = (_timed_step(setup, step) for step in pair)
        # the first one is guided where there are guided steps; elsewhere it pays for what happens only once
        seconds = second if phase != "guide" else second + (first - second) / schedule.guide_every
        middle = steps[len(steps) // 2]
        middle += schedule.plan(middle).guided  # an ordinary step shows both rates
        phases.append(PhaseCost(phase, len(steps), setup.rates(middle), seconds))
    seconds = _timed_batch(setup) * len(feed.test_loader)
    return DryRun(phases, -(-schedule.total // setup.eval_steps), seconds, _peak_memory(setup.task.device))


def _steps_to_take(setup: Setup, steps: range) -> tuple[int, int, int]:
    """The one of the most Gaussians, for the memory that it needs; then a guided one where there are, an ordinary one.

    Of their kind, each of the last two is the one whose number of Gaussians, with which a step's time grows, is nearest
    to the mean.
    """
    some = steps[:1000]
    counts = {step: setup.task.draw_count(step) or 0 for step in some}
    mean = sum(counts.values()) / len(counts)

    def typical(among: Sequence[int]) -> int:
        return min(among, key=lambda step: abs(counts[step] - mean))

    guided = [step for step in some if setup.schedule.plan(step).guided]
    ordinary = [step for step in some[1:] if not setup.schedule.plan(step).guided]
    return max(some, key=lambda step: counts[step]), typical(guided or some), typical(ordinary or some)


def _timed_batch(setup: Setup) -> float:
    """Seconds that a batch of test images takes, without what happens once: imports, compilation, processes."""
    feed, workers = setup.feed, setup.config.data.workers
    started = time.perf_counter()
    batch = feed.tests.__getitems__(range(min(len(feed.tests), feed.test_loader.batch_size or 1)))
    loading = time.perf_counter() - started
    setup.task.measure([batch])
    started = time.perf_counter()
    setup.task.measure([batch])
    computing = time.perf_counter() - started
    return max(computing, loading / workers) if workers else computing + loading


def _timed_step(setup: Setup, step: int) -> float:
    workers = setup.config.data.workers
    started = time.perf_counter()
    (parts,) = setup.feed.batches(step, step + 1, workers=0)
    loading = time.perf_counter() - started
    started = time.perf_counter()
    with _diverging():
        setup.task.step(step, parts, setup.schedule.plan(step), setup.rates(step))
        setup.task.effect(step, parts)
    computing = time.perf_counter() - started
    return max(computing, loading / workers) if workers else computing + loading


@contextmanager
def _diverging() -> Iterator[None]:
    try:
        yield
    except FloatingPointError as error:
        raise InputError(f"training diverges at once: {first_line(error)}") from error


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
