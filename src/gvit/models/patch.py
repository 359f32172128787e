"""The yardstick: the same transformer over patches of pixels, where GViT's reads Gaussians."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from gvit.models.card import ModelCard, Preprocessing
from gvit.models.inputs import check_image_shape
from gvit.models.vit import Pool, ViT


class PatchViT(ViT):
    """Image -> patches -> logits: timm's ``VisionTransformer`` on images in [0, 1].

    Of timm's other methods, ``forward_intermediates`` goes past ``forward_features`` and takes images in [-1, 1].

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of a patch, pixels.
        in_chans: image channels.
        num_classes: 0 for features without a head.
        pool: ``token`` or ``avg``.
        embed_dim: width of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP, in units of embed_dim.
        drop_path_rate: stochastic depth.

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
        pool: Pool = "token",
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            pool,
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.card = ModelCard("", {}, Preprocessing(img_size))
        self.img_size = img_size

    def forward_features(
        self, x: Float[Tensor, "batch c h w"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "batch n d"]:
        """Images with values in [0, 1], of the model's size, as normed tokens, the class token first.

        Args:
            x: the images.
            *args: timm's attention masks.
            **kwargs: the same.

        Raises:
            ValueError: images of another size or number of channels.
        """
        check_image_shape(x, self.in_chans, self.img_size)
        return super().forward_features(x * 2 - 1, *args, **kwargs)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, with the card brought up to date; see ``ViT.reset_classifier``."""
        super().reset_classifier(num_classes, global_pool)
        self.card = self.card.with_classes(num_classes)
