"""Files that hold images, by their suffix, but that Pillow doesn't read: what is left out of a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from gvit.data.images import UNREAD, suffix_of, walk_shown


def left_out(sources: Sequence[str | Path]) -> str | None:
    """A line that counts the image and video files in folders that are not looked at, by suffix; None for none."""
    files = {
        os.path.realpath(folder / file)  # Path.resolve raises at a loop of links
        for folder in map(Path, sources)
        if os.path.isdir(folder)  # pathlib's raises at a path that is too long
        for file in walk_shown(folder)
        if suffix_of(file) in UNREAD and os.path.isfile(folder / file)
    }
    return count_left_out(Counter(map(suffix_of, files)))


def count_left_out(suffixes: Mapping[str, int]) -> str | None:
    """The line of ``left_out``, of how many files have each suffix of ``UNREAD``."""
    if not suffixes:
        return None
    by_number = sorted(suffixes.items(), key=lambda c: (-c[1], c[0]))
    shown = ", ".join(f"{count} {suffix}" for suffix, count in by_number)
    is_, them = ("is", "it") if sum(suffixes.values()) == 1 else ("are", "them")
    return f"{shown} {is_} left out: gvit reads none of these, convert {them} to PNG or JPEG"
