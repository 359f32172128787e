"""What a model costs: parameters and multiply-adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gvit.gaussians import NUM_FIELDS
from gvit.models.gvit import GViT
from gvit.models.registry import create_model


@dataclass(frozen=True)
class Complexity:
    """Cost of one model. A patch ViT has no encoder.

    Attributes:
        name: registered name.
        img_size: height and width of the images, pixels.
        tokens: Gaussians or patches that the classifier reads; the class token is not counted.
        encoder_params: parameters of the encoder.
        classifier_params: parameters of the classifier, its head included.
        encoder_gmacs: 1e9 multiply-adds of one image's forward pass through the encoder. A multiply-add counts
            once, as in timm's tables and most papers; drawing the Gaussians is not part of a prediction.
        classifier_gmacs: the same of the classifier.
    """

    name: str
    img_size: int
    tokens: int
    encoder_params: int
    classifier_params: int
    encoder_gmacs: float
    classifier_gmacs: float


def complexity(name: str, **kwargs: Any) -> Complexity:
    """Count parameters and multiply-adds of a registered model, without computing or allocating anything.

    Args:
        name: one of ``gvit.list_models()``.
        **kwargs: as for ``gvit.create_model``.

    Raises:
        ValueError: an unknown name or unusable arguments.
    """
    with torch.device("meta"):
        model = create_model(name, **kwargs).eval()
        in_chans = (model.encoder if isinstance(model, GViT) else model).patch_embed.proj.in_channels
        images = torch.empty(1, in_chans, model.img_size, model.img_size)
        if isinstance(model, GViT):
            raw = torch.empty(1, model.encoder.num_gaussians, NUM_FIELDS)
            encoder, tokens = model.encoder, model.encoder.num_gaussians
            return Complexity(
                name,
                model.img_size,
                tokens,
                _params(encoder),
                _params(model.classifier),
                _gmacs(encoder, images),
                _gmacs(model.classifier, raw),
            )
        patches = model.patch_embed.num_patches
        return Complexity(name, model.img_size, patches, 0, _params(model), 0.0, _gmacs(model, images))


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def _gmacs(network: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter:
        network(inputs)
    return counter.get_total_flops() / 2e9
