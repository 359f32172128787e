"""``metrics.jsonl``: a line of JSON for every tenth, guided or skipped step, every evaluation and broken image."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gvit.errors import InputError, for_python
from gvit.files import write_text
from gvit.training.observers.base import BrokenImage, Evaluated, Observer, Skipped, Start, Step

_EVERY = 10


class JsonlObserver(Observer):
    """Appends to a file; what it says of steps that a resumed run does again is dropped first.

    Raises:
        InputError: at the start, a line of the file is damaged; later, it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, start: Start) -> None:
        self.total: int = start.total
        try:
            lines = self.path.read_text().splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{self.path}: damaged ({error}); restore it, or remove it") from error
        kept = []
        for number, line in enumerate(lines, 1):
            try:
                if json.loads(line)["step"] <= start.done:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError) as error:
                if number == len(lines):  # cut off in the middle by a power failure
                    break
                raise InputError(f"{self.path}, line {number}: damaged; remove that line") from error
        write_text(self.path, "".join(kept))

    def step(self, step: Step) -> None:
        if step.plan.guided or step.number % _EVERY == 0 or step.number == self.total:
            self._append(
                kind="train",
                step=step.number,
                epoch=step.epoch,
                phase=step.plan.phase,
                **{f"lr_{name}": rate for name, rate in step.rates.items()},
                gamma=step.plan.gamma,
                **step.measures,
                images_per_second=round(step.images_per_second, 1),
            )

    def evaluation(self, evaluated: Evaluated) -> None:
        record: dict[str, Any] = evaluated.result.to_dict()
        del record["confusion"]
        record["broken"] = len(evaluated.result.broken)
        if evaluated.motion is not None:
            record |= evaluated.motion.known()
        self._append(kind="evaluation", step=evaluated.step, epoch=evaluated.epoch, **record)

    def broken(self, image: BrokenImage) -> None:
        self._append(kind="broken", **asdict(image) | {"error": for_python(image.error)})

    def skipped(self, skipped: Skipped) -> None:
        self._append(kind="skipped", **asdict(skipped))

    def _append(self, **record: Any) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise InputError(f"{self.path}: cannot be written ({error.strerror})") from error
