"""gvit export: a model as a file that runs without gvit."""

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
        format: onnx, or pt2 for torch.export.load.
        part: model (images to logits), encoder (images to raw Gaussians), classifier (raw Gaussians to logits) or
            picture (images to the picture of their Gaussians).
        out: the file; NAME.FORMAT or NAME-PART.FORMAT in this folder when not given.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    format: Literal["onnx", "pt2"] = "onnx"
    part: Literal["model", "encoder", "classifier", "picture"] = "model"
    out: Path | None = None


def run(args: list[str]) -> int:
    """Print what was written, and how far it is from the model."""
    options = parse(Options, args, "gvit export")

    from gvit.export import export
    from gvit.models.weights import load_model

    name = Path(options.run).resolve().name.removesuffix(".safetensors")
    part = "" if options.part == "model" else f"-{options.part}"
    model = load_model(options.run)
    done = export(model, options.out or Path(f"{name}{part}.{options.format}"), options.part, options.format)
    shape = " x ".join(map(str, done.metadata["input"]["shape"]))
    print(f"{done.path}  {done.metadata['input']['name']} {shape} -> {done.metadata['output']['name']}")
    print(f"verified with a batch of {done.batch_size}: off by {done.difference:.1e} from the model at most")
    return 0
