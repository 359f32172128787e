"""A set of images as Gaussians in a few large files, and the manifest that tells which.

A folder holds ``manifest.json`` and, for each part of the set (``train``, ``test``), files of so many images each,
``train-00000-of-00012.safetensors`` or ``.parquet``. Both formats hold the same columns:

============  ==================  ===================================================================
column        of N images         what
============  ==================  ===================================================================
``name``      N strings           what the image is called in its data set
``raw``       [N, K, 9]           the nine raw numbers (Parquet: K * 9 numbers a row), 32 or 16 bits
``label``     [N]                 class index; not there where images have no classes
``aspect``    [N]                 height divided by width, as the Gaussians have it
``size``      [N, 2]              height and width of the image, pixels (Parquet: ``height``, ``width``)
``psnr``      [N]                 of these very numbers, drawn at that size, dB
============  ==================  ===================================================================

``scale_factor``, ``nominal_count`` and what could not be read stand in the file's metadata (``gvit.shard``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvit.errors import InputError, first_line
from gvit.files import replacing, write_text
from gvit.gaussians.batch import Gaussians
from gvit.gaussians.fields import ANGLE, NUM_FIELDS
from gvit.gaussians.storage import SHARD_KEY, Origin

MANIFEST_NAME = "manifest.json"
SHARD_FORMATS = ("safetensors", "parquet")
_VERSION = 1


class _Mapped:
    """The raw numbers of a safetensors file, read row by row; opened again in each process that reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._slice: Any = None

    def __getitem__(self, row: int) -> Tensor:
        if self._slice is None:
            from safetensors import safe_open

            self._slice = safe_open(self.path, "pt").get_slice("raw")
        rows: Tensor = self._slice[row]
        return rows

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_slice": None}


@dataclass(frozen=True)
class Shard:
    """Some images of a set.

    Attributes:
        raw: [N, K, 9], float32 or float16, or what gives [K, 9] of a row.
        names: of the N images.
        aspects: height divided by width, as the Gaussians have it.
        sizes: height and width of each image, pixels.
        psnr: of the drawings at that size, dB.
        labels: class indices; None where there are no classes.
        scale_factor: see ``Gaussians``.
        nominal_count: see ``Gaussians``.
        failed: names of images that could not be read, each with what was wrong; they are not among the N.
    """

    raw: Any
    names: Sequence[str]
    aspects: Sequence[float]
    sizes: Sequence[tuple[int, int]]
    psnr: Sequence[float]
    labels: Sequence[int] | None
    scale_factor: float
    nominal_count: int
    failed: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> Gaussians:
        """The Gaussians of one image, raw [K, 9] in float32.

        Raises:
            InputError: a number is not finite.
        """
        raw = self.raw[row].to(torch.float32)
        if not raw.isfinite().all():
            raise InputError(f"{self.names[row]}: damaged: its Gaussians hold a number that is not finite")
        return Gaussians(raw, self.scale_factor, self.nominal_count, self.aspects[row])

    def _check(self) -> None:
        """Raise an error of some kind where columns or bounds are of other types or lengths."""
        columns = (self.aspects, self.sizes, self.psnr, *([] if self.labels is None else [self.labels]))
        if any(len(column) != len(self) for column in columns) or not all(
            isinstance(n, str) for n in self.names
        ):
            raise ValueError("columns of different lengths")
        if any(min(size) < 1 for size in self.sizes):
            raise ValueError("an image without pixels")
        for aspect in set(self.aspects):
            Gaussians(torch.empty(0, NUM_FIELDS), self.scale_factor, self.nominal_count, aspect)

    def _meta(self) -> str:
        meta = {"scale_factor": self.scale_factor, "nominal_count": self.nominal_count}
        return json.dumps(meta | {"failed": dict(self.failed)})


def to_half(gaussians: Gaussians) -> Gaussians:
    """The same Gaussians in 16 bits a number; angles are first brought near 0, where those have most digits.

    What is beyond 16 bits becomes the largest number, which draws the same.
    """
    raw = gaussians.raw.clone()
    raw[..., ANGLE] = torch.remainder(raw[..., ANGLE] + math.pi / 2, math.pi) - math.pi / 2
    most = torch.finfo(torch.float16).max
    return gaussians.replace_raw(raw.clamp(-most, most).to(torch.float16))


def write_shard(path: Path, shard: Shard) -> None:
    """Write one file, whole or not at all, in the format that its name ends in; the same shard gives the same bytes.

    Raises:
        InputError: it cannot be written, or pyarrow is missing.
    """
    if path.suffix == ".parquet":
        _write_parquet(path, shard)
        return
    from safetensors.torch import save

    columns = {
        "raw": shard.raw,
        "aspect": torch.tensor(shard.aspects, dtype=torch.float64),
        "size": torch.tensor(shard.sizes, dtype=torch.int32).reshape(-1, 2),
        "psnr": torch.tensor(shard.psnr, dtype=torch.float32),
    }
    if shard.labels is not None:
        columns["label"] = torch.tensor(shard.labels, dtype=torch.int64)
    # one entry: the order of several would be another each time
    meta = {SHARD_KEY: json.dumps({"meta": shard._meta(), "names": list(shard.names)})}
    with replacing(path) as partial:
        partial.write_bytes(save(columns, meta))


def read_shard(path: Path, with_raw: bool = True) -> Shard:
    """What ``write_shard`` wrote; of a safetensors file, raw numbers are read when they are asked for.

    Args:
        path: the file.
        with_raw: of a Parquet file, read the raw numbers, too: all of them, where False leaves [N, 0, 9].

    Raises:
        InputError: the file is not there, is damaged, or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        shard = _read_parquet(path, with_raw) if path.suffix == ".parquet" else _read_safetensors(path)
        shard._check()
        return shard
    except InputError:
        raise
    except Exception as error:  # pyarrow and safetensors have their own, without a common base
        raise InputError(f"{path}: not a shard of Gaussians written by gvit ({first_line(error)})") from error


def is_shard(path: Path) -> bool:
    """Whether a file holds a shard, by its metadata; False where it can't be read."""
    if path.suffix == ".parquet":
        return True
    if not path.is_file():  # at a pipe, reading would wait
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return SHARD_KEY in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _read_safetensors(path: Path) -> Shard:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()[SHARD_KEY])
        found = {name: file.get_tensor(name).tolist() for name in file.keys() if name != "raw"}  # noqa: SIM118
        shape = file.get_slice("raw").get_shape()
    if len(shape) != 3 or shape[0] != len(written["names"]) or shape[2] != NUM_FIELDS:
        raise InputError(f"{path}: damaged: {len(written['names'])} names for raw numbers of shape {shape}")
    return Shard(
        _Mapped(path),
        written["names"],
        found["aspect"],
        [(height, width) for height, width in found["size"]],
        found["psnr"],
        found.get("label"),
        **json.loads(written["meta"]),
    )


def require_arrow() -> tuple[Any, Any]:
    """pyarrow and its module for Parquet.

    Raises:
        InputError: pyarrow is missing.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet files need pyarrow: pip install 'gvit[parquet]'") from None
    return pyarrow, pyarrow.parquet


def _write_parquet(path: Path, shard: Shard) -> None:
    pa, pq = require_arrow()
    count, per_image = len(shard), shard.raw.shape[1] * NUM_FIELDS
    numbers = shard.raw.reshape(-1).numpy()
    columns = {
        "name": pa.array(shard.names, pa.string()),
        "raw": pa.FixedSizeListArray.from_arrays(pa.array(numbers), per_image),
        "aspect": pa.array(shard.aspects, pa.float64()),
        "height": pa.array([height for height, _ in shard.sizes], pa.int32()),
        "width": pa.array([width for _, width in shard.sizes], pa.int32()),
        "psnr": pa.array(shard.psnr, pa.float32()),
    }
    if shard.labels is not None:
        columns["label"] = pa.array(shard.labels, pa.int64())
    table = pa.table(columns).replace_schema_metadata({SHARD_KEY: shard._meta()})
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", row_group_size=max(1, count))


def _read_parquet(path: Path, with_raw: bool) -> Shard:
    _, pq = require_arrow()
    schema = pq.read_schema(path)
    meta = json.loads(schema.metadata[SHARD_KEY.encode()])
    table = pq.read_table(path, columns=[name for name in schema.names if with_raw or name != "raw"])
    column = {name: table.column(name).to_pylist() for name in table.column_names if name != "raw"}
    raw = torch.empty(len(table), 0, NUM_FIELDS)
    if with_raw:
        numbers = table.column("raw").combine_chunks()
        flat = torch.from_numpy(numbers.flatten().to_numpy(zero_copy_only=False).copy())
        # not -1: of no images, it could be any number
        raw = flat.reshape(len(table), schema.field("raw").type.list_size // NUM_FIELDS, NUM_FIELDS)
    return Shard(
        raw,
        column["name"],
        column["aspect"],
        list(zip(column["height"], column["width"], strict=True)),
        column["psnr"],
        column.get("label"),
        **meta,
    )


@dataclass(frozen=True)
class Manifest:
    """Which files a set consists of: known before the first of them is written, and the same however it is made.

    Attributes:
        origin: what made the Gaussians: the model with its checksum, and its settings.
        num_gaussians: K, of each image.
        dtype: of the raw numbers, ``float32`` or ``float16``.
        format: of the files, ``safetensors`` or ``parquet``.
        shard_size: images a file; the last one of a part may hold fewer.
        class_names: in the order of the labels; empty where images have no classes.
        parts: number of images of each, ``train`` and ``test``, or ``images`` where nothing is split.
        source: checksum of the names and labels of all images.
    """

    origin: Origin
    num_gaussians: int
    dtype: str
    format: str
    shard_size: int
    class_names: Sequence[str]
    parts: Mapping[str, int]
    source: str

    def files(self, part: str) -> list[str]:
        """Names of the files of a part, in order."""
        count = -(-self.parts[part] // self.shard_size)
        return [f"{part}-{number:05}-of-{count:05}.{self.format}" for number in range(count)]

    def rows(self, part: str, number: int) -> range:
        """The images of a part that are in its file ``number``."""
        first = number * self.shard_size
        return range(first, min(first + self.shard_size, self.parts[part]))

    def write(self, folder: Path) -> None:
        described = (
            {"gvit": _VERSION} | asdict(self) | {"files": {part: self.files(part) for part in self.parts}}
        )
        write_text(folder / MANIFEST_NAME, json.dumps(described, indent=2) + "\n")

    def _check(self, listed: Mapping[str, Sequence[str]]) -> None:
        """Raise a ValueError where files would have other names than gvit gives them, as in other folders."""
        odd = [part for part in self.parts if not re.fullmatch(r"\w+", part)]
        if odd or self.format not in SHARD_FORMATS or self.shard_size < 1:
            raise ValueError(f"parts {odd}, format {self.format!r}, shard_size {self.shard_size!r}")
        for part, images in self.parts.items():
            # counted first: made up from a number, names could be more than memory holds
            if len(listed[part]) != -(-images // self.shard_size) or listed[part] != self.files(part):
                raise ValueError(f"the files of {part} are not those of {images} images")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a folder.

        Raises:
            InputError: it is not there, is damaged, or of a newer gvit.
        """
        file = folder / MANIFEST_NAME
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
            version = described.pop("gvit")
            if version != _VERSION:
                raise InputError(f"{file}: format {version}, which a newer gvit wrote")
            listed = described.pop("files")
            manifest = cls(**described)
            manifest._check(listed)
            return manifest
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{file}: not the manifest of a set of Gaussians ({first_line(error)})"
            ) from error


def read_set(folder: Path) -> tuple[Manifest, dict[str, list[Path]]]:
    """The manifest of a folder, and the files of each part.

    Raises:
        InputError: there is none, or a file is missing.
    """
    manifest = Manifest.read(folder)
    files = {part: [folder / name for name in manifest.files(part)] for part in manifest.parts}
    every = [file for of_part in files.values() for file in of_part]
    missing = [file for file in every if not file.is_file()]
    if missing:
        raise InputError(
            f"{folder}: {len(missing)} of {len(every)} files are missing, {missing[0].name} first; the command that "
            "began it goes on with it"
        )
    return manifest, files
