"""Losses, gradients and test results as in ``metrics.jsonl``, but of every step, for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from gvit.errors import InputError
from gvit.evaluation import Evaluation
from gvit.training.loop import Observer
from gvit.training.schedule import StepPlan


class TensorBoardObserver:
    """Writes event files into the run folder and tells another observer everything; a context manager.

    Raises:
        InputError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, observer: Observer) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("--tensorboard needs TensorBoard: pip install tensorboard") from None
        # made at the first step: nothing is written where a run cannot start
        self._make_writer = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self.writer: SummaryWriter | None = None
        self.observer = observer

    def __enter__(self) -> TensorBoardObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.writer is not None:
            self.writer.close()

    def note(self, text: str) -> None:
        self.observer.note(text)

    def start(self, total_steps: int, done: int, steps_per_epoch: int) -> None:
        self.writer = self._make_writer(done + 1)
        self.observer.start(total_steps, done, steps_per_epoch)

    def step(self, step: int, plan: StepPlan, measures: dict[str, float], images_per_second: float) -> None:
        self._write("train", measures | {"gamma": plan.gamma, "images_per_second": images_per_second}, step)
        self.observer.step(step, plan, measures, images_per_second)

    def evaluation(self, step: int, result: Evaluation, moved: float | None) -> None:
        values = {"top1": result.top1, "psnr": result.psnr, "ssim": result.ssim, "moved": moved}
        self._write("test", {name: value for name, value in values.items() if value is not None}, step)
        self.observer.evaluation(step, result, moved)

    def _write(self, group: str, values: dict[str, float], step: int) -> None:
        assert self.writer is not None
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
