"""Square patches of an image as units of explanation: scores for a ViT that reads them, and pixels taken out.

The counterpart of ``gvit.analysis.explanation`` for models without Gaussians. A pixel that is taken out has the mean
colour of its image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    LayerGradientXActivation,
    ShapleyValueSampling,
)
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gvit.analysis.attribution import asking
from gvit.analysis.explanation import attention_rollout
from gvit.models.base import ImageClassifier

# images in one pass of the model
_AT_ONCE = 256


def patch_map(grid: tuple[int, int], height: int, width: int) -> Int[Tensor, "h w"]:
    """The number of the patch that each pixel lies in, counted row by row.

    Args:
        grid: rows and columns of patches; they need not divide height and width.
        height: pixels.
        width: pixels.
    """
    rows, columns = grid
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    return row.unsqueeze(1) * columns + column


def without_pixels(
    images: Float[Tensor, "batch c h w"], keep: Bool[Tensor, "batch h w"]
) -> Float[Tensor, "batch c h w"]:
    """The images with the mean colour of each in all pixels but those to keep."""
    return torch.where(keep.unsqueeze(1), images, _mean_color(images))


def _mean_color(images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c h w"]:
    return images.mean((2, 3), keepdim=True).expand_as(images)


@dataclass(frozen=True)
class _Question:
    model: ImageClassifier
    images: Tensor  # [B, C, H, W]
    classes: Tensor  # [B]
    patches: Tensor  # [H, W]
    samples: int
    seed: int

    @property
    def per_pass(self) -> int:
        return max(1, _AT_ONCE // len(self.images))

    def sums(self, pixels: Tensor) -> Tensor:
        """Of [B, C, H, W], over the pixels and channels of each patch."""
        flat = pixels.sum(1).flatten(1)
        sums = flat.new_zeros(len(flat), int(self.patches.max()) + 1)
        return sums.index_add(1, self.patches.flatten().to(flat.device), flat)

    def perturbed(self, kind: type, **kwargs: object) -> Tensor:
        """By one of Captum's methods that take features out; they give every pixel the score of its patch."""
        scores = kind(self.model).attribute(
            self.images,
            baselines=_mean_color(self.images),
            target=self.classes,
            feature_mask=self.patches.to(self.images.device).repeat(1, self.images.shape[1], 1, 1),
            perturbations_per_eval=self.per_pass,
            **kwargs,
        )
        # Captum's Shapley values are float32
        return (self.sums(scores) / self.sums(torch.ones_like(scores))).to(self.images.dtype)

    def by_slope(self, kind: type, **kwargs: object) -> Tensor:
        """By one of Captum's methods that multiply inputs by slopes, the inputs counted from the mean colour."""
        mean = _mean_color(self.images)

        def logits(difference: Tensor, mean: Tensor) -> Tensor:
            return self.model(mean + difference)

        difference = (self.images - mean).requires_grad_()
        scores = kind(logits).attribute(
            difference, target=self.classes, additional_forward_args=(mean,), **kwargs
        )
        return self.sums(scores)


def _cdam(asked: _Question) -> Tensor:
    classifier = asked.model.classifier
    explained = LayerGradientXActivation(asked.model, classifier.blocks[-1].norm1)
    # of images that want a slope, since parameters may be frozen
    scores = explained.attribute(asked.images.requires_grad_(), asked.classes).sum(-1)
    return scores[:, classifier.num_prefix_tokens :]


def _attention(asked: _Question) -> Tensor:
    return attention_rollout(asked.model.classifier, lambda: asked.model(asked.images))


def _ixg(asked: _Question) -> Tensor:
    return asked.by_slope(InputXGradient)


def _ig(asked: _Question) -> Tensor:
    size = max(_AT_ONCE, len(asked.images))
    return asked.by_slope(IntegratedGradients, n_steps=asked.samples, internal_batch_size=size)


def _occlusion(asked: _Question) -> Tensor:
    return asked.perturbed(FeatureAblation)


def _shap(asked: _Question) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(asked.seed)  # not a GPU's, which is not forked
        return asked.perturbed(ShapleyValueSampling, n_samples=asked.samples)


def _edges(asked: _Question) -> Tensor:
    down, right = torch.gradient(asked.images.mean(1), dim=(1, 2))
    return asked.sums(torch.hypot(down, right).unsqueeze(1))


PATCH_METHODS: dict[str, Callable[[_Question], Tensor]] = {
    "cdam": _cdam,
    "attention": _attention,
    "ixg": _ixg,
    "ig": _ig,
    "occlusion": _occlusion,
    "shap": _shap,
    "edges": _edges,
}


def attribute_patches(
    model: ImageClassifier,
    images: Float[Tensor, "batch c h w"],
    method: str,
    target: Int[Tensor, " batch"],
    grid: tuple[int, int],
    *,
    samples: int = 16,
    seed: int = 0,
) -> Float[Tensor, "batch n"]:
    """Signed scores of each image's patches for a class, in logits, patches counted row by row.

    Args:
        model: it reads images; one with patches of its own for ``cdam`` and ``attention``, of which ``grid`` is that.
        images: in [0, 1].
        method: a name in ``PATCH_METHODS``.
        target: a class for each image.
        grid: rows and columns of patches.
        samples: orders of ``shap``, steps of ``ig``.
        seed: of what is drawn at random.
    """
    patches = patch_map(grid, *images.shape[-2:])
    with asking(model):
        # a copy, since tensors that were made in inference mode can't be differentiated
        asked = _Question(model, images.detach().clone(), target, patches, samples, seed)
        return PATCH_METHODS[method](asked).detach()
