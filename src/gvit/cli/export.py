"""gvit export: a model as a file that runs without gvit."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gvit.cli.parsing import parse


@dataclass(frozen=True)
class Options:
    """Write a model as ONNX or as a program of torch.export, for any batch size.

    What is written is run and compared with the model.

    Example: gvit export digits --format onnx

    Attributes:
        run: run folder, model.safetensors file, or pretrained model.
        format: onnx, or pt2 for torch.export.load; what --out ends in, else onnx, when not given.
        part: model (images to logits), encoder (images to raw Gaussians), classifier (raw Gaussians to logits) or
            picture (images to the picture of their Gaussians).
        precision: float32; of onnx also float16 (weights in half precision) or int8 (linear layers in 8 bits).
        out: the file; NAME.FORMAT, NAME-PART.FORMAT or NAME-PART-PRECISION.FORMAT in this folder when not given.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    format: Literal["onnx", "pt2"] | None = None
    part: Literal["model", "encoder", "classifier", "picture"] = "model"
    precision: Literal["float32", "float16", "int8"] = "float32"
    out: Path | None = None


def run(args: list[str]) -> int:
    """Print what was written, and how far it is from the model."""
    options = parse(Options, args, "gvit export")

    from gvit.export import export
    from gvit.models.weights import load_model

    kind, precision = options.format, options.precision
    if kind is None and (options.out is None or options.out.suffix not in (".onnx", ".pt2")):
        kind = "onnx"
    marks = [mark for mark in (options.part, precision) if mark not in ("model", "float32")]
    name = "-".join([Path(options.run).resolve().name.removesuffix(".safetensors"), *marks])
    model = load_model(options.run)
    looks = options.part != "classifier" and model.encoder is not None and model.encoder.turns > 1
    takes = ": an encoder that looks takes minutes" if looks else ""
    print(f"exporting {options.run}, and comparing{takes}", file=sys.stderr)
    done = export(model, options.out or Path(f"{name}.{kind}"), options.part, kind, precision)
    shape = " x ".join(map(str, done.metadata["input"]["shape"]))
    print(f"{done.path}  {done.metadata['input']['name']} {shape} -> {done.metadata['output']['name']}")
    compared = f"with a batch of {done.batch_size}: off by {done.difference:.1e} from the model at most"
    if precision == "float32":
        print(f"verified {compared}")
    else:
        print(f"in float32 verified; in {precision}, {compared}, of outputs up to {done.largest:.2g}")
    return 0
