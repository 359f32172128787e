"""From arguments to dataclasses by tyro, and from its errors to one line each.

tyro tells what is wrong by typed events, but the module they live in is private. Where the module or an event is not
what is known here, tyro's own message is printed instead, and the exit code is the same.
"""

import difflib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

import tyro

from gvit.errors import InputError

T = TypeVar("T")


def parse(
    kind: type[T],
    args: list[str],
    prog: str,
    also: Sequence[str] = (),
    misplaced: Callable[[str], str | None] = lambda word: None,
    **kwargs: Any,
) -> T:
    """Build a dataclass from a command's arguments; ``--help`` prints and exits.

    Args:
        kind: the dataclass; the fields of those within it are flags, too, without a prefix.
        args: what stands after ``prog``.
        prog: the command.
        also: flags of the command's other forms, which a misspelt one may have meant.
        misplaced: where a word belongs that no argument is expected to be; None where it does not know.
        kwargs: ``default`` and ``description`` of ``tyro.cli``.

    Raises:
        InputError: arguments that are unknown, missing, or refused by the dataclass.
        SystemExit: 0 after the help, 2 after an error that only tyro knows.
    """
    flags = [*flags_of(kind), "--help"]
    for before, arg in zip(["", *args], args, strict=False):
        if not arg or (arg.startswith("--") and arg.endswith("=")):  # of a shell's variable that is not set
            name = arg[:-1] or (before if before.startswith("--") and "=" not in before else "an argument")
            raise InputError(f"{name} is empty; see '{prog} --help'")

    def hook(event: Any) -> None:
        message = None
        with suppress(AttributeError):  # an event that has changed
            message = _describe(event, args, flags, also, misplaced)
        if message is not None:
            raise InputError(f"{message}; see '{prog} --help'") from None

    with _on_parse_error(hook):
        return tyro.cli(kind, args=args, prog=prog, config=(tyro.conf.OmitArgPrefixes,), **kwargs)


def flags_of(kind: type) -> list[str]:
    """The flags of a dataclass's fields, and of the dataclasses within it."""
    flags = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if isinstance(hint, type) and is_dataclass(hint):
            flags += flags_of(hint)
        elif tyro.conf.Positional not in getattr(hint, "__metadata__", ()):
            name = name.replace("_", "-")
            flags += [f"--{name}", f"--no-{name}"] if hint is bool else [f"--{name}"]
    return flags


def at_least_one(**values: int) -> None:
    """Check options by name.

    Raises:
        InputError: one is below 1.
    """
    for name, value in values.items():
        if value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def check_seed(seed: int) -> None:
    """Check ``--seed``.

    Raises:
        InputError: it is no seed.
    """
    if not 0 <= seed < 2**62:
        raise InputError(f"--seed must be from 0 to 2^62, got {seed}")


def _on_parse_error(hook: Callable[[Any], None]) -> AbstractContextManager[None]:
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        return nullcontext()
    return on_parse_error(hook)


def _describe(
    event: Any,
    args: list[str],
    flags: list[str],
    also: Sequence[str],
    misplaced: Callable[[str], str | None],
) -> str | None:
    """What is wrong; None where tyro's words have to do."""
    kind = type(event).__name__
    if kind == "InstantiationFailure":
        return _describe_refusal(event, args)
    names = [arg.split("=")[0] for arg in args if arg.startswith("--")]
    unknown = [name for name in names if name.replace("_", "-") not in flags]
    if unknown and kind in ("UnrecognizedArgs", "MissingArgs", "BadValue"):
        # tyro counts what follows an unknown flag as its values, and misses them elsewhere
        return _describe_unknown(unknown, [*flags, *also])
    if kind == "UnrecognizedArgs":
        advice = next(filter(None, map(misplaced, event.tokens)), None)
        if advice is not None:
            return advice
        return f"unexpected argument{'s' * (len(event.tokens) > 1)} {', '.join(event.tokens)}"
    if kind == "MissingArgs":
        return f"missing {', '.join(_name(missing.arg) for missing in event.missing_arguments)}"
    if kind == "BadValue" and event.reason == "too_few_values":
        name = _name(event.argument)
        return f"{name} needs a value" if name.startswith("--") else f"missing {name}"
    if kind == "InvalidChoice":
        choices = ", ".join(sorted(event.choices))
        return f"{_name(event.argument)} must be one of {choices}, got {event.value}"
    return None


def _describe_refusal(event: Any, args: list[str]) -> str | None:
    """A value that cannot be read, or that the dataclass does not want."""
    error = sys.exception()
    while error is not None:
        if isinstance(error, InputError):
            return error.for_command_line()
        error = error.__cause__ or error.__context__
    if event.argument is None:
        return " ".join(str(event.message).split())
    name, value = _name(event.argument), ""
    for arg, following in zip(args, [*args[1:], ""], strict=True):
        head, equals, attached = arg.partition("=")
        if head.replace("_", "-") == name:
            value = attached if equals else following
    return f"{name} takes {event.argument.lowered.metavar}, got {value!r}"


def _describe_unknown(unknown: list[str], flags: list[str]) -> str:
    near: dict[str, None] = {}
    for name in unknown:
        # without their dashes, which all of them share
        matches = difflib.get_close_matches(name[2:], [flag[2:] for flag in flags], n=3)
        near |= dict.fromkeys(f"--{match}" for match in matches)
    message = f"unknown option{'s' * (len(unknown) > 1)} {', '.join(unknown)}"
    return f"{message}; nearest: {', '.join(near)}" if near else message


def _name(argument: Any) -> str:
    """RUN, or --batch-size."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    return str(argument.lowered.name_or_flags[0])
