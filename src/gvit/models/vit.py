"""One transformer over anything that can be made into tokens, so that comparing what it reads is fair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.base import ImageClassifier
from gvit.models.init import init_linear
from gvit.models.tokens import Tokenizer

Pool = Literal["token", "avg"]


class ViT(ImageClassifier, VisionTransformer):
    """timm's ``VisionTransformer`` over tokens of patches or of Gaussians, with the paper's initial weights.

    Position embeddings are learned, by index, unless the tokens tell their own places.

    Args:
        tokens: stands where a ViT has its patch embedding, and determines the width.
        num_classes: 0 for features without a head.
        pool: ``token`` for a class token, ``avg`` for the mean over all tokens.
        depth: number of transformer blocks.
        num_heads: attention heads.
        mlp_ratio: hidden width of a block's MLP, in units of the width.
        drop_path_rate: stochastic depth.
        drop_rate: dropout before the head, in training.

    Raises:
        InputError: an unknown pool, or tokens that read Gaussians and don't tell in which bounds.
    """

    encoder: None
    patch_embed: Tokenizer

    def __init__(
        self,
        tokens: Tokenizer,
        num_classes: int = 1000,
        pool: Pool = "token",
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        drop_rate: float = 0.0,
    ) -> None:
        if pool not in get_args(Pool):
            raise InputError(f"pool must be 'token' or 'avg', got {pool!r}")
        if tokens.reads == "gaussians" and not {"scale_factor", "nominal_count"} <= tokens.bounds.keys():
            raise InputError(
                f"tokens {tokens.kind!r} read Gaussians and need the property bounds (scale_factor, nominal_count); "
                "gvit.models.tokens.GaussianTokens is a base that has it"
            )
        kept = {name: tensor.clone() for name, tensor in tokens.state_dict().items()}
        VisionTransformer.__init__(
            self,
            img_size=tokens.image_side,
            num_classes=num_classes,
            global_pool=pool,
            class_token=pool == "token",
            embed_dim=tokens.embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            drop_rate=drop_rate,
            pos_embed="none" if tokens.any_number else "learn",
            embed_layer=lambda **_: tokens,
        )
        self.apply(init_linear)
        if not tokens.starts_with_vit:
            tokens.load_state_dict(kept)
        self.encoder = None
        if tokens.reads == "gaussians":  # which lie on no grid: as far apart as they are on average
            apart = round(tokens.image_side / tokens.num_patches**0.5)
            self.feature_info: list[dict[str, Any]] = [
                info | {"reduction": max(1, apart)} for info in self.feature_info
            ]
        self.begin_card()

    @property
    def classifier(self) -> ViT:
        """Itself."""
        return self

    def _pos_embed(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            return VisionTransformer._pos_embed(self, x)
        # older timm leaves the class token out
        return x if self.cls_token is None else torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), 1)

    def classify(self, gaussians: Gaussians) -> Float[Tensor, "batch classes"]:
        """Logits of a batch of Gaussians, raw [B, K, 9], of any bounds and aspect.

        Others than the model's own are converted: the same picture in the model's bounds, stretched onto its square
        canvas as ``gvit.render`` does. A removed Gaussian (``gaussians[:, keep]``, ``gaussians.drop(mask)``) is read
        as one that is not drawn; where any number is read, see ``Tokenizer.in_slots``.

        Raises:
            InputError: the model reads no Gaussians, or fewer than these.
        """
        if not isinstance(gaussians, Gaussians):
            raise InputError(f"gaussians must be gvit.Gaussians, got {type(gaussians).__name__}")
        return self(self.patch_embed.conform(gaussians))

    def forward_intermediates(  # type: ignore[override]  # timm has more to choose
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str | None = None,
        intermediates_only: bool = False,
        attn_mask: Tensor | None = None,
    ) -> Any:
        """Tokens after some of the blocks, as timm's models give them.

        Args:
            inputs: what ``forward`` takes.
            indices: of the blocks, or how many of the last ones; None for all.
            return_prefix_tokens: each as a pair, of the tokens and of the class token.
            norm: with the last norm.
            stop_early: without the blocks after the last that is wanted.
            output_fmt: ``NLC`` for tokens [B, N, D]; ``NCHW`` for a map [B, D, H, W], of patches alone, whose default
                it is.
            intermediates_only: the list alone; otherwise the last block's normed tokens and the list.
            attn_mask: of the attention, which tokens a token sees, as timm's blocks take it.

        Raises:
            InputError: a map of Gaussians, which lie on no grid.
        """
        masked: dict[str, Any] = (
            {} if attn_mask is None else {"attn_mask": attn_mask}
        )  # which older timm doesn't know
        if self.patch_embed.grid_size is not None:
            return VisionTransformer.forward_intermediates(
                *(self, inputs, _listed(indices), return_prefix_tokens, norm, stop_early),
                *(output_fmt or "NCHW", intermediates_only),
                **masked,
            )
        if output_fmt not in (None, "NLC"):
            raise InputError(f"Gaussians lie on no grid: output_fmt must be 'NLC', got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.blocks), _listed(indices))
        tokens, found = self._pos_embed(self.patch_embed(inputs)), []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False, **masked)
            else:
                tokens = block(tokens, **masked)
            if index in wanted:
                found.append(self.norm(tokens) if norm else tokens)
        prefix = self.num_prefix_tokens
        if return_prefix_tokens and prefix:
            taken: list[Any] = [(kept[:, prefix:], kept[:, :prefix]) for kept in found]
        else:
            taken = [kept[:, prefix:] for kept in found]
        return taken if intermediates_only else (self.norm(tokens), taken)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what ``forward_intermediates`` of these needs no more; returns the blocks' indices."""
        wanted, last = feature_take_indices(len(self.blocks), _listed(indices))
        self.blocks: torch.nn.Sequential = self.blocks[: last + 1]
        if prune_norm:
            self.norm: torch.nn.Module = torch.nn.Identity()
        if prune_head:
            self.fc_norm: torch.nn.Module = torch.nn.Identity()
            self.reset_classifier(0)
        return wanted

    def set_input_size(self, *args: Any, **kwargs: Any) -> None:
        """Not afterwards: what stands for an image is made for its size.

        Raises:
            InputError: always.
        """
        raise InputError(f"its size is {self.img_size} px for good; create the model with another img_size")

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        tokens = {f"patch_embed.{name}" for name in self.patch_embed.no_weight_decay()}
        return VisionTransformer.no_weight_decay(self) | tokens

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head, with the card brought up to date; 0 classes for none.

        Raises:
            InputError: a pool other than the model's own, for which it has its class token and its last norm.
        """
        if global_pool not in (None, self.global_pool):
            raise InputError(
                f"pool {self.global_pool!r} can't become {global_pool!r} afterwards; create the model with it"
            )
        VisionTransformer.reset_classifier(self, num_classes)
        self.head.apply(init_linear)  # timm leaves it as torch draws it
        self.forget_classes()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for timm's ``param_groups_layer_decay``: embedding, blocks, last norm with the head.

        The published decays count layers as BEiT and MAE do; timm has the last norm with the last block if there
        is a class token, and with the head if there is none.
        """
        return {
            "stem": r"^(?:cls_token|pos_embed|patch_embed)",
            "blocks": r"^blocks\." if coarse else [(r"^blocks\.(\d+)", None)],
        }


def _listed(indices: int | Sequence[int] | None) -> int | list[int] | None:
    return indices if indices is None or isinstance(indices, int) else list(indices)
