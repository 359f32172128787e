"""Whose files are there: what gvit wrote, gvit may write anew; nobody else's file is replaced."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gvit.errors import InputError, wording
from gvit.gaussians.storage import may_hold_gaussians
from gvit.viewing.ellipses import COLUMNS
from gvit.viewing.figures import AUTHOR
from gvit.viewing.svg import MARK

_HTML = rb'\s*<!doctype html>\n(?:<(?:html|head|meta)\b.*>\n)*<meta name="generator" content="gvit report">\n'
# how gvit's files begin
_BEGINNINGS = {
    # of Gaussians, or of gvit evaluate
    ".csv": re.escape(",".join(COLUMNS)).encode() + rb"[,\n]|image,true,predicted,confidence\n",
    # of Gaussians, of gvit faithfulness, or of gvit evaluate
    ".json": rb'\{\n "name": .*,\n "class": .*,\n "width": \d+,\n "height": \d+,\n "gaussians": \['
    rb'|\{\s*"command": "gvit faithfulness |\{\s*"num_images": \d+,\s*"top1": [^,]+,\s*"top5": ',
    ".svg": rb"<svg [^>]*>\n" + re.escape(MARK).encode(),
    ".html": _HTML,
    ".htm": _HTML,
}
_FIRST = 4096  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"
# chunks of text, after their length
_AUTHOR = [
    len(text).to_bytes(4, "big") + b"tEXt" + text
    for text in (f"{name}\0{value}".encode() for name, value in AUTHOR.items())
]


def check_replaceable(file: Path, ours: Callable[[Path], bool] | None = None, called: str = "out") -> None:
    """A picture, table, page or file of Gaussians may be written where there is none, or one that gvit wrote.

    Args:
        file: ending with .png, .csv, .json, .svg, .html, .htm or .safetensors; of the last kind, what is damaged is
            nobody's.
        ours: whether gvit wrote a file, for files of any other kind.
        called: the argument that names it, as Python has it; the command line's is ``--out``.

    Raises:
        InputError: it would take the place of somebody else's.
    """
    if ours is None:
        ours = {".png": is_drawn, ".safetensors": may_hold_gaussians}.get(file.suffix.lower(), _written)
    if file.exists() and not (file.is_file() and ours(file)):  # at a pipe, reading would wait
        raise InputError(
            f"{file} is there and was not written by gvit; move it, or choose another {wording(called, '--out')}"
        )


def is_drawn(file: Path) -> bool:
    """Whether a PNG file names gvit before its pixels; Pillow, asked for that, refuses the largest pictures."""
    try:
        with file.open("rb") as there:
            head = there.read(_FIRST)
    except OSError:
        return False
    return head.startswith(_PNG) and all(text in head for text in _AUTHOR)


def _written(file: Path) -> bool:
    try:
        with file.open("rb") as there:
            return re.match(_BEGINNINGS[file.suffix.lower()], there.read(_FIRST)) is not None
    except OSError:
        return False
