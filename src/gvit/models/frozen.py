"""GViT's classifier on its own: Gaussians that stand still -> logits."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from gvit.gaussians import NUM_FIELDS
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.classifier import GaussianClassifier, TokenKind
from gvit.models.vit import Pool


class GaussianViT(GaussianClassifier):
    """Raw Gaussians [B, K, 9] -> logits, for Gaussians that were found beforehand (the paper's "offline" ones).

    They lie on a square canvas and have ``scale_factor`` and ``num_gaussians`` as their bounds; the training brings
    data of other bounds to these (``gvit.data.inputs``).

    Args:
        img_size: height and width, pixels, of the images that they stand for: what random shifts are whole pixels of.
        num_gaussians: K.
        num_classes: 0 for features without a head.
        tokens: ``canonical`` or ``raw``.
        pool: ``token`` or ``avg``.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing.
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
        num_gaussians: int = 512,
        num_classes: int = 1000,
        tokens: TokenKind = "canonical",
        pool: Pool = "token",
        scale_factor: float = 1.0,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            num_gaussians=num_gaussians,
            num_classes=num_classes,
            tokens=tokens,
            pool=pool,
            scale_factor=scale_factor,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )
        self.card = ModelCard("", {}, Preprocessing(img_size))
        self.img_size = img_size
        self.num_gaussians = num_gaussians
        self.scale_factor = scale_factor

    def forward_features(
        self, x: Float[Tensor, "batch k fields"], *args: Any, **kwargs: Any
    ) -> Float[Tensor, "batch n d"]:
        """Raw Gaussians as normed tokens, the class token first.

        Args:
            x: raw numbers of K Gaussians an image, in the model's bounds.
            *args: timm's attention masks.
            **kwargs: the same.

        Raises:
            ValueError: another number of Gaussians or of fields.
        """
        expected = [self.num_gaussians, NUM_FIELDS]
        if list(x.shape[1:]) != expected:
            raise ValueError(
                f"raw Gaussians must have shape [B, {expected[0]}, {expected[1]}], got {list(x.shape)}"
            )
        return super().forward_features(x, *args, **kwargs)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, with the card brought up to date; see ``ViT.reset_classifier``."""
        super().reset_classifier(num_classes, global_pool)
        self.card = self.card.with_classes(num_classes)
