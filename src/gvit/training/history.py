"""The last checkpoints of a run, beside the one that it goes on from."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from gvit.files import remove_partials, replacing


@dataclass(frozen=True)
class History:
    """A folder of checkpoints, ``step-000120.pt`` for that of step 120.

    Attributes:
        folder: made with the first one, and removed with the last.
    """

    folder: Path

    def newest_first(self) -> list[Path]:
        """The files, by the steps in their names."""
        return [self.folder / name for _, name in sorted(self._steps(), reverse=True)]

    def add(self, checkpoint: Path, step: int, keep: int) -> None:
        """Keep a file that was just written, and of those before it so many that they are ``keep`` in all.

        Raises:
            InputError: it cannot be written.
        """
        self.folder.mkdir(exist_ok=True)
        with replacing(self.folder / f"step-{step:06d}.pt") as partial:
            try:
                os.link(checkpoint, partial)  # takes no room: the next checkpoint is another file
            except OSError:  # a file system may not have it
                shutil.copyfile(checkpoint, partial)
        for file in self.newest_first()[keep:]:
            file.unlink()

    def remove(self, after: int) -> None:
        """Those of later steps."""
        for step, name in self._steps():
            if step > after:
                (self.folder / name).unlink()
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remove_partial(self) -> None:
        """What a process that was killed was about to write."""
        remove_partials(self.folder, re.compile(r"step-\d+\.pt").fullmatch)

    def _steps(self) -> list[tuple[int, str]]:
        names = [file.name for file in self.folder.glob("step-*.pt")]
        return [(int(number), name) for name in names if (number := name[5:-3]).isdecimal()]
