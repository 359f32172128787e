"""Models as one self-describing safetensors file each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from gvit.errors import InputError, first_line
from gvit.files import replacing
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.formats import from_first_format
from gvit.models.pretrained import WEIGHTS_NAME, locate

__all__ = ["FORMAT", "WEIGHTS_NAME", "load_model", "save_model"]

FORMAT = 2
_METADATA_KEY = "gvit.model"
_COMPILED = "_orig_mod"  # what torch.compile calls the module that it wraps
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# of a file that holds an encoder alone: what a classifier may have for all that it tells; ViT-H has 32 and 6 * 10**8
_MOST_BLOCKS, _MOST_MADE = 100, 10**9


def save_model(
    model: ImageClassifier | torch.nn.Module,
    path: str | Path,
    weights: Mapping[str, Tensor] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write weights, all arguments and ``model.card`` to one safetensors file, whole or not at all.

    Args:
        model: the model, or ``torch.compile``'s of it.
        path: of the file; ends in ``.safetensors``.
        weights: its state where that is not ``model.state_dict()``, a moving average for example. Of a model whose
            card says ``encoder_only`` the classifier may be left out.
        dtype: of the weights in the file, ``torch.float32``, ``float16`` or ``bfloat16``; half precision halves the
            file. Whatever it is, ``load_model`` gives a float32 model.

    Raises:
        InputError: another suffix or dtype, the file cannot be written, a part of the model has no registered kind, or
            an argument that a file can't hold (a class, a function), the weights are not those of the model's arguments
            (a layer was replaced by hand), are NaN or infinite, or too large for the dtype. What was at ``path`` stays.
    """
    if dtype not in _DTYPES:
        raise InputError(f"dtype must be one of {', '.join(map(str, _DTYPES))}, got {dtype}")
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path}: models are written as safetensors; name a file that ends in .safetensors")
    model = cast(ImageClassifier, getattr(model, _COMPILED, model))
    state = model.state_dict() if weights is None else weights
    state = {name.replace(f"{_COMPILED}.", ""): tensor for name, tensor in state.items()}
    # a run in double precision, too, leaves weights that load into a float32 model
    tensors = {name: tensor.detach().cpu().to(dtype).contiguous() for name, tensor in state.items()}
    if dtype == torch.float16:  # finite in float32 only
        large = [n for n, t in tensors.items() if t.isinf().any() and not state[n].isinf().any()]
        if large:
            raise InputError(f"{path}: {large[0]} holds numbers that {dtype} can't; save as torch.bfloat16")
    architecture = Architecture.of(model)
    try:
        architecture.check_storable()
        _check_finite(state)
        _check_class_names(model)
        with torch.device("meta"):  # of no size
            _check_names(tensors, architecture.build(), model.card.encoder_only)
    except ValueError as error:
        raise InputError(f"{path}: not saved: {error.args[0]}") from error
    described = {"format": FORMAT, "architecture": architecture.to_dict(), **asdict(model.card)}
    with replacing(path) as partial:
        # safetensors' own file would be for its owner's eyes only, whatever the umask
        partial.write_bytes(save(tensors, {_METADATA_KEY: json.dumps(described)}))


def load_model(path: str | Path) -> ImageClassifier:
    """The model of a run, a weights file or a name, in evaluation mode, on the CPU, in float32.

    Args:
        path: a run folder; a weights file written by gvit; a name out of ``gvit.list_models(pretrained=True)``, or
            its tag alone (``digits`` is ``gvit_tiny.digits``); or ``hf-hub:OWNER/NAME``. A run or file wins over a
            name that is written alike.

    Raises:
        ValueError: there is no such run or name (the nearest are given); the Hub can't be reached; or the weights are
            damaged, not finite, exchanged, of a newer gvit, or not gvit's.
    """
    file = locate(path)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            if "gvit.gaussians" in metadata:
                raise InputError("a file of Gaussians, not of a model")
            described = json.loads(metadata[_METADATA_KEY])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
        model = _describe(described, tensors)
        if model.card.encoder_only:  # its classifier is what chance makes it
            tensors = model.state_dict() | tensors
        model.load_state_dict(tensors)
        try:
            _check_finite(tensors)
        except InputError as error:
            raise InputError(f"{error.args[0]}; train again or restore the file") from error
    except InputError as error:
        raise InputError(f"{file}: {error.args[0]}") from error
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, AttributeError, ValueError) as error:
        if file.suffix != ".safetensors":  # an image, for example, where the model was left out
            raise InputError(
                f"{file}: not a model; name a run folder, a .safetensors file or a pretrained model"
            ) from error
        reason = first_line(error)
        raise InputError(
            f"{file}: damaged, or not written by gvit ({reason}); train again or restore it"
        ) from error
    return model.eval()


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{name} is NaN or infinite somewhere")


def _check_names(tensors: Mapping[str, Tensor], model: ImageClassifier, encoder_only: bool) -> None:
    """Raise a ValueError where these are not the weights of a model."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if name not in wanted:
            raise ValueError(f"a model of its arguments has no weight {name}")
        if tensor.shape != wanted[name]:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, in a model of its arguments {list(wanted[name])}"
            )
    for name in wanted:
        if name not in tensors and not (encoder_only and name.startswith("classifier.")):
            raise ValueError(f"it has no weight {name}, which a model of its arguments has")


def _check_class_names(model: ImageClassifier) -> None:
    names = len(model.card.class_names)
    if names and not model.card.encoder_only and names != model.num_classes:
        raise InputError(f"its card names {names} classes, and it has {model.num_classes}")


def _describe(described: dict[str, Any], tensors: Mapping[str, Tensor]) -> ImageClassifier:
    """The model that a file describes, before it takes its weights, which are those of its arguments.

    Sizes that lie take no memory: it is built of shapes alone first.
    """
    if "format" not in described:
        described = from_first_format(described)
    if described["format"] != FORMAT:
        raise InputError(f"format {described['format']}, which a newer gvit wrote")
    architecture = Architecture(**described["architecture"])
    architecture.check_ranges()
    depths = [values.get("depth", 0) for values in (architecture.vit, architecture.encoder or {})]
    if max(depths) > max(len(tensors), _MOST_BLOCKS):
        raise InputError(f"it tells of {max(depths)} blocks and has {len(tensors)} weights")
    encoder_only = described.get("encoder_only", False)
    with torch.device("meta"):
        shapes = architecture.build()
    _check_names(tensors, shapes, encoder_only)
    made = sum(tensor.numel() for name, tensor in shapes.state_dict().items() if name not in tensors)
    if made > _MOST_MADE:
        raise InputError(f"it tells of {made:,} weights that it doesn't hold")
    model = architecture.build()
    model.card = ModelCard(
        described["name"],
        Preprocessing(**described["preprocessing"]),
        tuple(described["class_names"]),
        encoder_only,
    )
    _check_class_names(model)
    return model
