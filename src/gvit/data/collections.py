"""Writing a set of Gaussians that ``--dataset gaussians`` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gvit.data.datasets import Split
from gvit.errors import InputError
from gvit.gaussians import Gaussians


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
    unusable = [
        name for name in class_names if not name or "/" in name or "\\" in name or name.startswith(".")
    ]
    if unusable or len(set(class_names)) < len(class_names):
        raise InputError(f"class names must be different names of folders, got {', '.join(class_names)}")
    if len(labels) != len(gaussians.raw):
        raise InputError(f"{len(labels)} labels for the Gaussians of {len(gaussians.raw)} images")
    place = Path(folder) / split
    if place.exists():
        raise InputError(f"{place} is there already; remove it, or choose another folder")
    # what an interruption leaves is written over by the next time
    partial = place.with_name(f".{split}.partial")
    for name in class_names:
        (partial / name).mkdir(parents=True, exist_ok=True)
    gaussians = gaussians.detach().to("cpu")
    digits = len(str(len(labels) - 1))
    for number, label in enumerate(labels):
        gaussians[number].save(partial / class_names[label] / f"{number:0{digits}d}.safetensors")
    partial.rename(place)
