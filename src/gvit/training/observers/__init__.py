"""Who is told how a training run goes on: one file per way of telling."""

from gvit.training.observers.base import BrokenImage, Evaluated, Observer, Skipped, Start, Step
from gvit.training.observers.console import ConsoleObserver
from gvit.training.observers.jsonl import JsonlObserver
from gvit.training.observers.tensorboard import TensorBoardObserver

__all__ = [
    "BrokenImage",
    "ConsoleObserver",
    "Evaluated",
    "JsonlObserver",
    "Observer",
    "Skipped",
    "Start",
    "Step",
    "TensorBoardObserver",
]
