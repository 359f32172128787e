"""Encoder and classifier together: an image classifier that never sees a pixel."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import Gaussians
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.classifier import GaussianClassifier, TokenKind
from gvit.models.encoder import EncoderKind, GaussianEncoder
from gvit.models.patch import check_images


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
        pool: Literal["token", "avg"] = "token",
        encoder_dim: int = 384,
        encoder_depth: int = 12,
        encoder_heads: int = 6,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        noise_std: float = 0.5,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.card = ModelCard("", {}, Preprocessing(img_size))
        self.img_size = img_size
        self.num_classes = num_classes
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
        check_images(images, self.encoder.patch_embed.proj.in_channels, self.img_size)
        return self.encoder.gaussians(self.encoder(images, noise))

    def classify(self, gaussians: Gaussians) -> Float[Tensor, "batch classes"]:
        """Logits from the Gaussians alone."""
        return self.classifier(gaussians.raw)

    def forward(self, images: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"]:
        """Logits of images with values in [0, 1]."""
        return self.classify(self.encode(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute both networks' activations again in the backward pass instead of keeping them."""
        self.encoder.set_grad_checkpointing(enable)
        self.classifier.set_grad_checkpointing(enable)
