"""How good a model is on labelled images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvit.errors import InputError, option
from gvit.losses import MOST_PSNR, psnr, ssim
from gvit.models.base import ImageClassifier, evaluating
from gvit.rendering import render

_TOP = 5
_POOR = 18.0  # dB


@dataclass(frozen=True)
class ClassResult:
    """How well one class is told from the others.

    Attributes:
        class_name: its name.
        num_images: that are of it.
        precision: share of the images called so that are; None where none is called so.
        recall: share of its images that are called so; None where there are none.
    """

    class_name: str
    num_images: int
    precision: float | None
    recall: float | None


@dataclass(frozen=True)
class Mistake:
    """An image that was taken for another class.

    Attributes:
        index: of the image.
        label: its class.
        predicted: the class that it was taken for.
        confidence: probability of that class, by the model.
    """

    index: int
    label: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Evaluation:
    """Results over all images.

    Attributes:
        num_images: how many.
        top1: share classified correctly; None for an encoder alone, whose classifier has learned nothing.
        top5: share with the true class among the five most probable; None with five classes or fewer,
            and for an encoder alone.
        psnr: of the drawn Gaussians against the image, dB, mean over images, each at most 100; None for a model
            without an encoder.
        ssim: the same, structural similarity.
        confusion: counts, ``confusion[true][predicted]``; empty for an encoder alone.
        broken: what is wrong with images that could not be read. Their answers are wrong; ``psnr``, ``ssim`` and
            ``confusion`` are without them.
        right: of each image whether it was classified correctly; empty for an encoder alone. Not in ``to_dict``.
    """

    num_images: int
    top1: float | None
    top5: float | None
    psnr: float | None
    ssim: float | None
    confusion: list[list[int]]
    broken: list[str] = field(default_factory=list)
    right: list[bool] = field(default_factory=list, repr=False)

    def __str__(self) -> str:
        measures = [] if self.top1 is None else [f"top-1 {100 * self.top1:.2f} %"]
        measures += [] if self.psnr is None else [f"PSNR {self.psnr:.2f} dB", f"SSIM {self.ssim:.3f}"]
        unread = f" ({len(self.broken)} of them broken)" if self.broken else ""
        return ", ".join([f"{measures[0]} of {self.num_images} test images{unread}", *measures[1:]])

    @property
    def chance(self) -> float:
        """Share classified correctly by who always names the class that most of the images have.

        Raises:
            InputError: of an encoder alone, which has no answers.
        """
        if not self.confusion:
            raise InputError("an encoder alone gives no answers, so nothing is right by chance")
        return max(map(sum, self.confusion)) / self.num_images

    def per_class(self, class_names: Sequence[str]) -> list[ClassResult]:
        """Precision and recall of each class, named; empty for an encoder alone."""
        counts = torch.tensor(self.confusion).reshape(len(self.confusion), len(self.confusion))
        hits, called, are = counts.diagonal().tolist(), counts.sum(0).tolist(), counts.sum(1).tolist()
        return [
            ClassResult(
                class_names[i],
                are[i],
                hits[i] / called[i] if called[i] else None,
                hits[i] / are[i] if are[i] else None,
            )
            for i in range(len(self.confusion))
        ]

    def concerns(self, initialized: bool = False) -> list[str]:
        """A line for each sign that nothing, or little, has been learned, with what to try; usually none.

        Args:
            initialized: training began with a trained encoder: to try one is no advice then.

        They are: accuracy within two standard deviations (binomial) of chance, and pictures under 18 dB. Settings are
        named by ``gvit.errors.option``.
        """
        found = []
        if self.top1 is not None and self.top1 <= self._likely_by_chance():
            chance = self.chance
            found.append(
                f"top-1 of {100 * self.top1:.1f} % is no better than chance ({100 * chance:.1f} %, and "
                f"{self.num_images} test images): try more {option('epochs')}, a smaller {option('batch_size')}, more "
                "images of each class"
            )
        if self.psnr is not None and self.psnr < _POOR:
            more = f"more {option('num_gaussians')}"
            tries = (
                f"{more} or more {option('epochs')}"
                if initialized
                else f"{more}, more {option('epochs')}, or {option('init')} with a trained encoder"
            )
            found.append(
                f"PSNR of {self.psnr:.1f} dB: the Gaussians show little of the images, so there is little to "
                f"classify; try {tries}"
            )
        return found

    def _likely_by_chance(self) -> float:
        return self.chance + 2 * math.sqrt(self.chance * (1 - self.chance) / self.num_images)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["right"]
        return values


def evaluate(
    model: ImageClassifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_gaussians: int | None = None,
    looks: int | None = None,
) -> Evaluation:
    """Classify and redraw every image; the model comes back in the mode that it had.

    Args:
        model: with classes, or with an encoder.
        batches: inputs and labels; images are floats in [0, 1], as ``gvit.load_images`` makes them. See ``measure``.
        num_gaussians: see ``GViT.encode``; None for the model's own number.
        looks: see ``GViT.encode``; None for as many as in training.

    Raises:
        InputError: as ``measure``, or no image could be read.
    """
    measured = measure(model, batches, num_gaussians=num_gaussians, looks=looks)
    return summarize(measured, 0 if model.card.encoder_only else model.num_classes)


@torch.no_grad()  # not inference_mode: FSDP keeps the buffers that it first makes here for training
def measure(
    model: ImageClassifier,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    num_gaussians: int | None = None,
    looks: int | None = None,
) -> dict[str, Tensor]:
    """What ``summarize`` needs, image by image; an input of NaN stands for an image that cannot be read.

    Args:
        model: with classes, or with an encoder.
        batches: inputs and labels, on any device. Inputs are floating point: images in [0, 1], or what else the model
            reads; their values are not checked.
        num_gaussians: see ``GViT.encode``; None for the model's own number.
        looks: see ``GViT.encode``; None for as many as in training.

    Returns:
        ``label`` and ``predicted`` [N], and ``confidence`` [N], the probability of what is predicted; with more than
        five classes ``in_top5`` [N], 1 where the true class is among the five most probable, else 0; and for a model
        with an encoder ``psnr`` and ``ssim`` [N]; ``broken`` [N], 1 for an image that cannot be read, whose answer is
        its label and whose other values mean nothing; on the CPU.

    Raises:
        InputError: there are no images, or inputs are not floating point; the model has neither classes nor an
            encoder, or can't make that number of Gaussians or of looks.
    """
    if not model.num_classes and model.encoder is None:
        raise InputError(
            "the model has no classes (num_classes=0) and no encoder, only features: nothing to measure"
        )
    parameter = next(model.parameters())
    columns: dict[str, list[Tensor]] = defaultdict(list)
    with evaluating(model):
        for inputs, labels in batches:
            if not inputs.is_floating_point():
                raise InputError(
                    f"inputs of {str(inputs.dtype).removeprefix('torch.')}: give images as floats in [0, 1], as "
                    "gvit.load_images makes them"
                )
            broken = inputs.flatten(1).isnan().all(1)
            # something has to go through the model: shards of it wait for each other
            inputs = inputs.masked_fill(broken.view(-1, *[1] * (inputs.ndim - 1)), 0)
            inputs = inputs.to(parameter.device, parameter.dtype)
            logits, gaussians = model.forward_with_gaussians(inputs, num_gaussians=num_gaussians, looks=looks)
            # wherever the batch lies, the answers to it are compared and kept on the CPU
            broken, labels = broken.cpu(), labels.cpu()
            columns["label"].append(labels)
            columns["broken"].append(broken.long())
            # what is broken was taken for no other class
            columns["predicted"].append(torch.where(broken, labels, logits.argmax(1).cpu()))
            columns["confidence"].append(logits.float().softmax(1).amax(1).cpu())
            if logits.shape[1] > _TOP:
                columns["in_top5"].append(_in_top(_TOP, logits.cpu(), labels))
            if gaussians is not None:
                rendered = render(gaussians, *inputs.shape[-2:]).clamp(0, 1)
                columns["psnr"].append(psnr(rendered, inputs).clamp(max=MOST_PSNR).cpu())
                columns["ssim"].append(ssim(rendered, inputs).cpu())
    if not columns:
        raise InputError("there are no images to evaluate on")
    return {name: torch.cat(parts) for name, parts in columns.items()}


def _in_top(
    k: int, logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]
) -> Int[Tensor, " batch"]:
    """1 where the true class is among the k most probable, else 0."""
    from torchmetrics.functional.classification import multiclass_stat_scores  # takes a second to import

    # true and false positives and negatives of each sample; a sample is a row of values, here of one
    counts = multiclass_stat_scores(
        logits.unsqueeze(-1),
        labels.unsqueeze(-1),
        num_classes=logits.shape[1],
        average="micro",
        top_k=k,
        multidim_average="samplewise",
    )
    return counts[:, 0]


def summarize(measured: Mapping[str, Tensor], num_classes: int) -> Evaluation:
    """Means and counts over images; see ``measure``. Without classes (0) the answers are left out.

    Raises:
        InputError: no image could be read.
    """
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    label = measured["label"]
    read = measured.get("broken", torch.zeros_like(label)) == 0
    if not read.any():
        raise InputError("none of the images can be read")
    means = {
        name: measured[name][read].double().mean().item() for name in ("psnr", "ssim") if name in measured
    }
    if not num_classes:
        return Evaluation(len(label), None, None, means.get("psnr"), means.get("ssim"), [])
    confusion = multiclass_confusion_matrix(measured["predicted"][read], label[read], num_classes)
    if "in_top5" in measured:
        means["in_top5"] = measured["in_top5"][read].sum().item() / len(label)
    return Evaluation(
        num_images=len(label),
        top1=confusion.trace().item() / len(label),
        top5=means.get("in_top5"),
        psnr=means.get("psnr"),
        ssim=means.get("ssim"),
        confusion=confusion.tolist(),
        right=((measured["predicted"] == label) & read).tolist(),
    )


def mistakes(measured: Mapping[str, Tensor]) -> list[Mistake]:
    """The images that were taken for another class, the most confident first; see ``measure``."""
    label, predicted, confidence = (measured[name] for name in ("label", "predicted", "confidence"))
    wrong = (predicted != label).nonzero()[:, 0]
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)]
    return [Mistake(i, int(label[i]), int(predicted[i]), float(confidence[i])) for i in order.tolist()]
