"""The paper's encoder: random Gaussians plus a residual."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS
from gvit.models.encoder.vit import ViTEncoder


class DenoisingEncoder(ViTEncoder):
    """``g = g0 + delta``: K raw Gaussians drawn at random, ``g0 = noise_std * noise``, are embedded linearly as tokens.

    Outside of training g0 is a fixed draw kept with the weights, the same for every image, so that predictions
    repeat exactly.

    Args:
        noise_std: standard deviation of g0.
        noise_seed: seed of the fixed g0.
        **kwargs: of ``ViTEncoder``.
    """

    kind = "denoising"
    gaussian_embed: nn.Linear
    noise: Tensor

    def __init__(self, noise_std: float = 0.1, noise_seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.noise_std = noise_std
        generator = torch.Generator().manual_seed(noise_seed)
        self.register_buffer("noise", torch.randn(self.num_gaussians, NUM_FIELDS, generator=generator))
        nn.init.normal_(self.gaussian_pos_embed, std=0.3)
        nn.init.zeros_(self.head[-1].get_parameter("weight"))  # training starts from g = g0

    def add_start(self, embed_dim: int) -> None:
        self.gaussian_embed = nn.Linear(NUM_FIELDS, embed_dim)

    def start(
        self, batch: int | torch.SymInt, noise: Float[Tensor, "batch k 9"] | None
    ) -> tuple[Float[Tensor, "batch k d"], Float[Tensor, "batch k 9"]]:
        """See ``ViTEncoder``."""
        base = self.noise_std * (self.noise.expand(batch, -1, -1) if noise is None else noise)
        return self.gaussian_pos_embed + self.gaussian_embed(base), base

    def geometry(self) -> list[nn.Module]:
        return [*super().geometry(), self.gaussian_embed]
