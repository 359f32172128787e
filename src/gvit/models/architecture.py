"""The complete arguments of a model's parts: what a file holds, and what builds the model again."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any

from gvit.errors import InputError, option, unknown_name
from gvit.models.base import ImageClassifier
from gvit.models.encoder import ENCODERS
from gvit.models.gvit import GViT
from gvit.models.part import defaults
from gvit.models.tokens import TOKENIZERS
from gvit.models.vit import ViT

_KINDS: dict[str, Mapping[str, type]] = {"encoder": ENCODERS, "tokens": TOKENIZERS, "vit": {"vit": ViT}}
_CALLED = {"encoder": "encoder", "tokens": "kind of tokens"}
_HOLDERS = {"encoder": "encoder", "tokens": "tokens", "vit": "transformer"}
# The parts' arguments share one namespace in `create_model`; the encoder's sizes have names of their own there.
_FLAT = {
    ("encoder", "embed_dim"): "encoder_dim",
    ("encoder", "depth"): "encoder_depth",
    ("encoder", "num_heads"): "encoder_heads",
}
# What can't be built, or would show only when it is used: least and largest of whole numbers, and of shares.
_MOST = 10**7
_WHOLE = {
    **dict.fromkeys(("img_size", "in_chans", "num_gaussians", "patch_size"), 1),
    **dict.fromkeys(("embed_dim", "num_heads", "looks"), 1),
    **dict.fromkeys(("depth", "num_classes"), 0),
}
_POSITIVE, _SHARES = ("scale_factor", "mlp_ratio"), ("drop_rate", "drop_path_rate")
_FROM_ZERO = {
    "noise_std": (math.inf, "a finite number, at least 0"),
    "detail": (1.0, "at least 0 and below 1"),
}


@dataclass(frozen=True)
class Architecture:
    """A model without its weights.

    Changing a default in the code never changes an architecture that was written down: nothing is left out.

    Attributes:
        tokens: of the tokenizer, ``kind`` among them.
        vit: of the transformer.
        encoder: of the encoder, ``kind`` among them; None for a model without one.
    """

    tokens: Mapping[str, Any]
    vit: Mapping[str, Any]
    encoder: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: ImageClassifier) -> Architecture:
        """A model's.

        Raises:
            InputError: a part is of a class that is not the registered one of its kind: it could not be built again.
        """
        tokens, encoder = model.tokens, model.encoder
        for part, module in (("tokens", tokens), ("encoder", encoder), ("model", model)):
            _check_class(part, module)
        vit = {name: value for name, value in model.classifier.arguments.items() if name != "tokens"}
        return cls(
            {"kind": tokens.kind, **tokens.arguments},
            vit | {"num_classes": _plain(model.num_classes)},
            None if encoder is None else {"kind": encoder.kind, **encoder.arguments},
        )

    @classmethod
    def default(cls, tokens: str, encoder: str | None, **arguments: Any) -> Architecture:
        """That of the kinds named, with these arguments instead of the defaults; see ``with_arguments``.

        Raises:
            InputError: as ``with_arguments``.
        """
        return cls(
            _complete("tokens", tokens, {}),
            _complete("vit", "vit", {}),
            None if encoder is None else _complete("encoder", encoder, {}),
        ).with_arguments(**arguments)

    @property
    def flat(self) -> dict[str, Any]:
        """All arguments under the names that ``with_arguments`` takes; the classifier's, where two parts have one."""
        found: dict[str, Any] = {}
        for part, values in self._parts().items():
            found |= {_flat_name(part, name): value for name, value in values.items()}
        return found

    def with_arguments(self, **arguments: Any) -> Architecture:
        """The same with other arguments: ``num_classes``, ``img_size``, ``num_gaussians``, ``encoder``, ...

        One that several parts have (``img_size``, ``mlp_ratio``) is for all of them. ``encoder`` and ``tokens`` name a
        kind; ``encoder_dim``, ``encoder_depth`` and ``encoder_heads`` are the encoder's ``embed_dim``, ``depth`` and
        ``num_heads``.

        Another kind of encoder keeps the arguments of the one before that it has, too; in the place of one without
        heads, which is no transformer, it gets the sizes of the classifier.

        Raises:
            InputError: no part has such an argument, one is out of its range, a kind is unknown, or reads something
                else.
        """
        changed, known = {}, set()
        for part, values in self._parts().items():
            kind = values.get("kind", part)
            if part in arguments and "kind" in values:
                kind = arguments[part]
                _check_kind(part, values["kind"], kind)
            if part == "encoder" and kind != values["kind"] and "num_heads" not in values:
                # what was no transformer has no sizes for one: it gets those of the classifier
                sizes = {**self.tokens, **self.vit}
                values |= {name: sizes[name] for name in ("embed_dim", "depth", "num_heads", "mlp_ratio")}
            values = _complete(part, kind, values)
            for name in values:
                flat = _flat_name(part, name)
                known.add(flat)
                if flat in arguments:
                    if name == "in_chans" and arguments[flat] != 3:
                        raise InputError(
                            f"{option(flat)} must be 3, as images are read and drawn in colours; got {arguments[flat]}"
                        )
                    _check_range(flat, name, arguments[flat])
                    values[name] = _plain(arguments[flat])
            changed[part] = values
        unknown = sorted(arguments.keys() - known)
        if unknown:
            raise InputError(f"it has no argument {unknown[0]!r}")
        return Architecture(**changed)

    def accepts(self, name: str, value: Any) -> bool:
        """Whether ``with_arguments`` takes it."""
        try:
            self.with_arguments(**{name: value})
        except InputError:
            return False
        return True

    def check_ranges(self) -> None:
        """See to it that arguments which a file tells are in their ranges.

        Raises:
            InputError: one is not.
        """
        for part, values in self._parts().items():
            for name, value in values.items():
                _check_range(_flat_name(part, name), name, value)

    def check_storable(self) -> None:
        """See to it that a file can hold the arguments.

        Raises:
            InputError: one is nothing that JSON has.
        """
        for part, values in self._parts().items():
            for name, value in values.items():
                try:
                    json.dumps(value)
                except (TypeError, ValueError):
                    raise InputError(
                        f"argument {name} of its {_HOLDERS[part]} is {value!r}, which no model file can hold; numbers, "
                        "texts, True, False, None and lists of these can be"
                    ) from None

    def build(self) -> ImageClassifier:
        """A freshly initialised model."""
        # in this order: the same seed gives the same weights
        encoder = None if self.encoder is None else _build("encoder", self.encoder)
        vit = ViT(_build("tokens", self.tokens), **self.vit)
        return vit if encoder is None else GViT(encoder, vit)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def _parts(self) -> dict[str, dict[str, Any]]:
        parts = {"encoder": self.encoder, "tokens": self.tokens, "vit": self.vit}
        return {part: dict(values) for part, values in parts.items() if values is not None}


def _plain(value: Any) -> Any:
    """Of a number of NumPy's, Python's own, which JSON has."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def _check_class(part: str, module: Any) -> None:
    if module is None:
        return
    name = module.built_as.__name__
    known: type | None = GViT if getattr(module, "encoder", None) is not None else ViT
    reason = "it is neither GViT nor ViT"
    if part != "model":
        known = _KINDS[part].get(module.kind)
        reason = f"it is not the class of {_CALLED[part]} {module.kind!r}"
    if module.built_as is not known:
        raise InputError(f"a file could not tell how to build {name} again: {reason}")


def _check_range(called: str, name: str, value: Any) -> None:
    if name in _WHOLE:
        least = _WHOLE[name]
        if not (isinstance(value, Integral) and least <= int(value) <= _MOST):
            raise InputError(
                f"{option(called)} must be a whole number, at least {least} and at most {_MOST:,}, got {value!r}"
            )
    elif name in _POSITIVE and not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise InputError(f"{option(called)} must be a finite number above 0, got {value!r}")
    elif name in _SHARES and not (isinstance(value, Real) and 0 <= float(value) <= 1):
        raise InputError(f"{option(called)} must be 0 to 1, got {value!r}")
    elif name in _FROM_ZERO:
        end, wanted = _FROM_ZERO[name]
        if not (isinstance(value, Real) and 0 <= float(value) < end):
            raise InputError(f"{option(called)} must be {wanted}, got {value!r}")


def _flat_name(part: str, name: str) -> str:
    return part if name == "kind" else _FLAT.get((part, name), name)


def _check_kind(part: str, ours: str, kind: Any) -> None:
    known = _KINDS[part]
    if part == "tokens":  # a model that reads something else is another model
        known = {name: cls for name, cls in TOKENIZERS.items() if cls.reads == TOKENIZERS[ours].reads}
    if kind not in known:
        raise unknown_name(_CALLED[part], str(kind), known)


def _complete(part: str, kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a kind: those of ``values`` that it has, and its defaults."""
    if kind not in _KINDS[part]:
        raise unknown_name(_CALLED[part], str(kind), _KINDS[part])
    own = {n: v for n, v in defaults(_KINDS[part][kind]).items() if v is not inspect.Parameter.empty}
    same = kind == values.get(
        "kind", part
    )  # then what is not known is not dropped, but refused when it is built
    complete = own | {name: value for name, value in values.items() if name in own or same}
    complete.pop("kind", None)
    return complete if part == "vit" else {"kind": kind, **complete}


def _build(part: str, values: Mapping[str, Any]) -> Any:
    arguments = dict(values)
    kind = arguments.pop("kind")
    if kind not in _KINDS[part]:
        raise unknown_name(_CALLED[part], str(kind), _KINDS[part])
    return _KINDS[part][kind](**arguments)
