"""Labelled images by name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from gvit.data.files import EXTENSIONS, GAUSSIAN_EXTENSIONS, open_gaussians, open_image, to_rgb
from gvit.errors import InputError, first_line, unknown_name
from gvit.gaussians import Gaussians

Split = Literal["train", "test"]


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set.

    Attributes:
        load: the i-th image, 8-bit RGB, or its Gaussians, raw [K, 9].
        labels: class index of each image.
        class_names: in the order of the indices.
        example: for a set of Gaussians, those of one image; all others have as many and the same bounds. None for a
            set of images.
    """

    load: Callable[[int], Image.Image | Gaussians]
    labels: Sequence[int]
    class_names: Sequence[str]
    example: Gaussians | None = None

    def __len__(self) -> int:
        return len(self.labels)


def digits(split: Split, data_dir: Path | None = None, classes: range = range(10)) -> LabelledImages:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, split 1,437 / 360 by class, always the same.

    ``classes`` keeps some of them: ``digits_0_4`` and ``digits_5_9`` are there to transfer from one to the other.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    if data_dir is not None:
        raise InputError(
            f"data set 'digits' is built in and takes no --data-dir {data_dir}; for images in class folders: "
            "gvit train folder --data-dir FOLDER"
        )
    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=360, stratify=data.target, random_state=0
    )
    rows = train if split == "train" else test
    rows = rows[np.isin(data.target[rows], classes)]
    grey = np.round(data.images[rows] * (255 / 16)).astype(np.uint8)
    images = [Image.fromarray(image).convert("RGB") for image in grey]
    labels = (data.target[rows] - classes.start).tolist()
    return LabelledImages(images.__getitem__, labels, [str(data.target_names[i]) for i in classes])


def folder(split: Split, data_dir: Path | None = None) -> LabelledImages:
    """Photographs in class folders: ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg`` (or ``test/``, ``validation/``).

    Where there are class folders only, a fifth of each class, always the same images, is the test split. Classes are
    the folders' names in alphabetical order; folders inside of them count as theirs.

    Raises:
        InputError: no folder is given, or it holds no such folders, or a class of the test split is not in training.
    """
    files, names = _class_folders(split, _existing(data_dir, "folder"), EXTENSIONS)
    return LabelledImages(lambda i: open_image(files[i][0]), [label for _, label in files], names)


def gaussians(split: Split, data_dir: Path | None = None) -> LabelledImages:
    """Gaussians in class folders, a ``.safetensors`` file of raw [K, 9] for each image, as ``gvit fit FOLDER`` writes
    them; folders, classes and splits as in ``folder``.

    Raises:
        InputError: as ``folder``; also on loading a file that is damaged, or whose Gaussians differ in number or
            bounds from those of the first training file.
    """
    root = _existing(data_dir, "gaussians")
    files, names = _class_folders(split, root, GAUSSIAN_EXTENSIONS)
    first = files[0][0] if split == "train" else _class_folders("train", root, GAUSSIAN_EXTENSIONS)[0][0][0]
    example = open_gaussians(first)

    def load(row: int) -> Gaussians:
        file = files[row][0]
        loaded = open_gaussians(file)
        if _kind(loaded) != _kind(example):
            raise InputError(f"{file}: holds {_kind(loaded)}, but {first} {_kind(example)}")
        return loaded

    return LabelledImages(load, [label for _, label in files], names, example)


def _kind(gaussians: Gaussians) -> str:
    """What the Gaussians of all images of a set have in common."""
    return (
        f"{len(gaussians)} Gaussians with scale_factor {gaussians.scale_factor:g}, "
        f"nominal_count {gaussians.nominal_count}, aspect {gaussians.aspect:g}"
    )


def _class_folders(
    split: Split, root: Path, extensions: frozenset[str]
) -> tuple[list[tuple[Path, int]], list[str]]:
    """The files of a split with their labels, and the names of the classes; see ``folder``."""
    held_out = next((root / name for name in ("val", "test", "validation") if (root / name).is_dir()), None)
    if (root / "train").is_dir():
        if held_out is None:
            raise InputError(f"{root}: has train/ but no val/ or test/ beside it")
        names, need = _class_names(root / "train"), ""
        source = root / "train" if split == "train" else held_out
        unknown = set(_class_names(source)) - set(names)
        if unknown:
            raise InputError(f"{source}: classes that train/ does not have: {', '.join(sorted(unknown))}")
        chosen = [
            (file, label) for label, name in enumerate(names) for file in _files(source / name, extensions)
        ]
    else:
        names, source = _class_names(root), root
        need = "; where there are no train/ and val/, a class needs at least 2: a fifth is kept for the test"
        chosen = []
        for label, name in enumerate(names):
            files = _files(root / name, extensions)
            order = np.random.default_rng(0).permutation(len(files))
            held = set(order[: max(1, len(files) // 5)].tolist())
            chosen += [(file, label) for i, file in enumerate(files) if (i in held) == (split == "test")]
    empty = set(range(len(names))) - {label for _, label in chosen}
    if empty:
        what = "Gaussians" if extensions == GAUSSIAN_EXTENSIONS else "images"
        raise InputError(
            f"{source}: class folders without {what} to {'train on' if split == 'train' else 'test with'}: "
            f"{', '.join(names[label] for label in sorted(empty))}{need}"
        )
    return chosen, names


def _existing(data_dir: Path | None, dataset: str) -> Path:
    if data_dir is None:
        raise InputError(f"data set {dataset!r} needs --data-dir FOLDER")
    if not data_dir.is_dir():
        raise InputError(f"--data-dir {data_dir}: no such folder")
    return data_dir


def _class_names(root: Path) -> list[str]:
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{root}: expected a folder for each class, at least two, found {len(names)}")
    return names


def _files(folder: Path, extensions: frozenset[str]) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in extensions)


def parquet(split: Split, data_dir: Path | None = None) -> LabelledImages:
    """Parquet files in the Hugging Face image convention: ``data/train-*.parquet`` and ``data/test-*.parquet``.

    Columns ``image`` (a struct with the encoded file in ``bytes``) and ``label`` (or ``fine_label``); class names
    from the schema's ``huggingface`` metadata. Encoded images are held in memory.

    Raises:
        InputError: no folder is given, files or columns are missing, or pyarrow is not installed.
    """
    root = _existing(data_dir, "parquet")
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("Parquet files need pyarrow: pip install pyarrow") from None
    prefixes = ("train",) if split == "train" else ("test", "validation", "val")
    places = [place for place in (root / "data", root) if place.is_dir()]
    files = next((found for d in places for p in prefixes if (found := sorted(d.glob(f"{p}-*.parquet")))), [])
    if not files:
        raise InputError(f"{root}: no {prefixes[0]}-*.parquet here or in data/")
    try:
        table = pa.concat_tables(pq.read_table(file) for file in files)
        label = next(name for name in ("label", "fine_label") if name in table.column_names)
        encoded = pc.struct_field(table.column("image"), "bytes")  # in chunks: one array ends at 2 GiB
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (pa.ArrowException, OSError, KeyError, TypeError, StopIteration) as error:
        raise InputError(
            f"{files[0]}: not in the Hugging Face image convention ({first_line(error)})"
        ) from error

    def load(row: int) -> Image.Image:
        return to_rgb(Image.open(io.BytesIO(encoded[row].as_py())))

    return LabelledImages(load, table.column(label).to_pylist(), names)


DATASETS: dict[str, Callable[[Split, Path | None], LabelledImages]] = {
    "digits": digits,
    "digits_0_4": partial(digits, classes=range(5)),
    "digits_5_9": partial(digits, classes=range(5, 10)),
    "folder": folder,
    "gaussians": gaussians,
    "parquet": parquet,
}


def load_dataset(name: str, split: Split, data_dir: Path | None = None) -> LabelledImages:
    """One split of a named data set.

    Raises:
        InputError: an unknown name, or what the data set's own function raises.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](split, data_dir)
