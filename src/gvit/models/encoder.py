"""Image -> Gaussians in one forward pass (GViT paper, Section 2.2)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from timm.layers import PatchEmbed, build_sincos2d_pos_embed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.models.init import init_linear

EncoderKind = Literal["denoising", "queries"]


class GaussianEncoder(nn.Module):
    """A ViT over patch tokens and K Gaussian tokens; an MLP reads the Gaussians off the latter.

    ``denoising``: the Gaussian tokens are K raw Gaussians drawn at random, ``g0 = noise_std * noise``, embedded
    linearly; the MLP predicts a residual, ``g = g0 + delta``. Outside of training g0 is a fixed draw kept with the
    weights, the same for every image, so that predictions repeat exactly. ``queries``: K learned tokens; the MLP
    predicts g itself.

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of a patch, pixels.
        in_chans: image channels.
        num_gaussians: K.
        embed_dim: width of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP, in units of embed_dim.
        kind: ``denoising`` or ``queries``.
        scale_factor: c, the bound on the standard deviations (paper, Table 1a).
        noise_std: standard deviation of g0.
        noise_seed: seed of the fixed g0.
    """

    noise: Tensor

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_gaussians: int = 512,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        kind: EncoderKind = "denoising",
        scale_factor: float = 1.0,
        noise_std: float = 0.1,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("denoising", "queries"):
            raise ValueError(f"encoder kind must be 'denoising' or 'queries', got {kind!r}")
        self.kind = kind
        self.num_gaussians = num_gaussians
        self.scale_factor = scale_factor
        self.noise_std = noise_std
        self.grad_checkpointing = False
        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.patch_pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, embed_dim))
        # for 'queries' the position embeddings are the queries
        self.gaussian_pos_embed = nn.Parameter(torch.empty(1, num_gaussians, embed_dim))
        if kind == "denoising":
            self.gaussian_embed = nn.Linear(NUM_FIELDS, embed_dim)
            generator = torch.Generator().manual_seed(noise_seed)
            self.register_buffer("noise", torch.randn(num_gaussians, NUM_FIELDS, generator=generator))
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(embed_dim)
        last = nn.Linear(embed_dim, NUM_FIELDS)
        self.head = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.GELU(), last)
        self.apply(init_linear)
        # Learned, but from where the geometry is known: from small random numbers the encoder takes longer to find
        # out where its patches are (docs/experiments.md).
        with torch.no_grad():
            sincos = build_sincos2d_pos_embed(list(self.patch_embed.grid_size), embed_dim)
            self.patch_pos_embed.copy_(sincos)
        nn.init.normal_(self.gaussian_pos_embed, std=0.3 if kind == "denoising" else 1.0)
        if kind == "denoising":
            # training starts from g = g0; with queries all Gaussians would start as one
            nn.init.zeros_(last.weight)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {"patch_pos_embed", "gaussian_pos_embed"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep one activation per block in training and compute the others again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(
        self, images: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch k 9"] | None = None
    ) -> Float[Tensor, "batch k 9"]:
        """Raw Gaussians of images with values in [0, 1].

        Args:
            images: of the size that the encoder was built for.
            noise: standard normal numbers, a draw per image (``denoising`` in training); None takes the fixed one.
        """
        patches = self.patch_embed(images * 2 - 1) + self.patch_pos_embed
        tokens = self.gaussian_pos_embed.expand(len(images), -1, -1)
        start = None
        if self.kind == "denoising":
            start = self.noise_std * (self.noise.expand(len(images), -1, -1) if noise is None else noise)
            tokens = tokens + self.gaussian_embed(start)
        tokens = torch.cat((patches, tokens), 1)
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        prediction = self.head(self.norm(tokens[:, patches.shape[1] :]))
        return prediction if start is None else start + prediction

    def gaussians(self, raw: Float[Tensor, "batch k 9"], aspect: float = 1.0) -> Gaussians:
        """The meaning of this encoder's raw numbers."""
        return Gaussians(raw, self.scale_factor, self.num_gaussians, aspect)
