"""A folder of files for each class: which files are a split's, and what their classes are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from gvit.data.images import UNREAD, is_shown, shown_files, suffix_of
from gvit.data.sources.base import Keys, Source, Split, files_below, split_off
from gvit.data.unread import count_left_out
from gvit.errors import InputError, option
from gvit.gaussians import Gaussians

# what the folders of the splits may be called, in any case; the first that is there counts
TRAINING = ("train", "training")
HELD_OUT = ("test", "testing", "val", "validation", "valid")


def class_folders(
    split: Split,
    root: Path,
    extensions: frozenset[str],
    what: str,
    open_file: Callable[[str], Image.Image | Gaussians],
) -> Source:
    """The files of a split.

    Either ``root/train/CLASS/`` and ``root/test/CLASS/`` (or ``Training/``; ``val/``, ``validation/``, ... in any
    case), or ``root/CLASS/`` alone, of which a fifth of each class, always the same files, is the test split. Where
    there are ``test/`` and ``val/``, ``val/`` is not used, unless ``test/`` has none of the classes.
    Classes are in alphabetical order, and the files of a class are in that of their paths; folders inside of a
    class count as its. What is hidden, by a name that begins with a dot, does not count.

    Args:
        split: which one.
        root: an existing folder.
        extensions: of the files that count, small letters, with the dot.
        what: the files hold, for messages.
        open_file: reads one of them.

    Raises:
        InputError: there are no such folders, a class has no files, or one of the test split is not in training.
    """
    training, tests = next(iter(split_folders(root, TRAINING)), None), split_folders(root, HELD_OUT)
    need, place, notes = "", root, []
    if training is not None and not tests and not _holds_folders(training):
        training = None  # a class is called so
    if training is not None:
        if not tests:
            raise InputError(f"{root}: has {training.name}/ but no val/ or test/ beside it")
        names = _class_names(training)
        held_out = next((test for test in tests if any((test / name).is_dir() for name in names)), tests[0])
        place = training if split == "train" else held_out
        unused = [test for test in tests if test != held_out and _holds_folders(test)]
        notes += [f"{root}: tested with {held_out.name}/; {test.name}/ is not used" for test in unused]
        unknown = set(_class_names(place)) - set(names)
        if unknown:
            raise InputError(
                f"{place}: classes that {training.name}/ does not have: {', '.join(sorted(unknown))}"
            )
    else:
        names = _class_names(root)
        need = "; where there are no train/ and val/, a class needs at least 2: a fifth is kept for the test"
    keys, labels, unread = [], [], Counter[str]()
    for label, name in enumerate(names):
        files = shown_files(place / name)
        unread.update(kind for file in files if (kind := suffix_of(file)) in UNREAD - extensions)
        found = [f"{place / name}/{file}" for file in files if suffix_of(file) in extensions]
        keys += [os.path.relpath(path, root) for path in found]
        labels += [label] * len(found)
    compact = Keys(keys)
    told = count_left_out(unread) if what == "images" else None
    left_out = [] if told is None else [f"{place}: {told}"]
    source = Source(
        files_below(root, compact, open_file), labels, names, keys=compact, notes=(*notes, *left_out)
    )
    if need:
        source = split_off(source, split)
    empty = set(range(len(names))) - set(source.labels)
    if empty:
        raise InputError(
            f"{place}: class folders without {what} to {'train on' if split == 'train' else 'test with'}: "
            f"{', '.join(names[label] for label in sorted(empty))}{need}"
            + "".join(f"; {told}" for told in left_out)
        )
    return source


def split_folders(root: Path, words: Sequence[str]) -> list[Path]:
    """The folders in ``root`` that the words name, in their order: as they are written, or else in any case."""
    folders = folders_in(root)
    named = {path.name.lower(): path for path in folders} | {path.name: path for path in folders}
    return [named[word] for word in words if word in named]


def labelled_place(root: Path, class_names: Sequence[str] = ()) -> Path:
    """Where the class folders for a test are: in the folder of a split, or in ``root`` itself.

    As in training, a ``test/`` with none of the classes leaves it to ``val/``.

    Args:
        root: an existing folder.
        class_names: classes that are known; those of ``train/`` are, too.
    """
    tests, training = (
        list(filter(_holds_folders, split_folders(root, words))) for words in (HELD_OUT, TRAINING)
    )
    known = {*class_names, *(path.name for place in training[:1] for path in folders_in(place))}
    with_classes = (test for test in tests if any((test / name).is_dir() for name in known))
    return next(with_classes, next(iter((*tests, *training)), root))


def _holds_folders(folder: Path) -> bool:
    return any(is_shown(path.name) for path in folders_in(folder))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, in order.

    Raises:
        InputError: it can't be read.
    """
    try:
        inside = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [path for path in inside if os.path.isdir(path)]


def _class_names(root: Path) -> list[str]:
    names = [path.name for path in folders_in(root) if is_shown(path.name)]
    if len(names) < 2:
        raise InputError(
            f"{root}: expected a folder for each class, at least two, found {len(names)}{_other_kind(root)}"
        )
    return names


def _other_kind(root: Path) -> str:
    """How to say that the folder holds another kind of data set, where it looks like one."""
    for name, pattern in (("parquet", "*.parquet"), ("wds", "*.tar")):
        if any(any(place.glob(pattern)) for place in (root, root / "data")):
            return f"; for the {pattern} files here: {option('dataset', name)}"
    return ""
