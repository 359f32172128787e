"""Flags of nested dataclasses in other groups: those that most people use come first in the help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, make_dataclass, replace
from typing import Annotated, Any, TypeVar, get_type_hints

import docstring_parser
import tyro

T = TypeVar("T")


@dataclass(frozen=True)
class _Flag:
    """A field of one of the dataclasses."""

    group: str
    name: str
    hint: Any
    default: Any


def grouped(default: Any, common: Sequence[str]) -> Any:
    """An instance of a new dataclass that has the same flags and values as ``default``, for ``tyro.cli``.

    Args:
        default: a dataclass of dataclasses, no two of whose fields share a name but where one holds the other.
        common: names of the fields of the first group, in its order; the others stay with their dataclass.
    """
    flags = {flag.name: flag for flag in _flags(default, "")}
    groups: dict[str, list[_Flag]] = {"common": [flags[name] for name in common]}
    for flag in flags.values():
        if flag.name not in common:
            groups.setdefault(flag.group, []).append(flag)
    made = {name: _make(name, members, _about(default, name)) for name, members in groups.items()}
    whole = make_dataclass(
        type(default).__name__,
        [(name, type(group), field(default=group)) for name, group in made.items()],
        frozen=True,
    )
    return whole()


def regrouped(default: T, parsed: Any) -> T:
    """``default`` with the values that an instance of the dataclass of ``grouped`` has."""
    values = {f.name: getattr(group, f.name) for _, group in _members(parsed) for f in fields(group)}
    return _filled(default, values)


def _filled(default: T, values: Mapping[str, Any]) -> T:
    changes = {
        name: _filled(value, values) if is_dataclass(value) else values[name]
        for name, value in _members(default)
    }
    return replace(default, **changes)  # type: ignore[type-var]


def _members(instance: Any) -> list[tuple[str, Any]]:
    return [(f.name, getattr(instance, f.name)) for f in fields(instance)]


def _flags(instance: Any, group: str) -> Iterator[_Flag]:
    hints = get_type_hints(type(instance), include_extras=True)
    told = {
        entry.arg_name: entry.description for entry in docstring_parser.parse(type(instance).__doc__).params
    }
    for name, value in _members(instance):
        if is_dataclass(value):
            yield from _flags(value, name)
        else:
            help_ = " ".join((told.get(name) or "").split())
            yield _Flag(group, name, Annotated[hints[name], tyro.conf.arg(help=help_)], value)


def _make(name: str, flags: Sequence[_Flag], about: str) -> Any:
    members: list[tuple[str, Any, Field]] = [(f.name, f.hint, field(default=f.default)) for f in flags]
    made = make_dataclass(name.capitalize(), members, frozen=True)
    made.__doc__ = about
    return made()


def _about(instance: Any, group: str) -> str:
    """The first line of the docstring of the dataclass that a group is."""
    if group == "common":
        return "What most people set."
    for name, value in _members(instance):
        if is_dataclass(value):
            if name == group:
                return str(type(value).__doc__).splitlines()[0]
            found = _about(value, group)
            if found:
                return found
    return ""
