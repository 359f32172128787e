"""How the classifier's gradient meets the reconstruction's on a guided step."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.losses import MOST_PSNR, psnr
from gvit.models.encoder import GaussianEncoder
from gvit.models.gvit import GViT
from gvit.rendering import render
from gvit.training.config import GuidanceConfig

_Network = TypeVar("_Network", bound=nn.Module)

# What a norm is taken over, of gradients [B, K, 9].
_OVER = {"batch": (0, 1, 2), "image": (1, 2), "gaussian": (2,)}

# The constraint: what is left of the budget, dB, times a rate is added to the logarithm of gamma's factor after each
# guided step. Pictures answer late, so it rises slowly, by half a decibel's worth at most, and falls fast; what is
# overspent is, beside that, taken off at once.
_RISE, _FALL, _MOST_LEFT, _PENALTY = 0.1, 0.5, 0.5, 2.0
_LEAST, _MOST = math.log(1e-4), math.log(100.0)


class Guidance:
    """What is added to the reconstruction's gradient: a policy, and what it remembers.

    With a PSNR budget it is a constrained problem: descend the class loss, as long as pictures are no more than so many
    dB worse than those that the encoder drew when the guided phase began. Gamma is then multiplied by a factor whose
    logarithm integrates what is left of the budget (dual ascent on the logarithm of the multiplier, as GECO does:
    Rezende and Viola 2018), with a penalty where the budget is overspent (the augmented Lagrangian's), which damps
    what the integral alone would overshoot.

    Args:
        config: which policy.
        called: what an encoder is called as that draws and does not learn, a ``GraphedTurns`` for example; None for
            itself.

    Attributes:
        averaged: moving average of the classifier; None without, and before the guided phase.
        start: the encoder as the guided phase began, which the budget is measured from; None without, and before.
        draw_start: the same, to be called.
        multiplier: logarithm of the factor on gamma, without the penalty.
        penalty: what is taken from it where the budget is overspent.
    """

    def __init__(
        self, config: GuidanceConfig, called: Callable[[GaussianEncoder], nn.Module] | None = None
    ) -> None:
        self.config = config
        self.called = called
        self._forget()

    def _forget(self) -> None:
        self.averaged: nn.Module | None = None
        self.start: GaussianEncoder | None = None
        self.draw_start: nn.Module | None = None
        self.multiplier: float = 0.0
        self.penalty: float = 0.0

    def begin(self, model: GViT) -> None:
        """The guided phase begins; nothing is left of an earlier attempt at it."""
        self._forget()
        if self.config.guide_ema is not None:
            self.averaged = _copy(model.classifier)
        if self.config.psnr_budget is not None:
            self._begin_from(model.encoder)

    def _begin_from(self, encoder: GaussianEncoder) -> None:
        self.start = _copy(encoder)
        self.draw_start = self.start if self.called is None else self.called(self.start)

    @property
    def factor(self) -> float:
        """On gamma; 1 without a budget."""
        return math.exp(max(_LEAST, self.multiplier - self.penalty))

    def push(
        self,
        reconstruction: Float[Tensor, "batch k 9"],
        classification: Float[Tensor, "batch k 9"],
        gamma: float,
    ) -> Float[Tensor, "batch k 9"]:
        """What is added to the reconstruction's gradient.

        Args:
            reconstruction: gradient of the mean reconstruction loss at the raw Gaussians.
            classification: that of the mean class loss.
            gamma: of the step.

        Returns:
            ``gamma * factor`` times the classifier's gradient, without what conflicts, in the unit that is configured.
            Finite for finite gradients; where a gradient is 0, so is what is measured in its norm.
        """
        if self.config.projection != "none":
            classification = without_conflict(classification, reconstruction, _OVER[self.config.projection])
        if self.config.gamma_unit != "loss":
            over = _OVER[self.config.gamma_unit]
            classification = _direction(classification, over)[0] * _direction(reconstruction, over)[1]
        weight = gamma if self.config.psnr_budget is None else gamma * self.factor
        return weight * classification

    @torch.no_grad()
    def follow(self, classifier: nn.Module) -> None:
        """The classifier has learned."""
        if self.averaged is None or self.config.guide_ema is None:
            return
        for kept, learned in zip(self.averaged.parameters(), classifier.parameters(), strict=True):
            kept.lerp_(learned, 1 - self.config.guide_ema)
        for held, current in zip(self.averaged.buffers(), classifier.buffers(), strict=True):
            held.copy_(current)

    def settle(self, spent: float) -> None:
        """Adjust the factor, once a guided step: ``spent`` is the mean over the whole batch, dB."""
        if self.config.psnr_budget is None:
            return
        left = self.config.psnr_budget - spent
        change = _RISE * min(left, _MOST_LEFT) if left > 0 else _FALL * left
        self.multiplier = min(_MOST, max(_LEAST, self.multiplier + change))
        self.penalty = _PENALTY * max(0.0, -left)

    def state(self) -> dict[str, Any]:
        """What it remembers; empty where that is nothing."""
        found: dict[str, Any] = {}
        if self.averaged is not None:
            found["averaged"] = self.averaged.state_dict()
        if self.start is not None:
            found |= {
                "start": self.start.state_dict(),
                "multiplier": self.multiplier,
                "penalty": self.penalty,
            }
        return found

    def load_state(self, state: dict[str, Any], model: GViT) -> None:
        """Go back to what ``state`` gave, of a model of the same sizes."""
        self._forget()
        if "averaged" in state:
            self.averaged = _copy(model.classifier)
            self.averaged.load_state_dict(state["averaged"])
        if "start" in state:
            self._begin_from(model.encoder)
            assert self.start is not None
            self.start.load_state_dict(state["start"])
            self.multiplier = state["multiplier"]
            self.penalty = state["penalty"]


@torch.no_grad()
def fidelity(model: GViT, images: Tensor, raw: Tensor) -> Tensor:
    """Mean PSNR, dB, of what raw Gaussians [B, K, 9] draw, each at most 100."""
    drawn = render(model.encoder.gaussians(raw), *images.shape[-2:])
    return psnr(drawn, images).clamp(max=MOST_PSNR).mean()


def without_conflict(
    gradient: Float[Tensor, "batch k 9"], other: Float[Tensor, "batch k 9"], over: tuple[int, ...]
) -> Float[Tensor, "batch k 9"]:
    """The gradient without its component against the other one, where they disagree (PCGrad: Yu et al. 2020).

    Args:
        gradient: is projected.
        other: stays as it is.
        over: the dimensions that make one vector: (1, 2) for an image's Gaussians, (2,) for each of them.

    Returns:
        A gradient whose inner product with the other one is nowhere negative.
    """
    direction, _ = _direction(other, over)
    against = (gradient * direction).sum(over, keepdim=True).clamp(max=0.0)
    return gradient - against * direction


def _direction(vectors: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Unit vectors and their lengths; both 0 where there is no length to speak of.

    The largest component is divided out first: squares of small gradients underflow.
    """
    largest = vectors.abs().amax(over, keepdim=True)
    known = largest > torch.finfo(vectors.dtype).tiny
    scaled = torch.where(known, vectors / torch.where(known, largest, torch.ones_like(largest)), 0.0)
    length = scaled.square().sum(over, keepdim=True).sqrt()
    return scaled / length.clamp(min=1.0), torch.where(known, length * largest, 0.0)


def _copy(network: _Network) -> _Network:
    """As it is now, to be called only; without stochastic depth."""
    return copy.deepcopy(network).eval().requires_grad_(False)
