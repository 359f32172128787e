"""What the command line says when something is wrong."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gvit.errors import InputError, printable


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
