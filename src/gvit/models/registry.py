"""Models by name: complete arguments under each."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from gvit.errors import InputError, first_line, option, unknown_name
from gvit.models import in_timm
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier
from gvit.models.card import ModelCard
from gvit.models.named import NAMED
from gvit.models.pretrained import find_pretrained, is_on_hub, list_pretrained, shipped
from gvit.models.tokens import TOKENIZERS, Tokenizer
from gvit.models.weights import load_model


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
    """Make a model available to ``create_model``, to ``gvit train --model`` and, with an encoder, to timm.

    Args:
        name: for users.
        about: what it is, in a line.
        tokens: what its transformer reads; a kind of one's own is registered with it.
        encoder: kind of the encoder before it, a name in ``gvit.models.encoder.ENCODERS``; None for none.
        patches: see ``Entry``.
        frozen: see ``Entry``.
        **arguments: of its parts that differ from their defaults; see ``Architecture.with_arguments``.

    Raises:
        InputError: an unknown kind of encoder, an argument that no part has, or a kind of tokens that another class is.
    """
    known = TOKENIZERS.setdefault(tokens.kind, tokens)
    if known is not tokens:
        if (known.__module__, known.__qualname__) != (tokens.__module__, tokens.__qualname__):
            raise InputError(
                f"tokens of kind {tokens.kind!r} are {known.__name__}; give {tokens.__name__} a kind of its own"
            )
        TOKENIZERS[tokens.kind] = tokens  # defined again, in a notebook for example
    parts = Architecture.default(tokens.kind, encoder, **arguments)
    _ENTRIES[name] = Entry(about, parts, patches, frozen)
    if encoder is not None:
        in_timm.add(name, parts.tokens["img_size"])


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names for ``create_model`` that match a shell-style pattern.

    Args:
        pattern: ``*`` stands for anything.
        pretrained: names of trained weights instead, ``MODEL.TAG``; a pattern may leave the tag out.
    """
    if pretrained:
        return list_pretrained(pattern)
    return sorted(name for name in _ENTRIES if fnmatch(name, pattern))


def registered(name: str) -> Entry:
    """What is known under a name.

    Raises:
        InputError: nothing; the nearest names are given.
    """
    if name not in _ENTRIES:
        raise unknown_name("model", name, {*_ENTRIES, *(shipped() if "." in name else ())})
    return _ENTRIES[name]


def architecture(name: str, **kwargs: Any) -> Architecture:
    """The complete architecture of a named model, with other arguments; see ``create_model``.

    Raises:
        InputError: an unknown name or unusable arguments.
    """
    return with_arguments(name, registered(name).architecture, **kwargs)


def with_arguments(name: str, parts: Architecture, **kwargs: Any) -> Architecture:
    """An architecture with other arguments; errors say that they are of the model ``name``.

    Raises:
        InputError: unusable arguments.
    """
    try:
        return parts.with_arguments(**kwargs)
    except InputError as error:
        raise InputError(f"model {name}: {error.args[0]}") from None


def create_model(name: str, *, pretrained: object = False, **kwargs: Any) -> ImageClassifier:
    """A model by name, freshly initialised or with trained weights, in training mode.

    Args:
        name: one of ``list_models()`` or ``list_models(pretrained=True)``, or ``hf-hub:OWNER/NAME``. With a tag
            (``gvit_tiny.digits``) the architecture is that of the trained weights.
        pretrained: with trained weights: those of the tag, or the model's general encoder (``MODEL.photos``) where the
            name has none. What the arguments make new is freshly initialised: the head, where ``num_classes`` is
            another number, and the whole classifier above a general encoder.
        **kwargs: arguments of its parts (the encoder, the tokens, the transformer) that replace the named model's own,
            for example ``num_classes``, ``img_size``, ``num_gaussians``, ``drop_path_rate``; all of them are in
            ``gvit.models.registry.architecture(name).flat``. ``encoder`` names another kind of encoder. Where it has
            such arguments, it gets the sizes of the encoder that it replaces, and not its own defaults:
            ``create_model("gvit_small", encoder="refining")`` has 12 blocks, 384 wide. In the place of the refining
            encoder it gets those of the classifier. ``encoder_dim``, ``encoder_depth`` and ``encoder_heads`` give
            others; a named variant (``gvit_small_refining``) has sizes of its own.

    Raises:
        ValueError: an unknown name (the nearest ones are given), unusable arguments, among them what no model file can
            hold, or arguments that don't fit the trained weights.

    Warns:
        UserWarning: features alone (``num_classes=0``) of what has learned nothing, above a general encoder.
    """
    if not isinstance(pretrained, bool):
        raise InputError(
            f"pretrained must be True or False, got {pretrained!r}; a tag stands in the name: "
            f"create_model('gvit_tiny.digits', pretrained=True)"
        )
    known = find_pretrained(name)
    if not pretrained and (name in _ENTRIES or (known is None and not is_on_hub(name))):
        return build(name, architecture(name, **kwargs))
    if known is None and not is_on_hub(name):
        raise _no_weights(name)
    trained = load_model(name if known is None else known.path())
    parts = with_arguments(name, Architecture.of(trained), **kwargs)
    try:
        model = build(name, parts)
    except ValueError as error:
        if not pretrained:
            raise
        raise _misfit(name, kwargs, error.args[0].removeprefix(f"model {name}: ")) from error
    class_names = trained.card.class_names if model.num_classes == trained.num_classes else ()
    preprocessing = replace(trained.card.preprocessing, img_size=model.img_size)
    model.card = ModelCard(trained.card.name, preprocessing, class_names)
    if pretrained:
        _take_over(name, model, trained, kwargs)
    return model


def _no_weights(name: str) -> InputError:
    if name not in _ENTRIES:
        return unknown_name("pretrained model", name, shipped())
    return InputError(f"model {name} has no pretrained weights of its own; there are: {', '.join(shipped())}")


# what no weight has the shape of, but an encoder has learned with
_LEARNED_WITH = ("scale_factor", "noise_std", "noise_seed", "detail", "encoder_heads")


def _take_over(name: str, model: ImageClassifier, trained: ImageClassifier, given: dict[str, Any]) -> None:
    """Copy all weights, but those of a head of other classes, and of a classifier that has learned nothing.

    Raises:
        InputError: arguments that the weights don't fit with.
    """

    def learned(weight: str) -> bool:
        if trained.card.encoder_only:
            return weight.startswith("encoder.")
        return model.num_classes == trained.num_classes or not re.match(r"(classifier\.)?head\.", weight)

    theirs = {weight: value for weight, value in trained.state_dict().items() if learned(weight)}
    ours = model.state_dict()
    before, after = Architecture.of(trained).flat, Architecture.of(model).flat
    changed = [argument for argument in given if before.get(argument) != after.get(argument)]
    with_all = _LEARNED_WITH + (() if trained.card.encoder_only else ("num_heads",))
    wrong = [argument for argument in changed if argument in with_all]
    if {w: v.shape for w, v in ours.items() if learned(w)} != {w: v.shape for w, v in theirs.items()}:
        wrong = wrong or [argument for argument in changed if argument != "num_classes"]
    if wrong:
        raise _misfit(name, {argument: given[argument] for argument in wrong})
    model.load_state_dict(ours | theirs)
    if trained.card.encoder_only and not model.num_classes:
        warnings.warn(
            f"{name} is an encoder alone: the transformer above it has learned nothing, and features that it gives "
            "mean nothing before it is trained",
            UserWarning,
            stacklevel=3,
        )


def _misfit(name: str, arguments: dict[str, Any], reason: str = "") -> InputError:
    given = ", ".join(option(argument, value) for argument, value in arguments.items())
    because = f" ({reason})" if reason else ""
    return InputError(f"model {name}: its pretrained weights don't go with {given}{because}")


def build(name: str, parts: Architecture) -> ImageClassifier:
    """A freshly initialised model of an architecture, with a name on its card.

    Raises:
        InputError: arguments that don't fit together, or one that no file could hold when it is trained.
    """
    try:
        parts.check_storable()
    except InputError as error:
        raise InputError(f"model {name}: {error.args[0]}") from None
    try:
        model = parts.build()
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise InputError(f"model {name}: {first_line(error)}") from error
    model.begin_card(name)
    return model


for _name, _named in NAMED.items():
    register_model(
        *(_name, _named.about, TOKENIZERS[_named.tokens], _named.encoder),
        patches=_named.patches,
        frozen=_named.frozen,
        **_named.arguments,
    )
