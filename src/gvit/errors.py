"""The one kind of error that a user, not a programmer, has to act on."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

# Marks what is worded differently for Python and for the command line: these don't occur in names or paths.
_OPEN, _OR, _CLOSE = "\x02", "\x1f", "\x03"
_WORDING = re.compile(f"{_OPEN}([^{_OR}]*){_OR}([^{_CLOSE}]*){_CLOSE}")


def wording(python: str, command_line: str) -> str:
    """A piece of an ``InputError``'s message that depends on who reads it; for use within an f-string."""
    return f"{_OPEN}{python}{_OR}{command_line}{_CLOSE}"


def option(name: str, value: Any = None) -> str:
    """An argument, and its value if any: ``batch_size=64`` for Python, ``--batch-size 64`` for the command line."""
    flag = f"--{name.replace('_', '-')}"
    if value is None:
        return wording(name, flag)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return wording(f"{name}={value!r}" if isinstance(value, str) else f"{name}={shown}", f"{flag} {shown}")


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


class InputError(ValueError):
    """What was wrong, where, and what would be right, in one line. The command line prints it and exits with 2.

    ``str`` speaks to a Python user; ``for_command_line`` names flags instead of arguments (see ``option``).
    """

    def __str__(self) -> str:
        return for_python(super().__str__())

    def for_command_line(self) -> str:
        """The message with flags."""
        return for_command_line(super().__str__())


class Note(str):
    """A line for the user that is no error: reads as Python, and ``for_command_line`` gives it with flags."""

    marked: str

    def __new__(cls, text: str) -> Note:
        note = super().__new__(cls, for_python(text))
        note.marked = text
        return note


def for_python(text: str) -> str:
    """A text made with ``wording`` as Python users read it."""
    return _WORDING.sub(r"\1", text)


def for_command_line(text: str) -> str:
    """A text made with ``wording``, or a ``Note``, as users of the command line read it."""
    return _WORDING.sub(r"\2", text.marked if isinstance(text, Note) else text)


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


def printable(text: str) -> str:
    """A text that a terminal shows as it is, in one line: control characters, as in odd names of files, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def is_out_of_memory(error: Exception) -> bool:
    """By name and text: torch may not be loaded yet, and of the CPU's memory it has no exception of its own."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(text in str(error) for text in ("can't allocate memory", "DefaultCPUAllocator"))
