"""The paper's other encoder: learned queries."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.models.encoder.vit import ViTEncoder


class QueryEncoder(ViTEncoder):
    """K learned tokens, which are the position embeddings; the MLP predicts g itself.

    Args:
        **kwargs: of ``ViTEncoder``.
    """

    kind = "queries"
    noisy = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # far from zero, or all Gaussians would start as one
        nn.init.normal_(self.gaussian_pos_embed, std=1.0)

    def start(
        self, batch: int | torch.SymInt, noise: Float[Tensor, "batch k 9"] | None
    ) -> tuple[Float[Tensor, "1 k d"], None]:
        """See ``ViTEncoder``."""
        return self.gaussian_pos_embed, None
