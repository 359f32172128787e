"""Gaussians of images, in class folders or in the shards of ``gvit encode``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from gvit.data.sources.base import Source, Split, existing_folder, files_below
from gvit.data.sources.class_folders import class_folders
from gvit.errors import InputError, option
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import MANIFEST_NAME, Manifest, Shard, read_set, read_shard

GAUSSIAN_EXTENSIONS = frozenset({".safetensors"})


def source(split: Split, data_dir: Path | None = None) -> Source:
    """Gaussians in class folders, a ``.safetensors`` file of raw [K, 9] for each image, as ``gvit fit FOLDER`` and
    ``gvit.data.collections`` write them; folders, classes and splits as in ``gvit.data.sources.folders``. Or the shards
    of a data set that ``gvit encode RUN SOURCE`` has written, with its classes and splits.

    Raises:
        InputError: as for folders of photographs; also on loading a file that is damaged, or whose Gaussians differ
            in number or bounds from those of the first training file. Of shards: one is missing, damaged or of another
            set, or the set has no classes, no such split or images of several aspects.
    """
    root = existing_folder(data_dir, "gaussians")
    if (root / MANIFEST_NAME).is_file():
        return _of_shards(split, root)

    def of(split: Split) -> Source:
        return class_folders(split, root, GAUSSIAN_EXTENSIONS, "Gaussians", open_gaussians)

    files = of(split)
    return alike(files, root, root / (files if split == "train" else of("train")).keys[0])


def alike(files: Source, root: Path, first: Path) -> Source:
    """Files below a folder, each of which has to hold as many Gaussians as the first, in the same bounds.

    Raises:
        InputError: the first is damaged; also on loading a file that is, or that holds others.
    """
    example = open_gaussians(first)
    open_alike = partial(_open_alike, _kind(example), first)
    return replace(files, load=files_below(root, files.keys, open_alike), example=example)


def _open_alike(kind: str, first: Path, file: str) -> Gaussians:
    """As ``open_gaussians``, of the kind that the first file holds."""
    loaded = open_gaussians(file)
    if _kind(loaded) != kind:
        raise InputError(f"{file}: holds {_kind(loaded)}, but {first} {kind}")
    return loaded


def _of_shards(split: Split, root: Path) -> Source:
    manifest, files = read_set(root)
    if not manifest.class_names or {"train", "test"} - set(files):
        raise InputError(
            f"{root}: a set of images without classes: 'gvit encode RUN SOURCE' with a folder for each class, or the "
            "name of a data set, makes one to train on"
        )
    shards = {part: [read_shard(file) for file in files[part]] for part in dict.fromkeys(("train", split))}
    read = [shard for part in shards.values() for shard in part]
    for file, shard in zip((file for part in shards for file in files[part]), read, strict=True):
        _check_shard(file, shard, manifest, read[0])
    aspects = {aspect for shard in read for aspect in shard.aspects}
    if len(aspects) > 1:
        raise InputError(
            f"{root}: images of {len(aspects)} aspects; {option('view', 'crop')} encodes squares, which can be "
            "trained on"
        )
    rows = [(shard, row) for shard in shards[split] for row in range(len(shard))]
    example = next((shard[row] for shard in shards["train"] for row in range(len(shard))), None)
    if example is None:
        raise InputError(f"{root}: no image of it could be read")

    keys, labels = [], []
    for shard in shards[split]:
        keys += list(shard.names)
        labels += list(shard.labels or ())
    return Source(partial(_of_shard, rows), labels, manifest.class_names, example, keys=keys)


def _check_shard(file: Path, shard: Shard, manifest: Manifest, first: Shard) -> None:
    """Raise an ``InputError`` where a file is none of a set that begins with the shard ``first``."""
    classes = range(len(manifest.class_names))
    if shard.labels is None or not all(isinstance(n, int) and n in classes for n in shard.labels):
        raise InputError(f"{file}: damaged: its labels are not those of {len(classes)} classes")
    count = len(shard.raw[0]) if len(shard) else manifest.num_gaussians
    for what, found, expected in (
        ("num_gaussians", count, manifest.num_gaussians),
        ("scale_factor", shard.scale_factor, first.scale_factor),
        ("nominal_count", shard.nominal_count, first.nominal_count),
    ):
        if found != expected:
            raise InputError(f"{file}: is of another set: {what} {found}, not {expected}")


def _of_shard(rows: Sequence[tuple[Shard, int]], index: int) -> Gaussians:
    shard, row = rows[index]
    return shard[row]


def open_gaussians(path: str | Path) -> Gaussians:
    """A file with the Gaussians of one image, raw [K, 9] and finite, as ``Gaussians.save`` writes it.

    Raises:
        InputError: the file is missing, is damaged, or holds something else.
    """
    try:
        gaussians = Gaussians.load(path).to(torch.float32)
    except ValueError as error:
        raise InputError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    if gaussians.raw.ndim != 2 or not gaussians.raw.isfinite().all():
        shape = list(gaussians.raw.shape)
        raise InputError(f"{path}: expected the Gaussians of one image, finite numbers [K, 9], got {shape}")
    return gaussians


def _kind(gaussians: Gaussians) -> str:
    """What the Gaussians of all images of a set have in common."""
    return (
        f"{len(gaussians)} Gaussians with scale_factor {gaussians.scale_factor:g}, "
        f"nominal_count {gaussians.nominal_count}, aspect {gaussians.aspect:g}"
    )
