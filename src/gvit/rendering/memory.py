"""What would not fit into memory is refused before the operating system ends the process for it."""

from __future__ import annotations

from pathlib import Path

from gvit.errors import InputError

_UNASKED = 2**28  # bytes; to find out what is free takes longer than to draw what needs less
# of a container: its limit, what it uses, and what of that are files, which make room; the system's own place, and an
# older one's
_LIMITS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "/sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)


def refuse_beyond_memory(need: int, what: str, fewer: str = "pixels") -> None:
    """Raise where ``need`` bytes of main memory are more than are free; nothing where that can't be known.

    Args:
        need: bytes.
        what: needs them, in words.
        fewer: of these at a time would need less, in words.

    Raises:
        InputError: they are more than are free.
    """
    if need <= _UNASKED:
        return
    free = free_memory()
    if free is not None and need > free:
        raise InputError(
            f"{what} needs {need / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            f"draw fewer {fewer} at a time"
        )


def drawing(batch: int, height: int, width: int) -> str:
    """What is drawn, in words."""
    return f"{'an image' if batch == 1 else f'{batch} images'} of {width} x {height} pixels"


def free_memory() -> int | None:
    """Bytes that processes can get without swapping, by Linux's count and a container's limit; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
    for folder, limit, used, files in _LIMITS:
        try:
            left = int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
            told = dict(line.split() for line in Path(folder, "memory.stat").read_text().splitlines())
            left += sum(int(told.get(name, 0)) for name in files)
        except (OSError, ValueError):  # no container, or "max": none
            continue
        free = min(free, max(left, 0))
    return free
