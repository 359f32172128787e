"""How far something is that takes its time: one bar for training runs, fits and reproductions."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# what a line takes beside the text: label, bar, share, time
_BESIDE_TEXT = 47


class Terminal(Console):
    """Where the reader of standard error goes away (``2>&1 | head``), the work goes on unseen."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class ProgressBar:
    """A live line on a terminal, nothing elsewhere; a context manager, at whose end the line vanishes.

    It shows a label, a bar, the share that is done in percent, a text, and the time that remains.

    Args:
        label: what goes on, in a word.
        total: what there is to do, in any unit.
        done: how much of it was done before; the time that remains is reckoned without it.
        console: where the line is drawn, so that what is printed there meanwhile stands above it; standard error when
            None, so that standard output stays free for results.
        quiet: show nothing: one of many processes.
    """

    def __init__(
        self,
        label: str,
        total: float,
        *,
        done: int = 0,
        console: Console | None = None,
        quiet: bool = False,
    ) -> None:
        console = console or Terminal(file=sys.stderr, highlight=False)
        self._room = console.width - _BESIDE_TEXT
        self._progress = Progress(
            # as wide as the longest phase of a training: the bar doesn't jump where the label changes
            TextColumn("{task.description:<11}", markup=False),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=quiet or not console.is_terminal,
            transient=True,
            refresh_per_second=4,
            speed_estimate_period=600,  # an evaluation between the steps is no standstill
        )
        self._task = self._progress.add_task(label, total=total, completed=done, text="")

    def __enter__(self) -> ProgressBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, done: float, text: str = "", label: str | None = None) -> None:
        """Show that ``done`` of the total is done, and ``text``; ``label`` replaces the former one where given."""
        if len(text) > self._room:
            text = text[: max(0, self._room - 1)] + "…"
        self._progress.update(self._task, completed=done, text=text, description=label)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, the hours where there are any: ``1:02:03``, ``2:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
