"""Labelled images of anyone, for a model that knows its classes by name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from gvit.data.images import EXTENSIONS, is_shown, open_image, shown_files, suffix_of
from gvit.data.sources import Source, gaussians, parquet
from gvit.data.sources.base import Keys, existing_folder, files_below
from gvit.data.sources.class_folders import folders_in, labelled_place
from gvit.data.splits import load_whole_test
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import MANIFEST_NAME

_SHOWN = 10


def labelled_set(
    data_dir: Path | None, dataset: str | None = None, class_names: Sequence[str] = ()
) -> Source:
    """All images of a folder that are for a test: those of its test split, or all where it has none.

    Args:
        data_dir: the folder.
        dataset: how its images lie there: a name in ``gvit.data.sources``. Class folders, ``folder`` and ``gaussians``,
            are as in ``labelled_folder``. None: ``parquet`` where there are such files, else ``folder``.
        class_names: classes that are known, see ``labelled_folder``.

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
    kind = dataset.lower()  # capitals don't matter
    if kind == "parquet":
        return parquet.every_image(existing_folder(data_dir, kind))
    if kind == "folder":
        return labelled_folder(existing_folder(data_dir, kind), class_names)
    if kind == "gaussians" and not (existing_folder(data_dir, kind) / MANIFEST_NAME).is_file():
        return labelled_gaussians(existing_folder(data_dir, kind), class_names)
    return load_whole_test(dataset, data_dir)


def labelled_folder(root: Path, class_names: Sequence[str] = ()) -> Source:
    """Every image of every class folder in ``root``; of its ``test/`` (or ``val/``, ``validation/``) where it has one.

    One class, and one image of it, will do. A folder without images is no class; otherwise classes and files are those
    that ``class_folders`` finds.

    Args:
        root: an existing folder.
        class_names: classes that are known: a ``test/`` without any of them leaves it to ``val/``, as in training.

    Raises:
        InputError: it holds no class folders with images.
    """
    return _labelled_files(root, class_names, EXTENSIONS, "images", "CLASS/*.jpg, or *.png, ...", open_image)


def labelled_gaussians(root: Path, class_names: Sequence[str] = ()) -> Source:
    """The Gaussians of every file of every class folder in ``root``; folders and files as in ``labelled_folder``.

    Raises:
        InputError: it holds no class folders with files of Gaussians, or the first of these is damaged; also on
            loading a file that is, or whose Gaussians differ in number or bounds from the first one's.
    """
    files = _labelled_files(
        root,
        class_names,
        gaussians.GAUSSIAN_EXTENSIONS,
        "Gaussians",
        "CLASS/*.safetensors",
        gaussians.open_gaussians,
    )
    return gaussians.alike(files, root, root / files.keys[0])


def _labelled_files(
    root: Path,
    class_names: Sequence[str],
    extensions: frozenset[str],
    what: str,
    pattern: str,
    open_file: Callable[[str], Image.Image | Gaussians],
) -> Source:
    place = labelled_place(root, class_names)
    files: dict[str, list[str]] = {}
    for name in (path.name for path in folders_in(place) if is_shown(path.name)):
        found = [file for file in shown_files(place / name) if suffix_of(file) in extensions]
        if found:
            files[name] = [os.path.relpath(place / name / file, root) for file in found]
    if not files:
        raise InputError(f"{place}: no {what} in class folders here; expected {place}/{pattern}")
    keys = Keys(file for found in files.values() for file in found)
    labels = [label for label, found in enumerate(files.values()) for _ in found]
    return Source(files_below(root, keys, open_file), labels, list(files), keys=keys)


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
