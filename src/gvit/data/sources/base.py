"""What every source offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from gvit.errors import InputError, option, wording
from gvit.gaussians import Gaussians

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Source:
    """One split of a data set: labelled images, or the Gaussians of labelled images.

    Attributes:
        load: the i-th image, 8-bit RGB, or its Gaussians, raw [K, 9].
        labels: class index of each image.
        class_names: in the order of the indices.
        example: for a set of Gaussians, those of one image; all others have as many and the same bounds. None for a
            set of images.
        keys: a name for each image, its own within the data set: the path below the folder, or the split and the row.
            The number of each where none are given.
    """

    load: Callable[[int], Image.Image | Gaussians]
    labels: Sequence[int]
    class_names: Sequence[str]
    example: Gaussians | None = None
    keys: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not self.keys:
            object.__setattr__(self, "keys", [str(row) for row in range(len(self.labels))])
        assert len(self.keys) == len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


def existing_folder(data_dir: Path | None, name: str) -> Path:
    """The folder that the data set ``name`` was given.

    Raises:
        InputError: none was given, or it is not there.
    """
    if data_dir is None:
        raise InputError(f"data set {name!r} needs {wording('data_dir, a folder', '--data-dir FOLDER')}")
    if not data_dir.is_dir():
        raise InputError(f"{option('data_dir', data_dir)}: no such folder")
    return data_dir
