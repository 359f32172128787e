"""What the transformers over Gaussians and over patches have in common, so that comparing them is fair."""

from __future__ import annotations

from typing import Any, Literal, get_args

from timm.models.vision_transformer import VisionTransformer

from gvit.errors import InputError
from gvit.models.init import init_linear

Pool = Literal["token", "avg"]


class ViT(VisionTransformer):
    """timm's ``VisionTransformer`` with the paper's initial weights.

    Args:
        pool: ``token`` for a class token, ``avg`` for the mean over all tokens.
        **kwargs: of timm's class.

    Raises:
        InputError: an unknown pool.
    """

    def __init__(self, pool: Pool, **kwargs: Any) -> None:
        if pool not in get_args(Pool):
            raise InputError(f"pool must be 'token' or 'avg', got {pool!r}")
        super().__init__(global_pool=pool, class_token=pool == "token", **kwargs)
        self.apply(init_linear)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head; 0 classes for none.

        Raises:
            InputError: a pool other than the model's own, for which it has its class token and its last norm.
        """
        if global_pool not in (None, self.global_pool):
            raise InputError(
                f"pool {self.global_pool!r} can't become {global_pool!r} afterwards; create the model with it"
            )
        super().reset_classifier(num_classes)
        self.head.apply(init_linear)  # timm leaves it as torch draws it

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Layers for timm's ``param_groups_layer_decay``: embedding, blocks, last norm with the head.

        The published decays count layers as BEiT and MAE do; timm has the last norm with the last block if there
        is a class token, and with the head if there is none.
        """
        return {
            "stem": r"^(?:cls_token|pos_embed|patch_embed)",
            "blocks": r"^blocks\." if coarse else [(r"^blocks\.(\d+)", None)],
        }
