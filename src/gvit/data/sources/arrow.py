"""Images in Arrow tables: a column of encoded files, and labels with or without names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from PIL import Image

from gvit.data.images import open_image

# what a column of labels is called, the usual name first
LABELS = ("label", "labels", "fine_label")


def image_loader(table: Any, column: str, keys: Sequence[str]) -> Callable[[int], Image.Image]:
    """Reads an image of a column.

    Args:
        table: a ``pyarrow.Table``, or one of ``datasets``, which a process is given by the name of its file.
        column: of the structs ``{"bytes": binary, "path": string}``, either of which may be null, or of the bytes
            alone.
        keys: what each image is called where it can't be read.
    """
    return partial(_load, table, column, keys)


def _load(table: Any, column: str, keys: Sequence[str], row: int) -> Image.Image:
    value = table.column(column)[row].as_py()
    content, path = (value["bytes"], value["path"]) if isinstance(value, dict) else (value, None)
    return open_image(path) if content is None and path else open_image(keys[row], content or b"")
