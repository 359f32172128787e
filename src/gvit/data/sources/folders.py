"""Photographs in class folders."""

from __future__ import annotations

from pathlib import Path

from gvit.data.images import EXTENSIONS, open_image
from gvit.data.sources.base import Source, Split, existing_folder
from gvit.data.sources.class_folders import class_folders


def source(split: Split, data_dir: Path | None = None) -> Source:
    """Photographs in class folders: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (or ``val/``, ``validation/``).

    Where there are ``test/`` and ``val/``, ``val/`` is not used. Where there are class folders only, a fifth of each
    class, always the same images, is the test split. Classes are the folders' names in alphabetical order; folders
    inside of them count as theirs.

    Raises:
        InputError: no folder is given, or it holds no such folders, or a class of the test split is not in training;
            also on loading an image that can't be read.
    """
    return class_folders(split, existing_folder(data_dir, "folder"), EXTENSIONS, "images", open_image)
