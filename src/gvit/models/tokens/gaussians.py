"""Gaussians as tokens: what is drawn of them, or their raw numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS, Gaussians, canonical_features, num_canonical_features
from gvit.models.tokens.base import Reads, Tokenizer

_NUM_FREQUENCIES = 4


class GaussianTokens(Tokenizer):
    """One token per Gaussian, from raw numbers [B, K, 9] on a square canvas.

    Args:
        img_size: height and width, pixels, of the images that the Gaussians stand for.
        num_gaussians: K, which also defines the spacing.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing.
        embed_dim: width of the tokens.
    """

    reads: ClassVar[Reads] = "gaussians"
    starts_with_vit = True
    width: int

    def __init__(
        self, img_size: int = 224, num_gaussians: int = 512, scale_factor: float = 1.0, embed_dim: int = 384
    ) -> None:
        super().__init__()
        self.num_patches = num_gaussians
        self.scale_factor = scale_factor
        self.proj: nn.Linear = nn.Linear(self.width, embed_dim)

    @property
    def bounds(self) -> dict[str, Any]:
        return {"scale_factor": self.scale_factor, "nominal_count": self.num_patches}

    def forward(self, inputs: Float[Tensor, "batch k fields"]) -> Float[Tensor, "batch k d"]:
        """See ``Tokenizer``."""
        expected = [self.num_patches, NUM_FIELDS]
        if list(inputs.shape[1:]) != expected:
            raise ValueError(
                f"raw Gaussians must have shape [B, {expected[0]}, {expected[1]}], got {list(inputs.shape)}"
            )
        return self.proj(self.features(inputs))

    def features(self, raw: Float[Tensor, "batch k fields"]) -> Float[Tensor, "batch k width"]:
        """What is projected."""
        raise NotImplementedError

    def example(self) -> Tensor:
        return torch.empty(1, self.num_patches, NUM_FIELDS)

    def geometry(self) -> list[nn.Module]:
        return [self]


class CanonicalTokens(GaussianTokens):
    """Only what is drawn (``gvit.gaussians.canonical_features``): equal pictures give equal tokens."""

    kind = "canonical"
    width: int = num_canonical_features(_NUM_FREQUENCIES)

    def features(self, raw: Float[Tensor, "batch k fields"]) -> Float[Tensor, "batch k width"]:
        gaussians = Gaussians(raw, self.scale_factor, self.num_patches)
        return canonical_features(gaussians, _NUM_FREQUENCIES)


class RawTokens(GaussianTokens):
    """The paper's nine numbers."""

    kind = "raw"
    width = NUM_FIELDS

    def features(self, raw: Float[Tensor, "batch k fields"]) -> Float[Tensor, "batch k width"]:
        return raw
