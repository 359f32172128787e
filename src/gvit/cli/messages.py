"""What the command line says when something is wrong."""

import sys

from gvit.errors import InputError, printable


def print_error(error: InputError) -> None:
    """One line on standard error, in flags."""
    # a data loader's worker wraps its traceback around what went wrong
    message = error.for_command_line().rpartition("gvit.errors.InputError: ")[2].strip()
    print(f"gvit: error: {printable(message)}", file=sys.stderr)
