"""What a decision rests on: class-discriminative attention maps (CDAM), one score per Gaussian.

From the GViT paper, "Explainability of the Gaussians", after Brocki et al. 2023, "Class-Discriminative Attention Maps
for Vision Transformers".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gvit.errors import InputError
from gvit.gaussians import VISIBLE_OPACITY, Gaussians
from gvit.models.base import ImageClassifier


def cdam(
    model: ImageClassifier,
    inputs: Float[Tensor, "batch c h w"] | Float[Tensor, "batch n 9"] | Gaussians,
    classes: int | Sequence[int] | Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, "batch k"]:
    """How much each Gaussian speaks for a class: ``S[i, c] = sum_j t[i, j] * d f_c / d t[i, j]``.

    ``t`` are the tokens that the classifier's last attention reads (after the first norm of its last block), ``f`` the
    logits, both as in evaluation mode. A score is the slope of the logit in the relative length of the token; below 0,
    the Gaussian speaks against the class. The class token has no score.

    Gaussians of other bounds, or of another number, are read as ``model.classify`` reads them. The scores are of the
    Gaussians that were given, in their order: ``cdam(model, gaussians[:, keep])`` has one for each that was kept.

    Whatever mode the model is in, training or evaluation, and whether gradients are recorded, makes no difference to
    the scores and is left as it was; parameters get no gradients.

    Args:
        model: it makes Gaussians of images, or reads Gaussians.
        inputs: on the model's device: what the model reads, images [B, C, H, W] in [0, 1] or raw Gaussians [B, K, 9];
            or any Gaussians with raw [B, K, 9].
        classes: c, for all images or one each; the most probable class of each when None.

    Returns:
        Signed, unbounded scores [B, K], in logits.

    Raises:
        InputError: a model that reads pixels, a class that the model doesn't have, as many classes as there are no
            images, or more Gaussians than the model reads.
        ValueError: images of another size or number of channels, or raw Gaussians of another number.
    """
    check_reads_gaussians(model)
    classifier = model.classifier
    read: list[Tensor] = []

    def start_here(_module: object, _inputs: object, output: Tensor) -> Tensor:
        # what comes after it is recorded: the graph has the last block and the head only
        torch.set_grad_enabled(True)
        read.append(output.detach().requires_grad_())
        return read[-1]

    last_block: Any = classifier.blocks[-1]
    handle = last_block.norm1.register_forward_hook(start_here)
    try:
        with asking(model):
            logits = classifier.classify(inputs) if isinstance(inputs, Gaussians) else model(inputs)
            chosen = logits.gather(1, class_per_image(classes, logits).unsqueeze(1))
            (tokens,) = read
            (gradients,) = torch.autograd.grad(chosen.sum(), tokens)
            scores = (tokens.detach() * gradients).sum(-1)[:, classifier.num_prefix_tokens :]
    finally:
        handle.remove()
    return in_order(scores, inputs) if isinstance(inputs, Gaussians) else scores


def check_reads_gaussians(model: ImageClassifier) -> None:
    """Raise ``InputError`` where a model has no Gaussians to score."""
    if model.tokens.reads != "gaussians":
        raise InputError(
            f"{model.card.name or 'the model'} reads {model.tokens.kind} and has no Gaussians to score; take a model "
            "that makes Gaussians of images or reads them"
        )


@contextmanager
def asking(model: ImageClassifier) -> Iterator[None]:
    """A model in evaluation mode inside, whatever is recorded outside; after, each module in the mode that it had."""
    classifier = model.classifier
    modes = [(module, module.training) for module in model.modules()]
    checkpointing = classifier.grad_checkpointing
    try:
        # tensors made in inference mode can't be differentiated
        with torch.inference_mode(False), torch.no_grad():
            model.eval()
            classifier.grad_checkpointing = False
            yield
    finally:
        classifier.grad_checkpointing = checkpointing
        for module, mode in modes:
            module.training = mode


def in_order(by_slot: Float[Tensor, "batch slots"], gaussians: Gaussians) -> Float[Tensor, "batch k"]:
    """Numbers of the Gaussians, of one for each that a classifier reads."""
    return by_slot[:, : len(gaussians)] if gaussians.slots is None else by_slot.gather(1, gaussians.slots)


def class_per_image(
    classes: int | Sequence[int] | Tensor | None, logits: Float[Tensor, "batch classes"]
) -> Int[Tensor, " batch"]:
    """Given classes, or the most probable ones; raise ``InputError`` where the model does not have them."""
    if classes is None:
        return logits.argmax(1)
    batch, count = logits.shape
    chosen = torch.as_tensor(classes, device=logits.device)
    if chosen.ndim == 0:
        chosen = chosen.expand(batch)
    if chosen.shape != (batch,) or chosen.is_floating_point():
        raise InputError(f"classes must be one whole number, or {batch}, one per image, got {classes}")
    if not ((chosen >= 0) & (chosen < count)).all():
        raise InputError(f"classes must be from 0 to {count - 1}, got {classes}")
    return chosen.long()


def check_scores(scores: Tensor, gaussians: Gaussians) -> None:
    """Raise ``InputError`` where there is not one score per Gaussian."""
    if scores.shape != gaussians.raw.shape[:-1]:
        raise InputError(
            f"there must be one score per Gaussian, got {list(scores.shape)} for {list(gaussians.raw.shape[:-1])}"
        )


def project_on_grid(
    scores: Float[Tensor, "*batch k"], gaussians: Gaussians, size: int = 16
) -> Float[Tensor, "*batch size size"]:
    """Scores per Gaussian as a picture of ``size`` x ``size`` equal cells that cover the image.

    A cell has the sum of the scores of the Gaussians whose centres lie in it, so that the sum over the picture is the
    sum over the Gaussians; 0 where there is none. (The paper assigns a score to the cell that contains the centre, and
    leaves open what becomes of several.) Rows go down, columns to the right. The same input gives the same bits, on a
    GPU, too.

    Args:
        scores: one per Gaussian, any unit.
        gaussians: raw of ``scores``' shape and 9.
        size: cells along each side.

    Raises:
        InputError: there is not one score per Gaussian, or the size is below 1.
    """
    check_scores(scores, gaussians)
    if size < 1:
        raise InputError(f"size must be at least 1, got {size}")
    centers = gaussians.centers.detach()
    place = (centers / centers.new_tensor(gaussians.extent) + 1) * (size / 2)
    # tanh reaches 1 in floating point: the far edges belong to the last cells
    column, row = place.floor().long().clamp(0, size - 1).unbind(-1)
    cells = torch.arange(size * size, device=scores.device)
    inside = (row * size + column).unsqueeze(-1) == cells
    # a masked sum and no scatter, whose order on a GPU is chance
    return torch.where(inside, scores.unsqueeze(-1), 0).sum(-2).unflatten(-1, (size, size))


@dataclass(frozen=True)
class Relevance:
    """What ``determinant_relevance`` found.

    Attributes:
        per_image: Spearman's rank correlation of each image, in [-1, 1]; NaN where it is undefined.
        mean: over the images where it is defined; NaN if there is none.
        std: standard deviation over them (of a sample); NaN below two.
    """

    per_image: tuple[float, ...]
    mean: float
    std: float

    def __str__(self) -> str:
        count = sum(math.isfinite(value) for value in self.per_image)
        return f"rank correlation {self.mean:.3f}, standard deviation {self.std:.3f} over {count} images"


def determinant_relevance(gaussians: Gaussians, scores: Float[Tensor, "batch k"]) -> Relevance:
    """Do small Gaussians matter more? Spearman's correlation of ``-log det(Sigma)`` and ``abs(scores)``, per image.

    A measured number for the GViT paper's claim that det(Sigma) is "a proxy for importance": 1 if the order by size,
    from large to small, is the order by relevance, 0 if they have nothing to do with each other. Gaussians that are too
    faint to be drawn have a covariance in name only and are left out.

    Args:
        gaussians: raw [B, K, 9].
        scores: of ``cdam``; the sign doesn't matter.

    Returns:
        A correlation per image, their mean and spread. It is undefined for an image with fewer than two Gaussians that
        are drawn, or with all determinants, or all scores, equal.

    Raises:
        InputError: there is not one score per Gaussian.
    """
    from scipy.stats import spearmanr  # comes with scikit-learn

    check_scores(scores, gaussians)
    drawn = gaussians.detach().to("cpu", torch.float64)
    # ranks are the same with and without the logarithm, but it can't underflow
    sizes = drawn.scales.log().sum(-1)
    correlations = []
    for size, score, visible in zip(
        -sizes, scores.detach().abs().cpu().double(), drawn.opacities >= VISIBLE_OPACITY, strict=True
    ):
        x, y = size[visible], score[visible]
        defined = len(x) > 1 and x.min() < x.max() and y.min() < y.max()
        correlations.append(float(spearmanr(x.numpy(), y.numpy()).statistic) if defined else math.nan)
    values = torch.tensor([value for value in correlations if math.isfinite(value)], dtype=torch.float64)
    return Relevance(
        tuple(correlations),
        values.mean().item() if len(values) else math.nan,
        values.std().item() if len(values) > 1 else math.nan,
    )
