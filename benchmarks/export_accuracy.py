"""What lower precision costs in an exported model: accuracy, changed answers, bytes.

    python benchmarks/export_accuracy.py [--data-dir FOLDER]

The shipped ``gvit_tiny.digits`` and, where the folder of CIFAR-10's Parquet files is given, ``gvit_tiny.cifar10``, as
ONNX files in float32, float16 and int8 by ``gvit.export``, over their test images: the first 1,000 of them at most.
"whole" is images to logits; of "classifier", images become Gaussians by the model in float32, and the classifier alone
is in lower precision. A changed answer is another class than that of the model in PyTorch. Prints a table and writes
``benchmarks/results/export_accuracy.json``. Nothing here is random.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import onnxruntime
import torch
from torch import Tensor

import gvit
from gvit.data.loading import EvaluationSamples
from gvit.data.sources import load_source
from gvit.data.transforms import eval_transform
from gvit.export import export, lower
from provenance import describe, provenance, write_results

BATCH, MOST = 50, 1000
SETS = {"digits": "digits", "cifar10": "parquet"}


def answers(content: bytes, inputs: Tensor) -> Tensor:
    """Classes [N] by an ONNX file of any batch size."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: batch.numpy()})[0] for batch in inputs.split(BATCH)]
    return torch.cat([torch.from_numpy(logits) for logits in found]).argmax(1)


@torch.no_grad()
def measure(tag: str, data_dir: Path | None, most: int) -> list[dict]:
    """A row for each part and precision of a shipped model."""
    model = gvit.load_model(f"gvit_tiny.{tag}")
    samples = EvaluationSamples(
        load_source(SETS[tag], "test", data_dir), eval_transform(model.card.preprocessing)
    )
    pairs = [samples[i] for i in range(min(most, len(samples)))]
    images, labels = (
        torch.stack([image for image, _ in pairs]),
        torch.tensor([int(label) for _, label in pairs]),
    )
    raw = torch.cat([model.encoder(batch) for batch in images.split(BATCH)])
    logits = [model.classify(model.encoder.gaussians(batch)) for batch in raw.split(BATCH)]
    usual = torch.cat(logits).argmax(1)
    rows = []
    for part, inputs in (("classifier", raw), ("model", images)):
        with tempfile.TemporaryDirectory() as folder:
            whole = export(model, Path(folder) / "float32.onnx", part).path.read_bytes()
        for precision in ("float32", "float16", "int8"):
            content = lower(whole, precision)
            found = answers(content, inputs)
            row = {"model": model.card.name, "data": tag, "part": part, "precision": precision}
            row |= {"images": len(labels), "top1": (found == labels).float().mean().item()}
            rows.append(row | {"changed": int((found != usual).sum()), "bytes": len(content)})
            print(rows[-1], flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--most", type=int, default=MOST, help="images of each set")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; benchmarks/results when not given")
    options = parser.parse_args(arguments)
    rows = measure("digits", None, options.most)
    if options.data_dir is None:
        print("CIFAR-10 is left out: no --data-dir")
    else:
        rows += measure("cifar10", options.data_dir, options.most)
    lines = [
        "| test images | what is exported | precision | top-1 % | changed answers | kB |",
        "| --- " * 6 + "|",
    ]
    for row in rows:
        what = "whole" if row["part"] == "model" else row["part"]
        lines.append(
            f"| {row['images']} of {row['data']} | {what} | {row['precision']} | {100 * row['top1']:.1f} "
            f"| {row['changed']} | {row['bytes'] / 1000:,.0f} |"
        )
    settings = {"most": options.most, "batch": BATCH, "onnxruntime": onnxruntime.__version__}
    print(*lines, "", sep="\n")
    print(f"ONNX Runtime {onnxruntime.__version__}, {describe(provenance())}")
    print(write_results("export_accuracy", settings, rows, options.out))


if __name__ == "__main__":
    main()
