"""Losses and where their gradients go. Knows nothing of time: what a step does is told by its plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvit.data.loading import Batch
from gvit.errors import InputError, first_line
from gvit.losses import pixel_loss, psnr_loss, ssim
from gvit.models.encoder import Drawing
from gvit.models.gvit import GViT
from gvit.rendering import render
from gvit.training.config import GuidanceConfig, ObjectiveConfig
from gvit.training.guidance import Guidance, fidelity
from gvit.training.kept import KeptGaussians
from gvit.training.schedule import StepPlan

Autocast = Callable[[], AbstractContextManager]


@dataclass
class Turn:
    """One of the optimizer steps that a batch takes, of an encoder that draws in turns.

    Attributes:
        number: from 0.
        of: how many there are.
        num_gaussians: how many it draws; None for its usual number.
        state: where the encoder has come to; None before the first.
        before: where it came from.
        steered: what guidance started from, where the turn was guided.
    """

    number: int = 0
    of: int = 1
    num_gaussians: int | None = None
    state: Drawing | None = None
    before: Drawing | None = None
    steered: Steered | None = None

    @property
    def is_last(self) -> bool:
        """The Gaussians are ready to be classified."""
        return self.number == self.of - 1

    def then(self) -> Turn:
        """The next one."""
        return replace(self, number=self.number + 1)

    def again(self) -> Turn:
        """The same one, from where it came from."""
        return replace(self, state=self.before)


class Steered(NamedTuple):
    """What a guided step starts from.

    Attributes:
        raw: Gaussians, [B, K, 9].
        pull: gradient of the mean class loss at them.
        loss: that loss.
        weight: norm of what was added to the reconstruction's gradient, in units of the pull's; a mean over images.
    """

    raw: Tensor
    pull: Tensor
    loss: Tensor
    weight: Tensor


class Objective(Protocol):
    """What a step descends."""

    class_weights: Tensor | None

    def turns(self, plan: StepPlan) -> int:
        """How many turns a batch takes."""

    def backward(
        self, batch: Batch, plan: StepPlan, share: float = 1.0, turn: Turn | None = None
    ) -> dict[str, Tensor]:
        """Add ``share`` times the batch's gradients to those of the networks that the plan trains.

        Args:
            batch: what is read.
            plan: what the step does.
            share: of a batch that comes in parts.
            turn: which one it is; what the encoder has come to is written into it. None for the only one.

        Returns:
            Losses and other measures of the batch: detached scalars, not multiplied by ``share``.

        Raises:
            FloatingPointError: the Gaussians cannot be drawn. What is wrong with the measures, the caller sees.
        """


class GuidedObjective:
    """Reconstruction and classification, with the graph cut at the Gaussians (GViT paper, Algorithm 1).

    Each loss is differentiated to the Gaussians on its own, the two gradients are weighed there, and the encoder
    is gone through backward once. Eq. 1 as printed subtracts the classifier's gradient from one that is descended,
    which would raise its loss; it is added here, as in Algorithm 1.

    A part that learns nothing (``requires_grad_(False)``) gets no gradient, and the losses are as ever.

    Args:
        model: the model.
        config: losses and weights.
        networks: ``encoder`` and ``classifier`` as they are called for training, DDP around them for example;
            None calls the model's own.
        autocast: the precision that the networks run in; the renderer and the losses don't.
        guidance: how the two gradients meet on guided steps; None for the paper's way.
        agreed: what may raise a ``FloatingPointError`` is done in it, before gradients are exchanged with anybody.

    Attributes:
        class_weights: of the class loss [classes]; None where all classes count the same.
        kept: gives the Gaussians of an encoder that stands still, where images come again; None encodes them anew.
    """

    class_weights: Tensor | None = None
    kept: KeptGaussians | None = None

    def __init__(
        self,
        model: GViT,
        config: ObjectiveConfig,
        networks: Mapping[str, nn.Module] | None = None,
        autocast: Autocast = nullcontext,
        guidance: Guidance | None = None,
        agreed: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model = model
        self.config = config
        self.autocast = autocast
        self.agreed = agreed
        self.guidance: Guidance = guidance or Guidance(GuidanceConfig())
        networks = networks or {}
        self.encoder: nn.Module = networks.get("encoder", model.encoder)
        self.classifier: nn.Module = networks.get("classifier", model.classifier)

    def turns(self, plan: StepPlan) -> int:
        """The encoder's own, where it learns."""
        return self.model.encoder.turns if plan.train_encoder else 1

    def backward(
        self, batch: Batch, plan: StepPlan, share: float = 1.0, turn: Turn | None = None
    ) -> dict[str, Tensor]:
        """See ``Objective``.

        The classifier reads the Gaussians of the last turn. It gets gradients unless the step is guided. The encoder
        gets the reconstruction's, plus ``gamma`` times the classifier's on guided steps (see ``Guidance``); with
        ``gradient="joint"`` also once the classifier's on the other classifying steps; nothing where the plan lets it
        stand still. The reconstruction loss of turns before the last is always minus the PSNR, whose gradient an
        encoder that draws in turns has at hand.

        Raises:
            InputError: the images are not square, as those that a model trains on are.
            FloatingPointError: the Gaussians cannot be drawn.
        """
        height, width = batch.inputs.shape[-2:]
        if height != width:  # the losses are of a square canvas, whatever the encoder saw
            raise InputError(
                f"training images must be square, got {height}x{width} (height x width); crop or resize them first"
            )
        turn = turn or Turn()
        with self.agreed():
            with self.autocast(), torch.set_grad_enabled(plan.train_encoder):
                if self.kept is not None and not plan.train_encoder:
                    raw = self.kept(batch.inputs)
                else:
                    raw = self._encode(batch, turn)
            gradient, measures = torch.zeros_like(raw), dict[str, Tensor]()
            if plan.train_encoder:
                descend = self._reconstruction if self._ends(turn, plan) else self._correction
                gradient, measures = descend(raw, batch.inputs, plan, turn)
        if plan.classify and turn.is_last:
            joint = plan.train_encoder and self.config.gradient == "joint"
            weight = plan.gamma if plan.guided else float(joint)
            pull, classification = self._classification(raw, batch.labels, plan, weight, share)
            measures |= classification
            if pull is not None:
                push = self.guidance.push(gradient, pull, weight) if plan.guided else weight * pull
                if plan.guided:
                    measures |= compare_gradients(gradient, pull, push)
                    measures |= self._spent(raw.detach(), batch, turn)
                    sizes = (x.flatten(1).norm(dim=1) for x in (push, pull))
                    turn.steered = Steered(raw.detach(), pull, measures["class_loss"], _ratio(*sizes).mean())
                gradient = gradient + push
        if plan.train_encoder and raw.requires_grad:
            raw.backward(share * gradient)
        return measures

    @torch.no_grad()
    def effect(self, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        """What a guided step has done to its own batch: the same turn once more, by the encoder that it left.

        Seeded as the step was, stochastic depth is the same, and the loss differs by what the encoder learned.

        Returns:
            ``class_change``: of the class loss, by measurement; ``class_change_predicted``: by first order, the inner
            product of the loss's gradient at the Gaussians with how they moved; ``class_loss_after``; ``psnr_change``
            of the pictures, dB; ``guidance_weight``: how often the class gradient was added. Empty for a turn that
            nothing steered.

        Raises:
            FloatingPointError: the Gaussians cannot be drawn.
        """
        before = turn.steered
        if before is None:
            return {}
        with self.autocast():
            raw = self._encode(batch, turn.again())
            logits = self._guide(raw)
        loss, _ = _cross_entropy(logits, batch.labels, self.class_weights)
        measures = {
            "class_loss_after": loss,
            "class_change": loss - before.loss,
            "class_change_predicted": (before.pull * (raw - before.raw)).sum(),
            "guidance_weight": before.weight,
        }
        with _drawing():
            pictures = [fidelity(self.model, batch.inputs, gaussians) for gaussians in (before.raw, raw)]
        return measures | {"psnr_change": pictures[1] - pictures[0]}

    @property
    def _guide(self) -> nn.Module:
        """The classifier that guides."""
        averaged = self.guidance.averaged
        return self.model.classifier if averaged is None else averaged

    @torch.no_grad()
    def _spent(self, raw: Tensor, batch: Batch, turn: Turn) -> dict[str, Tensor]:
        """dB by which the Gaussians draw worse than the encoder that the guided phase began with."""
        draw = self.guidance.draw_start
        if draw is None:
            return {}
        number = {} if turn.num_gaussians is None else {"num_gaussians": turn.num_gaussians}
        with _drawing():
            with self.autocast():
                first = draw(batch.inputs, batch.noise, **number)
            before, now = (fidelity(self.model, batch.inputs, gaussians) for gaussians in (first, raw))
        return {"psnr_spent": before - now}

    def _encode(self, batch: Batch, turn: Turn) -> Tensor:
        if turn.of == 1:
            number = {} if turn.num_gaussians is None else {"num_gaussians": turn.num_gaussians}
            return self.encoder(batch.inputs, batch.noise, **number)
        if turn.state is None:
            turn.state = self.model.encoder.begin(batch.inputs, batch.noise, turn.num_gaussians)
        turn.before = turn.state
        with _drawing():
            state = self.encoder(batch.inputs, batch.noise, turn.state)
        turn.state = state._replace(raw=state.raw.detach())
        return state.raw

    def _ends(self, turn: Turn, plan: StepPlan) -> bool:
        """Whether the run's own reconstruction loss is to be taken, of a picture that nobody has drawn yet."""
        own = self.config.pixel_loss != "psnr" or bool(plan.perceptual and self.config.perceptual_weight)
        return turn.of == 1 or (turn.is_last and own)

    def _correction(
        self, raw: Tensor, images: Tensor, plan: StepPlan, turn: Turn
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the PSNR, from what the encoder sees of its picture."""
        assert turn.state is not None
        errors = turn.state.error.square().mean((1, 2, 3)).requires_grad_()
        loss = psnr_loss(errors)
        (weights,) = torch.autograd.grad(loss, errors)
        return weights[:, None, None] * turn.state.gradient, {"pixel_loss": loss.detach()}

    def _reconstruction(
        self, raw: Tensor, images: Tensor, plan: StepPlan, turn: Turn
    ) -> tuple[Tensor, dict[str, Tensor]]:
        leaf = raw.detach().requires_grad_()
        with _drawing():
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
        self, raw: Tensor, labels: Tensor, plan: StepPlan, weight: float, share: float
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        leaf = raw.detach().requires_grad_(weight != 0)
        # a guided step takes no gradient of the classifier, which DDP around it would wait for
        classifier = self._guide if plan.guided else self.classifier
        with self.autocast():
            logits = classifier(leaf)
        loss, measures = _cross_entropy(logits, labels, self.class_weights)
        if plan.guided:  # the classifier stands still
            return (torch.autograd.grad(loss, leaf)[0] if weight else None), measures
        if loss.requires_grad:
            (share * loss).backward()
        return (None if leaf.grad is None else leaf.grad / share), measures


@contextmanager
def _drawing() -> Iterator[None]:
    """What the renderer says of numbers that are not finite is what a step says of them."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise FloatingPointError(f"the Gaussians cannot be drawn: {first_line(error)}") from error


class ClassificationObjective:
    """Cross-entropy of a network alone, over images or given Gaussians: what GViT is compared with.

    Attributes:
        class_weights: see ``GuidedObjective``.
    """

    class_weights: Tensor | None = None

    def __init__(self, network: nn.Module, autocast: Autocast = nullcontext) -> None:
        self.network = network
        self.autocast = autocast

    def turns(self, plan: StepPlan) -> int:
        return 1

    def backward(
        self, batch: Batch, plan: StepPlan, share: float = 1.0, turn: Turn | None = None
    ) -> dict[str, Tensor]:
        """See ``Objective``."""
        with self.autocast():
            logits = self.network(batch.inputs)
        loss, measures = _cross_entropy(logits, batch.labels, self.class_weights)
        (share * loss).backward()
        return measures


def _cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None
) -> tuple[Tensor, dict[str, Tensor]]:
    if logits.dtype == torch.bfloat16:
        logits = logits.float()
    if labels.is_floating_point():  # shares of classes, of mixed images; the largest is to be named
        labels, named = labels.to(logits.dtype), labels.argmax(-1)
    else:
        named = labels
    if class_weights is None:
        loss = F.cross_entropy(logits, labels)
    else:
        # a mean over images, not over weights: nothing may depend on how a batch is split
        loss = F.cross_entropy(logits, labels, class_weights.to(logits.dtype), reduction="none").mean()
    hits = (logits.argmax(-1) == named).float().mean()
    return loss, {"class_loss": loss.detach(), "accuracy": hits.detach()}


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """0 where there is nothing to divide by."""
    return torch.where(other > 0, one / other.where(other > 0, torch.ones_like(other)), 0.0)


def compare_gradients(reconstruction: Tensor, classification: Tensor, push: Tensor) -> dict[str, Tensor]:
    """Makes guidance visible, from the gradients of the two mean losses at the raw Gaussians [B, K, 9].

    ``push`` is what is added to the first one, ``gamma`` times the second where nothing else is configured. Means over
    images, so that nothing depends on how a batch is split over parts and processes.

    Returns:
        ``reconstruction_gradient`` and ``class_gradient``: the norms of the gradients of an image's own losses, before
        gamma. ``gradient_cosine``: between the two, negative where they disagree. ``steered``: share of the Gaussians
        that what is added moves more than the reconstruction's gradient does.
    """
    drawing, naming = (len(gradient) * gradient.flatten(1) for gradient in (reconstruction, classification))
    return {
        "reconstruction_gradient": drawing.norm(dim=1).mean(),
        "class_gradient": naming.norm(dim=1).mean(),
        "gradient_cosine": F.cosine_similarity(drawing, naming).mean(),
        "steered": (push.norm(dim=-1) > reconstruction.norm(dim=-1)).float().mean(),
    }
