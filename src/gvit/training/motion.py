"""How far guidance moves the Gaussians."""

from __future__ import annotations

import torch
from torch import Tensor

from gvit.models.base import evaluating
from gvit.models.gvit import GViT


class GaussianMotion:
    """Where a few images' Gaussians lie, compared with where they lay when the guided phase began.

    Attributes:
        start: centres then, [B, K, 2] in pixels; None before.
    """

    def __init__(self, model: GViT, images: Tensor) -> None:
        self.model, self.images = model, images
        self.start: Tensor | None = None

    def begin(self) -> None:
        """The guided phase begins."""
        self.start = self._centers()

    def moved(self) -> float | None:
        """Share of the Gaussians whose centre lies more than one pixel from there; None before the guided phase."""
        if self.start is None:
            return None
        return ((self._centers() - self.start).norm(dim=-1) > 1).float().mean().item()

    @torch.no_grad()
    def _centers(self) -> Tensor:
        parameter = next(self.model.parameters())
        with evaluating(self.model):
            gaussians = self.model.encode(self.images.to(parameter.device, parameter.dtype))
        return gaussians.in_pixels(*self.images.shape[-2:])[0].cpu()
