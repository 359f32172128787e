"""Labelled images by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from gvit.errors import unknown_name

Split = Literal["train", "test"]


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set.

    Attributes:
        load: the i-th image, 8-bit RGB.
        labels: class index of each image.
        class_names: in the order of the indices.
    """

    load: Callable[[int], Image.Image]
    labels: Sequence[int]
    class_names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)


def digits(split: Split, data_dir: Path | None = None) -> LabelledImages:
    """scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, split 1,437 / 360 by class, always the same."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=360, stratify=data.target, random_state=0
    )
    rows = train if split == "train" else test
    grey = np.round(data.images[rows] * (255 / 16)).astype(np.uint8)
    images = [Image.fromarray(image).convert("RGB") for image in grey]
    return LabelledImages(
        images.__getitem__, data.target[rows].tolist(), [str(name) for name in data.target_names]
    )


DATASETS: dict[str, Callable[[Split, Path | None], LabelledImages]] = {"digits": digits}


def load_dataset(name: str, split: Split, data_dir: Path | None = None) -> LabelledImages:
    """One split of a named data set.

    Raises:
        InputError: an unknown name.
    """
    if name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name](split, data_dir)
