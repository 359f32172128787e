"""What has to stand beside a measured number: commit, machine, versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]


def provenance() -> dict[str, Any]:
    """Commit (with ``-dirty`` when code has changed since), machine and library versions."""
    libraries = ["torch", "numba", "numpy", "timm"]
    if torch.cuda.is_available():
        libraries.append("triton")
    return {
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in libraries},
    }


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short=10", "HEAD").stdout.strip()
    except FileNotFoundError:
        commit = ""
    if not commit:  # a copy of the tree without its history: whoever made it knows
        return os.environ.get("GVIT_COMMIT", "unknown")
    changed = _git("diff", "--quiet", "HEAD", "--", "src", "*.py").returncode
    return commit + "-dirty" if changed else commit


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


def describe(machine: dict[str, Any]) -> str:
    """One line for a table's caption."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    return f"commit {machine['commit']}, {where}, Python {machine['python']}, {versions}"


def write_results(
    name: str, settings: dict[str, Any], rows: list[dict[str, Any]], folder: Path | None = None
) -> Path:
    """``benchmarks/results/NAME.json``, or in another folder: settings, provenance and rows."""
    path = (folder or ROOT / "benchmarks" / "results") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"settings": settings, "provenance": provenance(), "rows": rows}
    # whole or not at all: some benchmarks go on from here
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)
    return path


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
