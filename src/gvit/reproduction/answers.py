"""Which test images were answered right, in few characters: a bit for each image, as base64."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np


def pack(right: Sequence[bool]) -> str:
    """The answers as text; an empty one of none."""
    return base64.b64encode(np.packbits(np.array(right, dtype=bool)).tobytes()).decode()


def unpack(text: str, num_images: int) -> np.ndarray:
    """The answers again, bool [num_images].

    Raises:
        ValueError: the text is not of so many answers.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if len(packed) != -(-num_images // 8):
        raise ValueError(f"the answers to {num_images} images do not have {len(packed)} bytes")
    return np.unpackbits(packed, count=num_images).astype(bool)
