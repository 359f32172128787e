"""Inference on a CPU: GViT, its encoder and its classifier, beside patch ViTs of the same size, by three runtimes.

    python benchmarks/inference.py [--models gvit_tiny gvit_small] [--repeats 5] [--batches 1 32]

Each network runs as it is (eager), by ``torch.compile``, and by ONNX Runtime, on one thread, in float32. A GViT stands
beside the patch ViT of this package with the same transformer and beside timm's of that size; ``gvit_tiny`` also beside
timm's ViT-Ti/16 at 224 px. Weights are random: they don't change the work. All take turns, so that a machine that
slows down meanwhile slows all of them; medians over the turns. What is compared are ratios: to timm's ViT of the same
size, eager, on as many images. Prints a table and writes ``benchmarks/results/inference.json``. ``--dry-run`` goes
through it with networks of one layer and without compilation, in seconds, and measures nothing.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"  # before the libraries look

import onnxruntime
import timm
import torch
import torch._dynamo.config
from torch import Tensor, nn

import gvit
from gvit.export import Part, export
from provenance import describe, provenance, write_results

RUNTIMES = ("eager", "compile", "onnx")
PATCHES = {"gvit_tiny": "vit_tiny_patch8", "gvit_small": "vit_small_patch16"}  # ours of the same size
# timm's of the same size
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "gvit_tiny": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0},
    ),
    "gvit_small": ("vit_small_patch16_224", {}),
}


@dataclass(frozen=True)
class Network:
    """What is measured: a module of one input, and a GViT's part where ``gvit.export`` knows it by that."""

    model: str  # whose table it belongs to
    name: str
    module: nn.Module
    example: Tensor
    exported: tuple[Any, Part] | None = None


def networks(name: str, dry_run: bool) -> list[Network]:
    """A GViT, its parts, and its rivals; timm's of the same size last."""
    small = {"depth": 1} if dry_run else {}
    ours = gvit.create_model(
        "gvit_tiny_denoising" if dry_run else name, **small, **({"encoder_depth": 1} if dry_run else {})
    )
    ours.requires_grad_(False).eval()
    patches = gvit.create_model(PATCHES[name], **small).requires_grad_(False).eval()
    kind, sizes = TIMM[name]
    images, gaussians = ours.encoder.example().uniform_(), ours.tokens.example().normal_()
    found = [
        Network(name, f"{name}, whole", ours, images, (ours, "model")),
        Network(name, "its encoder", ours.encoder, images, (ours, "encoder")),
        Network(name, "its classifier", ours.classifier, gaussians, (ours, "classifier")),
        Network(name, PATCHES[name], patches, patches.tokens.example().uniform_(), (patches, "model")),
    ]
    if name == "gvit_tiny" and not dry_run:
        other = timm.create_model(kind, num_classes=1000).requires_grad_(False).eval()
        found.append(Network(name, f"timm {kind}, 224 px", other, torch.rand(1, 3, 224, 224)))
    size = {**sizes, **small}
    same = timm.create_model(kind, num_classes=ours.num_classes, **size).requires_grad_(False).eval()
    note = ", of this size" if sizes else ""
    found.append(Network(name, f"timm {kind}{note}", same, torch.rand(1, 3, *same.patch_embed.img_size)))
    return found


def onnx_session(network: Network) -> Callable[[Tensor], Any]:
    """ONNX Runtime on one thread, for any number of images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if network.exported is not None:
            model, part = network.exported
            export(model, path, part)
        else:
            batch = (torch.cat([network.example] * 2),)
            shapes = ({0: torch.export.Dim("batch")},)
            torch.onnx.export(
                network.module,
                batch,
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                verbose=False,
                external_data=False,
            )
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: session.run(None, {name: inputs.numpy()})


def prepare(network: Network, runtime: str) -> Callable[[Tensor], Any]:
    """A network as a function of its inputs."""
    if runtime == "onnx":
        return onnx_session(network)
    return torch.compile(network.module, dynamic=False) if runtime == "compile" else network.module


@torch.no_grad()
def measure(all_networks: list[Network], runtimes: list[str], batches: list[int], repeats: int) -> list[dict]:
    """A row for each network, runtime and number of images."""
    work: list[tuple[dict, Callable[[], Any], list[float]]] = []
    for network in all_networks:
        for runtime in runtimes:
            started = time.perf_counter()
            function = prepare(network, runtime)
            for batch in batches:
                run = partial(function, torch.cat([network.example] * batch))
                run()  # compiles, warms up
                row = {"model": network.model, "network": network.name, "runtime": runtime, "batch": batch}
                work.append((row, run, []))
            seconds = time.perf_counter() - started
            print(f"{network.name}, {runtime}: ready after {seconds:.1f} s", flush=True)
    for _ in range(repeats):
        for _, run, seconds in work:
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    rows = [row | {"ms": 1000 * statistics.median(seconds)} for row, _, seconds in work]
    # timm's of the same size is the last of its model
    basis = {(row["model"], row["batch"]): row["ms"] for row in rows if row["runtime"] == runtimes[0]}
    return [row | {"ratio": row["ms"] / basis[row["model"], row["batch"]]} for row in rows]


def table(rows: list[dict], runtimes: list[str], batches: list[int]) -> list[str]:
    """Markdown: milliseconds for all images of a batch, in brackets the ratio."""
    columns = [(batch, runtime) for batch in batches for runtime in runtimes]
    heads = [f"{runtime}, {batch} image{'s' * (batch > 1)}" for batch, runtime in columns]
    lines = ["| milliseconds (ratio) | " + " | ".join(heads) + " |", "| --- " * (len(heads) + 1) + "|"]
    cells: dict[tuple[str, str], dict[tuple[int, str], str]] = {}
    for row in rows:
        found = cells.setdefault((row["model"], row["network"]), {})
        found[row["batch"], row["runtime"]] = f"{row['ms']:,.1f} ({row['ratio']:.2f})"
    for (_, name), found in cells.items():
        lines.append(f"| {name} | " + " | ".join(found[column] for column in columns) + " |")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=list(PATCHES), default=list(PATCHES))
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], help="numbers of images")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--dry-run", action="store_true", help="one layer, no compilation, one turn")
    parser.add_argument("--out", type=Path, help="folder of the JSON file; benchmarks/results when not given")
    options = parser.parse_args(arguments)
    if options.dry_run and options.out is None:
        parser.error("a dry run needs --out")
    torch.manual_seed(0)
    # the networks share their classes' code, which is compiled for each anew: never back to eager in silence
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    runtimes, batches, repeats = options.runtimes, options.batches, options.repeats
    if options.dry_run:
        runtimes, batches, repeats = [name for name in runtimes if name != "compile"], [1, 2], 1
    found = [network for name in options.models for network in networks(name, options.dry_run)]
    rows = measure(found, runtimes, batches, repeats)
    settings = {"seed": 0, "repeats": repeats, "threads": 1, "dry_run": options.dry_run}
    settings["onnxruntime"] = onnxruntime.__version__
    print("", *table(rows, runtimes, batches), "", sep="\n")
    print(
        f"Seed 0, {repeats} turns, one thread, ONNX Runtime {onnxruntime.__version__}, {describe(provenance())}"
    )
    print(write_results("inference", settings, rows, options.out))


if __name__ == "__main__":
    main()
