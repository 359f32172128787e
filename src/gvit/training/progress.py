"""How a training run shows itself: a live bar on a terminal, one line per evaluation everywhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gvit.evaluation import Evaluation
from gvit.training.schedule import StepPlan

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
        self.progress = Progress(
            TextColumn("{task.fields[phase]:<11}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[losses]}"),
            TextColumn("{task.fields[speed]:.0f} img/s"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            transient=True,
            refresh_per_second=4,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> ConsoleObserver:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def note(self, text: str) -> None:
        self.console.print(text)

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None:
        self.total, self.first, self.steps_per_epoch = total_steps, done, steps_per_epoch
        self.phase, self.losses, self.speed = "", "", 0.0
        self.begun = time.perf_counter()
        if self.header:
            self.console.print(self.header)
        self.task = self.progress.add_task(
            "", total=total_steps, completed=done, phase="start", losses="", speed=0.0
        )

    def step(self, step: int, plan: StepPlan, measures: dict[str, float], images_per_second: float) -> None:
        self.phase = plan.phase
        self.losses = " ".join(
            f"{short} {measures[name]:.3f}" for name, short in _SHORT.items() if name in measures
        )
        self.speed = images_per_second if not self.speed else 0.9 * self.speed + 0.1 * images_per_second
        if self.task is not None:
            self.progress.update(
                self.task, completed=step, phase=self.phase, losses=self.losses, speed=self.speed
            )

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


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
