"""What every model declares of itself, so that nobody has to ask for its class."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.errors import InputError, option
from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.encoder import GaussianEncoder
from gvit.models.hub import HubMixin
from gvit.models.part import Part
from gvit.models.tokens import Reads, Tokenizer

_Part = TypeVar("_Part", bound=nn.Module)
_NAMED = 10  # classes


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode inside; after, each module in the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def without_weights(part: _Part) -> _Part:
    """A copy whose parameters and buffers have shapes only, for what another process is to know of a part."""
    tensors = [*part.parameters(), *part.buffers()]
    memo: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    return copy.deepcopy(part, memo)


class ImageClassifier(HubMixin, Part, nn.Module):
    """A transformer over tokens, alone or behind an encoder that makes Gaussians of images.

    Attributes:
        card: name, preprocessing and class names, kept with the weights.
        classifier: the transformer, which gives logits; the model itself where there is nothing else.
        encoder: images to Gaussians; None for a model that reads its inputs as they are.
        num_classes: 0 for features without a head.
    """

    card: ModelCard
    classifier: Any  # gvit.models.vit.ViT, which has this class among its bases
    encoder: GaussianEncoder | None
    num_classes: int

    if TYPE_CHECKING:  # a ViT has it from timm, which comes later among its bases

        def set_grad_checkpointing(self, enable: bool = True) -> None: ...

    @property
    def tokens(self) -> Tokenizer:
        """What the transformer reads."""
        return self.classifier.patch_embed

    @property
    def reads(self) -> Reads:
        """Whether inputs are images [B, C, H, W] in [0, 1] or raw Gaussians [B, K, 9]."""
        return self.tokens.reads if self.encoder is None else "images"

    @property
    def img_size(self) -> int:
        """Height and width, pixels, of the images that it reads, or that its Gaussians stand for."""
        return self.tokens.image_side

    def forward_with_gaussians(
        self,
        inputs: Float[Tensor, "batch ..."],
        *,
        num_gaussians: int | None = None,
        looks: int | None = None,
    ) -> tuple[Float[Tensor, "batch classes"], Gaussians | None]:
        """Logits, and the Gaussians that the model made of the images, if it makes any.

        Args:
            inputs: what the model reads.
            num_gaussians: see ``GViT.encode``.
            looks: see ``GViT.encode``.

        Raises:
            InputError: a number of Gaussians or of looks that the model can't make.
        """
        self.check_makes_none(num_gaussians, looks)
        return self(inputs), None

    def check_makes_none(self, num_gaussians: int | None, looks: int | None) -> None:
        """For a model without an encoder.

        Raises:
            InputError: a number of the Gaussians or of the looks of an encoder is given.
        """
        for name, number in (("num_gaussians", num_gaussians), ("looks", looks)):
            if number is not None:
                raise InputError(f"{self.card.name} makes no Gaussians: {option(name)} has no meaning for it")

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """What timm wants to know of a model: its input and how images become that, its classes, its head."""
        name, _, tag = self.card.name.partition(".")
        return {
            "architecture": name,
            **({"tag": tag} if tag else {}),
            **self.card.preprocessing.for_timm(),
            "num_classes": self.num_classes,
            **({"label_names": names} if (names := self._fitting_names()) else {}),
            "first_conv": None,
            "classifier": "head" if self.encoder is None else "classifier.head",
        }

    def _fitting_names(self) -> tuple[str, ...]:
        """The card's, but not those of a head that was replaced by hand."""
        return tuple(self.card.class_names) if len(self.card.class_names) == self.num_classes else ()

    @property
    def default_cfg(self) -> dict[str, Any]:
        """``pretrained_cfg`` by its older name."""
        return self.pretrained_cfg

    def facts(self) -> dict[str, str]:
        """What it is, in words: name, parameters, input, Gaussians, classes and preprocessing."""
        names, seen, side = self._fitting_names(), self.card.preprocessing, self.img_size
        parts = {"encoder": self.encoder, "classifier": self.classifier} if self.encoder is not None else {}
        sizes = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
        apart = f" ({', '.join(f'{part} {size:,}' for part, size in sizes.items())})" if sizes else ""
        some = f": {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}" if names else ""
        drawn = self.encoder if self.encoder is not None else self.tokens
        count = drawn.num_gaussians if self.encoder is not None else self.tokens.num_patches
        usual = f"{count} an image{', or any other number' if drawn.any_number else ''}"
        patches = self.encoder is None and self.reads == "images"
        reads = f"images [B, 3, {side}, {side}], values in [0, 1]"
        cut = "squashed" if seen.crop_mode == "squash" else f"a centre crop of {seen.crop_pct:g}"
        return {
            "name": self.card.name or type(self).__name__,
            "parameters": f"{sum(p.numel() for p in self.parameters()):,}{apart}",
            "input": reads if self.reads == "images" else f"raw Gaussians [B, {count}, {NUM_FIELDS}]",
            "Gaussians": f"none: {count} patches an image" if patches else usual,
            "classes": "none: an encoder"
            if self.card.encoder_only
            else f"{self.num_classes or 'none'}{some}",
            "preprocessing": f"{cut}, {seen.img_size} x {seen.img_size} pixels, {seen.interpolation}",
        }

    def _repr_html_(self) -> str:
        """``facts`` as a table, for a notebook."""
        rows = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self.facts().items())
        return f"<table>{''.join(rows)}</table>"

    def geometry(self) -> list[nn.Module]:
        """Modules that compute with Gaussians as numbers: half precision has too few digits for them."""
        return [*([] if self.encoder is None else self.encoder.geometry()), *self.tokens.geometry()]

    def begin_card(self, name: str = "") -> None:
        """A new card: of this name, with the preprocessing of its size and classes without names."""
        self.card = ModelCard(name, Preprocessing(self.img_size))

    def forget_classes(self) -> None:
        """For a new head, which is there to be trained: its classes have no names yet."""
        self.card = replace(self.card, class_names=(), encoder_only=False)
