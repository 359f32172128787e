"""Parquet files in the Hugging Face image convention."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gvit.data.sources.arrow import LABELS, image_loader
from gvit.data.sources.base import Keys, Source, Split, existing_folder, split_off
from gvit.data.sources.classes import index_classes
from gvit.errors import InputError, first_line

_TESTS = ("test", "validation", "val")


def source(split: Split, data_dir: Path | None = None) -> Source:
    """Parquet files in the Hugging Face image convention: ``data/train-*.parquet`` and ``data/test-*.parquet``.

    Columns ``image`` (a struct with the encoded file in ``bytes``) and ``label`` (or ``fine_label``); class names
    from the schema's ``huggingface`` metadata, where they are not there from the labels. The test split is
    ``test-*``, ``validation-*`` or ``val-*``, the first that is there; where there is none, a fifth of each class,
    always the same images, is kept for it. Encoded images are held in memory; ``hfds`` reads the same files from the
    disk.

    Raises:
        InputError: no folder is given, files or columns are missing, or pyarrow is not installed; also on loading an
            image that can't be read.
    """
    root = existing_folder(data_dir, "parquet")
    training, held_out = _files(root, "train-*"), _held_out(root)
    if not training:
        raise InputError(f"{root}: no train-*.parquet here or in data/")
    tests = next(iter(held_out.values()), [])
    # for the other split's sake: both have the same classes
    whole = _read(training if split == "train" or not tests else tests, training)
    whole = replace(whole, notes=_unused(held_out))
    return whole if tests else split_off(whole, split)


def every_image(data_dir: Path) -> Source:
    """All images of a folder that are for a test: its test split's, else those of ``train-*``, else of every file.

    Raises:
        InputError: as ``source``; any Parquet file will do.
    """
    held_out = _held_out(data_dir)
    files = next(iter(held_out.values()), []) or _files(data_dir, "train-*") or _files(data_dir, "*")
    if not files:
        raise InputError(f"{data_dir}: no *.parquet here or in data/")
    return replace(_read(files, files), notes=_unused(held_out))


def _read(files: Sequence[Path], known_by: Sequence[Path]) -> Source:
    """Every row of some files, with the classes of others where the schema does not name them."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("Parquet files need gvit's extra 'parquet': pip install pyarrow") from None
    try:
        tables = [pq.read_table(file) for file in files]
        table = pa.concat_tables(tables)
        label = next(name for name in LABELS if name in table.column_names)
        encoded = pc.struct_field(table.column("image"), "bytes")  # in chunks: one array ends at 2 GiB
        values = table.column(label).to_pylist()
        known = pq.read_table(known_by, columns=[label]).column(label).to_pylist()
        features = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        names = features.get("info", {}).get("features", {}).get(label, {}).get("names")
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise ValueError("its class names are no list of names")
        labels, names = index_classes(values, known, names)
    except (
        pa.ArrowException,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
        StopIteration,
    ) as error:
        raise InputError(
            f"{files[0]}: not in the Hugging Face image convention ({first_line(error)})"
        ) from error
    rows = ((file.name, row) for file, part in zip(files, tables, strict=True) for row in range(len(part)))
    keys = Keys(f"{name}/{row}" for name, row in rows)
    return Source(image_loader(pa.table({"image": encoded}), "image", keys), labels, names, keys=keys)


def _held_out(root: Path) -> dict[str, list[Path]]:
    """The files of each split that is for a test, the one that counts first."""
    return {part: found for part in _TESTS if (found := _files(root, f"{part}-*"))}


def _unused(held_out: Mapping[str, Sequence[Path]]) -> tuple[str, ...]:
    test, *unused = held_out or [""]
    return tuple(f"tested with {test}-*; {part}-* is not used" for part in unused)


def _files(root: Path, names: str) -> list[Path]:
    places = [place for place in (root / "data", root) if place.is_dir()]
    return next((found for place in places if (found := sorted(place.glob(f"{names}.parquet")))), [])
