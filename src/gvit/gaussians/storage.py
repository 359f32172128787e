"""Gaussians as one safetensors file: tensors, and the bounds in its metadata."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from gvit.errors import InputError
from gvit.files import replacing
from gvit.gaussians.packing import packed_depths
from gvit.gaussians.quantisation import BitDepths

_KEY = "gvit.gaussians"  # of the metadata
SHARD_KEY = "gvit.shard"  # the same, of ``gvit.gaussians.shards``
_ORIGIN_KEY = "gvit.origin"  # apart from the fields: who reads those need not know it
_SIZE_KEY = "gvit.size"
_PACKED = "packed"  # the tensor that quantised Gaussians are kept in
Origin = Mapping[str, str | int | None]
T = TypeVar("T")


def write_fields(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    meta: Mapping[str, float],
    origin: Origin | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Write the file, whole or not at all; see ``Gaussians.save``."""
    _write(path, tensors, json.dumps(meta), origin, size)


def write_packed(
    path: str | Path, content: bytes, origin: Origin | None = None, size: tuple[int, int] | None = None
) -> None:
    """Write a file of quantised Gaussians, whole or not at all; see ``Gaussians.to_bytes``."""
    packed = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    _write(path, {_PACKED: packed}, _PACKED, origin, size)


def _write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    meta: str,
    origin: Origin | None,
    size: tuple[int, int] | None,
) -> None:
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        name = f"{path.stem.removesuffix('.safetensors')}.safetensors"
        raise InputError(f"{path}: Gaussians are written as safetensors; name the file {name}")
    told = {_KEY: meta}
    if origin is not None:
        told[_ORIGIN_KEY] = json.dumps(dict(origin))
    if size is not None:
        told[_SIZE_KEY] = json.dumps(size)
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, told)
    with replacing(path) as partial:
        # safetensors' own file would be for its owner's eyes only, whatever the umask
        partial.write_bytes(content)


def read_fields(path: str | Path, make: Callable[..., T], unpack: Callable[[bytes], T]) -> T:
    """What ``make`` makes of the fields in the file, or ``unpack`` of its bytes; see ``Gaussians.load``."""
    from safetensors import SafetensorError, safe_open

    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; name a .safetensors file of Gaussians")
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    told: Mapping[str, str] = {}
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
            written = told[_KEY]
            if written == _PACKED:
                return unpack(file.get_tensor(_PACKED).numpy().tobytes())
            meta = json.loads(written)
            slots = file.get_tensor("slots") if "slots" in file.keys() else None  # noqa: SIM118
            return make(file.get_tensor("raw"), **meta, slots=slots)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        found = _something_else(Path(path), told) or f"not a file of Gaussians written by gvit ({error})"
        raise InputError(f"{path}: {found}") from error


def _something_else(path: Path, told: Mapping[str, str]) -> str:
    """What is in place of Gaussians of one image, where metadata or suffix tell, and how to come to those."""
    if SHARD_KEY in told:
        return (
            "holds the Gaussians of many images (a set of 'gvit encode'); 'gvit evaluate --data-dir FOLDER' measures "
            "on one, and 'gvit encode --format files' writes files of single images"
        )
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower(), "")
    if Image.MIME.get(kind, "").startswith("image/"):
        return "an image, and Gaussians are read here, not images; 'gvit encode' or 'gvit fit' makes them"
    return ""


def may_hold_gaussians(path: str | Path) -> bool:
    """Whether a file says that it holds Gaussians, or is too damaged to say what it holds."""
    if not Path(path).is_file():  # at a pipe, reading would wait
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return _KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return True


def read_origin(path: str | Path) -> Origin | None:
    """What made the Gaussians in a file that can be read; None where it does not say so."""
    origin = _read(path, _ORIGIN_KEY)
    return origin if isinstance(origin, dict) else None


def read_size(path: str | Path) -> tuple[int, int] | None:
    """Height and width of the image that a file's Gaussians were made of; None where it does not say so."""
    size = _read(path, _SIZE_KEY)
    if not isinstance(size, list) or len(size) != 2:
        return None
    if not all(isinstance(side, int) and 0 < side < 2**31 for side in size):
        return None
    return size[0], size[1]


def read_depths(path: str | Path) -> BitDepths | None:
    """What the Gaussians in a file that can be read are quantised to; None where they are not."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        if (file.metadata() or {}).get(_KEY) != _PACKED:
            return None
        return packed_depths(file.get_tensor(_PACKED).numpy().tobytes())


def _read(path: str | Path, key: str) -> Any:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        written = (file.metadata() or {}).get(key)
    try:
        return None if written is None else json.loads(written)
    except (ValueError, RecursionError):
        return None
