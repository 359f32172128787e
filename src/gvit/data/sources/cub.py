"""CUB-200-2011, as its archive unpacks."""

from __future__ import annotations

from pathlib import Path

from gvit.data.images import open_image
from gvit.data.sources.base import Keys, Source, Split, existing_folder, files_below
from gvit.errors import InputError, first_line


def source(split: Split, data_dir: Path | None = None) -> Source:
    """CUB-200-2011: 200 kinds of birds, 5,994 images to train on and 5,794 to test with, by its own lists.

    The folder is ``CUB_200_2011``, or holds it, with ``images.txt``, ``image_class_labels.txt``,
    ``train_test_split.txt``, ``classes.txt`` and ``images/``. Classes are called ``Black footed Albatross``, without
    their number. Whole images are read; the boxes around the birds are not.

    Raises:
        InputError: no folder is given, or a list is missing or damaged; also on loading an image that can't be read.
    """
    given = existing_folder(data_dir, "cub")
    root = given / "CUB_200_2011" if (given / "CUB_200_2011").is_dir() else given
    files, classes = _table(root / "images.txt"), _table(root / "classes.txt")
    labels, training = _table(root / "image_class_labels.txt"), _table(root / "train_test_split.txt")
    try:
        chosen = [image for image in files if (training[image] == "1") == (split == "train")]
        index = {number: row for row, number in enumerate(classes)}
        rows = [index[labels[image]] for image in chosen]
    except KeyError as error:
        raise InputError(f"{root}: its lists don't agree: not all of them have the number {error}") from error
    keys = Keys(f"images/{files[image]}" for image in chosen)
    names = [name.partition(".")[2].replace("_", " ") or name for name in classes.values()]
    return Source(files_below(root, keys, open_image), rows, names, keys=keys)


def _table(file: Path) -> dict[str, str]:
    """A number and a text on each line."""
    try:
        lines = file.read_text().splitlines()
        return dict(line.strip().split(" ", 1) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{file}: not a list of CUB-200-2011 ({reason}); unpack its archive into a folder"
        ) from error
