"""What the scripts of this folder share: their options, results that a time-out doesn't lose, and clocks.

Import it before the modules of ``benchmarks/``: it puts them on the path, before this folder, whose ``train_step.py``
has a namesake there.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from provenance import ROOT, describe, provenance, write_results


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all scripts have; the script's header is its help."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="a toy size on the CPU, in seconds")
    parser.add_argument(
        "--out", type=Path, help="folder for the JSON file; benchmarks/results, of a dry run a temporary one"
    )
    return parser


def begin(options: argparse.Namespace) -> str:
    """The device to run on; leaves with exit code 2 where there is no GPU and none of it is dry."""
    if options.dry_run:
        # read when Triton is imported, which is when something is drawn
        os.environ["TRITON_INTERPRET"] = "1"
        options.out = options.out or Path(tempfile.mkdtemp(prefix="gvit-dry-run-"))
        return "cpu"
    if not torch.cuda.is_available():
        print(
            f"{Path(sys.argv[0]).name}: needs a GPU, and PyTorch finds none here; --dry-run tries it on the CPU",
            file=sys.stderr,
        )
        sys.exit(2)
    options.out = options.out or ROOT / "benchmarks" / "results"
    return "cuda"


class Results:
    """Rows of ``gpu_NAME.json``, written whole with every row that comes.

    Args:
        name: of the script.
        options: as parsed; they stand in the file but for folders, which are nobody's business.
        **settings: what else decides the numbers, seeds for example.
    """

    def __init__(self, name: str, options: argparse.Namespace, **settings: Any) -> None:
        chosen = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
        self.name, self.folder, self.settings = f"gpu_{name}", options.out, chosen | settings
        self.rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row and say that it is there."""
        self.rows.append(row)
        write_results(self.name, self.settings, self.rows, self.folder)
        print(", ".join(f"{key} {show(value)}" for key, value in row.items()), flush=True)

    def finish(self, table: str) -> None:
        """Print where the numbers are from, then the table."""
        print(f"\n{self.folder / self.name}.json, {describe(provenance())}\n\n{table}")


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *([show(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(value: Any) -> str:
    """Four digits of a number, nothing as a dash."""
    if isinstance(value, dict):
        return " ".join(f"{name} {show(part)}" for name, part in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def milliseconds(device: str, work: Callable[[], object]) -> float:
    """Of one call, from its first kernel's turn to its last one's end."""
    if device == "cpu":
        started = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - started)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last)


def forget_peak(device: str) -> None:
    """Start the record of the largest memory anew."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(device: str) -> float | None:
    """Largest memory of tensors on the GPU since ``forget_peak``."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
