"""How a training run shows itself: a live bar on a terminal, one line per evaluation everywhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from rich.console import Console

from gvit.evaluation import Evaluation
from gvit.progress import ProgressBar, clock
from gvit.training.schedule import StepPlan

__all__ = ["ConsoleObserver", "clock"]

_SHORT = {"pixel_loss": "pixel", "perceptual_loss": "1-ssim", "class_loss": "class", "accuracy": "acc"}


class ConsoleObserver:
    """Prints to standard error, so that standard output stays free for results; a context manager.

    Args:
        header: is printed when training starts.
        quiet: say nothing: one of many processes.
    """

    def __init__(self, header: str = "", quiet: bool = False) -> None:
        self.header = header
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True, quiet=quiet)
        self.quiet = quiet
        self.entered = False
        self.open = ExitStack()

    def __enter__(self) -> ConsoleObserver:
        self.entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def note(self, text: str) -> None:
        self.console.print(text)

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None:
        self.total, self.first, self.steps_per_epoch = total_steps, done, steps_per_epoch
        self.phase, self.losses, self.speed = "", "", 0.0
        self.begun = time.perf_counter()
        if self.header:
            self.console.print(self.header)
        self.open.close()  # of another run, which this one has watched before
        # without an end at which it vanishes, there is no bar
        hidden = self.quiet or not self.entered
        bar = ProgressBar("start", total_steps, done=done, console=self.console, quiet=hidden)
        self.bar = self.open.enter_context(bar)

    def step(self, step: int, plan: StepPlan, measures: dict[str, float], images_per_second: float) -> None:
        self.phase = plan.phase
        self.losses = " ".join(
            f"{short} {measures[name]:.3f}" for name, short in _SHORT.items() if name in measures
        )
        self.speed = images_per_second if not self.speed else 0.9 * self.speed + 0.1 * images_per_second
        text = f"{step}/{self.total} {self.losses} {self.speed:.0f} img/s"
        self.bar.update(step, text, self.phase)

    def evaluation(self, step: int, result: Evaluation, moved: float | None) -> None:
        elapsed = time.perf_counter() - self.begun
        left = elapsed * (self.total - step) / max(1, step - self.first)
        parts = [
            f"epoch {step / self.steps_per_epoch:5.1f}",
            f"{self.phase:<11}",
            f"top-1 {100 * result.top1:5.1f} %",
            "" if result.psnr is None else f"PSNR {result.psnr:5.2f} dB  SSIM {result.ssim:.3f}",
            self.losses,
            "" if moved is None else f"moved {100 * moved:.0f} %",
            f"{self.speed:.0f} img/s",
            f"{clock(elapsed)} gone, {clock(left)} left",
        ]
        self.console.print("  ".join(part for part in parts if part))
