"""Data sets that torchvision knows how to read, in the places where its ``download=True`` puts them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from gvit.data.images import open_image
from gvit.data.sources.base import Keys, Source, Split, existing_folder, files_below, split_off
from gvit.errors import InputError, first_line, wording

# What makes up a split, as arguments of the class; the parts come one after the other. As it is usual, models are
# trained on what the data sets call training and validation.
_SPLITS: dict[str, dict[Split, tuple[dict[str, Any], ...]]] = {
    "CIFAR10": {"train": ({"train": True},), "test": ({"train": False},)},
    "CIFAR100": {"train": ({"train": True},), "test": ({"train": False},)},
    "DTD": {"train": ({"split": "train"}, {"split": "val"}), "test": ({"split": "test"},)},
    "FGVCAircraft": {"train": ({"split": "trainval"},), "test": ({"split": "test"},)},
    "Flowers102": {"train": ({"split": "train"}, {"split": "val"}), "test": ({"split": "test"},)},
    "OxfordIIITPet": {"train": ({"split": "trainval"},), "test": ({"split": "test"},)},
    "StanfordCars": {"train": ({"split": "train"},), "test": ({"split": "test"},)},
    "SUN397": {"train": ({},), "test": ({},)},
}
TORCHVISION_SETS = tuple(_SPLITS)


def source(split: Split, data_dir: Path | None = None, name: str = "CIFAR10") -> Source:
    """``torch/NAME``: a data set of torchvision, in the folder that its ``root`` was; nothing is downloaded.

    Training images are those of the sets' training and validation. SUN397, which torchvision knows no split of, has a
    fifth of each class, always the same images, kept for the test.

    Raises:
        InputError: no folder is given, or the data set is not in it; also on loading an image that can't be read.
    """
    root = existing_folder(data_dir, f"torch/{name}")
    parts = [_open(name, root, arguments) for arguments in _SPLITS[name][split]]
    labels = [label for part in parts for label in part.labels]
    if name.startswith("CIFAR"):
        pixels = np.concatenate([part.images for part in parts])
        keys = Keys(f"{split}/{row}" for row in range(len(pixels)))
        return Source(partial(_image_of, pixels), labels, parts[0].class_names, keys=keys)
    keys = Keys(Path(file).relative_to(root).as_posix() for part in parts for file in part.images)
    found = Source(files_below(root, keys, open_image), labels, parts[0].class_names, keys=keys)
    if name != "SUN397":
        return found
    # in the order that the folders happen to have on this disk
    ordered = found.take(sorted(range(len(found)), key=found.keys.__getitem__))
    return split_off(ordered, split)


def _image_of(pixels: np.ndarray, row: int) -> Image.Image:
    return Image.fromarray(pixels[row])


def download(name: str, data_dir: Path | None) -> None:
    """Fetch ``torch/NAME`` into a folder, by torchvision; what is there already is left alone.

    Raises:
        InputError: it can't be fetched.
    """
    if data_dir is None:
        raise InputError(
            f"data set 'torch/{name}' needs {wording('data_dir, a folder', '--data-dir FOLDER')}"
        )
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # of several processes, those that wait find it there; where nothing can be written, it has to be there
        lock = FileLock(data_dir / f".{name}.lock") if os.access(data_dir, os.W_OK) else nullcontext()
        with lock:
            for arguments in (a for parts in _SPLITS[name].values() for a in parts):
                _kind(name)(data_dir, download=True, **arguments)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"torch/{name}: cannot be fetched to {data_dir} ({first_line(error)})") from error


@dataclass(frozen=True)
class _Part:
    """Files, or arrays [H, W, 3] of pixels, with their class indices."""

    images: Sequence[Any]
    labels: list[int]
    class_names: list[str]


def _kind(name: str) -> Callable[..., Any]:
    from torchvision import datasets

    kind: Callable[..., Any] = getattr(datasets, name)
    return kind


def _open(name: str, root: Path, arguments: dict[str, Any]) -> _Part:
    # it is the path that is wanted, for names in messages and for decoding like any other file
    paths = {} if name.startswith("CIFAR") or name == "OxfordIIITPet" else {"loader": lambda path: path}
    try:
        opened = _kind(name)(root, **arguments, **paths)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = first_line(error).partition(" You can")[0]
        call = f"torchvision.datasets.{name}({str(root)!r}, download=True)"
        raise InputError(
            f"{root}: torchvision's {name} is not in here ({reason}); fetch it with "
            f"{wording(call, '--download')}"
        ) from error
    if name.startswith("CIFAR"):
        return _Part(opened.data, opened.targets, opened.classes)
    if name == "OxfordIIITPet":  # takes no loader
        return _Part(opened._images, opened._labels, opened.classes)
    files, labels = zip(*(opened[row] for row in range(len(opened))), strict=True)
    return _Part(files, [int(label) for label in labels], opened.classes)
