"""A run on disk: one folder, every file of it written whole or not at all."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gvit.errors import InputError, first_line
from gvit.models.registry import WEIGHTS_NAME
from gvit.training.config import TrainConfig


@dataclass(frozen=True)
class Run:
    """The files of a training run.

    Attributes:
        folder: ``config.json``, ``metrics.jsonl``, ``model.safetensors``, ``checkpoint.pt``, ``report.png``.
    """

    folder: Path

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def metrics_file(self) -> Path:
        return self.folder / "metrics.jsonl"

    @property
    def weights_file(self) -> Path:
        return self.folder / WEIGHTS_NAME

    @property
    def checkpoint_file(self) -> Path:
        return self.folder / "checkpoint.pt"

    @property
    def report_file(self) -> Path:
        return self.folder / "report.png"

    @property
    def evaluation_file(self) -> Path:
        return self.folder / "evaluation.json"

    @property
    def confusion_file(self) -> Path:
        return self.folder / "confusion.png"

    @classmethod
    def create(cls, folder: Path, config: TrainConfig, overwrite: bool = False) -> Run:
        """Start a run in a folder that holds none yet.

        Raises:
            InputError: the folder holds a run and ``overwrite`` is not set, or cannot be written.
        """
        run = cls(folder)
        files = (
            *(run.config_file, run.metrics_file, run.weights_file, run.checkpoint_file, run.report_file),
            *(run.evaluation_file, run.confusion_file),
        )
        existing = [file for file in files if file.exists()]
        if existing and not overwrite:
            raise InputError(
                f"{folder} already holds a run: --resume {folder} goes on with it, "
                "--overwrite replaces it, --out FOLDER writes elsewhere"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(run.config_file, config.to_json())
            for file in set(existing) - {run.config_file}:
                file.unlink()
            run.metrics_file.touch()
        except OSError as error:
            raise InputError(f"{folder}: cannot write a run here ({error.strerror})") from error
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run.

        Raises:
            InputError: there is none.
        """
        run = cls(folder)
        if not run.config_file.is_file():
            raise InputError(f"{folder}: no run here (config.json not found); 'gvit train' makes one")
        return run

    def load_config(self) -> TrainConfig:
        """The resolved configuration.

        Raises:
            InputError: it is damaged.
        """
        try:
            return TrainConfig.from_json(self.config_file.read_text())
        except (InputError, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.config_file}: damaged ({error})") from error

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        partial = self.checkpoint_file.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.checkpoint_file)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """What ``save_checkpoint`` wrote last; None where the run stopped before its first one.

        Raises:
            InputError: it is damaged.
        """
        if not self.checkpoint_file.exists():
            return None
        try:
            return torch.load(self.checkpoint_file, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError) as error:
            raise InputError(
                f"{self.checkpoint_file}: damaged ({first_line(error)}); restore it, or train again with --overwrite"
            ) from error

    def log(self, **record: Any) -> None:
        """Append one line to ``metrics.jsonl``."""
        with self.metrics_file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run does again."""
        lines = self.metrics_file.read_text().splitlines() if self.metrics_file.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):  # cut off in the middle by a power failure
                break
        write_atomically(self.metrics_file, "".join(kept))


def write_atomically(path: Path, text: str) -> None:
    """Replace a text file in one go."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
