"""Losses and where their gradients go. Knows nothing of time: what a step does is told by its plan."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gvit.data.loading import Batch
from gvit.losses import pixel_loss, ssim
from gvit.models.gvit import GViT
from gvit.rendering import render
from gvit.training.config import ObjectiveConfig
from gvit.training.schedule import StepPlan


class GuidedObjective:
    """Reconstruction and classification, with the graph cut at the Gaussians (GViT paper, Algorithm 1).

    Each loss is differentiated to the Gaussians on its own, the two gradients are weighed there, and the encoder
    is gone through backward once. Eq. 1 as printed subtracts the classifier's gradient from one that is descended,
    which would raise its loss; it is added here, as in Algorithm 1.
    """

    def __init__(self, model: GViT, config: ObjectiveConfig) -> None:
        self.model, self.config = model, config

    def backward(self, batch: Batch, plan: StepPlan) -> dict[str, Tensor]:
        """Fill the gradients of one step and return its losses, detached scalars.

        The classifier gets gradients unless the step is guided. The encoder gets the reconstruction's, plus
        ``gamma`` times the classifier's on guided steps; with ``gradient="joint"`` also once the classifier's on the
        other classifying steps.

        Raises:
            FloatingPointError: the Gaussians or a loss are NaN or infinite.
        """
        raw = self.model.encoder(batch.images, batch.noise)
        if not raw.isfinite().all():
            raise FloatingPointError("the encoder's Gaussians are not finite")
        gradient, losses = self._reconstruction(raw, batch.images, plan)
        if plan.classify:
            joint = self.config.gradient == "joint"
            weight = plan.gamma if plan.guided else float(joint)
            pull, classification = self._classification(raw, batch.labels, plan, weight)
            losses |= classification
            if pull is not None:
                gradient = gradient + weight * pull
        for name, loss in losses.items():
            if not loss.isfinite():
                raise FloatingPointError(f"{name} is {loss.item()}")
        raw.backward(gradient)
        return losses

    def _reconstruction(
        self, raw: Tensor, images: Tensor, plan: StepPlan
    ) -> tuple[Tensor, dict[str, Tensor]]:
        leaf = raw.detach().requires_grad_()
        rendered = render(self.model.encoder.gaussians(leaf), *images.shape[-2:])
        loss = pixel = pixel_loss(rendered, images, self.config.pixel_loss)
        losses = {"pixel_loss": pixel.detach()}
        if plan.perceptual and self.config.perceptual_weight:
            perceptual = 1 - ssim(rendered, images).mean()
            losses["perceptual_loss"] = perceptual.detach()
            loss = pixel + self.config.perceptual_weight * perceptual
        (gradient,) = torch.autograd.grad(loss, leaf)
        return gradient, losses

    def _classification(
        self, raw: Tensor, labels: Tensor, plan: StepPlan, weight: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        leaf = raw.detach().requires_grad_(weight != 0)
        logits = self.model.classifier(leaf)
        loss = F.cross_entropy(logits, labels)
        losses = {
            "class_loss": loss.detach(),
            "accuracy": (logits.argmax(-1) == labels).float().mean().detach(),
        }
        if plan.guided:  # the classifier stands still
            return (torch.autograd.grad(loss, leaf)[0] if weight else None), losses
        loss.backward()
        return leaf.grad, losses
