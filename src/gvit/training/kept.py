"""Gaussians of images that come again, of an encoder that stands still: each image is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

CAPACITY = 4 * 2**30  # bytes of main memory; what comes after is encoded anew each time


class KeptGaussians:
    """Calls an encoder for images that it has not seen, and remembers what it gave for the others.

    Images are known by their pixels, so what augmentation makes of one is another image: a mirrored one is kept
    beside it, and random crops never come again.

    Args:
        encode: images [B, C, H, W] to raw Gaussians [B, K, 9], the same for the same image.
        capacity: bytes of Gaussians to keep.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], capacity: int = CAPACITY) -> None:
        self.encode = encode
        self.capacity = capacity
        self._kept: dict[bytes, Tensor] = {}
        self._bytes = 0

    def __call__(self, images: Tensor) -> Tensor:
        """Raw Gaussians [B, K, 9] on the images' device, without gradient."""
        keys = [
            hashlib.blake2b(image.numpy(), digest_size=16).digest() for image in images.cpu().contiguous()
        ]
        new = [row for row, key in enumerate(keys) if key not in self._kept]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        if new:
            with torch.no_grad():
                encoded = self.encode(images[new])
            for row, raw in zip(new, encoded.cpu(), strict=True):
                found[keys[row]] = raw
                size = raw.numel() * raw.element_size()
                if self._bytes + size <= self.capacity and keys[row] not in self._kept:
                    self._kept[keys[row]] = raw.clone()
                    self._bytes += size
        return torch.stack([found[key] for key in keys]).to(images.device)

    def __len__(self) -> int:
        """How many images it has kept."""
        return len(self._kept)
