"""Image -> Gaussians in one forward pass by a ViT (GViT paper, Section 2.2)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.layers import build_sincos2d_pos_embed
from timm.models import checkpoint_seq
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS
from gvit.models.encoder.base import Drawing, GaussianEncoder
from gvit.models.init import init_linear
from gvit.models.tokens import PatchTokens


class ViTEncoder(GaussianEncoder):
    """A ViT over patch tokens and K Gaussian tokens; an MLP reads the Gaussians off the latter.

    A kind is a subclass with ``start`` and with what that needs.

    Args:
        img_size: height and width of the images, pixels.
        patch_size: side of a patch, pixels.
        in_chans: image channels.
        num_gaussians: K.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing (paper, Table 1a).
        embed_dim: width of the tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP, in units of embed_dim.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_gaussians: int = 512,
        scale_factor: float = 1.0,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:  # said by the names that create_model takes, and by it of its model
            raise ValueError(f"encoder_dim={embed_dim} is no multiple of encoder_heads={num_heads}")
        self.num_gaussians = num_gaussians
        self.scale_factor = scale_factor
        self.grad_checkpointing = False
        self.patch_embed = PatchTokens(img_size, patch_size, in_chans, embed_dim)
        self.patch_pos_embed = nn.Parameter(torch.empty(1, self.patch_embed.num_patches, embed_dim))
        self.gaussian_pos_embed = nn.Parameter(torch.empty(1, num_gaussians, embed_dim))
        self.add_start(embed_dim)
        self.blocks = nn.Sequential(
            *(
                Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, norm_layer=nn.LayerNorm)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Sequential(
            nn.Linear(embed_dim, embed_dim), nn.GELU(), nn.Linear(embed_dim, NUM_FIELDS)
        )
        self.apply(init_linear)
        # Learned, but from where the geometry is known: from small random numbers the encoder takes longer to find
        # out where its patches are (docs/experiments.md).
        with torch.no_grad():
            rows_and_columns = list(self.patch_embed.grid_size)
            sincos = build_sincos2d_pos_embed(rows_and_columns, embed_dim)
            self.patch_pos_embed.copy_(sincos)

    def add_start(self, embed_dim: int) -> None:
        """Modules that ``start`` needs; their place in the order of weights is before the blocks."""

    def start(
        self, batch: int | torch.SymInt, noise: Float[Tensor, "batch k 9"] | None
    ) -> tuple[Float[Tensor, "#batch k d"], Float[Tensor, "batch k 9"] | None]:
        """The Gaussian tokens that the blocks begin with, and raw numbers to which the MLP adds, if it adds to any.

        Args:
            batch: number of images.
            noise: as in ``forward``.
        """
        raise NotImplementedError

    def geometry(self) -> list[nn.Module]:
        return [self.head]

    def no_weight_decay(self) -> set[str]:
        return {"patch_pos_embed", "gaussian_pos_embed"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep one activation per block in training and compute the others again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(
        self,
        images: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch k 9"] | None = None,
        state: Drawing | None = None,
    ) -> Float[Tensor, "batch k 9"]:
        """See ``GaussianEncoder``; there is one turn."""
        patches = self.patch_embed(images) + self.patch_pos_embed
        batch = images.shape[0]  # unlike len(), it may be any number in what is exported
        queries, base = self.start(batch, noise)
        tokens = torch.cat((patches, queries.expand(batch, -1, -1)), 1)
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        prediction = self.head(self.norm(tokens[:, patches.shape[1] :]))
        return prediction if base is None else base + prediction
