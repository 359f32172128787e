"""What a model file tells about itself beside its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the model's input; kept with the weights.

    Attributes:
        img_size: height and width of the input, pixels.
        crop_mode: ``center`` cuts a square from the middle, ``squash`` ignores the aspect ratio.
        crop_pct: share of the shorter side that the centre crop keeps.
        interpolation: of the resize.
    """

    img_size: int
    crop_mode: Literal["center", "squash"] = "center"
    crop_pct: float = 0.875
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to build a model again and to read its answers.

    Attributes:
        name: registered name.
        kwargs: what ``create_model`` was called with.
        preprocessing: how image files become inputs.
        class_names: in the order of the logits; empty where unknown.
    """

    name: str
    kwargs: dict[str, Any]
    preprocessing: Preprocessing
    class_names: Sequence[str] = field(default_factory=tuple)

    def with_classes(self, num_classes: int) -> ModelCard:
        """The card of the same model with a new head, whose classes have no names yet."""
        return replace(self, kwargs={**self.kwargs, "num_classes": num_classes}, class_names=())
