"""How good a model is on labelled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gvit.losses import psnr, ssim
from gvit.models.gvit import GViT
from gvit.models.registry import ImageClassifier
from gvit.rendering import render

_EXACT = 100.0  # dB; one image redrawn without error must not make the mean infinite


@dataclass(frozen=True)
class Evaluation:
    """Results over all images.

    Attributes:
        num_images: how many.
        top1: share classified correctly.
        top5: share with the true class among the five most probable; None with five classes or fewer.
        psnr: of the drawn Gaussians against the image, dB, mean over images, each at most 100; None for a model
            without an encoder.
        ssim: the same, structural similarity.
        confusion: counts, ``confusion[true][predicted]``.
    """

    num_images: int
    top1: float
    top5: float | None
    psnr: float | None
    ssim: float | None
    confusion: list[list[int]]

    def __str__(self) -> str:
        text = f"top-1 {100 * self.top1:.2f} % of {self.num_images} test images"
        return text if self.psnr is None else f"{text}, PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(model: ImageClassifier, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Classify and redraw every image; the model comes back in the mode that it had."""
    return summarize(measure(model, batches), model.num_classes)


@torch.no_grad()  # not inference_mode: FSDP keeps the buffers that it first makes here for training
def measure(model: ImageClassifier, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """What ``summarize`` needs, image by image.

    Returns:
        ``label`` [N], ``ranked`` [N, min(5, classes)], the most probable classes, and for a model with Gaussians
        ``psnr`` and ``ssim`` [N]; on the CPU.
    """
    was_training = model.training
    model.eval()
    parameter = next(model.parameters())
    columns: dict[str, list[Tensor]] = defaultdict(list)
    for images, labels in batches:
        images = images.to(parameter.device, parameter.dtype)
        if isinstance(model, GViT):
            gaussians = model.encode(images)
            logits = model.classify(gaussians)
            rendered = render(gaussians, *images.shape[-2:]).clamp(0, 1)
            columns["psnr"].append(psnr(rendered, images).clamp(max=_EXACT).cpu())
            columns["ssim"].append(ssim(rendered, images).cpu())
        else:
            logits = model(images)
        columns["ranked"].append(logits.topk(min(5, logits.shape[1])).indices.cpu())
        columns["label"].append(labels)
    model.train(was_training)
    return {name: torch.cat(parts) for name, parts in columns.items()}


def summarize(measured: Mapping[str, Tensor], num_classes: int) -> Evaluation:
    """Means and counts over images; see ``measure``."""
    label, ranked = measured["label"], measured["ranked"]
    hits = ranked == label.unsqueeze(1)
    counts = torch.bincount(label * num_classes + ranked[:, 0], minlength=num_classes * num_classes)
    fidelity = {name: measured[name].double().mean().item() for name in ("psnr", "ssim") if name in measured}
    return Evaluation(
        num_images=len(label),
        top1=hits[:, 0].double().mean().item(),
        top5=hits.any(1).double().mean().item() if num_classes > 5 else None,
        psnr=fidelity.get("psnr"),
        ssim=fidelity.get("ssim"),
        confusion=counts.view(num_classes, num_classes).tolist(),
    )
