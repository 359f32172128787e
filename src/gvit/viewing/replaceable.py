"""Whose files are there: what gvit wrote, gvit may write anew; nobody else's file is replaced."""

from __future__ import annotations

from pathlib import Path

from gvit.errors import InputError, option
from gvit.viewing.ellipses import COLUMNS
from gvit.viewing.figures import AUTHOR
from gvit.viewing.svg import MARK

# how gvit's files begin, or what stands in their first bytes
_MARKS = {
    ".csv": ",".join(COLUMNS),
    ".json": '{\n "name": ',
    ".svg": MARK,
    ".html": '<meta name="generator" content="gvit report">',
    ".htm": '<meta name="generator" content="gvit report">',
}
_FIRST = 4096  # bytes


def check_replaceable(file: Path) -> None:
    """A picture, table or page may be written where there is none, or one that gvit wrote.

    Raises:
        InputError: it would take the place of somebody else's.
    """
    if file.exists() and not (_drawn if file.suffix == ".png" else _written)(file):
        raise InputError(
            f"{file} is there and was not written by gvit; move it, or choose another {option('out')}"
        )


def _drawn(file: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(file) as there:
            return AUTHOR.items() <= there.info.items()
    except Exception:  # what Pillow raises at bytes that are no picture, or too large a one, is of any kind
        return False


def _written(file: Path) -> bool:
    try:
        with file.open("rb") as there:
            return _MARKS[file.suffix.lower()].encode() in there.read(_FIRST)
    except OSError:
        return False
