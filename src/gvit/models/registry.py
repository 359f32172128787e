"""Models by name."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from gvit.errors import InputError, first_line, option, unknown_name
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier
from gvit.models.tokens import TOKENIZERS, Tokenizer


@dataclass(frozen=True)
class Entry:
    """A named model.

    Attributes:
        about: what it is, in a line.
        architecture: complete.
        patches: name of the patch ViT with the same transformer, which it is to be compared with.
        frozen: name of its classifier alone, over Gaussians that stand still.
    """

    about: str
    architecture: Architecture
    patches: str | None = None
    frozen: str | None = None


_ENTRIES: dict[str, Entry] = {}


def register_model(
    name: str,
    about: str,
    tokens: type[Tokenizer],
    encoder: str | None = None,
    *,
    patches: str | None = None,
    frozen: str | None = None,
    **arguments: Any,
) -> None:
    """Make a model available to ``create_model`` and to ``gvit train --model``.

    Args:
        name: for users.
        about: what it is, in a line.
        tokens: what its transformer reads; a kind of one's own is registered with it.
        encoder: kind of the encoder before it, a name in ``gvit.models.encoder.ENCODERS``; None for none.
        patches: see ``Entry``.
        frozen: see ``Entry``.
        **arguments: of its parts that differ from their defaults; see ``Architecture.with_arguments``.
    """
    TOKENIZERS.setdefault(tokens.kind, tokens)
    _ENTRIES[name] = Entry(about, Architecture.default(tokens.kind, encoder, **arguments), patches, frozen)


def list_models(pattern: str = "*") -> list[str]:
    """Names for ``create_model`` that match a shell-style pattern."""
    return sorted(name for name in _ENTRIES if fnmatch(name, pattern))


def registered(name: str) -> Entry:
    """What is known under a name.

    Raises:
        InputError: nothing; the nearest names are given.
    """
    if name not in _ENTRIES:
        raise unknown_name("model", name, _ENTRIES)
    return _ENTRIES[name]


def architecture(name: str, **kwargs: Any) -> Architecture:
    """The complete architecture of a named model, with other arguments; see ``create_model``."""
    for size, least in (("img_size", 1), ("num_gaussians", 1), ("num_classes", 0)):
        value = kwargs.get(size, least)
        if not isinstance(value, int) or value < least:
            raise InputError(
                f"model {name}: {option(size)} must be a whole number, at least {least}, got {value!r}"
            )
    try:
        return registered(name).architecture.with_arguments(**kwargs)
    except InputError as error:
        raise error if name not in _ENTRIES else InputError(f"model {name}: {error}") from None


def create_model(name: str, **kwargs: Any) -> ImageClassifier:
    """A freshly initialised model.

    Args:
        name: one of ``list_models()``.
        **kwargs: arguments of its parts (the encoder, the tokens, the transformer) that replace the named model's own,
            for example ``num_classes``, ``img_size``, ``num_gaussians``, ``drop_path_rate``; all of them are in
            ``gvit.models.registry.architecture(name).flat``.

    Raises:
        ValueError: an unknown name (the nearest ones are given) or unusable arguments.
    """
    return build(name, architecture(name, **kwargs))


def build(name: str, parts: Architecture) -> ImageClassifier:
    """A freshly initialised model of an architecture, with a name on its card.

    Raises:
        InputError: arguments that don't fit together.
    """
    try:
        model = parts.build()
    except InputError:
        raise
    except (TypeError, ValueError, AssertionError, ZeroDivisionError) as error:
        raise InputError(f"model {name}: {first_line(error)}") from error
    model.begin_card(name)
    return model


from gvit.models import zoo  # noqa: E402, F401 (who asks for a name finds them)
