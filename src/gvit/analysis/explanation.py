"""What a decision rests on, by several methods behind one call: one signed score per Gaussian.

All explain the logit of a class. What they have of a Gaussian that is taken out is exact: the classifier reads one
that is not drawn, as ``model.classify(gaussians.drop(mask))`` does, and no grey patch or blur that it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from captum.attr import FeatureAblation, ShapleyValueSampling
from jaxtyping import Float, Int
from torch import Tensor

from gvit.analysis.attribution import asking, cdam, check_reads_gaussians, class_per_image
from gvit.analysis.scoremap import collect_map
from gvit.errors import InputError, option, unknown_name
from gvit.gaussians import Gaussians
from gvit.models.base import ImageClassifier
from gvit.rendering import render

# Tokens in one pass of the classifier. With gradients, all layers' activations are kept.
_TOKENS_AT_ONCE, _TOKENS_WITH_GRADIENTS = 16384, 2048

Inputs = Tensor | Gaussians  # images [B, 3, H, W] in [0, 1], raw Gaussians [B, K, 9], or Gaussians of such
Target = int | Sequence[int] | Tensor | None


@dataclass
class Question:
    """What a method is asked.

    Attributes:
        model: in evaluation mode, without gradients being recorded.
        gaussians: raw [B, K, 9], whose scores are wanted, in this order.
        target: as of ``Explainer.attribute``.
        image: [B, 3, H, W], where one was given.
        samples: how many, of what the method counts.
        seed: of what is drawn at random.
        batch_size: inputs of the classifier at a time; None for as many as take some hundred MB.
    """

    model: ImageClassifier
    gaussians: Gaussians
    target: Target
    image: Tensor | None
    samples: int
    seed: int
    batch_size: int | None

    @cached_property
    def read(self) -> Any:
        """What the tokens are made of: raw [B, N, 9] or Gaussians, those without a slot in use not drawn."""
        return self.model.tokens.conform(self.gaussians)

    @property
    def raw(self) -> Float[Tensor, "batch n 9"]:
        return self.read.raw if isinstance(self.read, Gaussians) else self.read

    @cached_property
    def empty(self) -> Float[Tensor, "batch n 9"]:
        """As ``raw``, with nothing that is drawn."""
        return Gaussians(self.raw).drop(torch.ones(self.raw.shape[1], dtype=torch.bool)).raw

    @cached_property
    def classes(self) -> Int[Tensor, " batch"]:
        return class_per_image(self.target, self.logits(self.raw))

    def logits(self, raw: Float[Tensor, "n slots 9"]) -> Float[Tensor, "n classes"]:
        """Of any raw numbers in place of ``raw``."""
        return self.model.classifier(self.read.replace_raw(raw) if isinstance(self.read, Gaussians) else raw)

    def logits_with(
        self, present: Float[Tensor, "n k"], image: Int[Tensor, " n"]
    ) -> Float[Tensor, "n classes"]:
        """Of those Gaussians of an image that are present (1, others 0)."""
        slots = self.gaussians.slots
        if slots is None:
            here = torch.nn.functional.pad(present, (0, self.raw.shape[1] - present.shape[1]))
        else:
            here = present.new_zeros(len(present), self.raw.shape[1]).scatter(1, slots[image], present)
        return self.logits(torch.where(here.unsqueeze(-1) > 0, self.raw[image], self.empty[image]))

    def per_pass(self, tokens_at_once: int) -> int:
        """How many inputs the classifier takes at a time."""
        return self.batch_size or max(1, tokens_at_once // max(1, self.raw.shape[1]))

    def perturbed(self, kind: type, **kwargs: Any) -> Float[Tensor, "batch k"]:
        """Scores by one of Captum's methods that take features out, where a feature is a Gaussian."""
        explained = kind(self.logits_with)
        for name in [name for name in kwargs if hasattr(explained, name)]:
            setattr(explained, name, kwargs.pop(name))
        batch = len(self.raw)
        return explained.attribute(
            self.raw.new_ones(batch, len(self.gaussians)),
            baselines=0,
            target=self.classes,
            additional_forward_args=(torch.arange(batch, device=self.raw.device),),
            perturbations_per_eval=max(1, self.per_pass(_TOKENS_AT_ONCE) // batch),
            **kwargs,
        ).to(self.raw.dtype)


def _cdam(asked: Question) -> Tensor:
    return cdam(asked.model, asked.gaussians, asked.target)


def _det(asked: Question) -> Tensor:
    return -2 * asked.gaussians.scales.log().sum(-1)


def _opacity(asked: Question) -> Tensor:
    return asked.gaussians.opacities


def _occlusion(asked: Question) -> Tensor:
    return asked.perturbed(FeatureAblation)


def _shap(asked: Question) -> Tensor:
    generator = torch.Generator().manual_seed(asked.seed)

    def orders(count: int, number: int) -> Iterator[list[int]]:
        """Each second one is the one before, backwards."""
        for index in range(number):
            if index % 2 == 0:
                order = torch.randperm(count, generator=generator)
            yield (order.flip(0) if index % 2 else order).tolist()

    return asked.perturbed(ShapleyValueSampling, permutation_generator=orders, n_samples=asked.samples)


def _random(asked: Question) -> Tensor:
    generator = torch.Generator().manual_seed(asked.seed)
    shape = asked.gaussians.raw.shape[:-1]
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(asked.gaussians.raw)


def _edges(asked: Question) -> Tensor:
    image = asked.image
    if image is None:
        side, aspect = asked.model.img_size, asked.gaussians.aspect
        height, width = (max(2, round(side * ratio)) for ratio in (min(1, aspect), min(1, 1 / aspect)))
        image = render(asked.gaussians, height, width).clamp(0, 1)
    down, right = torch.gradient(image.mean(1), dim=(1, 2))
    return collect_map(torch.hypot(down, right), asked.gaussians)


@dataclass(frozen=True)
class Method:
    """A way to score Gaussians.

    Attributes:
        about: in a line.
        score: a question to scores [B, K].
        of_class: whether the scores are of a class; others are the same for all.
        samples: how many it takes where nothing else is asked for, of those that sample; 0 for the others.
    """

    about: str
    score: Callable[[Question], Tensor]
    of_class: bool = True
    samples: int = 0


METHODS: dict[str, Method] = {
    "cdam": Method("token times the logit's slope, where the last attention reads it", _cdam),
    "det": Method("-log det(Sigma): the smaller, the higher", _det, of_class=False),
    "opacity": Method("opacity", _opacity, of_class=False),
    "occlusion": Method("what the logit loses without this Gaussian alone", _occlusion),
    "shap": Method("what it adds to those before it, mean over random orders", _shap, samples=16),
    "random": Method("random numbers, as a control", _random, of_class=False),
    "edges": Method("edges of the image within its footprint, as a control", _edges, of_class=False),
}


class Explainer:
    """One method for one model, in the style of Captum: ``explainer("shap", model).attribute(inputs, target=3)``.

    Args:
        method: a name in ``METHODS``.
        model: it makes Gaussians of images, or reads Gaussians.
        seed: of what is drawn at random; the same seed gives the same scores.
        samples: steps of ``ig``, orders of ``shap``; None for the method's own number.
        batch_size: inputs of the classifier at a time; None for as many as take some hundred MB.

    Raises:
        InputError: an unknown method, a model that reads pixels, or a number below 1.
    """

    def __init__(
        self,
        method: str,
        model: ImageClassifier,
        *,
        seed: int = 0,
        samples: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise unknown_name("method", method, METHODS)
        check_reads_gaussians(model)
        for name, number in (("samples", samples), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise InputError(f"{option(name)} must be at least 1, got {number}")
        self.method, self.model, self.seed = METHODS[method], model, seed
        self.samples, self.batch_size = samples or self.method.samples, batch_size

    def attribute(self, inputs: Inputs, target: Target = None) -> Float[Tensor, "batch k"]:
        """Signed scores of each image's Gaussians, in their order.

        Args:
            inputs: on the model's device: what the model reads, images [B, 3, H, W] in [0, 1] or raw Gaussians
                [B, K, 9]; or any Gaussians with raw [B, K, 9].
            target: class, for all images or one each; the most probable class of each when None. Methods that are the
                same for all classes take no notice of it.

        Raises:
            InputError: a class that the model doesn't have, as many classes as there are no images, or more Gaussians
                than the model reads.
            ValueError: images of another size or number of channels.
        """
        with asking(self.model):
            image = None
            if isinstance(inputs, Gaussians):
                gaussians = inputs
            elif self.model.encoder is None:
                gaussians = _as_gaussians(inputs, self.model)
            else:
                image, gaussians = inputs.detach().clone(), self.model.encode(inputs)  # type: ignore[operator]
            # a copy, since tensors that were made in inference mode can't be differentiated
            gaussians = gaussians.replace_raw(gaussians.raw.detach().clone())
            if not len(gaussians):
                return gaussians.raw.new_zeros(gaussians.raw.shape[:-1])
            asked = Question(self.model, gaussians, target, image, self.samples, self.seed, self.batch_size)
            return self.method.score(asked).detach()


def explainer(method: str, model: ImageClassifier, **options: Any) -> Explainer:
    """A method by name for a model; options as of ``Explainer``."""
    return Explainer(method, model, **options)


def attribute(
    model: ImageClassifier, inputs: Inputs, method: str = "cdam", target: Target = None, **options: Any
) -> Float[Tensor, "batch k"]:
    """Scores [B, K] of Gaussians by a method, in one line: ``attribute(model, images, "occlusion")``.

    Args:
        model: see ``Explainer``.
        inputs: see ``Explainer.attribute``.
        method: a name in ``METHODS``.
        target: see ``Explainer.attribute``.
        options: of ``Explainer``.
    """
    return explainer(method, model, **options).attribute(inputs, target)


def _as_gaussians(raw: Float[Tensor, "batch k 9"], model: ImageClassifier) -> Gaussians:
    """Raw numbers in the meaning that they have to the model."""
    return Gaussians(raw, **model.tokens.bounds_of(Gaussians(raw)))
