"""What is wrong with a folder of images, before a model is trained on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import ImageOps

from gvit.data.images import EXTENSIONS, find_images, open_image, opened, to_rgb
from gvit.data.sources import Split
from gvit.data.sources.class_folders import class_folders, folders_in
from gvit.errors import InputError, Note, printable

_AT_A_TIME = 256  # files that processes are given before their answers are read
_SPLITS: tuple[Split, ...] = ("train", "test")


@dataclass(frozen=True)
class ImageFile:
    """What there is to know of one file.

    Attributes:
        file: its path.
        split: train or test; empty where the folder has no classes.
        class_name: of its class folder; empty where there is none.
        mode: Pillow's name for how it holds colour, ``RGB`` or ``CMYK`` for example; None where it is broken.
        width: pixels, as it is shown.
        height: pixels.
        content: digest of what is shown, the same for all files that show the same.
        error: why it is broken; None where it is not.
    """

    file: Path
    split: str
    class_name: str
    mode: str | None = None
    width: int = 0
    height: int = 0
    content: str = ""
    error: str | None = None


@dataclass(frozen=True)
class FolderCheck:
    """What is in a folder of images.

    Attributes:
        files: all of them, in the order of their paths.
        min_side: images with a shorter side, pixels, are tiny.
        max_side: images with a longer side, pixels, are oversized.
        ignored: number of files that are taken for no images, by suffix.
        note: why the class folders cannot be trained on as they are; empty where they can, or there are none.
        notes: what a training would say of them, which folder is not used for example.
    """

    files: Sequence[ImageFile]
    min_side: int
    max_side: int
    ignored: dict[str, int]
    note: str = ""
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> list[ImageFile]:
        return [one for one in self.files if one.error is not None]

    @property
    def tiny(self) -> list[ImageFile]:
        return [one for one in self._whole if min(one.width, one.height) < self.min_side]

    @property
    def oversized(self) -> list[ImageFile]:
        return [one for one in self._whole if max(one.width, one.height) > self.max_side]

    @property
    def duplicates(self) -> list[list[ImageFile]]:
        """Files that show the same, by groups."""
        groups = defaultdict(list)
        for one in self._whole:
            groups[one.content].append(one)
        return [group for group in groups.values() if len(group) > 1]

    @property
    def leaks(self) -> list[list[ImageFile]]:
        """Those of the groups that are in training and in the test."""
        return [group for group in self.duplicates if len({one.split for one in group}) > 1]

    @property
    def contradictions(self) -> list[list[ImageFile]]:
        """Those of the groups that are in several classes."""
        return [group for group in self.duplicates if len({one.class_name for one in group}) > 1]

    @property
    def classes(self) -> dict[str, dict[str, int]]:
        """Readable images of each class, by split."""
        counts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_SPLITS, 0))
        for one in self.files:
            if one.class_name:
                counts[one.class_name][one.split] += one.error is None
        return dict(counts)

    @property
    def modes(self) -> dict[str, int]:
        return dict(Counter(one.mode for one in self._whole if one.mode).most_common())

    @property
    def clean(self) -> bool:
        """There is nothing to put right."""
        return not (self.broken or self.tiny or self.oversized or self.duplicates or self.note)

    @property
    def _whole(self) -> list[ImageFile]:
        return [one for one in self.files if one.error is None]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def names(files: Sequence[ImageFile]) -> list[str]:
            return [str(one.file) for one in files]

        sized = {
            name: [{"file": str(one.file), "width": one.width, "height": one.height} for one in files]
            for name, files in (("tiny", self.tiny), ("oversized", self.oversized))
        }
        return {
            "clean": self.clean,
            "images": len(self.files),
            "note": self.note,
            "notes": list(self.notes),
            "broken": [{"file": str(one.file), "error": one.error} for one in self.broken],
            "duplicates": [names(group) for group in self.duplicates],
            "leaks": [names(group) for group in self.leaks],
            "contradictions": [names(group) for group in self.contradictions],
            **sized,
            "classes": self.classes,
            "modes": self.modes,
            "ignored": self.ignored,
        }


def check_folder(
    folder: str | Path,
    min_side: int = 32,
    max_side: int = 8192,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> FolderCheck:
    """Open every image of a folder, as training would, and compare them.

    Args:
        folder: class folders, with or without ``train/`` and ``val/``, or any other folder of images.
        min_side: of the shorter side, pixels.
        max_side: of the longer side, pixels.
        workers: processes that read images.
        progress: is called now and then with the number of files done, and of all.

    Raises:
        InputError: there is no such folder, or it holds no images.
    """
    root = Path(folder)
    if not os.path.isdir(root):  # pathlib's raises at a path that is too long
        raise InputError(f"{root}: no such folder")
    places, note, notes = _places(root)
    read = []
    for one in _read_all(places, workers):
        read.append(one)
        if progress is not None:
            progress(len(read), len(places))
    others = (path.suffix.lower() or "no suffix" for path in root.rglob("*") if os.path.isfile(path))
    ignored = Counter(suffix for suffix in others if suffix not in EXTENSIONS)
    return FolderCheck(read, min_side, max_side, dict(ignored.most_common()), note, notes)


def _places(root: Path) -> tuple[list[ImageFile], str, tuple[str, ...]]:
    """The files with their splits and classes, what is wrong with those, and what else there is to say of them."""
    try:
        found, notes = [], list[str]()
        for split in _SPLITS:
            source = class_folders(split, root, EXTENSIONS, "images", open_image)
            found += [
                ImageFile(root / key, split, source.class_names[label])
                for key, label in zip(source.keys, source.labels, strict=True)
            ]
            notes += source.notes
    except InputError as error:
        # nobody trains on a folder without folders in it
        note = Note(error.args[0]) if folders_in(root) else ""
        return [ImageFile(file, "", "") for file in find_images([root])], note, ()
    return sorted(found, key=lambda one: one.file), "", tuple(dict.fromkeys(notes))


def _read_all(places: Sequence[ImageFile], workers: int) -> Iterator[ImageFile]:
    if workers == 1:
        yield from map(_read, places)
        return
    with ProcessPoolExecutor(workers) as pool:
        for first in range(0, len(places), _AT_A_TIME):
            yield from pool.map(_read, places[first : first + _AT_A_TIME], chunksize=8)


def _read(place: ImageFile) -> ImageFile:
    known = partial(ImageFile, place.file, place.split, place.class_name)
    try:
        with opened(place.file) as file:
            mode = file.mode
            file.load()
            shown = to_rgb(ImageOps.exif_transpose(file))
    except InputError as error:
        # the file's name is known
        return known(error=str(error).removeprefix(f"{printable(str(place.file))}: "))
    content = hashlib.sha256(f"{shown.size}".encode() + shown.tobytes()).hexdigest()
    return known(mode, *shown.size, content)
