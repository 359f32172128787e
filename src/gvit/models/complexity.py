"""What a model costs: parameters and arithmetic, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gvit.models.registry import create_model


@dataclass(frozen=True)
class Complexity:
    """Size of a model, and arithmetic of one image's forward pass.

    One MAC is one multiply-add, so half of what PyTorch counts as floating-point operations; timm and papers call
    that number (G)MACs or, loosely, FLOPs. Matrix products and convolutions are counted, what is done element by
    element is not.

    Attributes:
        name: registered name.
        img_size: height and width of the input, pixels.
        tokens: Gaussians or patches that the classifier reads; a class token comes on top.
        encoder_parameters: 0 for a model without one.
        classifier_parameters: without the head.
        head_parameters: of the last linear layer.
        encoder_gmacs: 1e9 MACs from the image to the Gaussians; 0 for a model without an encoder.
        classifier_gmacs: 1e9 MACs from the Gaussians or the image to the logits.
    """

    name: str
    img_size: int
    tokens: int
    encoder_parameters: int
    classifier_parameters: int
    head_parameters: int
    encoder_gmacs: float
    classifier_gmacs: float


def model_complexity(name: str, **kwargs: Any) -> Complexity:
    """Parameters and multiply-adds of a named model.

    Args:
        name: one of ``gvit.list_models()``.
        **kwargs: as for ``gvit.create_model``.

    Raises:
        InputError: an unknown name or unusable arguments.
    """
    with torch.device("meta"):  # shapes alone: no memory for weights, no arithmetic
        model = create_model(name, **kwargs).eval()
        encoder, classifier = model.encoder, model.classifier
        encoder_gmacs = 0.0 if encoder is None else _gmacs(encoder, encoder.example())
        classifier_gmacs = _gmacs(classifier, model.tokens.example())
    head = _parameters(model.classifier.get_classifier())
    return Complexity(
        name=name,
        img_size=model.img_size,
        tokens=model.tokens.num_patches,
        encoder_parameters=0 if encoder is None else _parameters(encoder),
        classifier_parameters=_parameters(classifier) - head,
        head_parameters=head,
        encoder_gmacs=encoder_gmacs,
        classifier_gmacs=classifier_gmacs,
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _gmacs(network: nn.Module, argument: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        network(argument)
    return counter.get_total_flops() / 2e9
