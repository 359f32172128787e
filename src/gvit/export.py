"""A model as one file that runs without gvit: ONNX, or a program of ``torch.export``; any batch size, verified.

What is written are plain tensor operations: the renderer by its reference formula, and in an encoder that looks at its
own picture the renderer's derivative written out (``gvit.rendering.closed_form``).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from gvit.errors import InputError, first_line, option, wording
from gvit.files import replacing
from gvit.models.base import ImageClassifier, evaluating
from gvit.provenance import provenance
from gvit.rendering.closed_form import picture

Part = Literal["model", "encoder", "classifier", "picture"]
Format = Literal["onnx", "pt2"]
METADATA = "gvit.json"  # a file in a pt2 file, a key in an ONNX file's metadata
TOLERANCE = 1e-4  # of the largest output, where that is above 1
_OUTPUTS = {"model": "logits", "classifier": "logits", "encoder": "gaussians", "picture": "picture"}
_TRACED, _CHECKED = 2, 5  # batch sizes


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the file.
        difference: largest difference to the model's own output.
        batch_size: of the images that this was measured on; another one than that of the recording.
        metadata: what stands in the file: part, names and shapes of input and output, preprocessing, classes, commit.
    """

    path: Path
    difference: float
    batch_size: int
    metadata: dict[str, Any]


def export(
    model: ImageClassifier, path: str | Path, part: Part = "model", format: Format | None = None
) -> Exported:
    """Write a part of a model as one file, and run that file's program to compare it with the model.

    Args:
        model: on the CPU; it comes back in the mode that it had.
        path: of the file.
        part: ``model``, images [B, 3, H, W] in [0, 1] to logits; ``encoder``, to raw Gaussians [B, K, 9];
            ``classifier``, from those to logits; ``picture``, images to the picture [B, 3, H, W] of their Gaussians.
            H, W and K are the model's own, B is any number.
        format: ``onnx``, or ``pt2`` for ``torch.export.load``; None for what the path ends in.

    Raises:
        InputError: the model has no such part, can't be exported, or the program's results differ by more than
            ``TOLERANCE``; nothing is written then. Or packages are missing.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".") if format is None else format
    if kind not in get_args(Format):
        raise InputError(f"{option('format')} must be onnx or pt2, got {kind!r}")
    if kind == "onnx":
        _need_onnx()
    with evaluating(model), torch.no_grad():
        network, example = _network(model, part)
        try:
            content, run, metadata = _record(model, network, example, part, kind)
        except Exception as error:  # exporters raise what they like
            raise InputError(
                f"{part} of {model.card.name} can't be exported to {kind}: {first_line(error)}"
            ) from error
        inputs = _inputs(example, _CHECKED)
        wanted = network(inputs)
        difference = float((run(inputs) - wanted).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise InputError(
            f"{part} of {model.card.name}: what {kind} computes is off by {difference:.1e}, not written"
        )
    with replacing(path) as partial:
        partial.write_bytes(content)
    return Exported(path, difference, _CHECKED, metadata)


def _record(
    model: ImageClassifier, network: nn.Module, example: Tensor, part: Part, kind: str
) -> tuple[bytes, Any, dict[str, Any]]:
    """The file's content, its program as a function, and its metadata."""
    traced = _inputs(example, _TRACED)
    name, output = "gaussians" if example.ndim == 3 else "images", _OUTPUTS[part]
    metadata = {
        "part": part,
        "model": model.card.name,
        "input": {"name": name, "shape": ["batch", *example.shape[1:]]},
        "output": {"name": output, "shape": ["batch", *network(traced).shape[1:]]},
        "preprocessing": model.card.preprocessing.for_timm(),
        "class_names": list(model.card.class_names),
        "scale_factor": None if model.encoder is None else model.encoder.scale_factor,
        "provenance": provenance(),
    }
    with _quiet():
        dynamic = ({0: Dim("batch")},)
        program = torch.export.export(network, (traced,), dynamic_shapes=dynamic, strict=False)
        if kind == "pt2":
            file = io.BytesIO()
            torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
            return file.getvalue(), program.module(), metadata
        content = _to_onnx(program, traced, name, output, metadata)
    return content, _onnx_runner(content, name), metadata


def _to_onnx(
    program: ExportedProgram, traced: Tensor, name: str, output: str, metadata: dict[str, Any]
) -> bytes:
    converted = torch.onnx.export(
        *(program, (traced,)),
        dynamo=True,
        input_names=[name],
        output_names=[output],
        optimize=False,
        verbose=False,
    )
    assert converted is not None
    converted.model.metadata_props[METADATA] = json.dumps(metadata)
    return converted.model_proto.SerializeToString()


def _onnx_runner(content: bytes, name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {name: inputs.numpy()})[0])


def _network(model: ImageClassifier, part: Part) -> tuple[nn.Module, Tensor]:
    """A module of one input and one output, and an empty input for one image."""
    if part not in get_args(Part):
        raise InputError(f"{option('part')} must be {', '.join(get_args(Part))}, got {part!r}")
    encoder = model.encoder
    if part in ("encoder", "picture") and encoder is None:
        raise InputError(f"{model.card.name} has no encoder: {option('part')} must be model")
    if part == "classifier" and model.tokens.reads != "gaussians":
        raise InputError(f"{model.card.name} reads no Gaussians: {option('part')} must be model")
    if part in ("model", "classifier") and (not model.num_classes or model.card.encoder_only):
        raise InputError(
            f"an encoder alone, without a classifier: {wording('part must be', '--part must be')} encoder or picture"
        )
    if part == "classifier":
        return _Classifier(model), model.tokens.example()
    if encoder is None:
        return _Whole(model), model.tokens.example()
    return {"model": _Whole, "encoder": _Encoder, "picture": _Picture}[part](model), encoder.example()


class _Of(nn.Module):
    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model: Any = model


class _Whole(_Of):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)


class _Encoder(_Of):
    def forward(self, inputs: Tensor) -> Tensor:
        return self.model.encoder(inputs)


class _Classifier(_Of):
    def forward(self, inputs: Tensor) -> Tensor:
        # of the encoder's bounds where there is one
        if self.model.encoder is None:
            return self.model(inputs)
        return self.model.classify(self.model.encoder.gaussians(inputs))


class _Picture(_Of):
    def forward(self, inputs: Tensor) -> Tensor:
        return picture(self.model.encode(inputs), *inputs.shape[-2:])


def _inputs(example: Tensor, batch: int) -> Tensor:
    """Inputs to record and to compare by: smooth as photographs are, or Gaussians all over the canvas."""
    generator = torch.Generator().manual_seed(batch)
    if example.ndim == 3:
        return torch.randn(batch, *example.shape[1:], generator=generator)
    coarse = torch.rand(batch, example.shape[1], 6, 6, generator=generator)
    return F.interpolate(coarse, example.shape[-2:], mode="bicubic").clamp(0, 1)


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"ONNX needs the package {error.name}: pip install 'gvit[export]'") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk of themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
