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

import dataclasses
import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gvit.errors import InputError
from gvit.files import replacing

FIELDS = ("x", "y", "s1", "s2", "angle", "r", "g", "b", "opacity")
NUM_FIELDS = len(FIELDS)
_CENTER, _SCALE, _ANGLE, _COLOR, _OPACITY = slice(0, 2), slice(2, 4), 4, slice(5, 8), 8
# the raw columns of each bounded property
_COLUMNS = {
    "centers": _CENTER,
    "scales": _SCALE,
    "angles": slice(_ANGLE, _ANGLE + 1),
    "colors": _COLOR,
    "opacities": slice(_OPACITY, _OPACITY + 1),
}

# A Gaussian of lower opacity draws nothing: the renderer skips every alpha below this.
VISIBLE_OPACITY = 1 / 255

# Raw opacity of a removed Gaussian: its sigmoid is 8e-7. Float16 and bfloat16 hold the number exactly.
_REMOVED_OPACITY = -14.0

# Bounded values are kept this far from their bounds (relative), where the raw numbers would be infinite.
# float32's 1 - 6e-8 is the largest number below 1: stay well clear of it.
_INSIDE = 1e-6

# Two numbers are the same, though computed in two ways, within this (relative).
_SAME = 1e-9

# A bound changes a picture materially above these: scales and centres in units of the largest scale and of the
# spacing, colours and opacities as they are.
_CUT_SCALE, _CUT_CENTER, _CUT_COLOR = 0.01, 0.01, 1e-3


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

    The bounded values (``centers``, ``scales``, ``angles``, ``colors``, ``opacities``) are computed from ``raw`` each
    time. To write into what was computed changes no Gaussian; ``replace`` makes others with the values changed:

    >>> import torch
    >>> gaussians = Gaussians(torch.zeros(4, 9))
    >>> gaussians.colors[0] = torch.tensor([1.0, 0.0, 0.0])  # changes a copy, which is then lost
    >>> gaussians.colors[0].tolist()
    [0.5, 0.5, 0.5]
    >>> colors = gaussians.colors
    >>> colors[0] = torch.tensor([1.0, 0.0, 0.0])
    >>> edited = gaussians.replace(colors=colors)
    >>> [round(value, 3) for value in edited.colors[0].tolist()]
    [1.0, 0.0, 0.0]

    There are two ways to remove Gaussians. ``gaussians[:, keep]`` has fewer of them, and ``slots`` tells where they
    stood. ``gaussians.drop(mask)`` has as many as before, and the removed ones draw nothing. Both draw the same
    picture, and ``gaussians[:, keep].in_slots(K)`` is what ``gaussians.drop(~keep)`` gives.

    Attributes:
        raw: unbounded numbers in the order of ``FIELDS``, any number of leading batch dimensions.
        scale_factor: c, the largest standard deviation in units of the spacing (paper, Section 2.2 and Table 1a).
        nominal_count: K0, the number of Gaussians that defines the spacing; it stays when Gaussians are removed.
        aspect: image height divided by image width.
        slots: int64 [..., K], the index that each Gaussian had before others were removed or the order was changed
            (models that learn a position by index need it); None where that is 0 to K - 1.
    """

    raw: Tensor  # [..., K, 9]; a wrong shape is for __post_init__ to explain
    scale_factor: float = 1.0
    nominal_count: int = 512
    aspect: float = 1.0
    slots: Tensor | None = None

    def __post_init__(self) -> None:
        if self.raw.ndim < 2 or self.raw.shape[-1] != NUM_FIELDS:
            raise InputError(f"raw must have shape [..., K, {NUM_FIELDS}], got {list(self.raw.shape)}")
        if not self.scale_factor > 0 or not self.aspect > 0 or self.nominal_count < 1:
            raise InputError(
                "scale_factor, aspect and nominal_count must be positive, got "
                f"{self.scale_factor}, {self.aspect}, {self.nominal_count}"
            )
        if self.slots is not None:
            expected = self.raw.shape[:-1]
            if self.slots.shape != expected or self.slots.dtype != torch.int64:
                raise InputError(
                    f"slots must be int64 of shape {list(expected)} to go with the raw numbers, "
                    f"got {self.slots.dtype} of shape {list(self.slots.shape)}"
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

        Values of other ``Gaussians`` need their bounds, too: ``gaussians.replace`` keeps them.

        Args:
            centers: canvas units, see the module's table.
            scales: standard deviations in canvas units, below ``scale_factor * spacing``.
            angles: radians.
            colors: in [0, 1].
            opacities: in [0, 1].
            scale_factor: as the attribute.
            nominal_count: as the attribute; K when None.
            aspect: as the attribute.

        Warns:
            UserWarning: a bound changes the picture materially. A visible Gaussian (of opacity 1/255 or more) has a
                scale that is cut by more than 1 % or is negative, has a centre that is moved by more than a hundredth
                of the spacing, or has a colour off [0, 1] by more than 0.001; or an opacity is off by that much.
        """
        count = centers.shape[-2] if nominal_count is None else nominal_count
        canvas = cls(centers.new_zeros(1, NUM_FIELDS), scale_factor, count, aspect)
        values = {"centers": centers, "scales": scales, "colors": colors, "opacities": opacities}
        _warn_if_cut(canvas, opacities, values, "scale_factor={:g}")
        return dataclasses.replace(canvas, raw=_to_raw(canvas, centers, scales, angles, colors, opacities))

    @classmethod
    def cat(cls, parts: Iterable[Gaussians]) -> Gaussians:
        """All Gaussians of several, in one picture; the renderer draws the first part in front of the others.

        The result has the ``nominal_count`` of the first part. Its ``scale_factor`` is the one that allows the
        largest scale that any part allows: the first part's own, or a larger one, so that no scale is ever cut. Parts
        of other bounds are converted with ``with_bounds``. ``slots`` are None: the Gaussians are counted anew.

        Args:
            parts: at least one, of equal aspect and batch dimensions.

        Raises:
            InputError: there is no part, or the parts don't go together.
        """
        parts = tuple(parts)
        if not parts:
            raise InputError("there must be at least one part, got none")
        first = parts[0]
        for number, part in enumerate(parts):
            if not math.isclose(part.aspect, first.aspect, rel_tol=_SAME):
                raise InputError(
                    f"part {number} has aspect {part.aspect:g}, part 0 has {first.aspect:g}: "
                    f"stretch it first, by with_bounds(aspect={first.aspect!r})"
                )
            if part.raw.shape[:-2] != first.raw.shape[:-2]:
                raise InputError(
                    f"part {number} has batch dimensions {list(part.raw.shape[:-2])}, "
                    f"part 0 has {list(first.raw.shape[:-2])}: they must be equal"
                )
        factor = max(part.scale_factor * (part.spacing / first.spacing) for part in parts)
        if math.isclose(factor, first.scale_factor, rel_tol=_SAME):
            factor = first.scale_factor
        count = first.nominal_count
        raw = torch.cat(
            [part.with_bounds(scale_factor=factor, nominal_count=count).raw for part in parts], -2
        )
        return cls(raw, factor, count, first.aspect)

    def __len__(self) -> int:
        return self.raw.shape[-2]

    def __getitem__(self, index: Any) -> Gaussians:
        """``raw[index]`` as Gaussians. An index that reaches the K Gaussians gives them ``slots``."""
        raw = self.raw[index]
        bare = dataclasses.replace(self, raw=raw, slots=None)
        if self.slots is None and not _reaches_gaussians(index, self.raw.ndim):
            return bare
        # of the raw numbers' shape, so that any index means the same
        slots = self._own_slots().unsqueeze(-1).expand(self.raw.shape)[index]
        return dataclasses.replace(bare, slots=slots[..., 0])

    def _own_slots(self) -> Tensor:
        if self.slots is not None:
            return self.slots
        return torch.arange(len(self), device=self.raw.device).expand(self.raw.shape[:-1])

    def replace_raw(self, raw: Float[Tensor, "*batch k 9"]) -> Gaussians:
        """The same canvas and scale bound with other raw numbers.

        ``slots`` stay where the number of Gaussians does, and are None otherwise.

        Raises:
            InputError: the slots differ from image to image, and there are other images now.
        """
        slots = self.slots
        if slots is not None:
            if raw.shape[-2:-1] != slots.shape[-1:]:
                slots = None
            else:
                try:
                    slots = slots.to(raw.device).expand(raw.shape[:-1])
                except RuntimeError:
                    raise InputError(
                        f"slots of shape {list(slots.shape)} don't fit raw numbers of shape {list(raw.shape)}; "
                        "index the Gaussians, not their raw numbers"
                    ) from None
        return dataclasses.replace(self, raw=raw, slots=slots)

    def replace(
        self,
        *,
        centers: Any = None,
        scales: Any = None,
        angles: Any = None,
        colors: Any = None,
        opacities: Any = None,
    ) -> Gaussians:
        """The same Gaussians with other bounded values; raw numbers of what is not named stay bit by bit.

        Bounds and slots stay, too. Values are tensors or what ``torch.as_tensor`` takes, and broadcast to the shape of
        their property: ``gaussians.replace(colors=(1, 0, 0), opacities=0.5)``. Values on or beyond a bound are moved
        just inside it. Differentiable.

        Args:
            centers: canvas units; broadcasts to [..., K, 2].
            scales: standard deviations in canvas units; broadcasts to [..., K, 2].
            angles: radians; broadcasts to [..., K].
            colors: in [0, 1]; broadcasts to [..., K, 3].
            opacities: in [0, 1]; broadcasts to [..., K].

        Raises:
            InputError: values don't broadcast to the shape of their property.

        Warns:
            UserWarning: a bound changes the picture materially, as in ``from_values``.
        """
        lifted = self._lifted()
        named = {
            "centers": (centers, (2,)),
            "scales": (scales, (2,)),
            "angles": (angles, ()),
            "colors": (colors, (3,)),
            "opacities": (opacities, ()),
        }
        values = {}
        for name, (value, width) in named.items():
            if value is not None:
                values[name] = _broadcast(name, value, lifted.raw, (*self.raw.shape[:-1], *width))
        drawn = values.get("opacities", lifted.opacities)
        _warn_if_cut(self, drawn, values, "with_bounds(scale_factor={:g}) before this")
        parts = []
        for name, columns in _COLUMNS.items():
            if name in values:
                parts.append(_field_to_raw(self, name, values[name]).to(self.raw.dtype))
            else:
                parts.append(self.raw[..., columns])
        return self.replace_raw(torch.cat(parts, -1))

    def with_bounds(
        self,
        *,
        scale_factor: float | None = None,
        nominal_count: int | None = None,
        aspect: float | None = None,
    ) -> Gaussians:
        """The same picture under other bounds, with the same slots; ``self`` where none of them changes.

        With another ``scale_factor`` or ``nominal_count`` only the two raw scales change: each becomes the inverse
        sigmoid of the standard deviation in units of the new bound. With another ``aspect`` the canvas is stretched
        onto the new one, just as the picture is when it is resized to that aspect, or rendered at it; raw scales and
        angles change.

        Args:
            scale_factor: as the attribute; None keeps it.
            nominal_count: as the attribute; None keeps it.
            aspect: as the attribute; None keeps it.

        Warns:
            UserWarning: a visible Gaussian has a scale that the new bound cuts by more than 1 %.
        """
        canvas = dataclasses.replace(
            self,
            scale_factor=self.scale_factor if scale_factor is None else scale_factor,
            nominal_count=self.nominal_count if nominal_count is None else nominal_count,
            aspect=self.aspect if aspect is None else aspect,
        )
        stretched = not math.isclose(canvas.aspect, self.aspect, rel_tol=_SAME)
        same_spacing = canvas.nominal_count == self.nominal_count
        if not stretched and same_spacing and canvas.scale_factor == self.scale_factor:
            return self
        lifted = self._lifted()
        raw = lifted.raw
        if stretched:
            stretch = torch.diag(raw.new_tensor(canvas.extent) / raw.new_tensor(self.extent))
            _, scales, angles = _map_values(lifted, stretch, raw.new_zeros(2))
            cut = True
            raw_scales, raw_angles = _field_to_raw(canvas, "scales", scales), angles.unsqueeze(-1)
        else:
            scales, raw_angles = lifted.scales, raw[..., _COLUMNS["angles"]]
            ratio = self._largest_scale / canvas._largest_scale
            cut = ratio > 1
            # logarithms hold the smallest scales, which sigmoids would lose
            log_fraction = F.logsigmoid(raw[..., _SCALE]) + math.log(ratio)
            log_fraction = log_fraction.clamp_max(math.log1p(-_INSIDE))
            raw_scales = log_fraction - (-log_fraction.expm1()).log()
        if cut:
            _warn_if_cut(canvas, lifted.opacities, {"scales": scales}, "scale_factor={:g}")
        shape = torch.cat((raw_scales, raw_angles), -1).to(self.raw.dtype)
        return canvas.replace_raw(
            torch.cat((self.raw[..., _CENTER], shape, self.raw[..., _COLOR.start :]), -1)
        )

    def drop(self, mask: Any) -> Gaussians:
        """Without the Gaussians of ``mask``, in the same number: each stays in its place, and the removed draw nothing.

        The raw numbers of the removed ones are zeros and an opacity of 8e-7, so that nothing of them is left for
        any model to read. Indexing (``gaussians[:, keep]``) removes them altogether.

        Args:
            mask: boolean [..., K] or [K], True for those to remove.

        Raises:
            InputError: the mask is of another type or shape.
        """
        mask = torch.as_tensor(mask, device=self.raw.device)
        shapes = (self.raw.shape[:-1], self.raw.shape[-2:-1])
        if mask.dtype != torch.bool or mask.shape not in shapes:
            wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise InputError(
                f"mask must be boolean of shape {wanted}, True for Gaussians to remove; "
                f"got {mask.dtype} of shape {list(mask.shape)}"
            )
        return self.replace_raw(torch.where(mask.unsqueeze(-1), _removed(self.raw), self.raw))

    def in_slots(self, count: int) -> Gaussians:
        """``count`` Gaussians, each of these in its slot; the others draw nothing, and are as ``drop`` makes them.

        Args:
            count: K of the result, whose ``slots`` are None.

        Raises:
            InputError: a slot is ``count`` or more, or is negative, or is taken twice in an image.
        """
        slots = self.slots
        if slots is None:
            if len(self) == count:
                return self
            slots = self._own_slots()
        if slots.numel():
            low, high = (int(slot) for slot in slots.aminmax())
            if low < 0 or high >= count:
                wrong = low if low < 0 else high
                raise InputError(f"there is no slot {wrong} among {count}; slots must be 0 to {count - 1}")
            ordered = slots.sort(-1).values
            twice = ordered[..., 1:][ordered.diff(dim=-1) == 0]
            if twice.numel():
                raise InputError(
                    f"slot {int(twice[0])} is taken twice; each Gaussian needs a slot of its own"
                )
        empty = _removed(self.raw).expand(*self.raw.shape[:-2], count, NUM_FIELDS)
        raw = empty.scatter(-2, slots.unsqueeze(-1).expand(self.raw.shape), self.raw)
        return dataclasses.replace(self, raw=raw, slots=None)

    def detach(self) -> Gaussians:
        return self.replace_raw(self.raw.detach())

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """Move or cast, with the arguments of ``torch.Tensor.to``."""
        return self.replace_raw(self.raw.to(*args, **kwargs))

    def _lifted(self) -> Gaussians:
        return self.to(torch.float32) if self.raw.dtype in (torch.float16, torch.bfloat16) else self

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
    def _largest_scale(self) -> float:
        return self.scale_factor * self.spacing

    @property
    def centers(self) -> Float[Tensor, "*batch k 2"]:
        """(x, y), canvas units."""
        return self.raw[..., _CENTER].tanh() * self.raw.new_tensor(self.extent)

    @property
    def scales(self) -> Float[Tensor, "*batch k 2"]:
        """Standard deviations along the two axes, canvas units."""
        return self.raw[..., _SCALE].sigmoid() * self._largest_scale

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
        lifted = self._lifted()
        extent = lifted.raw.new_tensor(self.extent)
        pixels = lifted.raw.new_tensor((width, height)) / (2 * extent)
        centers = (lifted.centers + extent) * pixels
        covariances = lifted.covariances * pixels.unsqueeze(-1) * pixels
        return centers, covariances, lifted.colors, lifted.opacities

    def save(self, path: str | Path) -> None:
        """Write one safetensors file that ``load`` reads back bit by bit, whole or not at all.

        Args:
            path: its name ends in ``.safetensors``.

        Raises:
            InputError: the name has another suffix.
        """
        from safetensors.torch import save

        path = Path(path)
        if path.suffix != ".safetensors":
            name = f"{path.stem.removesuffix('.safetensors')}.safetensors"
            raise InputError(f"{path}: Gaussians are written as safetensors; name the file {name}")
        meta = {name: getattr(self, name) for name in ("scale_factor", "nominal_count", "aspect")}
        tensors = {"raw": self.raw} | ({} if self.slots is None else {"slots": self.slots})
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
            {"gvit.gaussians": json.dumps(meta)},
        )
        with replacing(path) as partial:
            # safetensors' own file would be for its owner's eyes only, whatever the umask
            partial.write_bytes(content)

    @classmethod
    def load(cls, path: str | Path) -> Gaussians:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is not there, is damaged, or holds no Gaussians.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InputError(f"{path}: no such file")
        try:
            with safe_open(path, "pt") as file:
                meta = json.loads((file.metadata() or {})["gvit.gaussians"])
                slots = file.get_tensor("slots") if "slots" in file.keys() else None  # noqa: SIM118
                return cls(file.get_tensor("raw"), **meta, slots=slots)
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError, InputError) as error:
            raise InputError(f"{path}: not a file of Gaussians written by gvit ({error})") from error


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

    Returns:
        Gaussians with the same slots. No warning is given of scales that were cut.
    """
    matrix, shift = matrix.to(gaussians.raw), shift.to(gaussians.raw)
    canvas = dataclasses.replace(
        gaussians,
        scale_factor=gaussians.scale_factor if scale_factor is None else scale_factor,
        nominal_count=gaussians.nominal_count if nominal_count is None else nominal_count,
        aspect=gaussians.aspect if aspect is None else aspect,
    )
    centers, scales, angles = _map_values(gaussians, matrix, shift)
    outside = (centers.abs() > centers.new_tensor(canvas.extent)).any(-1)
    opacities = gaussians.opacities.masked_fill(outside, 0)
    return canvas.replace_raw(_to_raw(canvas, centers, scales, angles, gaussians.colors, opacities))


def _map_values(
    gaussians: Gaussians, matrix: Float[Tensor, "*#batch 2 2"], shift: Float[Tensor, "*#batch 2"]
) -> tuple[Float[Tensor, "*batch k 2"], Float[Tensor, "*batch k 2"], Float[Tensor, "*batch k"]]:
    """Centres, standard deviations and angles after an affine map, whatever the bounds; see the function above."""
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
    in_order = torch.stack((long, short), -1), torch.stack((short, long), -1)
    return centers, torch.where(stays_long.unsqueeze(-1), *in_order), angles


def _to_raw(
    canvas: Gaussians, centers: Tensor, scales: Tensor, angles: Tensor, colors: Tensor, opacities: Tensor
) -> Float[Tensor, "*batch k 9"]:
    """Raw numbers of bounded values under the bounds of ``canvas``; values beyond a bound are moved just inside it."""
    values = (centers, scales, angles, colors, opacities)
    fields = zip(_COLUMNS, values, strict=True)
    return torch.cat([_field_to_raw(canvas, name, value) for name, value in fields], -1)


def _field_to_raw(canvas: Gaussians, name: str, values: Tensor) -> Tensor:
    """The raw columns of one bounded property, [..., K, 1 to 3]."""
    if name == "angles":
        return values.unsqueeze(-1)
    if name == "centers":
        position = values / values.new_tensor(canvas.extent)
        return position.clamp(-1 + _INSIDE, 1 - _INSIDE).atanh()
    if name == "scales":
        values = values / canvas._largest_scale
    if name == "opacities":
        values = values.unsqueeze(-1)
    return values.clamp(_INSIDE, 1 - _INSIDE).logit()


def _broadcast(name: str, value: Any, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(shape)
    except (RuntimeError, TypeError, ValueError) as error:
        got = list(value.shape) if hasattr(value, "shape") else value
        raise InputError(f"{name} must be numbers that broadcast to {list(shape)}, got {got}") from error


def _removed(like: Tensor) -> Float[Tensor, " fields"]:
    """The raw numbers of a Gaussian that draws nothing."""
    return F.pad(like.new_zeros(NUM_FIELDS - 1), (0, 1), value=_REMOVED_OPACITY)


def _reaches_gaussians(index: Any, ndim: int) -> bool:
    """Whether an index of raw numbers [..., K, 9] selects along K; in doubt it does."""
    items = index if isinstance(index, tuple) else (index,)
    indexed = 0
    for position, item in enumerate(items):
        if item is None or isinstance(item, bool):  # these add a dimension
            continue
        if item is Ellipsis and position == len(items) - 1:
            break
        if isinstance(item, Tensor):
            indexed += item.ndim if item.dtype in (torch.bool, torch.uint8) else 1
        elif isinstance(item, (int, slice)) or (
            isinstance(item, list) and all(isinstance(entry, int) for entry in item)
        ):
            indexed += 1
        else:
            return True
    return indexed > ndim - 2


def _warn_if_cut(canvas: Gaussians, opacities: Tensor, values: dict[str, Tensor], remedy: str) -> None:
    """Warn where the bounds of ``canvas`` change values materially; see ``Gaussians.from_values``.

    ``remedy`` is what would keep the scales, with a place for the scale factor.
    """
    if torch.compiler.is_compiling():
        return
    visible = opacities >= VISIBLE_OPACITY
    cut = {}
    if "scales" in values:
        fraction = values["scales"] / canvas._largest_scale
        cut["above"] = visible & (fraction > 1 + _CUT_SCALE).any(-1)
        cut["negative"] = visible & (fraction < -_CUT_SCALE).any(-1)
    if "centers" in values:
        centers = values["centers"]
        beyond = centers.abs() - centers.new_tensor(canvas.extent)
        cut["centers"] = visible & (beyond > _CUT_CENTER * canvas.spacing).any(-1)
    if "colors" in values:
        cut["colors"] = visible & ((values["colors"] - 0.5).abs() > 0.5 + _CUT_COLOR).any(-1)
    if "opacities" in values:
        cut["opacities"] = (opacities - 0.5).abs() > 0.5 + _CUT_COLOR
    if not cut:
        return
    try:
        total, *counts = torch.stack([mask.sum() for mask in (visible, *cut.values())]).tolist()
    except RuntimeError:  # within vmap or on the meta device there are no numbers to look at
        return
    number = dict(zip(cut, counts, strict=True))
    found = []
    if number.get("above"):
        needed = values["scales"].amax(-1)[cut["above"]].max().item() / canvas.spacing
        keep = f"; {remedy.format(_round_up(needed))} would keep them" if math.isfinite(needed) else ""
        found.append(
            f"{number['above']} of {total} visible Gaussians have scales above the bound, scale_factor * spacing = "
            f"{canvas._largest_scale:.4g}, and are cut to it{keep}"
        )
    if number.get("negative"):
        found.append(
            f"{number['negative']} of {total} visible Gaussians have negative scales, which become 0"
        )
    if number.get("centers"):
        extent_x, extent_y = canvas.extent
        found.append(
            f"{number['centers']} of {total} visible Gaussians lie beyond the canvas, |x| <= {extent_x:.4g} and "
            f"|y| <= {extent_y:.4g} for aspect={canvas.aspect:.4g}, and are moved to its border; "
            "the aspect must be height / width of their own image"
        )
    for name in ("colors", "opacities"):
        if number.get(name):
            found.append(f"{number[name]} Gaussians have {name} outside [0, 1], which are cut to it")
    if found:
        warnings.warn(". ".join(found), UserWarning, stacklevel=3)


def _round_up(value: float) -> float:
    """To three significant digits."""
    digits = 2 - math.floor(math.log10(value))
    return math.ceil(value * 10.0**digits) / 10.0**digits


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
