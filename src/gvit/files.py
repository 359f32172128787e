"""Writing files whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gvit.errors import InputError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what was written takes the place of ``path`` when the block ends.

    Where the block raises, ``path`` stays as it was and nothing is left beside it.

    Raises:
        InputError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
        raise


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file in one go; see ``replacing``."""
    with replacing(path) as partial:
        partial.write_text(text)


def check_writable(folder: Path) -> None:
    """Find out beforehand whether files could be written into a folder that may not be there yet.

    Raises:
        InputError: they could not.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{folder}: cannot write results here ({nearest} is no folder that can be written)")
