"""A run on disk: one folder, every file of it written whole or not at all."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from filelock import FileLock, Timeout

from gvit.data.splits import Record
from gvit.errors import InputError, first_line, option, wording
from gvit.files import remove_partials, replacing, write_text
from gvit.models.hub_files import is_saved_config
from gvit.models.weights import WEIGHTS_NAME
from gvit.training.config import TrainConfig
from gvit.training.history import History

# what a model was found to be on labelled images, and what the folder begins with for images that are not the run's
MEASURED = ("evaluation.json", "confusion.png", "mistakes.csv", "mistakes.png")
EVALUATION = "evaluation"

# processes that load images notice within five seconds that the one that trained was killed
_PATIENCE = 8.0


@dataclass(frozen=True)
class Run:
    """The files of a training run.

    Attributes:
        folder: ``config.json``, ``metrics.jsonl``, ``model.safetensors``, ``best.safetensors``, ``checkpoint.pt``,
            ``report.png``, ``curves.png``; ``checkpoints``, where more than one is kept; and ``split.json``, where the
            data have no test images of their own.
    """

    folder: Path

    @property
    def config_file(self) -> Path:
        return self.folder / "config.json"

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run; a ``config.json`` of ``save_pretrained`` makes none."""
        return self.config_file.is_file() and not is_saved_config(self.config_file)

    @property
    def split_file(self) -> Path:
        return self.folder / "split.json"

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
    def best_file(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def curves_file(self) -> Path:
        return self.folder / "curves.png"

    @property
    def _history(self) -> History:
        return History(self.folder / "checkpoints")

    @property
    def _files(self) -> tuple[Path, ...]:
        return (
            *(self.config_file, self.metrics_file, self.weights_file, self.best_file, self.checkpoint_file),
            *(self.report_file, self.curves_file, self.split_file),
        )

    @property
    def measured_files(self) -> list[Path]:
        """What ``gvit.training.report`` has written of the run's weights, on its own test images and others."""
        places = [self.folder, *self.folder.glob(f"{EVALUATION}-*")]
        return [file for place in places for name in MEASURED if (file := place / name).is_file()]

    @property
    def _has_begun(self) -> bool:
        """Whether it was a training that left what is there, also where its configuration is lost."""
        if self.metrics_file.exists() or self.checkpoint_file.exists():
            return True
        with suppress(InputError):
            return bool(self.config_file.exists() and self.load_config())
        return False

    def forget_measured(self) -> None:
        """Remove them: they are of weights that are going to be others."""
        for file in self.measured_files:
            file.unlink()
            with suppress(OSError):  # the run's own folder, or there is something else in it
                file.parent.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the folder, which is made where there is none, for this process alone.

        The operating system keeps the lock (on ``.lock``) and takes it from a process that ends in whatever way.

        Raises:
            InputError: another process has it, or the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=_PATIENCE)
            lock.acquire()
        except Timeout:
            raise InputError(
                f"{self.folder}: another process is training here; wait for it, stop it, or write elsewhere with "
                f"{option('out', 'FOLDER')}"
            ) from None
        except OSError as error:
            raise InputError(f"{self.folder}: cannot write a run here ({error.strerror or error})") from error
        try:
            yield
        finally:
            lock.release()

    def remove_partial(self) -> None:
        """Remove what a process that was killed was about to write; for who has the folder for itself."""
        remove_partials(self.folder, {file.name for file in self._files}.__contains__)
        self._history.remove_partial()

    @classmethod
    def create(cls, folder: Path, config: TrainConfig, overwrite: bool = False) -> Run:
        """Start a run in a folder that holds none yet.

        Raises:
            InputError: the folder holds a run and ``overwrite`` is not set, or files of somebody else that are called
                as a run's are, or cannot be written.
        """
        run = cls(folder)
        files = run._files
        existing = [file for file in files if file.exists()] + run.measured_files
        if existing and not run._has_begun:
            raise InputError(
                f"{folder} holds {', '.join(sorted(file.name for file in existing))}, which no training of gvit left "
                f"there and a run would replace; choose another {option('out', 'FOLDER')}"
            )
        if existing and not overwrite:
            goes_on = wording(f"resume({str(folder)!r})", f"'gvit train --resume {quote(str(folder))}'")
            replaces = wording("overwrite=True", "--overwrite")
            raise InputError(
                f"{folder} already holds a run: {goes_on} goes on with it, {replaces} replaces it, "
                f"{option('out', 'FOLDER')} writes elsewhere"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # first what an old configuration goes on with: a new one would go on with it, too
            for file in (run.checkpoint_file, *files):
                if file != run.metrics_file:
                    file.unlink(missing_ok=True)
            run.forget_measured()
            run.forget_checkpoints()
            # at last what shows that a run was here: cut before, this can be done again
            run.metrics_file.unlink(missing_ok=True)
            run.save_config(config)
            run.metrics_file.touch()
        except OSError as error:
            raise InputError(f"{folder}: cannot write a run here ({error.strerror})") from error
        return run

    @classmethod
    def of_checkpoint(cls, place: Path) -> tuple[Path, Path | None]:
        """The folder of a run, and the one of its checkpoints that was meant: None for its last one.

        Args:
            place: the folder, or a file that ``save_checkpoint`` left in it.

        Raises:
            InputError: it is another file.
        """
        if not place.is_file():
            return place, None
        place = place.absolute()
        for folder in (place.parent, place.parent.parent):
            run = cls(folder)
            if place == run.checkpoint_file or place in run._history.newest_first():
                return folder, place
        raise InputError(f"{place}: no run's folder, and no checkpoint in one")

    @classmethod
    def open(cls, folder: Path) -> Run:
        """An existing run.

        Raises:
            InputError: there is none.
        """
        run = cls(folder)
        if not run.exists:
            makes = wording("gvit.training.train.train", "'gvit train'")
            raise InputError(f"{folder}: no run here (config.json not found); {makes} makes one")
        return run

    def load_config(self) -> TrainConfig:
        """The resolved configuration.

        Raises:
            InputError: it is damaged.
        """
        try:
            return TrainConfig.from_json(self.config_file.read_text())
        except (InputError, OSError, UnicodeDecodeError) as error:
            reason = error.args[0] if isinstance(error, InputError) else error  # with both of its wordings
            raise InputError(f"{self.config_file}: damaged ({reason})") from error

    def check_classes(self, known: Sequence[str], found: Sequence[str]) -> None:
        """Compare the classes that the run learned with those that its data have now.

        Raises:
            InputError: they differ, in their order at least.
        """
        if list(known) == list(found):
            return
        changed = sorted(set(known) ^ set(found))
        differing = f"differing: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}"
        raise InputError(
            f"{self.folder}: trained on {len(known)} classes, but its data set has {len(found)} now "
            f"({differing if changed else 'in another order'})"
        )

    def save_config(self, config: TrainConfig) -> None:
        write_text(self.config_file, config.to_json())

    def save_split(self, recorded: Record | None) -> None:
        """Write down which images are trained on and which are tested with, where the data don't say it themselves."""
        if recorded is not None:
            write_text(self.split_file, json.dumps(recorded, indent=0) + "\n")

    def load_split(self) -> Record | None:
        """What ``save_split`` wrote.

        Raises:
            InputError: it is damaged.
        """
        if not self.split_file.exists():
            return None
        try:
            recorded = json.loads(self.split_file.read_text())
            return {name: list(map(str, recorded[name])) for name in ("class_names", "train", "test")}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.split_file}: damaged ({first_line(error)})") from error

    def save(
        self, state: dict[str, Any], save_weights: Callable[[Path], None], improved: bool, keep: int = 1
    ) -> None:
        """Weights and a checkpoint, in an order that leaves a run to go on with wherever it is cut.

        Args:
            state: of the checkpoint.
            save_weights: writes those that belong to it to a file.
            improved: they are the best so far.
            keep: see ``save_checkpoint``.
        """
        if improved:
            save_weights(self.best_file)
        if not self.checkpoint_file.exists():  # weights alone are nothing to go on from
            self.save_checkpoint(state)
        save_weights(self.weights_file)
        self.save_checkpoint(state, keep)

    def save_checkpoint(self, state: dict[str, Any], keep: int = 1) -> None:
        """Make ``state`` the one to go on from, and keep so many of the last ones, this one with them."""
        # to a file of ours: of a name alone, PyTorch doesn't say why it could not be written
        with replacing(self.checkpoint_file) as partial, partial.open("wb") as file:
            torch.save(state, file)
        if keep > 1:
            self._history.add(self.checkpoint_file, state["step"], keep)

    def forget_checkpoints(self, after: int = -1) -> None:
        """Remove those that were kept of later steps."""
        self._history.remove(after)

    def load_checkpoint(self, file: Path | None = None) -> dict[str, Any] | None:
        """What ``save_checkpoint`` wrote last, or another file of it; None where the run stopped before its first one.

        Raises:
            InputError: it is damaged.
        """
        file = file or self.checkpoint_file
        if not file.exists():
            return None
        try:
            return dict(torch.load(file, map_location="cpu", weights_only=True))
        except (
            OSError,
            TypeError,
            ValueError,
            RuntimeError,
            EOFError,
            pickle.UnpicklingError,
            KeyError,
        ) as error:
            raise InputError(f"{file}: damaged ({first_line(error)}); {self.instead_of(file)}") from error

    def instead_of(self, checkpoint: Path) -> str:
        """What there is to do where a checkpoint is damaged or lost."""
        kept = self._history.newest_first()
        earlier = next(
            (file for file in kept if not checkpoint.exists() or not file.samefile(checkpoint)), None
        )
        instead = (
            "restore it"
            if earlier is None
            else wording(
                f"resume({str(earlier)!r})", f"go on from 'gvit train --resume {quote(str(earlier))}'"
            )
        )
        return f"{instead}, or train again with {wording('overwrite=True', '--overwrite')}"
