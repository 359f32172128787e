"""How a fit shows itself: a live bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class FitProgress:
    """Draws to standard error, so that standard output stays free for results; a context manager.

    Args:
        total_steps: of a fit.
    """

    def __init__(self, total_steps: int) -> None:
        console = Console(file=sys.stderr, highlight=False)
        self.progress = Progress(
            TextColumn("fitting"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[quality]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            refresh_per_second=4,
        )
        self.task = self.progress.add_task("", total=total_steps, quality="")

    def __enter__(self) -> FitProgress:
        self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.progress.stop()

    def step(self, done: int, psnr: float) -> None:
        """What ``gvit.fit`` calls after each step."""
        self.progress.update(self.task, completed=done, quality=f"{psnr:.2f} dB")
