"""What every source offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from gvit.errors import InputError, option, wording
from gvit.gaussians import Gaussians

Split = Literal["train", "test"]
_Loaded = TypeVar("_Loaded")


class Keys(Sequence[str]):
    """Many strings in two arrays: processes that load images share them without a copy.

    Args:
        keys: the strings.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        encoded = [key.encode("utf-8", "surrogateescape") for key in keys]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Keys: ...
    def __getitem__(self, index: int | slice) -> str | Keys:
        if isinstance(index, slice):
            return Keys(self[row] for row in range(*index.indices(len(self))))
        row = range(len(self))[index]
        return self._bytes[self._ends[row] : self._ends[row + 1]].decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Source:
    """One split of a data set: labelled images, or the Gaussians of labelled images.

    Attributes:
        load: the i-th image, 8-bit RGB, or its Gaussians, raw [K, 9]. What a spawned process can be given, so no lambda
            and no function within a function, if processes are to load where they are not forked (as on macOS).
        labels: class index of each image.
        class_names: in the order of the indices.
        example: for a set of Gaussians, those of one image; all others have as many and the same bounds. None for a
            set of images.
        keys: a name for each image, its own within the data set: the path below the folder, or the split and the row.
            The number of each where none are given.
        own_split: whether the data say which images are for the test; False where a part of them was kept for it.
        notes: lines that the user should read.
    """

    load: Callable[[int], Image.Image | Gaussians]
    labels: Sequence[int]
    class_names: Sequence[str]
    example: Gaussians | None = None
    keys: Sequence[str] = field(default=(), kw_only=True)
    own_split: bool = field(default=True, kw_only=True)
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not self.keys:
            object.__setattr__(self, "keys", Keys(map(str, range(len(self.labels)))))
        assert len(self.keys) == len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Sequence[int] | np.ndarray) -> Source:
        """Some of the samples, in the order of ``rows``."""
        chosen = np.asarray(rows, np.int64)
        labels, keys = ([of[row] for row in chosen.tolist()] for of in (self.labels, self.keys))
        return replace(self, load=partial(_load_chosen, self.load, chosen), labels=labels, keys=Keys(keys))


def _load_chosen(load: Callable[[int], Any], chosen: np.ndarray, row: int) -> Any:
    return load(int(chosen[row]))


def files_below(
    root: Path, keys: Sequence[str], open_file: Callable[[str], _Loaded]
) -> Callable[[int], _Loaded]:
    """What loads the i-th of some files, whose keys are their paths below a folder."""
    # a path object for each image costs a tenth of a small one
    return partial(_load_below, f"{root}{os.sep}", keys, open_file)


def _load_below(begin: str, keys: Sequence[str], open_file: Callable[[str], _Loaded], row: int) -> _Loaded:
    return open_file(begin + keys[row])


def split_off(whole: Source, split: Split) -> Source:
    """One split of data that have none: a fifth of each class, one image at least, is kept for the test.

    Which images is a function of the order of those of each class alone: always the same, whatever the run's seed.
    """
    labels = np.asarray(whole.labels, np.int64)
    kept = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        kept[np.random.default_rng(0).permutation(rows)[: max(1, len(rows) // 5)]] = True
    return replace(whole.take(np.flatnonzero(kept == (split == "test"))), own_split=False)


def existing_folder(data_dir: Path | None, name: str) -> Path:
    """The folder that the data set ``name`` was given.

    Raises:
        InputError: none was given, or it is not there.
    """
    if data_dir is None:
        raise InputError(f"data set {name!r} needs {wording('data_dir, a folder', '--data-dir FOLDER')}")
    if not os.path.isdir(data_dir):  # pathlib's raises at a path that is too long
        raise InputError(f"{option('data_dir', data_dir)}: no such folder")
    return data_dir
