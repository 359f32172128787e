"""What bounds the values of Gaussians: from values to raw numbers, and a warning where a bound cuts them."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gvit.errors import InputError
from gvit.gaussians.fields import COLUMNS, VISIBLE_OPACITY

# Bounded values are kept this far from their bounds (relative), where the raw numbers would be infinite.
# float32's 1 - 6e-8 is the largest number below 1: stay well clear of it.
_INSIDE = 1e-6

# A bound changes a picture materially above these: scales and centres in units of the largest scale and of the
# spacing, colours and opacities as they are.
_CUT_SCALE, _CUT_CENTER, _CUT_COLOR = 0.01, 0.01, 1e-3

# Gaussians that an image may be asked to have: one digit too many is told before memory is.
MOST_GAUSSIANS = 10**7
# Squares of sizes in pixels have to stay in float32's range.
_LARGEST = 1e9


@dataclass(frozen=True)
class Bounds:
    """What the bounded values of Gaussians are measured by; the attributes are those of ``Gaussians``.

    Raises:
        InputError: an attribute is not positive, or beyond what float32 can draw, or ``nominal_count`` is no whole
            number.
    """

    scale_factor: float
    nominal_count: int
    aspect: float

    def __post_init__(self) -> None:
        if not self.scale_factor > 0 or not self.aspect > 0 or not self.nominal_count >= 1:
            raise InputError(
                "scale_factor, aspect and nominal_count must be positive, got "
                f"{self.scale_factor}, {self.aspect}, {self.nominal_count}"
            )
        largest = max(self.scale_factor, self.aspect, 1 / self.aspect, self.nominal_count)
        if self.scale_factor < 1 / _LARGEST or largest > _LARGEST:
            raise InputError(
                f"scale_factor and aspect must be {1 / _LARGEST:g} to {_LARGEST:g} and nominal_count at most that, got "
                + ", ".join(map(reprlib.repr, (self.scale_factor, self.aspect, self.nominal_count)))
            )

        if self.nominal_count % 1:
            raise InputError(f"nominal_count must be a whole number, got {self.nominal_count}")

    def replace(self, scale_factor: float | None, nominal_count: int | None, aspect: float | None) -> Bounds:
        """The same where an argument is None."""
        return Bounds(
            self.scale_factor if scale_factor is None else scale_factor,
            self.nominal_count if nominal_count is None else nominal_count,
            self.aspect if aspect is None else aspect,
        )

    @property
    def extent(self) -> tuple[float, float]:
        return min(1.0, 1 / self.aspect), min(1.0, self.aspect)

    @property
    def spacing(self) -> float:
        extent_x, extent_y = self.extent
        return 2 * math.sqrt(extent_x * extent_y / self.nominal_count)

    @property
    def largest_scale(self) -> float:
        """Canvas units."""
        return self.scale_factor * self.spacing

    def to_raw(
        self, centers: Tensor, scales: Tensor, angles: Tensor, colors: Tensor, opacities: Tensor
    ) -> Float[Tensor, "*batch k 9"]:
        """Raw numbers of bounded values; values on or beyond a bound are moved just inside it."""
        values = (centers, scales, angles, colors, opacities)
        fields = zip(COLUMNS, values, strict=True)
        return torch.cat([self.field_to_raw(name, value) for name, value in fields], -1)

    def field_to_raw(self, name: str, values: Tensor) -> Tensor:
        """The raw columns of one bounded property, [..., K, 1 to 3]."""
        values = _as_floats(values)
        if name == "angles":
            return values.unsqueeze(-1)
        if values.dtype.itemsize < 4:  # in which a number just inside a bound is the bound
            return self.field_to_raw(name, values.float()).to(values.dtype)
        if name == "centers":
            position = values / values.new_tensor(self.extent)
            return position.clamp(-1 + _INSIDE, 1 - _INSIDE).atanh()
        if name == "scales":
            values = values / self.largest_scale
        if name == "opacities":
            values = values.unsqueeze(-1)
        return values.clamp(_INSIDE, 1 - _INSIDE).logit()

    def warn_if_cut(self, opacities: Tensor, values: Mapping[str, Tensor], remedy: str) -> None:
        """Warn the caller's caller where a bound changes values materially; see ``Gaussians.from_values``.

        Args:
            opacities: [..., K]; only scales, centres and colours of visible Gaussians count.
            values: bounded values by the names of their properties.
            remedy: what would keep the scales, with a place for the scale factor.
        """
        if torch.compiler.is_compiling():
            return
        visible = opacities >= VISIBLE_OPACITY
        values = {name: _as_floats(value) for name, value in values.items()}
        cut = self._cut(visible, values)
        if not cut:
            return
        try:
            total, *counts = torch.stack([mask.sum() for mask in (visible, *cut.values())]).tolist()
        except RuntimeError:  # within vmap or on the meta device there are no numbers to look at
            return
        number = dict(zip(cut, counts, strict=True))
        found = []
        if number.get("above"):
            needed = values["scales"].amax(-1)[cut["above"]].max().item() / self.spacing
            keep = f"; {remedy.format(_round_up(needed))} would keep them" if math.isfinite(needed) else ""
            found.append(
                f"{number['above']} of {total} visible Gaussians have scales above the bound, "
                f"scale_factor * spacing = {self.largest_scale:.4g}, and are cut to it{keep}"
            )
        if number.get("negative"):
            found.append(
                f"{number['negative']} of {total} visible Gaussians have negative scales, which become 0"
            )
        if number.get("centers"):
            extent_x, extent_y = self.extent
            found.append(
                f"{number['centers']} of {total} visible Gaussians lie beyond the canvas, |x| <= {extent_x:.4g} and "
                f"|y| <= {extent_y:.4g} for aspect={self.aspect:.4g}, and are moved to its border; "
                "the aspect must be height / width of their own image"
            )
        for name in ("colors", "opacities"):
            if number.get(name):
                found.append(f"{number[name]} Gaussians have {name} outside [0, 1], which are cut to it")
        if found:
            warnings.warn(". ".join(found), UserWarning, stacklevel=3)

    def _cut(self, visible: Tensor, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Which Gaussians a bound changes materially, [..., K], by what it cuts."""
        cut = {}
        if "scales" in values:
            fraction = values["scales"] / self.largest_scale
            cut["above"] = visible & (fraction > 1 + _CUT_SCALE).any(-1)
            cut["negative"] = visible & (fraction < -_CUT_SCALE).any(-1)
        if "centers" in values:
            centers = values["centers"]
            beyond = centers.abs() - centers.new_tensor(self.extent)
            cut["centers"] = visible & (beyond > _CUT_CENTER * self.spacing).any(-1)
        if "colors" in values:
            cut["colors"] = visible & ((values["colors"] - 0.5).abs() > 0.5 + _CUT_COLOR).any(-1)
        if "opacities" in values:
            cut["opacities"] = (values["opacities"] - 0.5).abs() > 0.5 + _CUT_COLOR
        return cut


def _as_floats(values: Tensor) -> Tensor:
    """Whole numbers as floats: what is reckoned in their type would be cut to whole numbers."""
    return values if values.is_floating_point() else values.float()


def rescale(raw: Float[Tensor, "*batch k 2"], ratio: float) -> Float[Tensor, "*batch k 2"]:
    """Raw scales of the same standard deviations under another largest scale: the old one is ``ratio`` times the new.

    Each becomes the inverse sigmoid of the standard deviation in units of the new bound.
    """
    # logarithms hold the smallest scales, which sigmoids would lose
    log_fraction = F.logsigmoid(raw) + math.log(ratio)
    log_fraction = log_fraction.clamp_max(math.log1p(-_INSIDE))
    return log_fraction - (-log_fraction.expm1()).log()


def _round_up(value: float) -> float:
    """To three significant digits."""
    digits = 2 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits
