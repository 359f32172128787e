"""Patches of pixels: what a ViT reads, and GViT's encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from timm.layers import PatchEmbed
from torch import Tensor

from gvit.models.tokens.base import Reads, Tokenizer


class PatchTokens(Tokenizer, PatchEmbed):
    """timm's patch embedding of images in [0, 1]: square patches, row by row, each projected linearly.

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of a patch, pixels; it divides ``img_size``.
        in_chans: image channels.
        embed_dim: width of the tokens.

    Raises:
        ValueError: patches would not cover the image.
    """

    kind = "patches"
    reads: ClassVar[Reads] = "images"
    grid_size: tuple[int, int]

    def __init__(
        self, img_size: int = 224, patch_size: int = 16, in_chans: int = 3, embed_dim: int = 384
    ) -> None:
        if img_size % patch_size:
            raise ValueError(f"patch_size must divide img_size, got {patch_size} and {img_size}")
        PatchEmbed.__init__(self, img_size, patch_size, in_chans, embed_dim)

    def forward(self, inputs: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch n d"]:
        """See ``Tokenizer``."""
        expected = (self.proj.in_channels, self.image_side, self.image_side)
        if inputs.ndim != 4 or tuple(inputs.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape [B, {', '.join(map(str, expected))}], got {list(inputs.shape)}"
            )
        return PatchEmbed.forward(self, inputs * 2 - 1)

    def example(self) -> Tensor:
        return torch.empty(1, self.proj.in_channels, self.image_side, self.image_side)
