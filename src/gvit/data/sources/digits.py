"""scikit-learn's handwritten digits, which come with it and need no download."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from gvit.data.sources.base import Keys, Source, Split
from gvit.errors import InputError, option, wording


def source(split: Split, data_dir: Path | None = None, classes: range = range(10)) -> Source:
    """1,797 scans of handwritten digits, 8x8 pixels, split 1,437 / 360 by class, always the same.

    ``classes`` keeps some of them: ``digits_0_4`` and ``digits_5_9`` are there to transfer from one to the other.

    Raises:
        InputError: a folder is given.
    """
    if data_dir is not None:
        example = wording("the data set 'folder'", "gvit train folder --data-dir FOLDER")
        raise InputError(
            f"data set 'digits' is built in and takes no {option('data_dir', data_dir)}; for images in class "
            f"folders: {example}"
        )
    return _read(split, classes)


@cache  # reading takes longer than a step of training on them
def _read(split: Split, classes: range) -> Source:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    train, test = train_test_split(
        np.arange(len(data.target)), test_size=360, stratify=data.target, random_state=0
    )
    rows = train if split == "train" else test
    rows = rows[np.isin(data.target[rows], classes)]
    grey = np.round(data.images[rows] * (255 / 16)).astype(np.uint8)
    images = [Image.fromarray(image).convert("RGB") for image in grey]
    labels = (data.target[rows] - classes.start).tolist()
    keys = Keys(map(str, rows))
    return Source(images.__getitem__, labels, [str(data.target_names[i]) for i in classes], keys=keys)
