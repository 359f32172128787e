"""What the command line says of a run, and when something is wrong."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from gvit.errors import InputError, printable
from gvit.training.config import TrainConfig


def print_error(error: InputError) -> None:
    """One line on standard error, in flags."""
    # a data loader's worker wraps its traceback around what went wrong
    message = error.for_command_line().rpartition("gvit.errors.InputError: ")[2].strip()
    print(f"gvit: error: {printable(message)}", file=sys.stderr)


def warn_of_left_out(sources: Sequence[str | Path]) -> None:
    """One line on standard error where folders hold images that nobody here can read."""
    from gvit.data.unread import left_out

    line = left_out(sources)
    if line is not None:
        print(f"gvit: warning: {printable(line)}", file=sys.stderr)


def describe(config: TrainConfig) -> str:
    """The resolved configuration, a line per group."""
    lines = []
    # in proportion to their total, where that is given
    phases = config.schedule.with_phases(
        [float(f"{epochs:.6g}") for epochs in config.schedule.phase_epochs()]
    )
    for group, values in asdict(replace(config, schedule=phases)).items():
        if isinstance(values, dict):
            values = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        lines.append(f"{group:<10}{values}")
    return "\n".join(lines)
