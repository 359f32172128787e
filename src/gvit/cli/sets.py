"""Whole data sets as Gaussians, for 'gvit encode': which images they are, and how it is told what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gvit.cli.messages import print_error, warn_of_left_out
from gvit.errors import InputError, counted, option, printable
from gvit.files import real_path

if TYPE_CHECKING:
    from gvit.data.sources import Source
    from gvit.encoding import ImageEncoder
    from gvit.gaussians.storage import Origin

IMAGES = "images"  # as a data set: any images, without classes


@dataclass(frozen=True)
class SetOptions:
    """Where a set goes and how it is made; see the options of 'gvit encode'."""

    out: Path
    format: str
    shard_size: int
    batch_size: int
    workers: int
    overwrite: bool


def is_data_set(sources: Sequence[str]) -> bool:
    """Whether a data set is named, rather than a path."""
    from gvit.data.sources import is_named

    return len(sources) == 1 and is_named(sources[0]) and not Path(sources[0]).exists()


def find_parts(
    sources: Sequence[str], dataset: str | None, data_dir: Path | None, options: SetOptions
) -> dict[str, Source]:
    """The images to encode, by the name of their part.

    Raises:
        InputError: there are none, it cannot be told what is meant, or the set would count as a part of them.
    """
    from gvit.data.sources import load_source
    from gvit.encoding import unlabelled

    guessed = dataset is None
    if dataset is None:
        dataset, data_dir = _recognise(sources, data_dir, options.out)
    elif dataset != IMAGES and sources:
        if len(sources) > 1 or data_dir is not None:
            raise InputError(f"--dataset {dataset} is one folder, got {', '.join(sources)}")
        data_dir = Path(sources[0])
    for folder in map(Path, sources if data_dir is None else [data_dir]):
        if os.path.isdir(folder):
            _check_apart(options, folder, dataset, guessed)
    if dataset == IMAGES:
        if sources and data_dir is not None:
            raise InputError(f"--dataset {IMAGES} takes SOURCE or --data-dir, not both")
        return {IMAGES: unlabelled(sources if data_dir is None else [data_dir])}
    try:
        return {
            "train": load_source(dataset, "train", data_dir),
            "test": load_source(dataset, "test", data_dir),
        }
    except InputError as error:
        if not guessed or dataset != "folder":
            raise
        # folders need not be classes
        raise InputError(f"{error.args[0]}; --dataset {IMAGES} encodes them without classes") from error


def _check_apart(options: SetOptions, folder: Path, dataset: str, guessed: bool) -> None:
    """See to it that the set is not looked through for the images it is made of when the same command goes on."""
    from gvit.data.sources.class_folders import HELD_OUT, TRAINING, split_folders

    place, root = real_path(options.out), real_path(folder)
    wrong = False
    if dataset.lower() == "folder":
        training, tests = split_folders(folder, TRAINING), split_folders(folder, HELD_OUT)
        classes = [*training, *tests] if training and tests else [folder]
        wrong = any(_lies_in(place, real_path(of)) for of in classes)
        wrong |= place.parent == root and place.name.lower() in (*TRAINING, *HELD_OUT)
    if options.format == "parquet" and (guessed or dataset.lower() == "parquet"):
        wrong |= dataset in ("folder", "parquet", IMAGES) and place in (root, root / "data")
    if wrong:
        raise InputError(
            f"{options.out} lies where the images of {folder} are looked for; choose another {option('out')} folder"
        )


def _lies_in(place: Path, folder: Path) -> bool:
    """Whether it does, and no folder on the way is hidden."""
    from gvit.data.images import is_shown

    return folder in place.parents and all(map(is_shown, place.relative_to(folder).parts))


def _recognise(sources: Sequence[str], data_dir: Path | None, out: Path) -> tuple[str, Path | None]:
    """The kind of data set that the sources are, and its folder."""
    from gvit.data.images import EXTENSIONS, shown_files, suffix_of

    first = Path(sources[0]) if sources else Path()
    if is_data_set(sources):
        return sources[0], data_dir
    if data_dir is not None:
        raise InputError("--data-dir goes with the name of a data set, as --dataset NAME or as SOURCE")
    if len(sources) > 1 or not os.path.isdir(first):  # pathlib's raises at a path that is too long
        return IMAGES, None
    if any(next(place.glob("*.parquet"), None) for place in (first, first / "data")):
        return "parquet", first
    inside = [path for path in first.iterdir() if not path.name.startswith(".")]
    folders = [path for path in inside if path.is_dir()]
    # the set that was begun in it does not make another data set of it
    begun = [path for path in folders if real_path(path) == real_path(out)]
    files = (file for path in begun for file in shown_files(path, strict=False))
    if begun and not any(suffix_of(file) in EXTENSIONS for file in files):
        folders.remove(begun[0])
    if len(folders) > 1 and not any(path.suffix.lower() in EXTENSIONS for path in inside):
        return "folder", first
    return IMAGES, None


def encode_whole_set(
    encoder: ImageEncoder,
    parts: Mapping[str, Source],
    place: str,
    origin: Origin,
    options: SetOptions,
    device: str,
    sources: Sequence[str] = (),
) -> int:
    """Encode what is left to do, a line for each file; under torchrun, this process's share of the files."""
    from gvit.encoding import begin_set, encode_set, plan_set
    from gvit.progress import ProgressBar
    from gvit.training.distributed import joined

    manifest = plan_set(encoder, parts, origin, options.format, options.shard_size)
    # nobody waits for another after this: encoding needs no talk, and those who are done may go
    with joined(device) as (world, device):
        if world.is_main:
            warn_of_left_out(sources)
            begin_set(options.out, manifest, options.overwrite)
    encoder.model.to(device)
    total = -(-sum(manifest.parts.values()) // world.size)
    with ProgressBar("encode", total, quiet=not world.is_main) as bar:
        for file, shard in encode_set(
            encoder,
            parts,
            options.out,
            manifest,
            batch_size=options.batch_size,
            workers=options.workers,
            rank=world.rank,
            world_size=world.size,
            progress=bar.update,
        ):
            quality = f"{sum(shard.psnr) / len(shard):.2f} dB" if len(shard) else "-"
            print(printable(f"{file}  {counted(len(shard), 'image')}  {quality}"), flush=True)
    return 2 if _conclude(options.out, place) else 0


def _conclude(folder: Path, place: str) -> bool:
    """What there is now, where the whole set is; whether an image could not be read."""
    from gvit.gaussians.shards import Manifest, read_shard

    manifest = Manifest.read(folder)
    files = [folder / name for part in manifest.parts for name in manifest.files(part)]
    there = [file for file in files if file.is_file()]
    quality, unreadable = list[float](), list[str]()
    for file in there:  # one by one, without the Gaussians: a set may be larger than the memory
        shard = read_shard(file, with_raw=False)
        quality += shard.psnr
        unreadable += shard.failed.values()
    for message in unreadable:
        print_error(InputError(message))
    if len(there) < len(files):
        line = f"{folder}: {len(there)} of {len(files)} files are there; the other processes make the rest"
        print(printable(line))
        return bool(unreadable)
    mean = f": mean {sum(quality) / len(quality):.2f} dB" if quality else ""
    what = f"{counted(len(quality), 'image')} in {counted(len(files), 'file')}"
    line = f"{what} by {place}, {manifest.num_gaussians} Gaussians each{mean}  {folder / 'manifest.json'}"
    print(printable(line))
    return bool(unreadable)
