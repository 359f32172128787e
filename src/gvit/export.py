"""A model as one file that runs without gvit: ONNX, or a program of ``torch.export``; any batch size, verified.

What is written are plain tensor operations: the renderer by its reference formula, and in an encoder that looks at its
own picture the renderer's derivative written out (``gvit.rendering.closed_form``). ONNX also with weights of 16 bits,
or with the linear layers in 8 bits.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import mmap
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from gvit.errors import InputError, first_line, option, wording
from gvit.files import check_writable, replacing
from gvit.models.base import ImageClassifier, evaluating
from gvit.provenance import provenance
from gvit.rendering.closed_form import picture
from gvit.viewing.replaceable import check_replaceable

Part = Literal["model", "encoder", "classifier", "picture"]
Format = Literal["onnx", "pt2"]
Precision = Literal["float32", "float16", "int8"]
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
        largest: of the model's own outputs, without sign.
        batch_size: of the images that this was measured on; another one than that of the recording.
        metadata: what stands in the file: part, names and shapes of input and output, preprocessing, classes, bounds of
            raw Gaussians, commit.
    """

    path: Path
    difference: float
    largest: float
    batch_size: int
    metadata: dict[str, Any]


def export(
    model: ImageClassifier,
    path: str | Path,
    part: Part = "model",
    format: Format | None = None,
    precision: Precision = "float32",
) -> Exported:
    """Write a part of a model as one file, and run that file's program to compare it with the model.

    Args:
        model: on the CPU; it comes back in the mode that it had.
        path: of the file; a folder that is not there is made. A file of this name is replaced where it is an exported
            one.
        part: ``model``, images [B, 3, H, W] in [0, 1] to logits; ``encoder``, to raw Gaussians [B, K, 9];
            ``classifier``, from those to logits; ``picture``, images to the picture [B, 3, H, W] of their Gaussians.
            H, W and K are the model's own, B is any number.
        format: ``onnx``, or ``pt2`` for ``torch.export.load``; None for what the path ends in.
        precision: ``float32``; of ONNX also ``float16``, weights rounded to half precision, from which ONNX Runtime
            makes float32 again when it loads them; or ``int8``, weights and inputs of linear layers in 8 bits
            (``onnxruntime.quantization.quantize_dynamic``).

    Raises:
        InputError: the model has no such part, can't be exported, or the program's results in float32 differ by
            more than ``TOLERANCE``; nothing is written then. Or packages are missing, the path is a folder, ends in
            something else than the format, or is a file of somebody else.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".") if format is None else format
    if kind not in get_args(Format):
        raise InputError(f"{option('format')} must be onnx or pt2, got {kind!r}")
    if path.suffix not in ("", f".{kind}"):
        raise InputError(f"{path}: {option('format', kind)} is not what this name ends in")
    if path.is_dir():
        raise InputError(f"{path}: a folder; name the file")
    check_writable(path.parent)
    check_replaceable(path, _is_exported, "path")
    if precision not in get_args(Precision):
        raise InputError(f"{option('precision')} must be {', '.join(get_args(Precision))}, got {precision!r}")
    if kind == "onnx":
        _need_onnx()
    elif precision != "float32":
        raise InputError(f"{option('precision', precision)} needs {option('format', 'onnx')}, got {kind}")
    with evaluating(model), torch.no_grad():
        network, example = _network(model, part)
        try:
            metadata = _metadata(model, network, example, part, precision)
            content, run = _record(network, example, kind, metadata)
        except Exception as error:  # exporters raise what they like
            raise InputError(
                f"{part} of {model.card.name} can't be exported to {kind}: {first_line(error)}"
            ) from error
        inputs = _inputs(example, _CHECKED)
        wanted = network(inputs)
        largest = float(wanted.abs().max())
        difference = float((run(inputs) - wanted).abs().max())
    if not difference <= TOLERANCE * max(1.0, largest):
        raise InputError(
            f"{part} of {model.card.name}: what {kind} computes is off by {difference:.1e}, not written"
        )
    if precision != "float32":
        content = lower(content, precision)
        difference = float((_onnx_runner(content)(inputs) - wanted).abs().max())
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(content)
    return Exported(path, difference, largest, _CHECKED, metadata | {"precision": precision})


def _is_exported(file: Path) -> bool:
    """By the name of the metadata, which files of both formats hold as it is."""
    try:
        with file.open("rb") as there, mmap.mmap(there.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(METADATA.encode()) >= 0
    except (OSError, ValueError):  # the second where the file is empty
        return False


def _metadata(
    model: ImageClassifier, network: nn.Module, example: Tensor, part: Part, precision: Precision
) -> dict[str, Any]:
    outputs, bounds = network(_inputs(example, _TRACED)), model.tokens.bounds
    name = "gaussians" if example.ndim == 3 else "images"
    return {
        "part": part,
        "model": model.card.name,
        "precision": precision,
        "input": {"name": name, "shape": ["batch", *example.shape[1:]]},
        "output": {"name": _OUTPUTS[part], "shape": ["batch", *outputs.shape[1:]]},
        "preprocessing": model.card.preprocessing.for_timm(),
        "class_names": list(model.card.class_names),
        # what raw Gaussians mean, on a square canvas
        "scale_factor": bounds.get("scale_factor"),
        "nominal_count": bounds.get("nominal_count"),
        "provenance": provenance(),
    }


def _record(
    network: nn.Module, example: Tensor, kind: str, metadata: dict[str, Any]
) -> tuple[bytes, Callable[[Tensor], Tensor]]:
    """The file's content, and its program as a function."""
    traced = _inputs(example, _TRACED)
    with _quiet():
        dynamic = ({0: Dim("batch")},)
        program = torch.export.export(network, (traced,), dynamic_shapes=dynamic, strict=False)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        if kind == "pt2":
            file = io.BytesIO()
            torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
            content = file.getvalue()
            return content, torch.export.load(io.BytesIO(content)).module()
        content = _to_onnx(program, traced, metadata)
    return content, _onnx_runner(content)


def _to_onnx(program: ExportedProgram, traced: Tensor, metadata: dict[str, Any]) -> bytes:
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants

    converted = torch.onnx.export(
        *(program, (traced,)),
        dynamo=True,
        input_names=[metadata["input"]["name"]],
        output_names=[metadata["output"]["name"]],
        optimize=False,  # which takes a minute
        verbose=False,
    )
    assert converted is not None
    common.ClearMetadataAndDocStringPass()(converted.model)  # where each operation came from
    fold_constants(converted.model)  # weights as they are read, not transposed each time
    common.RemoveUnusedNodesPass()(converted.model)
    common.DeduplicateInitializersPass()(converted.model)
    converted.model.metadata_props[METADATA] = json.dumps(metadata)
    return converted.model_proto.SerializeToString()


def lower(content: bytes, precision: Precision) -> bytes:
    """An ONNX file of float32, as ``export`` writes it, in another precision; see there."""
    import onnx

    model = onnx.load_from_string(content)
    if precision == "float16":
        _halve_weights(model)
        return model.SerializeToString()
    if precision == "int8":
        from onnxruntime.quantization import quantize_dynamic
        from onnxruntime.quantization.quant_utils import add_pre_process_metadata

        add_pre_process_metadata(model)  # constants are folded
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(model, path, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True)
            return path.read_bytes()
    return content


def _halve_weights(model: Any) -> None:
    """Weights of linear layers and convolutions in float16; what they meet stays in float32.

    No activation is rounded: ONNX Runtime has few operations in half precision on a CPU, and Gaussians suffer from it.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")}
    for tensor in graph.initializer:
        if tensor.name in weights:
            name, values = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values.astype("float16"), f"{name}.half"))
            cast = helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT)
            graph.node.insert(0, cast)


def _onnx_runner(content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (read,) = session.get_inputs()
    return lambda inputs: torch.from_numpy(session.run(None, {read.name: inputs.numpy()})[0])


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
