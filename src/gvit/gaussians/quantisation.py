"""Gaussians in a few bits a number: which values there are, and the nearest one.

Each field has ``2^bits`` values at equal steps, the first and the last of them at the ends of its range:

=======  =====================================================  ==========================================
field    what is in equal steps                                 range
=======  =====================================================  ==========================================
centre   the bounded centre                                     the canvas
scale    ``log(scale / spacing + 0.05)``                        of all scales of the image
angle    the angle, whose last value is followed by its first   half a turn, -pi/2 to pi/2
colour   the bounded colour                                     0 to 1
opacity  the bounded opacity                                    0 to 1
=======  =====================================================  ==========================================

Below a twentieth of the spacing, scales hardly change a picture: the renderer's blur is wider.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from gvit.errors import InputError, option
from gvit.gaussians.bounds import Bounds
from gvit.gaussians.fields import ANGLE, CENTER, COLOR, OPACITY, SCALE

MIN_BITS, MAX_BITS = 2, 12  # of the one number that all depths follow from
_DEEPEST = 16
_SMALL = 0.05  # of the spacing


@dataclass(frozen=True)
class BitDepths:
    """Bits of each number of a field, 1 to 16.

    Raises:
        InputError: one is out of its range, or not a whole number.
    """

    centers: int
    scales: int
    angles: int
    colors: int
    opacities: int

    def __post_init__(self) -> None:
        if not all(isinstance(depth, Integral) and 1 <= int(depth) <= _DEEPEST for depth in astuple(self)):
            raise InputError(f"every field has a whole number of bits, 1 to {_DEEPEST}, got {self}")
        for name, depth in vars(self).items():
            object.__setattr__(self, name, int(depth))  # 1 << np.uint8(9) is 0

    def __iter__(self) -> Iterator[int]:
        """Of the nine numbers, in the order of ``FIELDS``."""
        repeats = (2, 2, 1, 3, 1)
        return (depth for depth, times in zip(astuple(self), repeats, strict=True) for _ in range(times))

    @classmethod
    def of(cls, bits: int, nominal_count: int) -> BitDepths:
        """A sound split for one number: each field's error then costs the picture about as much as the others'.

        Args:
            bits: of scales and colours, 2 to 12; angles get one more, opacities two fewer.
            nominal_count: of the Gaussians. Centres get as many more bits as it takes to count the spacings across
                the canvas, less one.

        Raises:
            InputError: bits are out of their range.
        """
        check_bits(bits)
        across = round(math.log2(nominal_count) / 2)
        centers = min(bits + max(across - 1, 0), _DEEPEST)
        return cls(centers, bits, bits + 1, bits, max(bits - 2, 1))


@dataclass(frozen=True)
class Grid:
    """The values that each number can have.

    Attributes:
        bounds: of the Gaussians.
        depths: bits of each number.
        low: [..., 1, 1], smallest of the logarithms of an image's scales, see the table above.
        high: [..., 1, 1], largest of them.
    """

    bounds: Bounds
    depths: BitDepths
    low: Tensor
    high: Tensor

    @classmethod
    def around(cls, raw: Float[Tensor, "*batch k 9"], bounds: Bounds, depths: BitDepths) -> Grid:
        """The grid that holds all of an image's scales; one for each of a batch."""
        scales = _log_scales(raw.detach().float(), bounds)
        if not len(scales.flatten()):
            zero = raw.new_zeros(*raw.shape[:-2], 1, 1)
            return cls(bounds, depths, zero, zero)
        # of those that are numbers; where none is, there is no range
        low, high = (scales.nan_to_num(end, math.inf, -math.inf) for end in (math.inf, -math.inf))
        low, high = low.amin((-2, -1), keepdim=True), high.amax((-2, -1), keepdim=True)
        none = low > high
        return cls(bounds, depths, low.masked_fill(none, 0), high.masked_fill(none, 0))

    def levels(self, raw: Float[Tensor, "*batch k 9"]) -> Int[Tensor, "*batch k 9"]:
        """Numbers of the nearest values, from 0."""
        raw = raw.detach().float()
        span = (self.high - self.low).clamp_min(torch.finfo(torch.float32).tiny)
        fractions = torch.cat(
            (
                (raw[..., CENTER].tanh() + 1) / 2,
                ((_log_scales(raw, self.bounds) - self.low) / span).clamp(0, 1),
                torch.remainder(raw[..., ANGLE : ANGLE + 1] / math.pi + 0.5, 1),
                raw[..., COLOR.start :].sigmoid(),
            ),
            -1,
        )
        levels = (fractions * self._steps(raw)).round().int()
        levels[..., ANGLE] %= 1 << self.depths.angles
        return levels

    def raw(self, levels: Int[Tensor, "*batch k 9"]) -> Float[Tensor, "*batch k 9"]:
        """The values with these numbers, as raw numbers."""
        fractions = levels / self._steps(self.low)
        extent = fractions.new_tensor(self.bounds.extent)
        logarithms = self.low + fractions[..., SCALE] * (self.high - self.low)
        return self.bounds.to_raw(
            (2 * fractions[..., CENTER] - 1) * extent,
            (logarithms.exp() - _SMALL) * self.bounds.spacing,
            (fractions[..., ANGLE] - 0.5) * math.pi,
            fractions[..., COLOR],
            fractions[..., OPACITY],
        )

    def _steps(self, like: Tensor) -> Float[Tensor, " 9"]:
        """From the first to the last value; of the angle, to the first again."""
        steps = [(1 << depth) - 1 for depth in self.depths]
        steps[ANGLE] += 1
        return torch.tensor(steps, dtype=torch.float32, device=like.device)


def check_bits(bits: int) -> None:
    """Raise ``InputError`` where the one number that all depths follow from is out of its range."""
    if not isinstance(bits, Integral) or not MIN_BITS <= bits <= MAX_BITS:
        raise InputError(f"{option('bits')} must be a whole number, {MIN_BITS} to {MAX_BITS}, got {bits!r}")


def quantise_raw(
    raw: Float[Tensor, "*batch k 9"], bounds: Bounds, depths: BitDepths
) -> Float[Tensor, "*batch k 9"]:
    """The nearest values, without gradient; what is NaN stays so."""
    grid = Grid.around(raw, bounds, depths)
    return torch.where(raw.isnan(), raw.detach(), grid.raw(grid.levels(raw)).to(raw.dtype))


def _log_scales(raw: Float[Tensor, "*batch k 9"], bounds: Bounds) -> Float[Tensor, "*batch k 2"]:
    return (F.sigmoid(raw[..., SCALE]) * bounds.scale_factor + _SMALL).log()
