"""Quantised Gaussians of one image as bytes, without further loss: header, numbers, checksum.

All numbers are little endian.

======  =============  ==========================================================================================
offset  type           what
======  =============  ==========================================================================================
0       4 bytes        ``GVQ1``
4       5 uint8        bits of centres, scales, angles, colours, opacities
9       uint8          how the upper bits are kept: 0 as bits, 1 by LZMA
10      2 uint32       K, ``nominal_count``
18      2 float64      ``scale_factor``, ``aspect``
34      2 float32      range of the scales' logarithms, see ``gvit.gaussians.quantisation``
42      uint32         CRC-32 of everything else
46                     the lower bits of centres (and whatever has more than eight bits), the upper bits of all
======  =============  ==========================================================================================

A number's bits after the first eight are noise, and are kept as they are. The first eight, a byte a number, one field
after the other, go through LZMA, whose adaptive model of single bytes is close to their entropy; of few Gaussians,
which leave it no time to adapt, they are kept as bits where that is shorter. Green stands for itself, red and blue for
their differences to it, modulo the number of their values. Gaussians stay in their order: it decides what is in front.
"""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import astuple
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvit.errors import InputError
from gvit.gaussians.bounds import Bounds
from gvit.gaussians.fields import COLOR, NUM_FIELDS
from gvit.gaussians.quantisation import BitDepths, Grid

MAX_PACKED = 1 << 20  # Gaussians: bytes that lie make a reader take half a gigabyte, about
_MAGIC = b"GVQ1"
_HEADER = struct.Struct("<4s5BB2I2d2f")
_CHECKSUM = struct.Struct("<I")
_BITS, _LZMA = 0, 1
_BYTE = 8  # bits
# the order-0 model of literals: with more context there are too few Gaussians to learn from
_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16, "lc": 0, "lp": 0, "pb": 0, "nice_len": 273}
]


def pack_raw(raw: Tensor, bounds: Bounds, depths: BitDepths) -> bytes:
    """The nearest values of one image's raw numbers as bytes; the same numbers give the same bytes.

    Raises:
        InputError: more than one image, too many Gaussians, or numbers that are not finite.
    """
    if raw.ndim != 2 or len(raw) > MAX_PACKED:
        shape = list(raw.shape)
        raise InputError(
            f"bits are for the Gaussians of one image, raw [K, 9], at most {MAX_PACKED:,}; got {shape}"
        )
    raw = raw.detach().cpu().float()
    if not raw.isfinite().all():
        raise InputError("raw numbers must be finite to be quantised")
    grid = Grid.around(raw, bounds, depths)
    columns = _differences(grid.levels(raw).numpy().T.astype(np.int64), depths, -1)
    lower = _to_bits(_lower(columns, depths))
    upper = [column >> max(depth - _BYTE, 0) for column, depth in zip(columns, depths, strict=True)]
    plain = _to_bits(zip(upper, _upper_depths(depths), strict=True))
    coded = lzma.compress(np.stack(upper).astype(np.uint8).tobytes(), lzma.FORMAT_RAW, filters=_FILTERS)
    how, body = (_LZMA, coded) if len(coded) < len(plain) else (_BITS, plain)
    header = _HEADER.pack(
        _MAGIC,
        *astuple(depths),
        how,
        *(len(raw), int(bounds.nominal_count), bounds.scale_factor, bounds.aspect),
        *(grid.low.item(), grid.high.item()),
    )
    return header + _CHECKSUM.pack(zlib.crc32(lower + body, zlib.crc32(header))) + lower + body


def unpack_raw(content: bytes) -> tuple[Float[Tensor, "k 9"], Bounds]:
    """Raw numbers and bounds of what ``pack_raw`` wrote.

    Raises:
        InputError: bytes of something else, cut off, or changed.
    """
    body = content[_HEADER.size + _CHECKSUM.size :]
    if content[: len(_MAGIC)] != _MAGIC:
        raise InputError("not quantised Gaussians")
    if len(content) < _HEADER.size + _CHECKSUM.size:
        raise InputError("quantised Gaussians that are cut off")
    header = content[: _HEADER.size]
    (expected,) = _CHECKSUM.unpack_from(content, _HEADER.size)
    if zlib.crc32(body, zlib.crc32(header)) != expected:
        raise InputError("quantised Gaussians that are damaged: their checksum is another")
    _, *numbers, how, count, nominal_count, scale_factor, aspect, low, high = _HEADER.unpack(header)
    depths, bounds = BitDepths(*numbers), Bounds(scale_factor, nominal_count, aspect)
    finite = np.isfinite([scale_factor, aspect, low, high]).all()
    if count > MAX_PACKED or how not in (_BITS, _LZMA) or not finite:
        raise InputError("quantised Gaussians with a header that cannot be")
    extras = [max(depth - _BYTE, 0) for depth in depths]
    length = -(-count * sum(extras) // 8)
    if how == _BITS:
        upper = _from_bits(body[length:], count, _upper_depths(depths))
    else:
        upper = list(_decompress(body[length:], count).astype(np.int64))
    lower = _from_bits(body[:length], count, extras)
    columns = [(high << extra) | low for high, low, extra in zip(upper, lower, extras, strict=True)]
    levels = _differences(np.stack(columns), depths, 1)
    if (levels >> np.array(list(depths))[:, None]).any():
        raise InputError("quantised Gaussians with numbers out of their range")
    grid = Grid(
        bounds, depths, *(torch.full((1, 1), end, dtype=torch.float32, device="cpu") for end in (low, high))
    )
    return grid.raw(torch.from_numpy(levels.T.copy())), bounds


def packed_depths(content: bytes) -> BitDepths:
    """The bits of each field of what ``pack_raw`` wrote."""
    return BitDepths(*content[len(_MAGIC) : len(_MAGIC) + 5])


def _differences(columns: np.ndarray, depths: BitDepths, sign: int) -> np.ndarray:
    """Red and blue without green, or with it again; [9, K]."""
    columns = columns.copy()
    red, green, blue = range(COLOR.start, COLOR.stop)
    for column in (red, blue):
        columns[column] = (columns[column] + sign * columns[green]) % (1 << depths.colors)
    return columns


def _upper_depths(depths: BitDepths) -> list[int]:
    return [min(depth, _BYTE) for depth in depths]


def _lower(columns: np.ndarray, depths: BitDepths) -> Iterator[tuple[np.ndarray, int]]:
    for column, depth in zip(columns, depths, strict=True):
        extra = max(depth - _BYTE, 0)
        yield column & ((1 << extra) - 1), extra


def _to_bits(columns: Iterable[tuple[np.ndarray, int]]) -> bytes:
    """Columns and the bits of each, one after the other, the highest bit first."""
    bits = [(column[:, None] >> np.arange(depth)[::-1] & 1).astype(np.uint8) for column, depth in columns]
    return np.packbits(np.concatenate([part.ravel() for part in bits])).tobytes()


def _from_bits(content: bytes, count: int, depths: list[int]) -> list[np.ndarray]:
    total = count * sum(depths)
    if len(content) < -(-total // 8):
        raise InputError("quantised Gaussians that are cut off")
    bits = np.unpackbits(np.frombuffer(content, np.uint8), count=total)
    columns, begin = [], 0
    for depth in depths:
        part = bits[begin : begin + count * depth].reshape(count, depth).astype(np.int64)
        columns.append(part @ (1 << np.arange(depth, dtype=np.int64)[::-1]))
        begin += count * depth
    return columns


def _decompress(content: bytes, count: int) -> np.ndarray:
    """Bytes [9, K]; no more of them are made than there have to be."""
    length = NUM_FIELDS * count
    try:
        # one more than is allowed tells that there are more
        made = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(content, length + 1)
    except lzma.LZMAError as error:
        raise InputError(f"quantised Gaussians that are damaged ({error})") from error
    if len(made) != length:
        raise InputError(f"quantised Gaussians that hold {len(made)} numbers instead of {length}")
    return np.frombuffer(made, np.uint8).reshape(NUM_FIELDS, count)
