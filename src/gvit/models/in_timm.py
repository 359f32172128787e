"""GViT's models by name in timm: ``timm.create_model("gvit_small")`` after ``import gvit``, whichever comes first.

    python -m gvit.models.in_timm train.py --model gvit_small ...

runs a script that knows timm alone, with GViT's models in timm's registry. What builds them is imported when one is
asked for, so that whoever imports timm for other models pays nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from gvit.errors import InputError
from gvit.models.card import CropMode, Interpolation, Preprocessing
from gvit.models.named import NAMED
from gvit.models.pretrained import FOLDER, GENERAL_TAG, Pretrained, find_pretrained, shipped

_DEFAULT_SIZE, _DEFAULT_CLASSES = 224, 1000
_HEAD = {"first_conv": None, "classifier": "classifier.head"}
# timm's ``register_model`` looks for a model's data under this name in the module of its function
default_cfgs: dict[str, Any] = {}


def add_named() -> None:
    """Enter the named models that have an encoder into timm's registry."""
    for name, named in NAMED.items():
        if named.encoder is not None:
            add(name, named.arguments.get("img_size", _DEFAULT_SIZE))


def add(name: str, img_size: int) -> None:
    """Enter a model into timm's registry, and the pretrained weights of that name; one that is there stays."""
    from timm.models import generate_default_cfgs, is_model, register_model

    if is_model(name):
        return
    cfgs: dict[str, Any] = {name: Preprocessing(img_size).for_timm() | _HEAD} | dict(_tags(name, img_size))
    default_cfgs.update(generate_default_cfgs(cfgs))
    register_model(_entrypoint(name))


def _tags(name: str, img_size: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What timm is to know of the pretrained weights of a model; the general encoder first, which is the default."""
    try:
        entries = [entry for entry in shipped().values() if entry.model == name]
    except InputError:  # a damaged installation, which whoever asks for weights is told of
        return
    for entry in sorted(entries, key=lambda entry: not entry.name.endswith(f".{GENERAL_TAG}")):
        known = {"description": entry.about, **_HEAD}
        if entry.installed:
            yield entry.name, known | {"file": str(FOLDER / entry.file)} | _described(entry, img_size)
        elif entry.hub is not None:
            hub = {"hf_hub_id": entry.hub, "hf_hub_filename": entry.file}
            yield entry.name, known | hub | Preprocessing(img_size).for_timm()


def _described(entry: Pretrained, img_size: int) -> dict[str, Any]:
    """Input and classes of weights, as their file tells them."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(FOLDER / entry.file, "pt") as file:
            described = json.loads(file.metadata()["gvit.model"])
        names = tuple(described["class_names"])
        classes = {"num_classes": described["architecture"]["vit"]["num_classes"]}
        return (
            Preprocessing(**described["preprocessing"]).for_timm()
            | classes
            | ({"label_names": names} if names else {})
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # told when the weights are asked for
        return Preprocessing(img_size).for_timm()


def _entrypoint(name: str) -> Callable[..., Any]:
    def create(pretrained: bool = False, **kwargs: Any) -> Any:
        return _create(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"``gvit.create_model({name!r})``, with timm's arguments."
    return create


def _create(
    name: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    features_only: bool = False,
    out_indices: int | tuple[int, ...] = 3,
    **kwargs: Any,
) -> Any:
    """A model as ``timm.create_model`` asks for it; see docs/timm.md.

    Raises:
        InputError: arguments that the model does not take, or that don't fit its weights.
    """
    from timm.models import load_pretrained, resolve_pretrained_cfg
    from timm.models._features import FeatureGetterNet

    from gvit.models.geometry import keep_float32

    # by name: the registry imports this module, to enter what is registered later
    create_model = import_module("gvit.models.registry").create_model
    cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay)
    arguments = _arguments(name, kwargs)
    frozen = arguments.pop("freeze_encoder", False)
    entry = find_pretrained(f"{name}.{cfg.tag}") if cfg.tag else None
    if entry is not None and not (_is_of(cfg, entry) and (pretrained or entry.installed)):
        entry = None  # nothing is downloaded unasked
    loads = pretrained and (entry is None or cfg.state_dict is not None)  # timm does
    if entry is None:
        model = create_model(name, **arguments)
    else:
        # sizes are those of the weights, with them or without; a general encoder has no classes
        classes = {} if pretrained or cfg.tag != GENERAL_TAG else {"num_classes": _DEFAULT_CLASSES}
        named = f"{name}.{cfg.tag}"
        model = create_model(named, pretrained=pretrained and not loads, **classes | arguments)
    if loads:
        load_pretrained(model, cfg.to_dict(), model.num_classes, cache_dir=cache_dir)
        names = tuple(cfg.label_names or ())
        if len(names) == model.num_classes:
            model.card = replace(model.card, class_names=names)
        model.card = replace(model.card, preprocessing=_preprocessing(model.card.preprocessing, cfg))
    keep_float32(*model.geometry())  # timm's scripts bring autocast
    if frozen:
        model.encoder.requires_grad_(False)
    if not features_only:
        return model
    features = FeatureGetterNet(model, out_indices=out_indices, output_fmt="NLC")
    features.pretrained_cfg = features.default_cfg = model.pretrained_cfg
    return features


def _is_of(cfg: Any, entry: Pretrained) -> bool:
    """Whether timm means the weights of that name, or has been told of others."""
    if cfg.file is None:
        return entry.hub is not None and cfg.hf_hub_id == entry.hub
    return bool(cfg.file == str(FOLDER / entry.file))


def _preprocessing(ours: Preprocessing, cfg: Any) -> Preprocessing:
    """What timm knows of how the weights saw images, where gvit has that way, too."""
    if cfg.crop_mode not in get_args(CropMode) or cfg.interpolation not in get_args(Interpolation):
        return ours
    return replace(ours, crop_mode=cfg.crop_mode, crop_pct=cfg.crop_pct, interpolation=cfg.interpolation)


def _arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """timm's arguments by the names that ``gvit.create_model`` has for them."""
    arguments = {
        key: value for key, value in given.items() if key not in ("in_chans", "pretrained_model_args")
    }
    if given.get("in_chans", 3) != 3:
        raise InputError(
            f"model {name}: in_chans must be 3, as Gaussians have three colours; got {given['in_chans']}"
        )
    size = arguments.get("img_size")
    if isinstance(size, (tuple, list)):
        if len(set(size)) != 1:
            raise InputError(f"model {name}: images must be square, got img_size={tuple(size)}")
        arguments["img_size"] = size[0]
    if "global_pool" in arguments:
        arguments["pool"] = arguments.pop("global_pool")
    return arguments


def _run(args: list[str]) -> None:
    """A script as ``python SCRIPT`` runs it."""
    import runpy

    if not args:
        sys.exit("usage: python -m gvit.models.in_timm SCRIPT [ARGUMENT...]")
    if not Path(args[0]).is_file():
        sys.exit(f"{args[0]}: no such file; train.py and validate.py are in timm's repository")
    sys.argv = args
    sys.path[0] = str(Path(args[0]).resolve().parent)
    runpy.run_path(args[0], run_name="__main__")


if __name__ == "__main__":
    _run(sys.argv[1:])
