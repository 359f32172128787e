"""Images in Arrow tables: a column of encoded files, and labels with or without names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from gvit.data.images import open_image

# what a column of labels is called, the usual name first
LABELS = ("label", "labels", "fine_label")


def image_loader(encoded: Any, keys: Sequence[str]) -> Callable[[int], Image.Image]:
    """Reads an image of a column.

    Args:
        encoded: a ``pyarrow.ChunkedArray`` of the structs ``{"bytes": binary, "path": string}``, either of which may
            be null, or of the bytes alone.
        keys: what each image is called where it can't be read.
    """

    def load(row: int) -> Image.Image:
        value = encoded[row].as_py()
        content, path = (value["bytes"], value["path"]) if isinstance(value, dict) else (value, None)
        return open_image(path) if content is None and path else open_image(keys[row], content or b"")

    return load
