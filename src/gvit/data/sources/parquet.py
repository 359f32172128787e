"""Parquet files in the Hugging Face image convention."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from gvit.data.images import to_rgb
from gvit.data.sources.base import Source, Split, existing_folder
from gvit.errors import InputError, first_line


def source(split: Split, data_dir: Path | None = None) -> Source:
    """Parquet files in the Hugging Face image convention: ``data/train-*.parquet`` and ``data/test-*.parquet``.

    Columns ``image`` (a struct with the encoded file in ``bytes``) and ``label`` (or ``fine_label``); class names
    from the schema's ``huggingface`` metadata. Encoded images are held in memory.

    Raises:
        InputError: no folder is given, files or columns are missing, or pyarrow is not installed.
    """
    root = existing_folder(data_dir, "parquet")
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("Parquet files need pyarrow: pip install pyarrow") from None
    prefixes = ("train",) if split == "train" else ("test", "validation", "val")
    places = [place for place in (root / "data", root) if place.is_dir()]
    files = next((found for d in places for p in prefixes if (found := sorted(d.glob(f"{p}-*.parquet")))), [])
    if not files:
        raise InputError(f"{root}: no {prefixes[0]}-*.parquet here or in data/")
    try:
        table = pa.concat_tables(pq.read_table(file) for file in files)
        label = next(name for name in ("label", "fine_label") if name in table.column_names)
        encoded = pc.struct_field(table.column("image"), "bytes")  # in chunks: one array ends at 2 GiB
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (pa.ArrowException, OSError, KeyError, TypeError, StopIteration) as error:
        raise InputError(
            f"{files[0]}: not in the Hugging Face image convention ({first_line(error)})"
        ) from error

    def load(row: int) -> Image.Image:
        return to_rgb(Image.open(io.BytesIO(encoded[row].as_py())))

    return Source(load, table.column(label).to_pylist(), names)
