"""Losses, gradients and test results as in ``metrics.jsonl``, but of every step, for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gvit.errors import InputError, option
from gvit.training.observers.base import Evaluated, Observer, Start, Step


class TensorBoardObserver(Observer):
    """Writes event files into the run folder; a context manager.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(f"{option('tensorboard')} needs TensorBoard: pip install tensorboard") from None
        # made at the start: nothing is written where a run cannot start
        self._make_writer = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.writer: Any = None

    def __enter__(self) -> TensorBoardObserver:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def start(self, start: Start) -> None:
        self.writer = self._make_writer(start.done + 1)

    def step(self, step: Step) -> None:
        extra = {"gamma": step.plan.gamma, "images_per_second": step.images_per_second}
        self._write("train", {**step.measures, **extra}, step.number)

    def evaluation(self, evaluated: Evaluated) -> None:
        result = evaluated.result
        values = {
            "top1": result.top1,
            "top5": result.top5,
            "psnr": result.psnr,
            "ssim": result.ssim,
            **({} if evaluated.motion is None else evaluated.motion.known()),
        }
        known = {name: value for name, value in values.items() if value is not None}
        self._write("test", known, evaluated.step)

    def _write(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
