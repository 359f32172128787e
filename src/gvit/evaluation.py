"""How good a model is on labelled images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gvit.losses import psnr, ssim
from gvit.models.gvit import GViT
from gvit.rendering import render


@dataclass(frozen=True)
class Evaluation:
    """Results over all images.

    Attributes:
        num_images: how many.
        top1: share classified correctly.
        top5: share with the true class among the five most probable; None with five classes or fewer.
        psnr: of the drawn Gaussians against the image, dB, mean over images.
        ssim: the same, structural similarity.
        confusion: counts, ``confusion[true][predicted]``.
    """

    num_images: int
    top1: float
    top5: float | None
    psnr: float
    ssim: float
    confusion: list[list[int]]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def evaluate(model: GViT, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Classify and redraw every image; the model comes back in the mode that it had."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits, labels, psnrs, ssims = [], [], [], []
    for images, targets in batches:
        images = images.to(device)
        gaussians = model.encode(images)
        logits.append(model.classify(gaussians).float().cpu())
        labels.append(targets)
        rendered = render(gaussians, *images.shape[-2:]).clamp(0, 1)
        psnrs.append(psnr(rendered, images).cpu())
        ssims.append(ssim(rendered, images).cpu())
    model.train(was_training)
    scores, truth = torch.cat(logits), torch.cat(labels)
    classes = scores.shape[1]
    ranked = scores.topk(min(5, classes)).indices
    hits = ranked == truth.unsqueeze(1)
    counts = torch.bincount(truth * classes + ranked[:, 0], minlength=classes * classes)
    return Evaluation(
        num_images=len(truth),
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item() if classes > 5 else None,
        psnr=torch.cat(psnrs).double().mean().item(),
        ssim=torch.cat(ssims).double().mean().item(),
        confusion=counts.view(classes, classes).tolist(),
    )
