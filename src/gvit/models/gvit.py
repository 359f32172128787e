"""Encoder and classifier together: an image classifier that never sees a pixel."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.errors import InputError, option
from gvit.gaussians import Gaussians
from gvit.models.base import ImageClassifier
from gvit.models.card import ModelCard
from gvit.models.encoder import DenoisingEncoder, GaussianEncoder
from gvit.models.tokens import CanonicalTokens
from gvit.models.vit import ViT


class GViT(ImageClassifier):
    """Image -> Gaussians -> logits. See ``gvit.create_model`` for the named sizes.

    Args:
        encoder: images to Gaussians; GViT-S's when None.
        classifier: a transformer over Gaussian tokens, of the encoder's number and bound; GViT-S's when None.

    Attributes:
        card: name, preprocessing and class names, kept with the weights.
        num_features: width of the tokens that ``forward_features`` gives.
        head_hidden_size: width of what the head reads.

    Raises:
        ValueError: the two don't fit together.
    """

    encoder: GaussianEncoder
    classifier: ViT

    def __init__(self, encoder: GaussianEncoder | None = None, classifier: ViT | None = None) -> None:
        super().__init__()
        self.encoder = DenoisingEncoder() if encoder is None else encoder
        ours = self.encoder
        if classifier is None:
            side = ours.image_side
            classifier = ViT(CanonicalTokens(side, ours.num_gaussians, ours.scale_factor))
        self.classifier = classifier
        tokens = classifier.patch_embed
        if tokens.reads != "gaussians":
            raise ValueError(f"the classifier must read Gaussians, got one that reads {tokens.reads}")
        made = (ours.num_gaussians, ours.scale_factor, ours.image_side)
        read = (tokens.num_patches, tokens.bounds["scale_factor"], tokens.image_side)
        if made != read:
            raise ValueError(
                f"num_gaussians, scale_factor and img_size must agree, got {made} of the encoder and {read} of the "
                "classifier's tokens"
            )
        self.num_features: int = classifier.num_features
        self.head_hidden_size: int = classifier.num_features
        self.begin_card()

    @property
    def num_classes(self) -> int:  # type: ignore[override]  # a ViT's is set by timm
        """Those of the classifier; 0 for features without a head."""
        return self.classifier.num_classes

    def encode(
        self,
        images: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch k 9"] | None = None,
        *,
        num_gaussians: int | None = None,
        looks: int | None = None,
    ) -> Gaussians:
        """Images [B, C, H, W] with values in [0, 1] as B x K Gaussians, of the images' aspect.

        Gradients reach the weights. They reach the images by way of the denoising and the query encoder only: one that
        looks at its own picture takes what it sees as given.

        Args:
            images: of the model's size, or of any where the encoder draws any number.
            noise: standard normal numbers for g0 of the denoising encoder; None takes the fixed draw kept with
                the weights.
            num_gaussians: K; None for the model's own. Only an encoder of any number takes another.
            looks: how often an encoder that looks at its own picture does; None for as often as in training.

        Raises:
            InputError: the encoder does not take another number of Gaussians or looks, or one is no whole number from
                1 to 10,000,000 Gaussians or 10,000 looks.
            ValueError: images of another size or number of channels.
        """
        if not self.encoder.any_number:
            if num_gaussians not in (None, self.encoder.num_gaussians) or looks is not None:
                raise InputError(
                    f"the {self.encoder.kind} encoder draws {self.encoder.num_gaussians} Gaussians at once: no other "
                    f"{option('num_gaussians')} and no {option('looks')}"
                )
            return self.encoder.gaussians(self.encoder(images, noise))
        for name, number, most in (("num_gaussians", num_gaussians, 10**7), ("looks", looks, 10**4)):
            if number is not None and not (
                isinstance(number, Integral | torch.SymInt) and 1 <= number <= most
            ):
                raise InputError(
                    f"{option(name)} must be a whole number, at least 1 and at most {most:,}, got {number}"
                )
        raw = self.encoder(images, noise, num_gaussians=num_gaussians, turns=looks)
        return self.encoder.gaussians(raw, images.shape[-2] / images.shape[-1])

    def classify(self, gaussians: Gaussians) -> Float[Tensor, "batch classes"]:
        """Logits from the Gaussians alone, the model's own or any others; see ``ViT.classify``.

        Warns:
            UserWarning: the model is an encoder alone, whose classifier has learned nothing.
        """
        if self.card.encoder_only and not torch.compiler.is_compiling():
            warnings.warn(
                f"{self.card.name} is an encoder alone: its classifier has learned nothing, and is another each time "
                "that it is loaded",
                UserWarning,
                stacklevel=2,
            )
        return self.classifier.classify(gaussians)

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Logits of images with values in [0, 1]."""
        return self.classify(self.encode(images))

    def forward_with_gaussians(
        self,
        inputs: Float[Tensor, "batch c h w"],
        *,
        num_gaussians: int | None = None,
        looks: int | None = None,
    ) -> tuple[Float[Tensor, "batch classes"], Gaussians]:
        """Logits and the Gaussians that they come from; arguments as of ``encode``."""
        gaussians = self.encode(inputs, num_gaussians=num_gaussians, looks=looks)
        return self.classifier.classify(gaussians), gaussians

    # What follows is timm's contract for models, so that its tools take a GViT as they take its own.

    def forward_features(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch n d"]:
        """The classifier's tokens, the class token first where there is one; their mean is normed after it is taken."""
        return self.classifier.forward_features(self.tokens.conform(self.encode(images)))

    def forward_head(
        self, features: Float[Tensor, "batch n d"], pre_logits: bool = False
    ) -> Float[Tensor, "batch out"]:
        """Logits from ``forward_features``, or what the head reads if ``pre_logits``."""
        return self.classifier.forward_head(features, pre_logits=pre_logits)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """Width, name and spacing in pixels of what each block gives."""
        return [info | {"module": f"classifier.{info['module']}"} for info in self.classifier.feature_info]

    def forward_intermediates(
        self, images: Float[Tensor, "batch c h w"], indices: int | Sequence[int] | None = None, **kwargs: Any
    ) -> Any:
        """The classifier's tokens after some of its blocks, [B, K, D] each; arguments as of ``ViT``."""
        gaussians = self.tokens.conform(self.encode(images))
        return self.classifier.forward_intermediates(gaussians, indices, **kwargs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what ``forward_intermediates`` of these needs no more; returns the blocks' indices."""
        wanted = self.classifier.prune_intermediate_layers(indices, prune_norm, prune_head)
        self.card: ModelCard = replace(
            self.card, class_names=self.card.class_names if self.num_classes else ()
        )
        return wanted

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, with the card brought up to date; 0 classes for none.

        Raises:
            InputError: a pool other than the model's own, for which it has its class token and its last norm.
        """
        self.classifier.reset_classifier(num_classes, global_pool)
        self.forget_classes()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()} | {
            f"classifier.{name}" for name in self.classifier.no_weight_decay()
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for timm's ``param_groups_layer_decay``: those of the classifier, the encoder with the first."""
        return {
            "stem": r"^(?:encoder\.|classifier\.(?:cls_token|pos_embed|patch_embed))",
            "blocks": r"^classifier\.blocks\." if coarse else [(r"^classifier\.blocks\.(\d+)", None)],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: activations inside blocks are computed again when needed."""
        self.encoder.set_grad_checkpointing(enable)
        self.classifier.set_grad_checkpointing(enable)
