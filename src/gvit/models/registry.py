"""Models by name, and their weights as one self-describing safetensors file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gvit.errors import InputError, first_line, unknown_name
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.frozen import GaussianViT
from gvit.models.gvit import GViT
from gvit.models.patch import PatchViT

WEIGHTS_NAME = "model.safetensors"
_METADATA_KEY = "gvit.model"

ImageClassifier = GViT | PatchViT | GaussianViT
_Entrypoint = TypeVar("_Entrypoint", bound=Callable[..., ImageClassifier])

_ENTRYPOINTS: dict[str, Callable[..., ImageClassifier]] = {}


def register_model(entrypoint: _Entrypoint) -> _Entrypoint:
    """Decorator: make a function available to ``create_model`` under its own name."""
    _ENTRYPOINTS[entrypoint.__name__] = entrypoint
    return entrypoint


def list_models(pattern: str = "*") -> list[str]:
    """Names for ``create_model`` that match a shell-style pattern."""
    return sorted(name for name in _ENTRYPOINTS if fnmatch(name, pattern))


def create_model(name: str, **kwargs: Any) -> ImageClassifier:
    """A freshly initialised model.

    Args:
        name: one of ``list_models()``.
        **kwargs: arguments of ``gvit.models.gvit.GViT``, of ``gvit.models.patch.PatchViT`` for a patch model, or of
            ``gvit.models.frozen.GaussianViT`` for one of Gaussians, that replace the named model's own, for example
            ``num_classes``, ``img_size``, ``num_gaussians``.

    Raises:
        ValueError: an unknown name (the nearest ones are given) or unusable arguments.
    """
    if name not in _ENTRYPOINTS:
        raise unknown_name("model", name, _ENTRYPOINTS)
    for size, least in (("img_size", 1), ("num_gaussians", 1), ("num_classes", 0)):
        value = kwargs.get(size, least)
        if not isinstance(value, int) or value < least:
            raise InputError(f"model {name}: {size} must be a whole number, at least {least}, got {value!r}")
    try:
        model = _ENTRYPOINTS[name](**kwargs)
    except TypeError as error:
        unexpected = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        reason = f"it has no argument {unexpected[1]!r}" if unexpected else first_line(error)
        raise InputError(f"model {name}: {reason}") from error
    model.card = ModelCard(name, kwargs, Preprocessing(model.img_size))
    return model


def save_model(model: ImageClassifier, path: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write weights and ``model.card`` to one safetensors file, whole or not at all.

    Args:
        model: the model.
        path: of the file.
        weights: its state where that is not ``model.state_dict()``, a moving average for example.
    """
    path = Path(path)
    state = model.state_dict() if weights is None else weights
    # a run in double precision, too, leaves weights that load into a float32 model
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
    partial = path.with_name(path.name + ".partial")
    # safetensors' own file would be for its owner's eyes only, whatever the umask
    partial.write_bytes(save(tensors, {_METADATA_KEY: json.dumps(asdict(model.card))}))
    os.replace(partial, path)


def load_model(path: str | Path) -> ImageClassifier:
    """The model of a run folder or of a weights file written by gvit, in evaluation mode, on the CPU.

    Raises:
        ValueError: there is no such run, or its weights are damaged or are not gvit's.
    """
    path = Path(path)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no run here ({WEIGHTS_NAME} not found); 'gvit train' makes one")
    try:
        with safe_open(file, "pt") as opened:
            card = json.loads((opened.metadata() or {})[_METADATA_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        model = create_model(card["name"], **card["kwargs"])
        model.card = ModelCard(
            card["name"], card["kwargs"], Preprocessing(**card["preprocessing"]), tuple(card["class_names"])
        )
        model.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, json.JSONDecodeError) as error:
        reason = first_line(error)
        raise InputError(
            f"{file}: damaged, or not written by gvit ({reason}); train again or restore it"
        ) from error
    return model.eval()


@register_model
def gvit_tiny(**kwargs: Any) -> GViT:
    """For 32 px images on a laptop: 32 Gaussians, width 96, depth 3."""
    return GViT(
        **{
            "img_size": 32,
            "patch_size": 8,
            "num_gaussians": 32,
            "encoder_dim": 96,
            "encoder_depth": 3,
            "encoder_heads": 3,
            "embed_dim": 96,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2.0,
            **kwargs,
        }
    )


@register_model
def gvit_small(**kwargs: Any) -> GViT:
    """GViT-S: ViT-S encoder and ViT-S classifier, 512 Gaussians at 224 px (paper, Section 3)."""
    return GViT(**kwargs)


@register_model
def gvit_base(**kwargs: Any) -> GViT:
    """GViT-B: ViT-S encoder and ViT-B classifier, 512 Gaussians at 224 px (paper, Section 3)."""
    return GViT(**{"embed_dim": 768, "num_heads": 12, **kwargs})


@register_model
def gaussian_vit_tiny(**kwargs: Any) -> GaussianViT:
    """The classifier of ``gvit_tiny`` over given Gaussians."""
    return GaussianViT(
        **{
            "img_size": 32,
            "num_gaussians": 32,
            "embed_dim": 96,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2.0,
            **kwargs,
        }
    )


@register_model
def gaussian_vit_small(**kwargs: Any) -> GaussianViT:
    """The classifier of ``gvit_small`` over given Gaussians."""
    return GaussianViT(**kwargs)


@register_model
def gaussian_vit_base(**kwargs: Any) -> GaussianViT:
    """The classifier of ``gvit_base`` over given Gaussians."""
    return GaussianViT(**{"embed_dim": 768, "num_heads": 12, **kwargs})


@register_model
def vit_tiny_patch8(**kwargs: Any) -> PatchViT:
    """The classifier of ``gvit_tiny`` over the 16 patches of a 32 px image."""
    return PatchViT(
        **{
            "img_size": 32,
            "patch_size": 8,
            "embed_dim": 96,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 2.0,
            **kwargs,
        }
    )


@register_model
def vit_small_patch16(**kwargs: Any) -> PatchViT:
    """ViT-S/16 at 224 px."""
    return PatchViT(**kwargs)


@register_model
def vit_small_patch32(**kwargs: Any) -> PatchViT:
    """ViT-S/32 at 224 px."""
    return PatchViT(**{"patch_size": 32, **kwargs})


@register_model
def vit_base_patch16(**kwargs: Any) -> PatchViT:
    """ViT-B/16 at 224 px."""
    return PatchViT(**{"embed_dim": 768, "num_heads": 12, **kwargs})


@register_model
def vit_base_patch32(**kwargs: Any) -> PatchViT:
    """ViT-B/32 at 224 px."""
    return PatchViT(**{"patch_size": 32, "embed_dim": 768, "num_heads": 12, **kwargs})
