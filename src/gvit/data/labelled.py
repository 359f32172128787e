"""Labelled images of anyone, for a model that knows its classes by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gvit.data.images import EXTENSIONS, is_shown, open_image, shown_files, suffix_of
from gvit.data.sources import Source, load_source
from gvit.data.sources.base import Keys, files_below
from gvit.data.sources.class_folders import folders_in, labelled_place
from gvit.errors import InputError, option

_SHOWN = 10


def labelled_set(data_dir: Path | None, dataset: str | None = None) -> Source:
    """All images of a folder that are for a test.

    Args:
        data_dir: the folder.
        dataset: how its images lie there: a name in ``gvit.data.sources``, of which the test split is taken. ``folder``
            is ``labelled_folder``. None: ``parquet`` where there are such files, else ``folder``.

    Raises:
        InputError: there are no labelled images.
    """
    if dataset is None:
        found = (
            data_dir is not None
            and os.path.isdir(data_dir)
            and any(any(data_dir.glob(f"{place}*.parquet")) for place in ("", "data/"))
        )
        dataset = "parquet" if found else "folder"
    if dataset != "folder" or data_dir is None:
        return load_source(dataset, "test", data_dir)
    return labelled_folder(data_dir)


def labelled_folder(root: Path) -> Source:
    """Every image of every class folder in ``root``; of its ``test/`` (or ``val/``, ``validation/``) where it has one.

    One class, and one image of it, will do. A folder without images is no class; otherwise classes and files are those
    that ``class_folders`` finds.

    Raises:
        InputError: there is no such folder, or it holds no class folders with images.
    """
    if not os.path.isdir(root):  # pathlib's raises at a path that is too long
        raise InputError(f"{option('data_dir', root)}: no such folder")
    place = labelled_place(root)
    files: dict[str, list[str]] = {}
    for name in (path.name for path in folders_in(place) if is_shown(path.name)):
        found = [file for file in shown_files(place / name) if suffix_of(file) in EXTENSIONS]
        if found:
            files[name] = [os.path.relpath(place / name / file, root) for file in found]
    if not files:
        raise InputError(
            f"{place}: no images in class folders here; expected {place}/CLASS/*.jpg, or *.png, ..."
        )
    keys = Keys(file for found in files.values() for file in found)
    labels = [label for label, found in enumerate(files.values()) for _ in found]
    return Source(files_below(root, keys, open_image), labels, list(files), keys=keys)


def with_classes(source: Source, class_names: Sequence[str]) -> Source:
    """The same images, labelled by the classes of a model; classes are the same where their names are.

    Raises:
        InputError: an image has a class that the model does not know.
    """
    index = {name: number for number, name in enumerate(class_names)}
    used = [source.class_names[label] for label in sorted(set(source.labels))]
    unknown = [name for name in used if name not in index]
    if unknown:
        near = [match for name in unknown[:_SHOWN] for match in difflib.get_close_matches(name, index, n=1)]
        known = f"; nearest: {_listed(list(dict.fromkeys(near)))}" if near else ""
        raise InputError(
            f"classes that the model does not know: {_listed(unknown)}{known}; its {len(index)} classes: "
            f"{_listed(list(class_names))}. Name the folders as the model names its classes"
        )
    labels = [index[source.class_names[label]] for label in source.labels]
    return replace(source, labels=labels, class_names=list(class_names))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
