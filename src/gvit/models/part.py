"""Parts of models remember the complete arguments that they were built with, so that a file can hold them."""

from __future__ import annotations

import functools
import inspect
from typing import Any

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Part:
    """A base class; of a subclass whose ``__init__`` hands ``**kwargs`` on to its base, all arguments are kept.

    Attributes:
        arguments: all of the constructor's, by name, defaults included.
        built_as: the class that was called; sharding (FSDP2) gives a module another one later.
    """

    arguments: dict[str, Any]
    built_as: type

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            setattr(cls, "__init__", _recorded(cls.__dict__["__init__"]))  # noqa: B010 (mypy's wish)


def defaults(cls: type) -> dict[str, Any]:
    """The arguments of a class's constructor, and of the bases' that it hands ``**kwargs`` on to, with their defaults.

    ``inspect.Parameter.empty`` stands where there is none.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if "__init__" not in base.__dict__:
            continue
        parameters = list(inspect.signature(base.__dict__["__init__"]).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in _NAMED:
                found.setdefault(parameter.name, parameter.default)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


def _recorded(init: Any) -> Any:
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recording(self: Any, *args: Any, **kwargs: Any) -> None:
        if "arguments" not in self.__dict__:  # the outermost class's is called first
            given = signature.bind(self, *args, **kwargs).arguments
            rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
            given |= given.pop(rest, {})
            given.pop(next(iter(signature.parameters)))
            # a module has no __setattr__ of its own before its __init__
            self.__dict__["arguments"] = defaults(type(self)) | given
            self.__dict__["built_as"] = type(self)
        init(self, *args, **kwargs)

    return recording
