"""The representation: nine raw, unbounded numbers per Gaussian, and the one place where they get a meaning.

Raw numbers, in this order: ``x, y, s1, s2, angle, r, g, b, opacity`` (GViT paper, Section 2.1, with the bound on
the scales of Section 2.2). Bounded values:

=======  ==============================  ===========================================================================
field    bounded value                   unit
=======  ==============================  ===========================================================================
centre   ``tanh(raw) * extent``          canvas: the longer image side spans [-1, 1]; x points right, y down
scale    ``c * sigmoid(raw) * spacing``  standard deviation in canvas units; ``spacing = 2 sqrt(ex * ey / K0)`` is
                                         the distance between K0 Gaussians laid out evenly
angle    raw                             radians, from +x towards +y, of the first axis; has period pi
colour   ``sigmoid(raw)``                [0, 1], linear in the image's own values (no gamma)
opacity  ``sigmoid(raw)``                (0, 1)
=======  ==============================  ===========================================================================
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

FIELDS = ("x", "y", "s1", "s2", "angle", "r", "g", "b", "opacity")
NUM_FIELDS = len(FIELDS)
_CENTER, _SCALE, _ANGLE, _COLOR, _OPACITY = slice(0, 2), slice(2, 4), 4, slice(5, 8), 8

# A Gaussian of lower opacity draws nothing: the renderer skips every alpha below this.
VISIBLE_OPACITY = 1 / 255


def build_covariances(
    scales: Float[Tensor, "*batch 2"], angles: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 2 2"]:
    """Covariance matrices ``R S S^T R^T`` (GViT paper, Section 2.1).

    Args:
        scales: standard deviations along the two axes, in any length unit, positive.
        angles: radians from +x towards +y of the first axis.

    Returns:
        Symmetric matrices in the unit of the scales, squared.
    """
    cos, sin = angles.cos(), angles.sin()
    first, second = scales.square().unbind(-1)
    xx = first * cos * cos + second * sin * sin
    yy = first * sin * sin + second * cos * cos
    xy = (first - second) * sin * cos
    return torch.stack((xx, xy, xy, yy), -1).unflatten(-1, (2, 2))


@dataclass(frozen=True)
class Gaussians:
    """A batch of images, each as K two-dimensional Gaussians.

    Index it like a tensor (``gaussians[0]``, ``gaussians[:, mask]``): what comes back is again ``Gaussians``.

    Attributes:
        raw: unbounded numbers in the order of ``FIELDS``, any number of leading batch dimensions.
        scale_factor: c, the largest standard deviation in units of the spacing (paper, Section 2.2 and Table 1a).
        nominal_count: K0, the number of Gaussians that defines the spacing; it stays when Gaussians are removed.
        aspect: image height divided by image width.
    """

    raw: Tensor  # [..., K, 9]; a wrong shape is for __post_init__ to explain
    scale_factor: float = 1.0
    nominal_count: int = 512
    aspect: float = 1.0

    def __post_init__(self) -> None:
        if self.raw.ndim < 2 or self.raw.shape[-1] != NUM_FIELDS:
            raise ValueError(f"raw must have shape [..., K, {NUM_FIELDS}], got {list(self.raw.shape)}")
        if not self.scale_factor > 0 or not self.aspect > 0 or self.nominal_count < 1:
            raise ValueError(
                "scale_factor, aspect and nominal_count must be positive, got "
                f"{self.scale_factor}, {self.aspect}, {self.nominal_count}"
            )

    @classmethod
    def from_values(
        cls,
        centers: Float[Tensor, "*batch k 2"],
        scales: Float[Tensor, "*batch k 2"],
        angles: Float[Tensor, "*batch k"],
        colors: Float[Tensor, "*batch k 3"],
        opacities: Float[Tensor, "*batch k"],
        *,
        scale_factor: float = 1.0,
        nominal_count: int | None = None,
        aspect: float = 1.0,
    ) -> Gaussians:
        """The inverse of the bounded properties; values on or beyond a bound are moved just inside it.

        Args:
            centers: canvas units, see the module's table.
            scales: standard deviations in canvas units, below ``scale_factor * spacing``.
            angles: radians.
            colors: in [0, 1].
            opacities: in [0, 1].
            scale_factor: as the attribute.
            nominal_count: as the attribute; K when None.
            aspect: as the attribute.
        """
        count = centers.shape[-2] if nominal_count is None else nominal_count
        empty = cls(centers.new_zeros(1, NUM_FIELDS), scale_factor, count, aspect)
        # float32's 1 - 6e-8 is the largest number below 1: stay well clear of it
        inside = 1e-6
        position = (centers / centers.new_tensor(empty.extent)).clamp(-1 + inside, 1 - inside)
        fraction = (scales / (scale_factor * empty.spacing)).clamp(inside, 1 - inside)
        parts = (
            position.atanh(),
            fraction.logit(),
            angles.unsqueeze(-1),
            colors.clamp(inside, 1 - inside).logit(),
            opacities.unsqueeze(-1).clamp(inside, 1 - inside).logit(),
        )
        return replace(empty, raw=torch.cat(parts, -1))

    def __len__(self) -> int:
        return self.raw.shape[-2]

    def __getitem__(self, index: Any) -> Gaussians:
        return self.replace_raw(self.raw[index])

    def replace_raw(self, raw: Float[Tensor, "*batch k 9"]) -> Gaussians:
        """The same canvas and scale bound with other raw numbers."""
        return replace(self, raw=raw)

    def detach(self) -> Gaussians:
        return self.replace_raw(self.raw.detach())

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """Move or cast, with the arguments of ``torch.Tensor.to``."""
        return self.replace_raw(self.raw.to(*args, **kwargs))

    @property
    def extent(self) -> tuple[float, float]:
        """Half width and half height of the canvas: the longer one is 1."""
        return min(1.0, 1 / self.aspect), min(1.0, self.aspect)

    @property
    def spacing(self) -> float:
        """Distance between ``nominal_count`` Gaussians laid out evenly, canvas units."""
        extent_x, extent_y = self.extent
        return 2 * math.sqrt(extent_x * extent_y / self.nominal_count)

    @property
    def centers(self) -> Float[Tensor, "*batch k 2"]:
        """(x, y), canvas units."""
        return self.raw[..., _CENTER].tanh() * self.raw.new_tensor(self.extent)

    @property
    def scales(self) -> Float[Tensor, "*batch k 2"]:
        """Standard deviations along the two axes, canvas units."""
        return self.raw[..., _SCALE].sigmoid() * (self.scale_factor * self.spacing)

    @property
    def angles(self) -> Float[Tensor, "*batch k"]:
        """Radians from +x towards +y of the first axis."""
        return self.raw[..., _ANGLE]

    @property
    def colors(self) -> Float[Tensor, "*batch k 3"]:
        """Red, green, blue in [0, 1]."""
        return self.raw[..., _COLOR].sigmoid()

    @property
    def opacities(self) -> Float[Tensor, "*batch k"]:
        """In (0, 1)."""
        return self.raw[..., _OPACITY].sigmoid()

    @property
    def covariances(self) -> Float[Tensor, "*batch k 2 2"]:
        """``R S S^T R^T``, canvas units squared."""
        return build_covariances(self.scales, self.angles)

    @property
    def determinants(self) -> Float[Tensor, "*batch k"]:
        """Det of the covariances: the squared product of the two standard deviations."""
        return self.scales.prod(-1).square()

    def in_pixels(
        self, height: int, width: int
    ) -> tuple[
        Float[Tensor, "*batch k 2"],
        Float[Tensor, "*batch k 2 2"],
        Float[Tensor, "*batch k 3"],
        Float[Tensor, "*batch k"],
    ]:
        """Centres, covariances, colours and opacities on a grid of ``height`` x ``width`` pixels.

        Pixel (column 0, row 0) has its centre at (0.5, 0.5). Another aspect than the Gaussians' own stretches
        them. Half precision is lifted to float32.
        """
        lifted = self.to(torch.float32) if self.raw.dtype in (torch.float16, torch.bfloat16) else self
        extent = lifted.raw.new_tensor(self.extent)
        pixels = lifted.raw.new_tensor((width, height)) / (2 * extent)
        centers = (lifted.centers + extent) * pixels
        covariances = lifted.covariances * pixels.unsqueeze(-1) * pixels
        return centers, covariances, lifted.colors, lifted.opacities

    def save(self, path: str | Path) -> None:
        """Write one safetensors file that ``load`` reads back bit by bit, whole or not at all."""
        from safetensors.torch import save

        partial = Path(f"{path}.partial")
        meta = {name: getattr(self, name) for name in ("scale_factor", "nominal_count", "aspect")}
        # safetensors' own file would be for its owner's eyes only, whatever the umask
        partial.write_bytes(
            save({"raw": self.raw.detach().cpu().contiguous()}, {"gvit.gaussians": json.dumps(meta)})
        )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> Gaussians:
        """Read what ``save`` wrote.

        Raises:
            ValueError: the file is not there, is damaged, or holds no Gaussians.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file")
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})["gvit.gaussians"])
                return cls(file.get_tensor("raw"), **meta)
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a file of Gaussians written by gvit ({error})") from error


def transform_gaussians(
    gaussians: Gaussians,
    matrix: Float[Tensor, "*#batch 2 2"],
    shift: Float[Tensor, "*#batch 2"],
    *,
    scale_factor: float | None = None,
    nominal_count: int | None = None,
    aspect: float | None = None,
) -> Gaussians:
    """Gaussians under an affine map of the plane: of ``picture(p)`` they become ``picture(matrix^-1 (p - shift))``.

    Centres become ``matrix @ centre + shift``, covariances ``matrix @ covariance @ matrix^T``; colours and opacities
    stay. Two things the bounds can't hold. Standard deviations above the bound on the scales are cut to it. A
    Gaussian whose centre leaves the canvas gets an opacity of almost 0 and is not drawn: ``tanh`` would keep it at
    the border, where it never was. Such of it as lay inside is lost.

    The first axis stays the one nearest to where the map takes it, and the angle moves by no more than a quarter
    turn (it has period pi), so that raw numbers, too, change as little as they can; the identity leaves them.

    Args:
        gaussians: any number of batch dimensions.
        matrix: invertible, canvas units to canvas units (x right, y down, the origin in the middle); one for all
            images, or one for each.
        shift: canvas units.
        scale_factor: of the result; None keeps it.
        nominal_count: of the result; None keeps it.
        aspect: of the result's canvas; None keeps it.
    """
    matrix, shift = matrix.to(gaussians.raw), shift.to(gaussians.raw)
    canvas = replace(
        gaussians,
        scale_factor=gaussians.scale_factor if scale_factor is None else scale_factor,
        nominal_count=gaussians.nominal_count if nominal_count is None else nominal_count,
        aspect=gaussians.aspect if aspect is None else aspect,
    )
    centers = gaussians.centers @ matrix.mT + shift.unsqueeze(-2)
    each = matrix.unsqueeze(-3)  # the same map for all Gaussians of an image
    covariances = each @ gaussians.covariances @ each.mT
    xx, xy, yy = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]
    long = ((xx + yy) / 2 + torch.hypot((xx - yy) / 2, xy)).sqrt()
    # from the determinant: in a difference of eigenvalues, the width of a thin Gaussian would drown
    short = gaussians.scales.prod(-1) * torch.linalg.det(matrix).abs().unsqueeze(-1) / long
    long_angle = torch.atan2(2 * xy, xx - yy) / 2
    first = torch.stack((gaussians.angles.cos(), gaussians.angles.sin()), -1) @ matrix.mT
    along = (first[..., 0] * long_angle.cos() + first[..., 1] * long_angle.sin()).square()
    stays_long = along >= first.square().sum(-1) / 2
    angles = torch.where(stays_long, long_angle, long_angle + math.pi / 2)
    angles = angles + math.pi * ((gaussians.angles - angles) / math.pi).round()
    outside = (centers.abs() > centers.new_tensor(canvas.extent)).any(-1)
    return Gaussians.from_values(
        centers,
        torch.where(stays_long.unsqueeze(-1), torch.stack((long, short), -1), torch.stack((short, long), -1)),
        angles,
        gaussians.colors,
        gaussians.opacities.masked_fill(outside, 0),
        scale_factor=canvas.scale_factor,
        nominal_count=canvas.nominal_count,
        aspect=canvas.aspect,
    )


def num_canonical_features(num_frequencies: int) -> int:
    """Width of ``canonical_features``."""
    return 9 + 4 * num_frequencies


def canonical_features(gaussians: Gaussians, num_frequencies: int = 4) -> Float[Tensor, "*batch k features"]:
    """What is drawn, and nothing else, as numbers for a network.

    Per Gaussian: centre, its Fourier features (sine and cosine of ``pi 2^f`` times each coordinate), log-area in
    units of the spacing, ``log(s1/s2) * (cos 2a, sin 2a)``, colour, opacity. The raw numbers can hide things from
    the renderer (an angle plus pi, a swap of the axes with a quarter turn, the colour of an invisible Gaussian);
    these can't: raw vectors that draw the same picture give the same features, and all features of a Gaussian fade
    to zero as its opacity falls from 2/255 to the 1/255 below which it is not drawn.
    """
    raw = gaussians.raw
    centers, opacities = gaussians.centers, gaussians.opacities
    # logsigmoid instead of log(sigmoid): finite for every raw number
    log_scales = F.logsigmoid(raw[..., _SCALE]) + math.log(gaussians.scale_factor)
    log_ratio = log_scales[..., 0] - log_scales[..., 1]
    doubled = 2 * gaussians.angles
    octaves = math.pi * 2.0 ** torch.arange(num_frequencies, dtype=raw.dtype, device=raw.device)
    phases = (centers.unsqueeze(-1) * octaves).flatten(-2)
    features = torch.cat(
        (
            centers,
            phases.sin(),
            phases.cos(),
            log_scales.sum(-1, keepdim=True),
            (log_ratio * doubled.cos()).unsqueeze(-1),
            (log_ratio * doubled.sin()).unsqueeze(-1),
            gaussians.colors,
            opacities.unsqueeze(-1),
        ),
        -1,
    )
    visibility = (opacities / VISIBLE_OPACITY - 1).clamp(0, 1)
    return features * visibility.unsqueeze(-1)
