"""A folder of files for each class: which files are a split's, and what their classes are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gvit.data.sources.base import Split
from gvit.errors import InputError


def class_folders(
    split: Split, root: Path, extensions: frozenset[str], what: str
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The files of a split with their labels, and the names of the classes.

    Either ``root/train/CLASS/`` and ``root/val/CLASS/`` (or ``test/``, ``validation/``), or ``root/CLASS/`` alone,
    of which a fifth of each class, always the same files, is the test split. Classes are in alphabetical order, and
    the files of a class are in that of their paths; folders inside of a class count as its.

    Args:
        split: which one.
        root: an existing folder.
        extensions: of the files that count, small letters, with the dot.
        what: the files hold, for messages.

    Raises:
        InputError: there are no such folders, a class has no files, or one of the test split is not in training.
    """
    held_out = next((root / name for name in ("val", "test", "validation") if (root / name).is_dir()), None)
    if (root / "train").is_dir():
        if held_out is None:
            raise InputError(f"{root}: has train/ but no val/ or test/ beside it")
        names, need = _class_names(root / "train"), ""
        place = root / "train" if split == "train" else held_out
        unknown = set(_class_names(place)) - set(names)
        if unknown:
            raise InputError(f"{place}: classes that train/ does not have: {', '.join(sorted(unknown))}")
        chosen = [
            (file, label) for label, name in enumerate(names) for file in _files(place / name, extensions)
        ]
    else:
        names, place = _class_names(root), root
        need = "; where there are no train/ and val/, a class needs at least 2: a fifth is kept for the test"
        chosen = []
        for label, name in enumerate(names):
            files = _files(root / name, extensions)
            order = np.random.default_rng(0).permutation(len(files))
            held = set(order[: max(1, len(files) // 5)].tolist())
            chosen += [(file, label) for i, file in enumerate(files) if (i in held) == (split == "test")]
    empty = set(range(len(names))) - {label for _, label in chosen}
    if empty:
        raise InputError(
            f"{place}: class folders without {what} to {'train on' if split == 'train' else 'test with'}: "
            f"{', '.join(names[label] for label in sorted(empty))}{need}"
        )
    return chosen, names


def _class_names(root: Path) -> list[str]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{root}: expected a folder for each class, at least two, found {len(names)}")
    return names


def _files(folder: Path, extensions: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in extensions)
