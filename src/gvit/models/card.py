"""What a model tells about itself beside its architecture and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


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
    """What is needed, beside the model, to use it on files and to read its answers.

    Attributes:
        name: registered name; empty for a model that was built directly.
        preprocessing: how image files become inputs.
        class_names: in the order of the logits; empty where unknown.
        encoder_only: the classifier has learned nothing; a file may leave it out.
    """

    name: str
    preprocessing: Preprocessing
    class_names: Sequence[str] = field(default_factory=tuple)
    encoder_only: bool = False
