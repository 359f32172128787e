"""Data sets of the Hugging Face Hub, or in a folder, by the library ``datasets``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gvit.data.sources.arrow import LABELS, image_loader
from gvit.data.sources.base import Keys, Source, Split, existing_folder, split_off
from gvit.data.sources.classes import index_classes
from gvit.errors import InputError, first_line, option

_TESTS = ("test", "validation", "val", "valid")
_UNKNOWN = (None, -1)  # the Hub's competitions keep the labels of their tests for themselves


def source(split: Split, data_dir: Path | None = None, name: str = "") -> Source:
    """A data set of the Hugging Face Hub by its name, or, without a name, what ``datasets`` finds in a folder.

    ``hfds/NAME``, or ``hfds/NAME:CONFIG`` where it has several, is fetched from the Hub, once, to ``data_dir`` or where
    ``datasets`` keeps its files. ``hfds`` reads the folder ``data_dir``: Arrow files by ``save_to_disk``, Parquet, or
    images in class folders. Images are read from the disk, whatever their number.

    The images are the first column of the type ``Image``; the labels are ``label``, ``labels``, ``fine_label``, or the
    only column of the type ``ClassLabel``. The test split is ``test``, ``validation``, ``val`` or ``valid``, the first
    that is there and has labels; where there is none, a fifth of each class, always the same images, is kept for it.

    Raises:
        InputError: ``datasets`` is not installed, there are no such data, or they have no images or no labels, or
            classes in the test split that training has not; also on loading an image that can't be read.
    """
    try:
        import datasets
    except ImportError:
        raise InputError("data sets hfds need gvit's extra 'hfds': pip install datasets") from None
    called = f"hfds/{name}" if name else "hfds"
    root = data_dir if name else existing_folder(data_dir, "hfds")
    try:
        whole: Any
        if name:
            path, _, config = name.partition(":")
            cache = None if root is None else str(root)
            whole = datasets.load_dataset(path, config or None, cache_dir=cache)
        elif any((Path(str(root)) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            whole = datasets.load_from_disk(str(root))
        else:
            whole = datasets.load_dataset(str(root))
    except Exception as error:  # of the Hub, of the network, of any builder
        where = option("dataset", called) if name else str(root)
        raise InputError(f"{where}: datasets cannot load it ({first_line(error)})") from error
    splits = whole if isinstance(whole, dict) else {"train": whole}
    try:
        return _source(split, splits, name or str(root))
    except InputError as error:
        raise InputError(f"{option('dataset', called) if name else root}: {error.args[0]}") from None


def _source(split: Split, splits: dict[str, Any], name: str) -> Source:
    import datasets

    if "train" not in splits:
        raise InputError(f"no split 'train', but {', '.join(map(str, splits)) or 'none'}")
    features = splits["train"].features
    image = next((column for column, of in features.items() if isinstance(of, datasets.Image)), None)
    if image is None:
        raise InputError(f"no column of images; there are: {', '.join(features)}")
    classified = [column for column, of in features.items() if isinstance(of, datasets.ClassLabel)]
    label = next((column for column in LABELS if column in features), None)
    if label is None and len(classified) == 1:
        (label,) = classified
    if label is None:
        raise InputError(f"no column {', '.join(LABELS)}; there are: {', '.join(features)}")
    names = features[label].names if label in classified else None
    parts = [part for part in ("train", *_TESTS) if part in splits and label in splits[part].column_names]
    columns = {part: splits[part][label][:] for part in parts}
    labelled = [part for part in _TESTS if any(value not in _UNKNOWN for value in columns.get(part, ()))]
    test = labelled[0] if labelled else None
    part = "train" if split == "train" or test is None else test
    rows = splits[part]
    if rows._indices is not None:  # a selection: the table below would be the whole
        rows = rows.flatten_indices()
    values, own = columns[part], getattr(rows.features[label], "names", None)
    if names is not None and own not in (None, names):
        values = _renumbered(values, own, names, part)
    labels, names = index_classes(values, columns["train"], names)
    keys = Keys(f"{part}/{row}" for row in range(len(labels)))
    notes = tuple(f"tested with {test}; {part} is not used" for part in labelled[1:])
    found = Source(image_loader(rows.data, image, keys), labels, names, keys=keys, notes=notes)
    return found if test else split_off(found, split)


def _renumbered(values: Sequence[Any], own: Sequence[str], names: Sequence[str], part: str) -> list[Any]:
    """Labels of a split, which count its own names, as numbers of training's."""
    index = {name: label for label, name in enumerate(names)}
    there = set(values)
    unknown = [name for label, name in enumerate(own) if label in there and name not in index]
    if unknown:
        raise InputError(f"split {part!r} has classes that 'train' does not have: {', '.join(unknown)}")
    number = {label: index[name] for label, name in enumerate(own) if name in index}
    return [number.get(value, value) for value in values]
