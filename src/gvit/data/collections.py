"""The Gaussians of a whole data set: in memory, or as the class folders that the source ``gaussians`` reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gvit.data.images import find_images
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import Source, Split
from gvit.data.sources.gaussians import GAUSSIAN_EXTENSIONS, open_gaussians
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import MANIFEST_NAME, Manifest, is_shard, read_set, read_shard
from gvit.gaussians.storage import read_size
from gvit.models.base import evaluating
from gvit.models.gvit import GViT


@dataclass(frozen=True)
class KeptImage:
    """An image of which Gaussians are kept in a file.

    Attributes:
        name: what it is called there, a path below the folder or within the set.
        gaussians: raw [K, 9] in float32.
        size: its height and width, pixels; None where the file does not tell.
        class_name: None where it has none.
    """

    name: str
    gaussians: Gaussians
    size: tuple[int, int] | None
    class_name: str | None = None


def find_kept(places: Sequence[str | Path]) -> Iterator[KeptImage | InputError]:
    """The images of files, folders (searched recursively) and patterns, one by one, or what is wrong with a file.

    Files are those of ``gvit fit`` and ``gvit encode``, one image each, or the shards of a set. A file that is named
    twice, or by a link, too, is taken once.

    Raises:
        InputError: a place that does not exist, or a folder without such files, or a set that is not complete.
    """
    taken = set[str]()
    for place in places:
        folder = Path(place)
        if os.path.isfile(folder / MANIFEST_NAME):  # pathlib's raises at a path that is too long
            files = [file for part in read_set(folder)[1].values() for file in part]
        else:
            files = find_images([place], GAUSSIAN_EXTENSIONS | {".parquet"})
        for file in files:
            real = os.path.realpath(file)
            if real in taken:
                continue
            taken.add(real)
            try:
                if is_shard(file):
                    yield from _of_shard(file)
                else:
                    below = file.relative_to(folder).as_posix() if folder.is_dir() else file.name
                    yield KeptImage(below, open_gaussians(file), read_size(file))
            except InputError as error:
                yield error


def _of_shard(file: Path) -> Iterator[KeptImage | InputError]:
    shard = read_shard(file)
    beside = (file.parent / MANIFEST_NAME).is_file()
    names = Manifest.read(file.parent).class_names if beside else ()
    for row, name in enumerate(shard.names):
        label = -1 if shard.labels is None else shard.labels[row]
        class_name = names[label] if 0 <= label < len(names) else None
        try:
            gaussians = shard[row]
        except InputError as error:  # which doesn't cost the images after it
            yield error
            continue
        yield KeptImage(name, gaussians, shard.sizes[row], class_name)


def encode_with(model: GViT) -> Callable[[Tensor], Gaussians]:
    """Images [B, 3, H, W] in [0, 1] to the Gaussians that a model's encoder predicts, raw [B, K, 9] on the CPU.

    The model is used on its device in evaluation mode, without gradients, and comes back in the mode that it had.
    """

    @torch.no_grad()
    def encode(images: Tensor) -> Gaussians:
        parameter = next(model.parameters())
        with evaluating(model):
            return model.encode(images.to(parameter.device, parameter.dtype)).to("cpu")

    return encode


def collect_gaussians(model: GViT, source: Source, batch_size: int = 64, workers: int = 0) -> Gaussians:
    """The Gaussians that a model's encoder predicts for every image, without augmentation.

    Args:
        model: is used as in ``encode_with``.
        source: its images, in this order; they are cropped as in the model's evaluation, so a model that is trained
            on the result wants ``crop_mode="squash"``: the crop has been done.
        batch_size: images at a time.
        workers: processes that load images.

    Returns:
        Raw [N, K, 9] on the CPU; ``save_collection`` writes them.

    Raises:
        InputError: the data set holds no images, or one that can't be read.
    """
    samples = EvaluationSamples(source, eval_input(model, source))
    encode = encode_with(model)
    parts = [encode(images) for images, _ in evaluation_loader(samples, batch_size, workers)]
    return parts[0].replace_raw(torch.cat([part.raw for part in parts]))


def save_collection(
    folder: str | Path, split: Split, class_names: Sequence[str], labels: Sequence[int], gaussians: Gaussians
) -> None:
    """Write one split, ``folder/SPLIT/CLASS/NUMBER.safetensors``, whole or not at all.

    Read again, the classes are in the alphabetical order of their names, and images in that of class and number.

    Args:
        folder: may hold other splits already.
        split: which one.
        class_names: names of the class folders.
        labels: index into ``class_names`` for each image.
        gaussians: raw [N, K, 9], of N images.

    Raises:
        InputError: the split is there already, or class names can't be folders' names, each its own.
    """
    if len(labels) != len(gaussians.raw):
        raise InputError(f"{len(labels)} labels for the Gaussians of {len(gaussians.raw)} images")
    place = Path(folder) / split
    if place.exists():
        raise InputError(f"{place} is there already; remove it, or choose another folder")
    unfinished = place.with_name(f".{split}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # what an interruption left
    _save(gaussians, _files(unfinished, class_names, labels))
    unfinished.rename(place)


def write_collection(
    folder: str | Path,
    split: Split,
    samples: EvaluationSamples,
    encode: Callable[[Tensor], Gaussians],
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[Path]:
    """Turn every image of a split into Gaussians, and write them as ``save_collection`` does, batch by batch.

    Called again after an interruption, it goes on with the first batch that is not complete; until it has returned
    once, the split in ``folder`` may lack images. Files that are there are trusted: ``samples`` and ``encode`` have to
    be the same as before.

    Args:
        folder: may hold other splits.
        split: which one.
        samples: the images as ``encode`` wants them.
        encode: images [B, 3, H, W] to raw Gaussians [B, K, 9] (``encode_with``, or a fit).
        batch_size: images at a time.
        progress: is called after each batch with the number of images that are done.

    Returns:
        The file of each image, in the order of the samples.

    Raises:
        InputError: class names can't be folders' names, the split holds files of another data set, or an image can't
            be read.
    """
    source, place = samples.source, Path(folder) / split
    files = _files(place, source.class_names, source.labels)
    strangers = sorted(set(place.rglob("*.safetensors")) - set(files))
    if strangers:
        raise InputError(f"{strangers[0]}: is not of this data set; remove {place}, or choose another folder")
    for first in range(0, len(files), batch_size):
        rows = range(first, min(first + batch_size, len(files)))
        batch = [files[row] for row in rows]
        if not all(file.exists() for file in batch):
            _save(encode(torch.stack([samples[row][0] for row in rows])), batch)
        if progress is not None:
            progress(rows.stop)
    return files


def _files(place: Path, class_names: Sequence[str], labels: Sequence[int]) -> list[Path]:
    """A file for each image, numbered in their order, in class folders, which are made."""
    unusable = [
        name for name in class_names if not name or set(name) & {"/", "\\", "\0"} or name.startswith(".")
    ]
    if unusable or len(set(class_names)) < len(class_names):
        raise InputError(f"class names must be different names of folders, got {', '.join(class_names)}")
    for name in class_names:
        (place / name).mkdir(parents=True, exist_ok=True)
    return [place / class_names[label] / f"{row:07}.safetensors" for row, label in enumerate(labels)]


def _save(gaussians: Gaussians, files: Sequence[Path]) -> None:
    on_cpu = gaussians.detach().to("cpu")
    for single, file in zip(on_cpu.raw, files, strict=True):
        on_cpu.replace_raw(single).save(file)
