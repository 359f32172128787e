"""Both splits of a data set; where the data have none of their own, which images were kept for the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gvit.data.sources import Source, Split, load_source
from gvit.errors import InputError, counted

# names of the classes, and the keys of each split's samples
Record = Mapping[str, Sequence[str]]
_SPLITS: tuple[Split, Split] = ("train", "test")


def load_splits(
    name: str, data_dir: Path | None = None, recorded: Record | None = None
) -> tuple[Source, Source]:
    """Training and test images of a named data set.

    Args:
        name: as for ``load_source``.
        data_dir: as for ``load_source``.
        recorded: what ``record_splits`` gave before: the same images in the same order, whatever has come to the data
            since then, be it a test split of their own; training images that are gone are left out, and a note says
            so. Where the data have other classes now, it is as if it weren't there.

    Raises:
        InputError: as ``load_source``; or a recorded test image is gone.
    """
    train, test = (load_source(name, split, data_dir) for split in _SPLITS)
    if recorded is None or list(train.class_names) != list(recorded["class_names"]):
        return train, test
    both = _joined(train, test)
    row = {key: number for number, key in enumerate(both.keys)}
    gone = {split: [key for key in recorded[split] if key not in row] for split in _SPLITS}
    if gone["test"]:
        raise InputError(
            f"{counted(len(gone['test']), 'test image')} of the run cannot be found any more, the first of them "
            f"{gone['test'][0]}: put back what it is measured with"
        )
    notes = both.notes
    if gone["train"]:
        notes += (
            f"{counted(len(gone['train']), 'training image')} gone, the first of them {gone['train'][0]}",
        )
    later = len(both) - sum(len(recorded[split]) - len(gone[split]) for split in _SPLITS)
    if later:
        notes += (f"{counted(later, 'image')} that came after the run had begun: left out",)
    both = replace(both, notes=notes, own_split=False)
    one, other = (both.take([row[key] for key in recorded[split] if key in row]) for split in _SPLITS)
    return one, other


def load_test(name: str, data_dir: Path | None = None, recorded: Record | None = None) -> Source:
    """The test images alone; see ``load_splits``."""
    if recorded is None:
        return load_source(name, "test", data_dir)
    return load_splits(name, data_dir, recorded)[1]


def load_whole_test(name: str, data_dir: Path | None = None) -> Source:
    """The test images alone, or, where the data don't say which they are, all images; see ``load_source``."""
    test = load_source(name, "test", data_dir)
    return test if test.own_split else _joined(load_source(name, "train", data_dir), test)


def record_splits(train: Source, test: Source) -> Record | None:
    """What to keep to find the same split again; None where it is the data's own."""
    if train.own_split:
        return None
    return {"class_names": list(train.class_names), "train": list(train.keys), "test": list(test.keys)}


def _joined(one: Source, other: Source) -> Source:
    """The samples of both."""
    return replace(
        one,
        load=partial(_load_joined, one, other),
        labels=[*one.labels, *other.labels],
        keys=[*one.keys, *other.keys],
    )


def _load_joined(one: Source, other: Source, row: int) -> Any:
    return one.load(row) if row < len(one) else other.load(row - len(one))
