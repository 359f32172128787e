"""Gaussians -> class logits: a standard ViT whose tokens are Gaussians instead of patches."""

from __future__ import annotations

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS, Gaussians, canonical_features, num_canonical_features
from gvit.models.vit import Pool, ViT

TokenKind = Literal["canonical", "raw"]
_NUM_FREQUENCIES = 4


class GaussianEmbed(nn.Module):
    """Stands where a ViT has its patch embedding: one token per Gaussian.

    ``canonical`` tokens carry only what is drawn (``gvit.gaussians.canonical_features``); ``raw`` ones are the
    paper's nine numbers.
    """

    def __init__(
        self,
        num_gaussians: int,
        embed_dim: int,
        tokens: TokenKind,
        scale_factor: float,
        aspect: float = 1.0,
        **_unused: Any,  # what timm passes to a patch embedding
    ) -> None:
        super().__init__()
        if tokens not in ("canonical", "raw"):
            raise ValueError(f"tokens must be 'canonical' or 'raw', got {tokens!r}")
        self.num_patches = num_gaussians
        self.grid_size = None
        self.tokens = tokens
        self.scale_factor = scale_factor
        self.aspect = aspect
        width = NUM_FIELDS if tokens == "raw" else num_canonical_features(_NUM_FREQUENCIES)
        self.proj = nn.Linear(width, embed_dim)

    def forward(self, raw: Float[Tensor, "batch k 9"]) -> Float[Tensor, "batch k d"]:
        if self.tokens == "raw":
            return self.proj(raw)
        gaussians = Gaussians(raw, self.scale_factor, self.num_patches, self.aspect)
        return self.proj(canonical_features(gaussians, _NUM_FREQUENCIES))


class GaussianClassifier(ViT):
    """timm's ``VisionTransformer`` over raw Gaussians [B, K, 9], with all of timm's methods.

    Position embeddings are learned, by index. What is not listed goes to timm's class (``drop_path_rate``, ...).

    Args:
        num_gaussians: K.
        num_classes: 0 for features without a head.
        tokens: ``canonical`` or ``raw``.
        pool: ``token`` for a class token, ``avg`` for the mean over Gaussians.
        scale_factor: c of the encoder.
        embed_dim: width of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
    """

    def __init__(
        self,
        num_gaussians: int = 512,
        num_classes: int = 1000,
        tokens: TokenKind = "canonical",
        pool: Pool = "token",
        scale_factor: float = 1.0,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        **kwargs: Any,
    ) -> None:
        def embed_layer(**arguments: Any) -> GaussianEmbed:
            return GaussianEmbed(num_gaussians, tokens=tokens, scale_factor=scale_factor, **arguments)

        super().__init__(
            pool,
            num_classes=num_classes,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            embed_layer=embed_layer,
            **kwargs,
        )
