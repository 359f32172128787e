"""A live bar on a terminal, one line per evaluation everywhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

from rich.console import Console

from gvit.errors import for_python, printable
from gvit.progress import ProgressBar, Terminal, clock
from gvit.training.observers.base import BrokenImage, Evaluated, Observer, Skipped, Start, Step

_SHORT = {"pixel_loss": "pixel", "perceptual_loss": "1-ssim", "class_loss": "class", "accuracy": "acc"}


class ConsoleObserver(Observer):
    """Prints to standard error, so that standard output stays free for results; with a bar within ``with``.

    Args:
        header: is printed when training starts.
        worded: how notes name settings: ``gvit.errors.for_python`` or ``for_command_line``.
    """

    def __init__(self, header: str = "", worded: Callable[[str], str] = for_python) -> None:
        self.header = header
        self.worded = worded
        self.console: Console = Terminal(
            file=sys.stderr, highlight=False, soft_wrap=True, markup=False, emoji=False
        )
        self.entered: bool = False
        self.open: ExitStack[bool | None] = ExitStack()
        self.bar: ProgressBar | None = None

    def __enter__(self) -> ConsoleObserver:
        self.entered = True
        return self

    def __exit__(self, *_: object) -> None:
        self.open.close()

    def start(self, start: Start) -> None:
        self.initialized: bool = start.initialized
        self.begun: float = time.perf_counter()
        self.first: int = start.done
        self.total: int = start.total
        self.phase: str = ""
        self.losses: str = ""
        self.speed: float = 0.0
        self.classified: bool = False
        for note in start.notes:
            self.console.print(self.worded(note))
        if self.header:
            self.console.print(self.header)
        self.open.close()  # of another run, which this one has watched before
        # without an end at which it vanishes, there is no bar
        bar = ProgressBar("start", start.total, done=start.done, console=self.console, quiet=not self.entered)
        self.bar = self.open.enter_context(bar)

    def step(self, step: Step) -> None:
        self.phase = step.plan.phase
        self.classified |= step.plan.classify
        self.losses = " ".join(
            f"{short} {step.measures[name]:.3f}" for name, short in _SHORT.items() if name in step.measures
        )
        latest = step.images_per_second
        self.speed = latest if not self.speed else 0.9 * self.speed + 0.1 * latest
        if self.bar is not None:
            text = f"{step.number}/{self.total} {self.losses} {self.speed:.0f} img/s"
            self.bar.update(step.number, text, label=self.phase)

    def broken(self, image: BrokenImage) -> None:
        what = "left out" if image.split == "train" else "without an answer"
        error = printable(self.worded(image.error))
        self.console.print(f"{error}: {what}, {image.count} of {image.total} {image.split} images so far")

    def skipped(self, skipped: Skipped) -> None:
        self.console.print(f"step {skipped.step} skipped: {skipped.reason}; {skipped.count} so far")

    def evaluation(self, evaluated: Evaluated) -> None:
        result, motion = evaluated.result, evaluated.motion
        parts = [
            f"epoch {evaluated.epoch:5.1f}",
            f"{self.phase:<11}",
            "" if result.top1 is None else f"top-1 {100 * result.top1:5.1f} %",
            "" if result.psnr is None else f"PSNR {result.psnr:5.2f} dB  SSIM {result.ssim:.3f}",
            self.losses,
            "" if motion is None else f"moved {100 * motion.moved:.0f} %",
            *self._pace(evaluated.step),
        ]
        self.console.print("  ".join(part for part in parts if part))
        # an encoder that is trained for itself classifies nothing
        if evaluated.step == self.total and self.classified:
            for concern in result.concerns(self.initialized):
                self.console.print(self.worded(concern))

    def _pace(self, done: int) -> list[str]:
        """Nothing of an evaluation that was due when the run stopped: no step has been taken since."""
        if done == self.first:
            return []
        elapsed = time.perf_counter() - self.begun
        left = elapsed * (self.total - done) / (done - self.first)
        return [f"{self.speed:.0f} img/s", f"{clock(elapsed)} gone, {clock(left)} left"]
