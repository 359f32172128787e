"""What has to stand beside a measured number: commit, machine, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gvit import __version__

_SOURCE = Path(__file__).parent


def provenance(device: str | None = None) -> dict[str, Any]:
    """Commit where gvit runs from a clone (with ``-dirty`` when code has changed since), machine, versions.

    Args:
        device: where was computed; None: on a GPU where this process has used one.
    """
    on_gpu = torch.cuda.is_initialized() if device is None else torch.device(device).type == "cuda"
    libraries = ["torch", "numba", "numpy", "timm", *["triton"] * on_gpu]
    return {
        "commit": _commit(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if on_gpu else None,
        "python": platform.python_version(),
        "versions": {"gvit": __version__}
        | {name: number for name in libraries if (number := _version(name))},
    }


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:  # PyTorch's builds name their Triton in several ways
        return None


def _commit() -> str:
    if "GVIT_COMMIT" in os.environ:
        return os.environ["GVIT_COMMIT"]  # a copy without its history: whoever made it knows
    # some other repository may hold the environment that gvit is installed in
    if _git("ls-files", "--error-unmatch", __file__).returncode:
        return "unknown"
    changed = _git("diff", "--quiet", "HEAD", "--", ":/src", ":/*.py").returncode
    return _git("rev-parse", "--short=10", "HEAD").stdout.strip() + ("-dirty" if changed else "")


def describe(machine: dict[str, Any]) -> str:
    """One line for a table's caption, from what ``provenance`` gave; all ``commits`` where there are more than one."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']}"
    commits = machine.get("commits") or [machine["commit"]]
    first = f"commits {', '.join(commits[:-1])} and " if len(commits) > 1 else "commit "
    return f"{first}{commits[-1]}, {where}, Python {machine['python']}, {versions}"


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=_SOURCE, capture_output=True, text=True)
    except FileNotFoundError:  # no git here
        return subprocess.CompletedProcess([], 1, "", "")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
