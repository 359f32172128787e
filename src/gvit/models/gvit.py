"""Encoder and classifier together: an image classifier that never sees a pixel."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import Gaussians
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.classifier import GaussianClassifier, TokenKind
from gvit.models.encoder import EncoderKind, GaussianEncoder
from gvit.models.inputs import check_image_shape
from gvit.models.vit import Pool


class GViT(nn.Module):
    """Image -> Gaussians -> logits. See ``gvit.create_model`` for the named sizes.

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of the encoder's patches, pixels.
        in_chans: image channels; the Gaussians carry red, green and blue.
        num_classes: number of classes.
        num_gaussians: K.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing (paper, Table 1a).
        encoder: ``denoising`` or ``queries`` (paper, Section 3).
        tokens: ``canonical`` (what is drawn, and nothing else) or ``raw`` (the paper's nine numbers).
        pool: ``token`` or ``avg``.
        encoder_dim: width of the encoder.
        encoder_depth: blocks of the encoder.
        encoder_heads: attention heads of the encoder.
        embed_dim: width of the classifier.
        depth: blocks of the classifier.
        num_heads: attention heads of the classifier.
        mlp_ratio: hidden width of the MLPs in both, in units of their width.
        drop_path_rate: stochastic depth of the classifier.
        noise_std: standard deviation of the denoising encoder's g0.
        noise_seed: seed of the fixed g0 that is used outside of training.

    Attributes:
        card: name, arguments, preprocessing and class names, kept with the weights.
        num_features: width of the tokens that ``forward_features`` gives.
        head_hidden_size: width of what the head reads.
    """

    card: ModelCard

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        num_gaussians: int = 512,
        scale_factor: float = 1.0,
        encoder: EncoderKind = "denoising",
        tokens: TokenKind = "canonical",
        pool: Pool = "token",
        encoder_dim: int = 384,
        encoder_depth: int = 12,
        encoder_heads: int = 6,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        noise_std: float = 0.1,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.card = ModelCard("", {}, Preprocessing(img_size))
        self.img_size = img_size
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = embed_dim
        self.encoder = GaussianEncoder(
            img_size=img_size,
            patch_size=patch_size,
            in_chans=in_chans,
            num_gaussians=num_gaussians,
            embed_dim=encoder_dim,
            depth=encoder_depth,
            num_heads=encoder_heads,
            mlp_ratio=mlp_ratio,
            kind=encoder,
            scale_factor=scale_factor,
            noise_std=noise_std,
            noise_seed=noise_seed,
        )
        self.classifier = GaussianClassifier(
            num_gaussians=num_gaussians,
            num_classes=num_classes,
            tokens=tokens,
            pool=pool,
            scale_factor=scale_factor,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
        )

    def encode(
        self, images: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch k 9"] | None = None
    ) -> Gaussians:
        """Images [B, C, H, W] with values in [0, 1], of the model's size, as B x K Gaussians.

        Args:
            images: the images.
            noise: standard normal numbers for g0 of the denoising encoder; None takes the fixed draw kept with
                the weights.

        Raises:
            ValueError: images of another size or number of channels.
        """
        check_image_shape(images, self.encoder.patch_embed.proj.in_channels, self.img_size)
        return self.encoder.gaussians(self.encoder(images, noise))

    def classify(self, gaussians: Gaussians) -> Float[Tensor, "batch classes"]:
        """Logits from the Gaussians alone."""
        return self.classifier(gaussians.raw)

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Logits of images with values in [0, 1]."""
        return self.classify(self.encode(images))

    # What follows is timm's contract for models, so that its tools take a GViT as they take its own.

    def forward_features(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch n d"]:
        """The classifier's normed tokens, the class token first where there is one."""
        return self.classifier.forward_features(self.encode(images).raw)

    def forward_head(
        self, features: Float[Tensor, "batch n d"], pre_logits: bool = False
    ) -> Float[Tensor, "batch out"]:
        """Logits from ``forward_features``, or what the head reads if ``pre_logits``."""
        return self.classifier.forward_head(features, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, with the card brought up to date; 0 classes for none.

        Raises:
            InputError: a pool other than the model's own, for which it has its class token and its last norm.
        """
        self.classifier.reset_classifier(num_classes, global_pool)
        self.num_classes = num_classes
        self.card = self.card.with_classes(num_classes)

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
