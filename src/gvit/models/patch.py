"""Patches -> class logits: the ViT that GViT is compared with."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from gvit.models.card import ModelCard, Preprocessing
from gvit.models.init import init_linear


class PatchViT(VisionTransformer):
    """timm's ``VisionTransformer`` over images [B, C, H, W] in [0, 1], with weights that start as GViT's do.

    What is not listed goes to timm's class (``embed_dim``, ``depth``, ``num_heads``, ``drop_path_rate``, ...).

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of a patch, pixels.
        in_chans: image channels.
        num_classes: 0 for features without a head.
        pool: ``token`` for a class token, ``avg`` for the mean over patches.

    Attributes:
        card: name, arguments, preprocessing and class names, kept with the weights.
    """

    card: ModelCard

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        pool: Literal["token", "avg"] = "token",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=pool,
            class_token=pool == "token",
            **kwargs,
        )
        self.img_size = img_size
        self.card = ModelCard("", {}, Preprocessing(img_size))
        self.apply(init_linear)

    def forward_features(
        self, x: Float[Tensor, "batch c h w"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "batch n d"]:
        """Tokens of images with values in [0, 1].

        Raises:
            ValueError: images of another size or number of channels.
        """
        check_images(x, self.patch_embed.proj.in_channels, self.img_size)
        return super().forward_features(x * 2 - 1, *args, **kwargs)


def check_images(images: Tensor, in_chans: int, img_size: int) -> None:
    """Raise a ValueError unless the images are [B, in_chans, img_size, img_size]."""
    expected = (in_chans, img_size, img_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            f"images must have shape [B, {', '.join(map(str, expected))}], got {list(images.shape)}"
        )
