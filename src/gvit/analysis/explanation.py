"""What a decision rests on, by several methods behind one call: one signed score per Gaussian.

All explain the logit of a class. What they have of a Gaussian that is taken out is exact: the classifier reads one
that is not drawn, as ``model.classify(gaussians.drop(mask))`` does, and no grey patch or blur that it has never seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import Any

import torch
from captum.attr import FeatureAblation, InputXGradient, IntegratedGradients
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from gvit.analysis.attribution import asking, cdam, check_reads_gaussians, class_per_image, in_order
from gvit.analysis.scoremap import collect_map
from gvit.errors import InputError, option, unknown_name
from gvit.gaussians import Gaussians
from gvit.gaussians.fields import SCALE
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
        return self.model.classifier(self._with(raw))

    def _with(self, raw: Tensor) -> Any:
        return self.read.replace_raw(raw) if isinstance(self.read, Gaussians) else raw

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

    @cached_property
    def nothing(self) -> Float[Tensor, "1 n d"]:
        """The tokens where nothing is drawn."""
        return self.model.tokens(self._with(self.empty[:1]))

    def logits_of(self, added: Float[Tensor, "n slots d"]) -> Float[Tensor, "n classes"]:
        """Of any tokens, as what is added to those of nothing."""
        handle = self.model.tokens.register_forward_hook(lambda *_: self.nothing + added)
        try:
            return self.model.classifier(self._with(self.raw[:1]))  # which is not looked at
        finally:
            handle.remove()

    def by_removal(self, method: Any) -> Float[Tensor, "batch k"]:
        """Scores by a method of Captum that takes features of ``logits_with`` out: a feature is a Gaussian."""
        batch, device = len(self.raw), self.raw.device
        return method.attribute(
            self.raw.new_ones(batch, len(self.gaussians)),
            baselines=0,
            target=self.classes,
            additional_forward_args=(torch.arange(batch, device=device),),
            perturbations_per_eval=max(1, self.per_pass(_TOKENS_AT_ONCE) // batch),
        )

    def by_slope(self, method: Any, **kwargs: Any) -> Float[Tensor, "batch k"]:
        """Scores by a method of Captum that follows slopes of ``logits_of``."""
        added = self.model.tokens(self.read) - self.nothing
        size = self.per_pass(_TOKENS_WITH_GRADIENTS)
        scores = [
            method.attribute(some.requires_grad_(), target=classes, **kwargs).detach().sum(-1)
            for some, classes in zip(added.split(size), self.classes.split(size), strict=True)
        ]
        return in_order(torch.cat(scores), self.gaussians)


def _cdam(asked: Question) -> Tensor:
    return cdam(asked.model, asked.gaussians, asked.target)


def _det(asked: Question) -> Tensor:
    drawn = asked.gaussians
    # logsigmoid instead of the scales' logarithm: finite for every raw number
    largest = math.log(drawn.scale_factor * drawn.spacing)
    raw = drawn.raw[..., SCALE].to(drawn.scales.dtype)
    return -2 * (functional.logsigmoid(raw) + largest).sum(-1)


def _opacity(asked: Question) -> Tensor:
    return asked.gaussians.opacities


def _attention(asked: Question) -> Tensor:
    by_slot = attention_rollout(asked.model.classifier, lambda: asked.logits(asked.raw))
    return in_order(by_slot, asked.gaussians)


def attention_rollout(classifier: Any, forward: Callable[[], object]) -> Float[Tensor, "batch n"]:
    """What attention carries from each token to the answer, while ``forward`` runs the classifier."""
    first, kept = classifier.num_prefix_tokens, list[Tensor]()

    def keep(_module: object, weights: tuple[Tensor, ...]) -> None:
        kept.append(weights[0].mean(1))

    attentions = [block.attn for block in classifier.blocks]
    fused = [attention.fused_attn for attention in attentions]
    handles = [attention.attn_drop.register_forward_pre_hook(keep) for attention in attentions]
    try:
        for attention in attentions:
            attention.fused_attn = False  # a fused one never holds the weights
        forward()
    finally:
        for attention, was, handle in zip(attentions, fused, handles, strict=True):
            attention.fused_attn = was
            handle.remove()
    if len(kept) != len(attentions):
        raise RuntimeError(f"{len(kept)} of {len(attentions)} blocks showed their attention")
    flow = torch.eye(kept[0].shape[-1]).to(kept[0])
    for weights in kept:
        # half of what leaves a block is what has gone around its attention
        flow = (weights @ flow + flow) / 2
    rows = flow[:, 0] if classifier.global_pool == "token" else flow.mean(1)
    return rows[:, first:]


def _ixg(asked: Question) -> Tensor:
    return asked.by_slope(InputXGradient(asked.logits_of))


def _ig(asked: Question) -> Tensor:
    size = asked.per_pass(_TOKENS_WITH_GRADIENTS)
    path = IntegratedGradients(asked.logits_of)
    return asked.by_slope(path, n_steps=asked.samples, internal_batch_size=size)


def _occlusion(asked: Question) -> Tensor:
    return asked.by_removal(FeatureAblation(asked.logits_with))


def _shap(asked: Question) -> Tensor:
    count, device = len(asked.gaussians), asked.raw.device
    generator = torch.Generator().manual_seed(index(asked.seed))
    pairs = -(-asked.samples // 2)
    orders = torch.stack([torch.randperm(count, generator=generator) for _ in range(pairs)])
    # each is followed by its reverse (Castro's sampling with antithetic pairs)
    orders = torch.stack((orders, orders.flip(1)), 1).flatten(0, 1)[: asked.samples].to(device)
    rank = orders.argsort(1)
    images, steps = len(asked.raw), count + 1
    values = []
    # Captum's own takes one order at a time, and float32
    every = torch.arange(images * len(rank) * steps, device=device)
    for some in every.split(asked.per_pass(_TOKENS_AT_ONCE)):
        image, of_order, step = some // (len(rank) * steps), some // steps % len(rank), some % steps
        present = (rank[of_order] < step.unsqueeze(1)).to(asked.raw)
        values.append(asked.logits_with(present, image).gather(1, asked.classes[image].unsqueeze(1)))
    gains = torch.cat(values).view(images, len(rank), steps).diff(dim=2)
    return gains.gather(2, rank.expand(images, -1, -1)).mean(1)


def _random(asked: Question) -> Tensor:
    generator = torch.Generator().manual_seed(index(asked.seed))
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
        of_class: whether the scores are of a class, in its logits; others are the same for all classes.
        signed: whether 0 is neither for nor against; scores of others are compared with each other only.
        samples: how many it takes where nothing else is asked for, of those that sample; 0 for the others.
        asks_classifier: whether the scores depend on what the classifier has learned.
    """

    about: str
    score: Callable[[Question], Tensor]
    of_class: bool = True
    signed: bool = True
    samples: int = 0
    asks_classifier: bool = True


def _without_class(about: str, score: Callable[[Question], Tensor], asks_classifier: bool = False) -> Method:
    return Method(about, score, of_class=False, signed=False, asks_classifier=asks_classifier)


METHODS: dict[str, Method] = {
    "cdam": Method("token times the logit's slope, where the last attention reads it", _cdam),
    "det": _without_class("-log det(Sigma): the smaller, the higher", _det),
    "opacity": _without_class("opacity", _opacity),
    "attention": _without_class("what attention carries from it to the answer (rollout)", _attention, True),
    "ixg": Method("what it adds to the token of nothing drawn, times the logit's slope", _ixg),
    "ig": Method("the same, with the mean slope on the way from nothing drawn", _ig, samples=64),
    "occlusion": Method("what the logit loses without this Gaussian alone", _occlusion),
    "shap": Method("what the logit gains by it, mean over random orders of drawing", _shap, samples=32),
    "random": Method("random numbers, as a control", _random, of_class=False, asks_classifier=False),
    "edges": _without_class("edges of the image within its footprint, as a control", _edges),
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
        InputError: an unknown method, a model that reads pixels or has no classes, or a number below 1.
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
        untrained = METHODS[method].asks_classifier and model.card.encoder_only
        if untrained or (METHODS[method].of_class and not model.num_classes):
            raise InputError(f"{model.card.name or 'the model'} has no trained classifier to explain")
        for name, number in (("samples", samples), ("batch_size", batch_size)):
            if number is not None and number < 1:
                raise InputError(f"{option(name)} must be at least 1, got {number}")
        self.method: Method = METHODS[method]
        self.model = model
        self.seed = seed
        self.samples: int = samples or self.method.samples
        self.batch_size = batch_size

    def attribute(
        self, inputs: Inputs, target: Target = None, image: Tensor | None = None
    ) -> Float[Tensor, "batch k"]:
        """Signed scores of each image's Gaussians, in their order.

        Args:
            inputs: on the model's device: what the model reads, images [B, 3, H, W] in [0, 1] or raw Gaussians
                [B, K, 9]; or any Gaussians with raw [B, K, 9].
            target: class, for all images or one each; the most probable class of each when None. Methods that are the
                same for all classes take no notice of it.
            image: [B, 3, H, W] in [0, 1], of which the Gaussians are, for ``edges``; where none is given, what the
                Gaussians draw.

        Raises:
            InputError: a class that the model doesn't have, as many classes as there are no images, or more Gaussians
                than the model reads.
            ValueError: images of another size or number of channels.
        """
        with asking(self.model):
            gaussians = read_gaussians(self.model, inputs)
            if isinstance(inputs, Tensor) and self.model.encoder is not None:
                image = inputs
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
    model: ImageClassifier,
    inputs: Inputs,
    method: str = "cdam",
    target: Target = None,
    image: Tensor | None = None,
    **options: Any,
) -> Float[Tensor, "batch k"]:
    """Scores [B, K] of Gaussians by a method, in one line: ``attribute(model, images, "occlusion")``.

    Args:
        model: see ``Explainer``.
        inputs: see ``Explainer.attribute``.
        method: a name in ``METHODS``.
        target: see ``Explainer.attribute``.
        image: see ``Explainer.attribute``.
        options: of ``Explainer``.
    """
    return explainer(method, model, **options).attribute(inputs, target, image)


def read_gaussians(
    model: ImageClassifier, inputs: Inputs, *, num_gaussians: int | None = None, looks: int | None = None
) -> Gaussians:
    """What a model's classifier reads of inputs, and what scores are of: raw [B, K, 9].

    Args:
        model: see ``Explainer``.
        inputs: see ``Explainer.attribute``.
        num_gaussians: of images, see ``GViT.encode``.
        looks: of images, see ``GViT.encode``.

    Raises:
        InputError: a number of Gaussians or looks that the encoder doesn't take, or of either for a model that has
            none.
        ValueError: images of another size or number of channels.
    """
    if isinstance(inputs, Gaussians):
        return inputs
    if model.encoder is not None:
        encoder: Any = model  # a GViT
        return encoder.encode(inputs, num_gaussians=num_gaussians, looks=looks)
    model.check_makes_none(num_gaussians, looks)
    # raw numbers in the meaning that they have to the model
    return Gaussians(inputs, **model.tokens.bounds_of(Gaussians(inputs)))
