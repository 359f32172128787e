"""Files that hold images, by their suffix, but that Pillow doesn't read: what is left out of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gvit.data.images import EXTENSIONS

_KNOWN = frozenset(
    {
        *(".heic", ".heif", ".hif", ".avif", ".jxl", ".jxr"),
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
        *(".ai", ".dcm", ".exr", ".hdr", ".pdf", ".svg", ".svgz", ".xcf"),
        *(".avi", ".mkv", ".mov", ".mp4", ".webm"),
    }
)


def left_out(sources: Sequence[str | Path]) -> str | None:
    """A line that counts the image and video files in folders that are not looked at, by suffix; None for none."""
    files = {
        file.resolve()
        for folder in map(Path, sources)
        if folder.is_dir()
        for file in folder.rglob("*")
        if file.suffix.lower() in _KNOWN - EXTENSIONS
    }
    if not files:
        return None
    counts = Counter(file.suffix.lower() for file in files)
    shown = ", ".join(
        f"{count} {suffix}" for suffix, count in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    )
    is_, them = ("is", "it") if len(files) == 1 else ("are", "them")
    return f"{shown} {is_} left out: gvit reads none of these, convert {them} to PNG or JPEG"
