"""Data sets by name: a file for each kind, and a line for each name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from glob import has_magic
from pathlib import Path

from gvit.data.images import EXTENSIONS
from gvit.data.sources import cub, digits, folders, gaussians, hfds, parquet, tars, torchvision_sets
from gvit.data.sources.base import Source, Split
from gvit.errors import InputError, option, unknown_name

__all__ = ["SOURCES", "Source", "Split", "download", "is_named", "load_source"]

SOURCES: dict[str, Callable[[Split, Path | None], Source]] = {
    "cub": cub.source,
    "digits": digits.source,
    "digits_0_4": partial(digits.source, classes=range(5)),
    "digits_5_9": partial(digits.source, classes=range(5, 10)),
    "folder": folders.source,
    "gaussians": gaussians.source,
    "hfds": hfds.source,
    "parquet": parquet.source,
    **{
        f"torch/{name}": partial(torchvision_sets.source, name=name)
        for name in torchvision_sets.TORCHVISION_SETS
    },
    "wds": tars.source,
}


def load_source(name: str, split: Split, data_dir: Path | None = None) -> Source:
    """One split of a named data set; ``hfds/NAME`` is one of the Hugging Face Hub.

    Raises:
        InputError: an unknown name, or what the data set's own function raises.
    """
    kind, _, of_hub = name.partition("/")
    if of_hub and kind.lower() == "hfds":
        return hfds.source(split, data_dir, of_hub)
    return SOURCES[_registered(name)](split, data_dir)


def is_named(name: str) -> bool:
    """Whether a name can be none but a data set's; ``load_source`` tells whether there is such a one."""
    files = has_magic(name) or Path(name).suffix.lower() in EXTENSIONS
    return _find(name) is not None or (name.lower().startswith(("hfds/", "torch/")) and not files)


def download(name: str, data_dir: Path | None = None) -> None:
    """Fetch a data set ``torch/NAME`` into a folder, where it is not there yet.

    Raises:
        InputError: it is of another kind, or can't be fetched.
    """
    kind, _, of_kind = _registered(name).partition("/")
    if kind != "torch":
        raise InputError(f"{option('download')} is for data sets torch/NAME, not for {name!r}")
    torchvision_sets.download(of_kind, data_dir)


def _registered(name: str) -> str:
    found = _find(name)
    if found is None:
        raise unknown_name("data set", name, SOURCES)
    return found


def _find(name: str) -> str | None:
    """The name as it is registered: capitals don't matter."""
    return next((known for known in SOURCES if known.lower() == name.lower()), None)
