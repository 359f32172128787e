"""Photographs in class folders."""

from __future__ import annotations

from pathlib import Path

from gvit.data.images import EXTENSIONS, open_image
from gvit.data.sources.base import Source, Split, existing_folder
from gvit.data.sources.class_folders import class_folders


def source(split: Split, data_dir: Path | None = None) -> Source:
    """Photographs in class folders: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` (or ``test/``, ``validation/``).

    Where there are class folders only, a fifth of each class, always the same images, is the test split. Classes are
    the folders' names in alphabetical order; folders inside of them count as theirs.

    Raises:
        InputError: no folder is given, or it holds no such folders, or a class of the test split is not in training;
            also on loading an image that can't be read.
    """
    root = existing_folder(data_dir, "folder")
    files, names = class_folders(split, root, EXTENSIONS, "images")
    keys = [file.relative_to(root).as_posix() for file, _ in files]
    return Source(lambda i: open_image(files[i][0]), [label for _, label in files], names, keys=keys)
