"""How far guidance moves the Gaussians, and how far it is to another decision."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.errors import first_line
from gvit.gaussians import Gaussians
from gvit.models.base import evaluating
from gvit.models.gvit import GViT


class Motion(NamedTuple):
    """Of a few test images, against the beginning of the guided phase.

    Attributes:
        moved: share of the Gaussians whose centre lies more than one pixel from where it lay.
        drift: norm of the change of an image's raw Gaussians, [K, 9]; a mean over images.
        decision_distance: how far, in the same units and to first order, an image's raw Gaussians are from where the
            classifier would decide for the class that is second now (DeepFool's step: Moosavi-Dezfooli et al. 2016);
            a mean over images. None where nothing leads there, as for a single class.
    """

    moved: float
    drift: float
    decision_distance: float | None

    def known(self) -> dict[str, float]:
        """By name, what there is to tell."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class GaussianMotion:
    """Where a few images' Gaussians lie, compared with where they lay when the guided phase began.

    Attributes:
        start: raw Gaussians then, [B, K, 9] on the CPU; None before.
    """

    def __init__(self, model: GViT, images: Tensor) -> None:
        self.model = model
        self.images = images
        self.start: Tensor | None = None

    def begin(self) -> None:
        """The guided phase begins."""
        with evaluating(self.model):
            self.start = self._drawn().raw.cpu()

    def measure(self) -> Motion | None:
        """None before the guided phase."""
        if self.start is None:
            return None
        with evaluating(self.model):
            now = self._drawn()
            distance = decision_distance(self.model, now).mean().item()
        before = now.replace_raw(self.start.to(now.raw.device))
        height, width = self.images.shape[-2:]
        places, past = (gaussians.in_pixels(height, width)[0] for gaussians in (now, before))
        return Motion(
            ((places - past).norm(dim=-1) > 1).float().mean().item(),
            (now.raw - before.raw).flatten(1).norm(dim=1).mean().item(),
            distance if math.isfinite(distance) else None,
        )

    @torch.no_grad()
    def _drawn(self) -> Gaussians:
        parameter = next(self.model.parameters())
        try:
            return self.model.encode(self.images.to(parameter.device, parameter.dtype))
        except ValueError as error:
            raise FloatingPointError(f"the Gaussians cannot be drawn: {first_line(error)}") from error


def decision_distance(model: GViT, gaussians: Gaussians) -> Float[Tensor, " batch"]:
    """Of each image, to first order, from its raw Gaussians to those that are decided for the second class.

    The margin of the first class's logit over the second's, divided by the norm of its gradient; infinite where that
    is 0, and for a single class.
    """
    with torch.enable_grad():
        leaf = gaussians.raw.detach().requires_grad_()
        logits = model.classify(gaussians.replace_raw(leaf))
        if logits.shape[-1] < 2:
            return torch.full_like(logits[:, 0], torch.inf)
        first, second = logits.topk(2).values.unbind(-1)
        margins = first - second
        (gradient,) = torch.autograd.grad(margins.sum(), leaf)
    return margins.detach() / gradient.flatten(1).norm(dim=1)
