"""What a model tells about itself beside its architecture and its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal, get_args

from gvit.errors import InputError, option

CropMode = Literal["center", "squash"]
Interpolation = Literal["bicubic", "bilinear", "nearest"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes the model's input; kept with the weights.

    Attributes:
        img_size: height and width of the input, pixels.
        crop_mode: ``center`` cuts a square from the middle, ``squash`` ignores the aspect ratio.
        crop_pct: share of the shorter side that the centre crop keeps.
        interpolation: of the resize.

    Raises:
        InputError: a size or share that leaves no pixel, or a way that there is not.
    """

    img_size: int
    crop_mode: CropMode = "center"
    crop_pct: float = 0.875
    interpolation: Interpolation = "bicubic"

    def __post_init__(self) -> None:
        share = isinstance(self.crop_pct, Real) and 0 < float(self.crop_pct) <= 1
        if not share or not isinstance(self.img_size, Integral) or self.img_size < 1:
            raise InputError(
                f"{option('img_size')} must be a whole number above 0 and {option('crop_pct')} above 0 and at most 1, "
                f"got {self.img_size!r} and {self.crop_pct!r}"
            )
        for name, known in (("crop_mode", CropMode), ("interpolation", Interpolation)):
            if getattr(self, name) not in get_args(known):
                raise InputError(
                    f"{option(name)} must be {', '.join(get_args(known))}, got {getattr(self, name)!r}"
                )

    @property
    def resized(self) -> int:
        """Side that an image's shorter one gets before the centre crop, pixels."""
        return round(self.img_size / self.crop_pct)

    def for_timm(self) -> dict[str, Any]:
        """The same in the words of timm's ``pretrained_cfg``; pixels stay in [0, 1]: mean 0, standard deviation 1.

        timm rounds down where ``resized`` rounds, so its ``crop_pct`` is the one that gives the same pixels.
        """
        crop_pct = 1.0
        if self.crop_mode == "center":
            crop_pct = self.img_size / self.resized
            while math.floor(self.img_size / crop_pct) < self.resized:
                crop_pct = math.nextafter(crop_pct, 0)
        return {
            "input_size": (3, self.img_size, self.img_size),
            "fixed_input_size": True,
            "interpolation": self.interpolation,
            "crop_pct": crop_pct,
            "crop_mode": self.crop_mode,
            "mean": (0.0, 0.0, 0.0),
            "std": (1.0, 1.0, 1.0),
        }


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
