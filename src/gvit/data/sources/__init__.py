"""Data sets by name: a file for each kind, and a line for each name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from gvit.data.sources import digits, folders, gaussians, parquet
from gvit.data.sources.base import Source, Split
from gvit.errors import unknown_name

__all__ = ["SOURCES", "Source", "Split", "load_source"]

SOURCES: dict[str, Callable[[Split, Path | None], Source]] = {
    "digits": digits.source,
    "digits_0_4": partial(digits.source, classes=range(5)),
    "digits_5_9": partial(digits.source, classes=range(5, 10)),
    "folder": folders.source,
    "gaussians": gaussians.source,
    "parquet": parquet.source,
}


def load_source(name: str, split: Split, data_dir: Path | None = None) -> Source:
    """One split of a named data set.

    Raises:
        InputError: an unknown name, or what the data set's own function raises.
    """
    if name not in SOURCES:
        raise unknown_name("data set", name, SOURCES)
    return SOURCES[name](split, data_dir)
