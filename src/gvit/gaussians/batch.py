"""The class: Gaussians of a batch of images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.errors import InputError
from gvit.gaussians.bounds import Bounds, rescale
from gvit.gaussians.fields import ANGLE, CENTER, COLOR, COLUMNS, NUM_FIELDS, OPACITY, SCALE, pair
from gvit.gaussians.packing import pack_raw, unpack_raw
from gvit.gaussians.precision import HALF
from gvit.gaussians.quantisation import BitDepths, quantise_raw
from gvit.gaussians.shapes import build_covariances, map_axes
from gvit.gaussians.slots import as_index, check_slots, reaches_gaussians, removed
from gvit.gaussians.storage import Origin, read_fields, write_fields, write_packed


@dataclass(frozen=True, eq=False)  # tensors have no equality of one truth
class Gaussians:
    """A batch of images, each as K two-dimensional Gaussians.

    Index it like a tensor (``gaussians[0]``, ``gaussians[:, mask]``): what comes back is again ``Gaussians``. Iteration
    goes over the first dimension, too, as long as there is a batch; ``len`` is K.

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

    ``==`` and ``hash`` are those of the object: whether the numbers are the same, ``torch.equal`` tells of ``raw``.

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
        if not isinstance(self.raw, Tensor) or not self.raw.is_floating_point():
            got = self.raw.dtype if isinstance(self.raw, Tensor) else type(self.raw).__name__
            raise InputError(f"raw must be a floating-point tensor, got {got}")
        if self.raw.ndim < 2 or self.raw.shape[-1] != NUM_FIELDS:
            raise InputError(f"raw must have shape [..., K, {NUM_FIELDS}], got {list(self.raw.shape)}")
        _ = self._bounds  # raises where one is not positive
        if self.slots is not None:
            expected = self.raw.shape[:-1]
            wanted = f"slots must be int64 of shape {list(expected)} to go with the raw numbers"
            if not isinstance(self.slots, Tensor):
                raise InputError(f"{wanted}, got {type(self.slots).__name__}")
            if self.slots.shape != expected or self.slots.dtype != torch.int64:
                raise InputError(f"{wanted}, got {self.slots.dtype} of shape {list(self.slots.shape)}")

    @classmethod
    def from_values(
        cls,
        centers: Tensor,  # wrong shapes are for this function to explain
        scales: Tensor,
        angles: Tensor,
        colors: Tensor,
        opacities: Tensor,
        *,
        scale_factor: float = 1.0,
        nominal_count: int | None = None,
        aspect: float = 1.0,
    ) -> Gaussians:
        """The inverse of the bounded properties; values on or beyond a bound are moved just inside it.

        Values of other ``Gaussians`` need their bounds, too: ``gaussians.replace`` keeps them.

        Args:
            centers: [..., K, 2], canvas units, see the table of ``gvit.gaussians``.
            scales: [..., K, 2], standard deviations in canvas units, below ``scale_factor * spacing``.
            angles: [..., K], radians.
            colors: [..., K, 3], in [0, 1].
            opacities: [..., K], in [0, 1].
            scale_factor: as the attribute.
            nominal_count: as the attribute; K when None, at least 1.
            aspect: as the attribute.

        Raises:
            InputError: a value is not a tensor, or the shapes don't go together.

        Warns:
            UserWarning: a bound changes the picture materially. A visible Gaussian (of opacity 1/255 or more) has a
                scale that is cut by more than 1 % or is negative, has a centre that is moved by more than a hundredth
                of the spacing, or has a colour off [0, 1] by more than 0.001; or an opacity is off by that much.
        """
        values = {
            "centers": centers,
            "scales": scales,
            "angles": angles,
            "colors": colors,
            "opacities": opacities,
        }
        _check_values(values)
        count = max(centers.shape[-2], 1) if nominal_count is None else nominal_count
        bounds = Bounds(scale_factor, count, aspect)
        bounds.warn_if_cut(opacities, values, "scale_factor={:g}")
        raw = bounds.to_raw(centers, scales, angles, colors, opacities)
        return cls(raw, scale_factor, count, aspect)

    @classmethod
    def cat(cls, parts: Iterable[Gaussians]) -> Gaussians:
        """All Gaussians of several, in one picture; the renderer draws the first part in front of the others.

        The result has the ``nominal_count`` of the first part. Its ``scale_factor`` is the one that allows the
        largest scale that any part allows: the first part's own, or a larger one, so that no scale is ever cut. Parts
        of other bounds are converted with ``with_bounds``. ``slots`` are None: the Gaussians are counted anew.

        Args:
            parts: at least one, of equal aspect and batch dimensions, on one device.

        Raises:
            InputError: there is no part, or the parts don't go together.
        """
        parts = tuple(parts)
        if not parts:
            raise InputError("there must be at least one part, got none")
        first = parts[0]
        for number, part in enumerate(parts):
            if not math.isclose(part.aspect, first.aspect):
                raise InputError(
                    f"part {number} has aspect {part.aspect:g}, part 0 has {first.aspect:g}: "
                    f"stretch it first, by with_bounds(aspect={first.aspect!r})"
                )
            if part.raw.shape[:-2] != first.raw.shape[:-2]:
                raise InputError(
                    f"part {number} has batch dimensions {list(part.raw.shape[:-2])}, "
                    f"part 0 has {list(first.raw.shape[:-2])}: they must be equal"
                )
            if part.raw.device != first.raw.device:
                raise InputError(
                    f"part {number} is on {part.raw.device}, part 0 is on {first.raw.device}: move it first"
                )
        factor = max(part.scale_factor * (part.spacing / first.spacing) for part in parts)
        if math.isclose(factor, first.scale_factor):
            factor = first.scale_factor
        count = first.nominal_count
        raw = torch.cat(
            [part.with_bounds(scale_factor=factor, nominal_count=count).raw for part in parts], -2
        )
        return cls(raw, factor, count, first.aspect)

    def __len__(self) -> int:
        return self.raw.shape[-2]

    def __repr__(self) -> str:
        bounds = f"scale_factor={self.scale_factor}, nominal_count={self.nominal_count}, aspect={self.aspect}"
        slots = "" if self.slots is None else ", with slots"
        kind = str(self.raw.dtype).removeprefix("torch.")
        return f"Gaussians(raw={kind} {list(self.raw.shape)}, {bounds}{slots})"

    def __iter__(self) -> Iterator[Gaussians]:
        if self.raw.ndim == 2:
            raise TypeError("Gaussians of one image: iterate over their values, centers for example, or raw")
        return (self[index] for index in range(self.raw.shape[0]))

    __reversed__ = None  # len and iteration go over different things

    def __getitem__(self, index: Any) -> Gaussians:
        """``raw[index]`` as Gaussians. An index that reaches the K Gaussians gives them ``slots``."""
        index = as_index(index)
        raw = self.raw[index]
        bare = dataclasses.replace(self, raw=raw, slots=None)
        if self.slots is None and not reaches_gaussians(index, self.raw.ndim):
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
            "centers": centers,
            "scales": scales,
            "angles": angles,
            "colors": colors,
            "opacities": opacities,
        }
        values = {}
        for name, value in named.items():
            if value is not None:
                values[name] = _broadcast(name, value, lifted.raw, (*self.raw.shape[:-1], *_WIDTHS[name]))
        drawn = values.get("opacities", lifted.opacities)
        self._bounds.warn_if_cut(drawn, values, "with_bounds(scale_factor={:g}) before this")
        parts = []
        for name, columns in COLUMNS.items():
            if name in values:
                parts.append(self._bounds.field_to_raw(name, values[name]).to(self.raw.dtype))
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
        bounds = self._bounds.replace(scale_factor, nominal_count, aspect)
        stretched = not math.isclose(bounds.aspect, self.aspect)
        same_spacing = bounds.nominal_count == self.nominal_count
        if not stretched and same_spacing and bounds.scale_factor == self.scale_factor:
            return self
        lifted = self._lifted()
        raw = lifted.raw
        if stretched:
            stretch = torch.diag(raw.new_tensor(bounds.extent) / raw.new_tensor(self.extent))
            scales, angles = map_axes(lifted.covariances, lifted.scales, lifted.angles, stretch)
            cut = True
            raw_scales, raw_angles = bounds.field_to_raw("scales", scales), angles.unsqueeze(-1)
        else:
            scales, raw_angles = lifted.scales, raw[..., COLUMNS["angles"]]
            ratio = self._bounds.largest_scale / bounds.largest_scale
            cut = ratio > 1
            raw_scales = rescale(raw[..., SCALE], ratio)
        if cut:
            bounds.warn_if_cut(lifted.opacities, {"scales": scales}, "scale_factor={:g}")
        shape = torch.cat((raw_scales, raw_angles), -1).to(self.raw.dtype)
        return self._under(bounds).replace_raw(
            torch.cat((self.raw[..., CENTER], shape, self.raw[..., COLOR.start :]), -1)
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
        return self.replace_raw(torch.where(mask.unsqueeze(-1), removed(self.raw), self.raw))

    def in_slots(self, count: int) -> Gaussians:
        """``count`` Gaussians, each of these in its slot; the others draw nothing, and are as ``drop`` makes them.

        Args:
            count: K of the result, whose ``slots`` are None.

        Raises:
            InputError: a slot is ``count`` or more, or is negative, or is taken twice in an image; ``count`` is
                negative.
        """
        if count < 0:
            raise InputError(f"count must be at least 0, got {count}")
        slots = self.slots
        if slots is None:
            if len(self) == count:
                return self
            slots = self._own_slots()
        check_slots(slots, count)
        empty = removed(self.raw).expand(*self.raw.shape[:-2], count, NUM_FIELDS)
        raw = empty.scatter(-2, slots.unsqueeze(-1).expand(self.raw.shape), self.raw)
        return dataclasses.replace(self, raw=raw, slots=None)

    def detach(self) -> Gaussians:
        return self.replace_raw(self.raw.detach())

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """Move or cast, with the arguments of ``torch.Tensor.to``."""
        return self.replace_raw(self.raw.to(*args, **kwargs))

    def _lifted(self) -> Gaussians:
        return self.to(torch.float32) if self.raw.dtype in HALF else self

    @property
    def _bounds(self) -> Bounds:
        return Bounds(self.scale_factor, self.nominal_count, self.aspect)

    def _under(self, bounds: Bounds) -> Gaussians:
        """The same raw numbers with the meaning that other bounds give them."""
        return dataclasses.replace(
            self, scale_factor=bounds.scale_factor, nominal_count=bounds.nominal_count, aspect=bounds.aspect
        )

    @property
    def extent(self) -> tuple[float, float]:
        """Half width and half height of the canvas: the longer one is 1."""
        return self._bounds.extent

    @property
    def spacing(self) -> float:
        """Distance between ``nominal_count`` Gaussians laid out evenly, canvas units."""
        return self._bounds.spacing

    @property
    def centers(self) -> Float[Tensor, "*batch k 2"]:
        """(x, y), canvas units."""
        return self.raw[..., CENTER].tanh() * pair(*self.extent, self.raw)

    @property
    def scales(self) -> Float[Tensor, "*batch k 2"]:
        """Standard deviations along the two axes, canvas units."""
        return self.raw[..., SCALE].sigmoid() * self._bounds.largest_scale

    @property
    def angles(self) -> Float[Tensor, "*batch k"]:
        """Radians from +x towards +y of the first axis."""
        return self.raw[..., ANGLE]

    @property
    def colors(self) -> Float[Tensor, "*batch k 3"]:
        """Red, green, blue in [0, 1]."""
        return self.raw[..., COLOR].sigmoid()

    @property
    def opacities(self) -> Float[Tensor, "*batch k"]:
        """In (0, 1)."""
        return self.raw[..., OPACITY].sigmoid()

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
        extent = pair(*self.extent, lifted.raw)
        pixels = pair(width, height, lifted.raw) / (2 * extent)
        centers = (lifted.centers + extent) * pixels
        covariances = lifted.covariances * pixels.unsqueeze(-1) * pixels
        return centers, covariances, lifted.colors, lifted.opacities

    def quantised(self, bits: int | BitDepths) -> Gaussians:
        """The nearest Gaussians with few bits a number, in the same order; what ``to_bytes`` keeps.

        Has no gradient. Angles come back between -pi/2 and pi/2.

        Args:
            bits: of colours and scales, 2 to 12, from which those of the other fields follow (``BitDepths.of``); or
                those of each field. What is in equal steps: ``gvit.gaussians.quantisation``.

        Raises:
            InputError: bits are out of their range.
        """
        return self.replace_raw(quantise_raw(self.raw, self._bounds, self._depths(bits)))

    def to_bytes(self, bits: int | BitDepths) -> bytes:
        """The Gaussians of one image, quantised, in as few bytes as they take; ``from_bytes`` reads them.

        Args:
            bits: as for ``quantised``.

        Raises:
            InputError: bits are out of their range, there is more than one image, numbers aren't finite, or there
                are slots, for which there is no place.
        """
        if self.slots is not None:
            raise InputError("quantised Gaussians have no slots; in_slots(K) puts them back in their places")
        return pack_raw(self.raw, self._bounds, self._depths(bits))

    @classmethod
    def from_bytes(cls, content: bytes) -> Gaussians:
        """What ``to_bytes`` wrote: ``quantised`` Gaussians, raw [K, 9] in float32.

        Raises:
            InputError: bytes of something else, cut off, or changed.
        """
        raw, bounds = unpack_raw(content)
        return cls(raw, bounds.scale_factor, bounds.nominal_count, bounds.aspect)

    def _depths(self, bits: int | BitDepths) -> BitDepths:
        return bits if isinstance(bits, BitDepths) else BitDepths.of(bits, self.nominal_count)

    # By name: the renderer stands right of this room, and nobody but a notebook draws from here.

    def _repr_html_(self) -> str:
        """The first few images, drawn, with number and bounds, for a notebook."""
        return str(import_module("gvit.rendering.notebook").html(self))

    def _repr_png_(self) -> bytes | None:
        """The first few images as a PNG file; None where there is nothing that can be drawn."""
        drawn: bytes | None = import_module("gvit.rendering.notebook").png(self)
        return drawn

    def save(
        self,
        path: str | Path,
        origin: Origin | None = None,
        size: tuple[int, int] | None = None,
        bits: int | BitDepths | None = None,
    ) -> None:
        """Write one safetensors file that ``load`` reads back bit by bit, whole or not at all.

        Args:
            path: its name ends in ``.safetensors``.
            origin: what made them, kept beside them for ``gvit.gaussians.storage.read_origin``.
            size: height and width of the image that they were made of, pixels, kept for ``read_size`` there.
            bits: as for ``quantised``: what is read back are the Gaussians of one image, quantised. None keeps all
                bits.

        Raises:
            InputError: the name has another suffix, or as ``to_bytes``.
        """
        if bits is not None:
            write_packed(path, self.to_bytes(bits), origin, size)
            return
        tensors = {"raw": self.raw} | ({} if self.slots is None else {"slots": self.slots})
        # NumPy's numbers, too, which JSON doesn't know
        meta = {
            "scale_factor": float(self.scale_factor),
            "nominal_count": int(self.nominal_count),
            "aspect": float(self.aspect),
        }
        write_fields(path, tensors, meta, origin, size)

    @classmethod
    def load(cls, path: str | Path) -> Gaussians:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is not there, is damaged, or holds no Gaussians.
        """
        return read_fields(path, cls, cls.from_bytes)


_WIDTHS = {"centers": (2,), "scales": (2,), "angles": (), "colors": (3,), "opacities": ()}


def _check_values(values: dict[str, Tensor]) -> None:
    """Raise ``InputError`` where the bounded values are not those of the same Gaussians."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise InputError(f"{name} must be a tensor, got {type(value).__name__}")
    batch = list(values["centers"].shape[:-1])
    if not batch or values["centers"].shape[-1] != 2:
        raise InputError(f"centers must have shape [..., K, 2], got {list(values['centers'].shape)}")
    for name, value in values.items():
        if list(value.shape) != [*batch, *_WIDTHS[name]]:
            raise InputError(
                f"{name} must have shape {[*batch, *_WIDTHS[name]]} to go with centers of shape {[*batch, 2]}, "
                f"got {list(value.shape)}"
            )


def _broadcast(name: str, value: Any, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(shape)
    except (RuntimeError, TypeError, ValueError) as error:
        got = list(value.shape) if hasattr(value, "shape") else value
        raise InputError(f"{name} must be numbers that broadcast to {list(shape)}, got {got}") from error
