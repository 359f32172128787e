"""Where benchmarks leave their results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gvit.files import write_text
from gvit.provenance import describe, provenance

__all__ = ["ROOT", "describe", "provenance", "write_results"]

ROOT = Path(__file__).parents[1]


def write_results(
    name: str, settings: dict[str, Any], rows: list[dict[str, Any]], folder: Path | None = None
) -> Path:
    """``benchmarks/results/NAME.json``, or in another folder: settings, provenance and rows."""
    path = (folder or ROOT / "benchmarks" / "results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "provenance": provenance(), "rows": rows}
    # whole or not at all: some benchmarks go on from here
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
