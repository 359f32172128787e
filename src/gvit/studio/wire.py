"""What goes over the wire: a JSON header, and numbers as they are in memory.

A message is four bytes (the header's length, little-endian), the header, and the parts that it names, one after the
other. The header is padded with spaces so that all parts begin at multiples of four bytes.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from gvit.errors import InputError
from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.studio import edits

MAX_GAUSSIANS = 10_000
MAX_SIDE = 2048  # pixels of a picture
MAX_IMAGE_SIDE = 1_000_000  # pixels of an image; nothing is drawn at that size
_LARGEST = 1e6  # of raw numbers; those of encoders and fits are below 100
Unit = Annotated[float, Field(ge=0, le=1)]
Index = Annotated[int, Field(ge=0, lt=MAX_GAUSSIANS)]


class _Strict(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=()
    )


class _Edit(_Strict):
    chosen: list[Index] = Field(max_length=MAX_GAUSSIANS)


class Move(_Edit):
    """See ``edits.move``."""

    kind: Literal["move"]
    dx: float = Field(ge=-MAX_SIDE, le=MAX_SIDE)
    dy: float = Field(ge=-MAX_SIDE, le=MAX_SIDE)


class Transform(_Edit):
    """See ``edits.turn_and_scale``."""

    kind: Literal["transform"]
    factor: float = Field(1.0, ge=0.01, le=100)
    degrees: float = Field(0.0, ge=-360, le=360)


class Paint(_Edit):
    """See ``edits.paint``."""

    kind: Literal["paint"]
    color: tuple[Unit, Unit, Unit]


class Fade(_Edit):
    """See ``edits.fade``."""

    kind: Literal["fade"]
    opacity: Unit


Edit = Annotated[Move | Transform | Paint | Fade, Field(discriminator="kind")]


class State(_Strict):
    """Gaussians as the page holds them, beside their raw numbers; and what is done to them before they are drawn.

    Attributes:
        model: the name under which the page knows a model.
        scale_factor: see ``Gaussians``.
        nominal_count: see ``Gaussians``.
        aspect: see ``Gaussians``.
        height: of the picture, pixels.
        width: of the picture, pixels.
        image_height: of the image that the Gaussians were made of, pixels; None for the picture's.
        image_width: of the same image, pixels.
        off: indices of the Gaussians that are switched off.
        edits: what is done, in order.
    """

    model: str
    scale_factor: float = Field(gt=0, le=1e3)
    nominal_count: int = Field(ge=1, le=1_000_000)
    aspect: float = Field(ge=1e-3, le=1e3)
    height: int = Field(ge=1, le=MAX_SIDE)
    width: int = Field(ge=1, le=MAX_SIDE)
    image_height: int | None = Field(None, ge=1, le=MAX_IMAGE_SIDE)
    image_width: int | None = Field(None, ge=1, le=MAX_IMAGE_SIDE)
    off: list[Index] = Field(default=[], max_length=MAX_GAUSSIANS)
    edits: list[Edit] = Field(default=[], max_length=100)


class Scoring(State):
    """The same, and which scores are asked for.

    Attributes:
        method: a name in ``gvit.analysis.explanation.METHODS``.
        target: class index; None for the predicted one.
    """

    method: str
    target: int | None = Field(None, ge=0, lt=1_000_000)


def decode(content: bytes, kind: type[State]) -> tuple[Any, Gaussians]:
    """A message of the page: its header, and the Gaussians of its raw numbers, [K, 9].

    Raises:
        InputError: it is cut short, is no such message, or holds numbers that are not finite, or absurd.
    """
    length = int.from_bytes(content[:4], "little")
    if len(content) < 4 or 4 + length > len(content):
        raise InputError("the message is shorter than its header says")
    try:
        state = kind.model_validate_json(content[4 : 4 + length])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place or 'header'}: {first['msg']}") from None
    numbers = content[4 + length :]
    count, rest = divmod(len(numbers), 4 * NUM_FIELDS)
    if rest or not 1 <= count <= MAX_GAUSSIANS:
        raise InputError(
            f"raw numbers must be 1 to {MAX_GAUSSIANS:,} rows of {NUM_FIELDS} float32, got {len(numbers):,} bytes"
        )
    raw = torch.from_numpy(np.frombuffer(numbers, "<f4").astype(np.float32)).view(count, NUM_FIELDS)
    if not (raw.abs() <= _LARGEST).all():  # NaN is not, either
        raise InputError(f"raw numbers must lie within {_LARGEST:g} of 0")
    gaussians = Gaussians(raw, state.scale_factor, state.nominal_count, state.aspect)
    for edit in state.edits:
        gaussians = _apply(edit, gaussians, state)
    return state, gaussians


def mask(indices: list[int], count: int) -> Tensor:
    """Boolean [count], True at the indices.

    Raises:
        InputError: an index beyond the last.
    """
    if indices and max(indices) >= count:
        raise InputError(f"there is no Gaussian {max(indices)}: there are {count}")
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[indices] = True
    return chosen


def _apply(edit: Edit, gaussians: Gaussians, state: State) -> Gaussians:
    chosen = mask(edit.chosen, len(gaussians))
    match edit:
        case Move():
            return edits.move(gaussians, chosen, edit.dx, edit.dy, state.height, state.width)
        case Transform():
            return edits.turn_and_scale(gaussians, chosen, edit.factor, edit.degrees)
        case Paint():
            return edits.paint(gaussians, chosen, edit.color)
        case Fade():
            return edits.fade(gaussians, chosen, edit.opacity)


def encode(header: dict[str, Any], **parts: Tensor) -> bytes:
    """A message for the page; its parts are float32 or bytes."""
    contents = {name: part.detach().cpu().contiguous().numpy().tobytes() for name, part in parts.items()}
    told = header | {"parts": [[name, len(content)] for name, content in contents.items()]}
    text = json.dumps(told, allow_nan=False).encode()
    text = text.ljust(4 * math.ceil(len(text) / 4))
    return b"".join((len(text).to_bytes(4, "little"), text, *contents.values()))
