"""Data sets to sets of Gaussians: shard by shard, by several processes, going on where they stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from gvit.data.images import find_images, open_image
from gvit.data.processes import Loader, loading_processes
from gvit.data.sources import Source
from gvit.data.transforms import Transform
from gvit.encoding.images import EncodedRow, ImageEncoder
from gvit.errors import InputError, option, wording
from gvit.files import check_writable, remove_partials, utf8_name
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import (
    MANIFEST_NAME,
    SHARD_FORMATS,
    Manifest,
    Shard,
    is_shard,
    read_shard,
    require_arrow,
    write_shard,
)
from gvit.gaussians.storage import Origin


def unlabelled(sources: Sequence[str | Path]) -> Source:
    """Image files named by files, folders and patterns, as a source without classes.

    Each is called by its path below the folder that was named, or by its name; by its whole path where two have one
    name.

    Raises:
        InputError: nothing is found.
    """
    if not sources:
        raise InputError("no images given; name image files, folders or quoted patterns")
    names: dict[Path, str] = {}
    for place in sources:
        folder = Path(place)
        for file in find_images([place]):
            names.setdefault(file, file.relative_to(folder).as_posix() if folder.is_dir() else file.name)
    files, keys = list(names), list(names.values())
    if len(set(keys)) < len(keys):
        keys = [file.as_posix() for file in files]
    return Source(partial(_open, files), [-1] * len(files), (), keys=keys)


def _open(files: Sequence[Path], row: int) -> Image.Image:
    return open_image(files[row])


def plan_set(
    encoder: ImageEncoder, parts: Mapping[str, Source], origin: Origin, format: str, shard_size: int
) -> Manifest:
    """The files that the images of ``parts`` will be in; see ``encode_set``.

    Args:
        encoder: makes the Gaussians.
        parts: images by the name of their part, ``train`` or ``test``, of the same classes.
        origin: of ``encoder_origin``.
        format: ``safetensors`` or ``parquet``.
        shard_size: images a file.

    Raises:
        InputError: a source holds Gaussians already, the parts differ in their classes, or pyarrow is missing for
            Parquet.
    """
    if format == "parquet":
        require_arrow()  # before a shard is encoded that could not be written
    digest, first = hashlib.sha256(), next(iter(parts))
    names = list(parts[first].class_names)
    for part, source in parts.items():
        if source.example is not None:
            raise InputError("the data set holds Gaussians already: there is nothing to encode")
        if list(source.class_names) != names:
            raise InputError(f"{part} has other classes, or another order of them, than {first}")
        for key, label in zip(source.keys, source.labels, strict=True):
            digest.update(f"{part}\0{utf8_name(key)}\0{label}\0".encode())
    return Manifest(
        origin=dict(origin),
        num_gaussians=len(encoder.no_gaussians),
        dtype="float16" if encoder.half else "float32",
        format=format,
        shard_size=shard_size,
        class_names=names,
        parts={part: len(source) for part, source in parts.items()},
        source=digest.hexdigest()[:16],
    )


def begin_set(folder: Path, manifest: Manifest, overwrite: bool = False) -> None:
    """Write the manifest into a folder that may hold a part of the same set already; one process does it for all.

    Raises:
        InputError: the folder holds another set, or shards without a manifest or with a damaged one, unless
            ``overwrite``; or other files, or it cannot be written. Nothing has been removed then.
    """
    check_writable(folder)
    old = None
    if (folder / MANIFEST_NAME).exists():
        try:
            old = Manifest.read(folder)
        except InputError:
            if not overwrite:
                raise
    if old is not None and not overwrite:
        _check_same(folder, old, manifest)
    listed, wanted = set() if old is None else _names(old), _names(manifest)
    shards = []
    for file in sorted(file for file in folder.glob("*") if file.suffix[1:] in SHARD_FORMATS):
        if file.name in listed or _is_ours(file):
            shards.append(file)
        elif file.suffix == ".safetensors" or file.name in wanted:  # other Parquet files are in nobody's way
            what = "single images" if file.suffix == ".safetensors" else "another data set"
            raise InputError(
                f"{folder} holds files of {what}, {file.name} for one: {option('out', 'FOLDER')} writes elsewhere"
            )
    if old is None and shards and not overwrite:
        raise InputError(
            f"{folder} holds a set without {MANIFEST_NAME}, which tells what made it: "
            f"{wording('overwrite=True', '--overwrite')} replaces it, {option('out', 'FOLDER')} writes elsewhere"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if overwrite:
            # first: beside it, shards that an interruption leaves would pass for the new set's
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            for file in shards:
                file.unlink()
    except OSError as error:
        raise InputError(f"{folder}: cannot write results here ({error.strerror})") from error
    remove_partials(folder, {MANIFEST_NAME, *listed, *wanted}.__contains__)
    manifest.write(folder)


def _names(manifest: Manifest) -> set[str]:
    return {name for part in manifest.parts for name in manifest.files(part)}


def _is_ours(file: Path) -> bool:
    """Whether it is a shard, by what is in it: Parquet files of others have names like a shard's."""
    if file.suffix != ".parquet":
        return is_shard(file)
    try:
        read_shard(file, with_raw=False)
    except InputError:
        return False
    return True


def _check_same(folder: Path, there: Manifest, wanted: Manifest) -> None:
    for name in (field.name for field in fields(Manifest)):
        theirs, ours = getattr(there, name), getattr(wanted, name)
        if name == "origin":  # the same weights may have another name by now
            different = [key for key in ours if key != "model" and theirs.get(key) != ours[key]]
            name = next(iter(different), name)  # one will do
            theirs, ours = (of.get(name) if different else None for of in (theirs, ours))
            name = "weights" if name == "sha256" else name
            if name == "max_side" and None in (theirs, ours):  # images that are cropped have none
                name = "view"
                theirs, ours = ("crop" if side is None else "whole" for side in (theirs, ours))
        if theirs != ours:
            what = (
                "images or labels" if name in ("source", "parts", "class_names") else name.replace("_", " ")
            )
            if name in ("num_gaussians", "looks", "max_side", "format"):
                what = option(name)
            elif name == "dtype":
                what = option("half")
            shown = "" if what == "images or labels" else f" ({theirs}, not {ours})"
            raise InputError(
                f"{folder} holds a set with other {what}{shown}: {wording('overwrite=True', '--overwrite')} replaces "
                f"it, {option('out', 'FOLDER')} writes elsewhere"
            )


@dataclass(frozen=True)
class _Job:
    part: str
    rows: range
    file: Path


class _Images(Dataset[Tensor | str]):
    """Images as the encoder wants them, by part and row, or what is wrong with them."""

    def __init__(self, parts: Mapping[str, Source], transform: Transform) -> None:
        self.parts, self.transform = parts, transform

    def __getitem__(self, key: tuple[str, int]) -> Tensor | str:
        part, row = key
        try:
            return self.transform(self.parts[part].load(row))
        except InputError as error:
            return str(error)


def encode_set(
    encoder: ImageEncoder,
    parts: Mapping[str, Source],
    folder: Path,
    manifest: Manifest,
    *,
    batch_size: int = 64,
    workers: int = 0,
    rank: int = 0,
    world_size: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Path, Shard]]:
    """Encode what is not encoded yet of a set, shard by shard, each of them written whole or not at all.

    Batches begin anew with each shard, so a shard's bytes depend on nothing but its images and the settings: not on
    what was there before, nor on the number of processes, of which each makes the shards of its turn.

    Args:
        encoder: as for ``plan_set``.
        parts: as for ``plan_set``.
        folder: where ``begin_set`` has been.
        manifest: of ``plan_set``.
        batch_size: images at a time.
        workers: processes that load images.
        rank: which process this is.
        world_size: how many there are.
        progress: is called at first and after each batch with the number of images of this process that are done, be
            it before.

    Yields:
        Each file that this process has written, and what is in it. Images that can't be read are in ``failed``.

    Raises:
        InputError: a file cannot be written.
    """
    jobs = [
        _Job(part, manifest.rows(part, number), folder / name)
        for part in manifest.parts
        for number, name in enumerate(manifest.files(part))
    ]
    images = _Images(parts, encoder.compact_transform)
    mine = jobs[rank::world_size]
    jobs = [job for job in mine if not _is_whole(job, encoder.no_gaussians, images)]
    batches = [
        [(job.part, row) for row in job.rows[first : first + batch_size]]
        for job in jobs
        for first in range(0, len(job.rows), batch_size)
    ]
    loader = iter(
        Loader(
            images,
            batch_sampler=batches,
            collate_fn=list,
            **loading_processes(workers),
        )
    )
    done = sum(len(job.rows) for job in mine) - sum(len(job.rows) for job in jobs)
    if progress is not None:
        progress(done)
    for job in jobs:
        read: list[EncodedRow | str] = []
        while len(read) < len(job.rows):
            batch = encoder.rows(next(loader))
            read += batch
            done += len(batch)
            if progress is not None:
                progress(done)
        shard = _collect(parts[job.part], job.rows, read, encoder, manifest)
        write_shard(job.file, shard)
        yield job.file, shard


def _is_whole(job: _Job, like: Gaussians, images: _Images) -> bool:
    """Whether it is there, and what could not be read then can't be now."""
    if not job.file.is_file():
        return False
    try:
        shard = read_shard(job.file)
    except InputError:  # a damaged one is made again
        return False
    # an older gvit wrote the model's own number, whatever number it drew
    same = (shard.scale_factor, shard.nominal_count) == (like.scale_factor, like.nominal_count)
    if not same or len(shard) + len(shard.failed) != len(job.rows):
        return False
    keys = images.parts[job.part].keys
    failed = [row for row in job.rows if utf8_name(keys[row]) in shard.failed]
    return all(isinstance(images[job.part, row], str) for row in failed)


def _collect(
    source: Source,
    rows: Sequence[int],
    read: Sequence[EncodedRow | str],
    encoder: ImageEncoder,
    manifest: Manifest,
) -> Shard:
    none = encoder.no_gaussians
    good = [(row, image) for row, image in zip(rows, read, strict=True) if not isinstance(image, str)]
    empty = none.raw.to(getattr(torch, manifest.dtype))
    return Shard(
        raw=torch.stack([image.gaussians.raw for _, image in good]) if good else empty,
        names=[utf8_name(source.keys[row]) for row, _ in good],
        aspects=[image.gaussians.aspect for _, image in good],
        sizes=[image.size for _, image in good],
        psnr=[image.psnr for _, image in good],
        labels=[source.labels[row] for row, _ in good] if manifest.class_names else None,
        scale_factor=none.scale_factor,
        nominal_count=none.nominal_count,
        failed={
            utf8_name(source.keys[row]): e for row, e in zip(rows, read, strict=True) if isinstance(e, str)
        },
    )
