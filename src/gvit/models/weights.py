"""Models as one self-describing safetensors file each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gvit.errors import InputError, first_line
from gvit.files import replacing
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.formats import from_first_format

WEIGHTS_NAME = "model.safetensors"
FORMAT = 2
_METADATA_KEY = "gvit.model"


def save_model(model: ImageClassifier, path: str | Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write weights, all arguments and ``model.card`` to one safetensors file, whole or not at all.

    Args:
        model: the model.
        path: of the file; ends in ``.safetensors``.
        weights: its state where that is not ``model.state_dict()``, a moving average for example.

    Raises:
        InputError: another suffix, the file cannot be written, or a part of the model has no registered kind.
    """
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path}: models are written as safetensors; name a file that ends in .safetensors")
    state = model.state_dict() if weights is None else weights
    # a run in double precision, too, leaves weights that load into a float32 model
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in state.items()}
    described = {
        "format": FORMAT,
        "architecture": Architecture.of(model).to_dict(),
        **asdict(model.card),
    }
    with replacing(path) as partial:
        # safetensors' own file would be for its owner's eyes only, whatever the umask
        partial.write_bytes(save(tensors, {_METADATA_KEY: json.dumps(described)}))


def load_model(path: str | Path) -> ImageClassifier:
    """The model of a run folder or of a weights file written by gvit, in evaluation mode, on the CPU.

    Raises:
        ValueError: there is no such run, or its weights are damaged, of a newer gvit, or not gvit's.
    """
    path = Path(path)
    file = path / WEIGHTS_NAME if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"{path}: no run here ({WEIGHTS_NAME} not found); 'gvit train' makes one")
    try:
        with safe_open(file, "pt") as opened:
            described = json.loads((opened.metadata() or {})[_METADATA_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        model = _describe(described)
        model.load_state_dict(tensors)
    except InputError as error:
        raise InputError(f"{file}: {error.args[0]}") from error
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        reason = first_line(error)
        raise InputError(
            f"{file}: damaged, or not written by gvit ({reason}); train again or restore it"
        ) from error
    return model.eval()


def _describe(described: dict[str, Any]) -> ImageClassifier:
    """The model that a file describes, without its weights."""
    if "format" not in described:
        described = from_first_format(described)
    if described["format"] != FORMAT:
        raise InputError(f"format {described['format']}, which a newer gvit wrote")
    model = Architecture(**described["architecture"]).build()
    model.card = ModelCard(
        described["name"], Preprocessing(**described["preprocessing"]), tuple(described["class_names"])
    )
    return model
