"""The one kind of error that a user, not a programmer, has to act on."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """What was wrong, where, and what would be right, in one line. The command line prints it and exits with 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error that offers the nearest known names, or all of them where none is near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if near:
        return InputError(f"unknown {kind} {name!r}; nearest: {', '.join(near)}")
    return InputError(f"unknown {kind} {name!r}; there are: {', '.join(known)}")


def first_line(error: BaseException) -> str:
    """What an exception says, short enough to be quoted in one line."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
