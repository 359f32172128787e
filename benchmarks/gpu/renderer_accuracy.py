"""The Triton renderer on a GPU against the float64 reference: images, gradients, and whether it repeats to the bit.

    PYTHONPATH=src python benchmarks/gpu/renderer_accuracy.py

Hardware: one GPU. Expected time: two or three minutes, most of it for the reference and for finding the pixels where
rounding may decide (an estimate, not measured). Aim: images within 1e-5, gradients within 1e-5 relative L2, two calls
bit-identical; the bounds that the tests hold the CPU backend to.

For 64, 512 and 1,024 Gaussians on canvases from 32 to 448 px, odd and non-square ones too, plus the tests' difficult
scenes. Errors are those of ``tests/rendering/scenes.py``: of a random linear loss, without the pixels where alpha lies
so near a threshold that rounding decides, which have an error of their own (``near``). The reference is drawn in
bands, whose gradients add up, in float64 on the GPU.
"""

from __future__ import annotations

import sys

import torch
from session import Results, arguments, begin, markdown
from torch import Tensor

from gvit.rendering import rasterize
from provenance import ROOT

sys.path.insert(0, str(ROOT / "tests" / "rendering"))

import scenes

COUNTS = (64, 512, 1024)
# batch, height, width, rows in a band
CANVASES = (
    (8, 32, 32, 32),
    (4, 33, 47, 33),
    (2, 97, 61, 32),
    (1, 224, 224, 32),
    (1, 301, 447, 16),
    (1, 448, 448, 16),
)
TOY_COUNTS, TOY_CANVASES, TOY_SCENES = (4,), ((1, 9, 13, 5),), ("needles", "opaque stack")
BOUND = 1e-5


class OnDevice:
    """``rasterize`` for scenes on the CPU, where the tests' helper makes its random numbers."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, *inputs: Tensor | int, background: Tensor, backend: str) -> tuple[Tensor, ...]:
        moved = [x.to(self.device) if isinstance(x, Tensor) else x for x in inputs]
        outputs = rasterize(*moved, background=background.to(self.device), backend=backend)
        return tuple(x.cpu() for x in outputs)


def repeats(scene: scenes.Scene, height: int, width: int, device: str) -> bool:
    """Whether two calls give the same bits, image and all gradients."""
    results = []
    for _ in range(2):
        inputs = [tensor.to(device).requires_grad_() for tensor in scene]
        image, alpha = rasterize(*inputs[:4], height, width, background=inputs[4], backend="cuda")
        loss = image.square().sum() + alpha.square().sum()
        results.append([image, alpha, *torch.autograd.grad(loss, inputs)])
    return all(map(torch.equal, *results))


def measure(name: str, scene: scenes.Scene, height: int, width: int, rows: int, device: str) -> dict:
    bands = [(top, min(rows, height - top)) for top in range(0, height, rows)]
    result = scenes.compare(scene, height, width, "cuda", bands=bands)
    return {
        "scene": name,
        "batch": len(scene.centers),
        "count": scene.centers.shape[1],
        "size": f"{width}x{height}",
        "image": max(result.image_error, result.alpha_error),
        "near": result.near_error,
        "near_share": result.near_fraction,
        "relative_l2": result.gradient_errors,
        "cosine": result.gradient_cosines,
        "repeats": repeats(scene, height, width, device),
    }


def table(rows: list[dict]) -> str:
    fields = scenes.Scene._fields
    header = ["scene", "B", "K", "size", "image", *fields, "least cosine", "bit-identical", "in bounds"]
    lines = []
    for row in rows:
        errors = [row["relative_l2"][field] for field in fields]
        good = row["repeats"] and max(row["image"], *errors) <= BOUND and row["near"] <= scenes.ALPHA_MIN
        shown = [f"{error:.1e}" for error in (row["image"], *errors)]
        cosine = f"1 - {1 - min(row['cosine'].values()):.0e}"
        lines.append(
            [row["scene"], row["batch"], row["count"], row["size"], *shown, cosine, row["repeats"], good]
        )
    return markdown(header, lines)


def main() -> None:
    options = arguments(__doc__).parse_args()
    device = begin(options)
    scenes.rasterize = OnDevice(device)
    results = Results("renderer_accuracy", options, bound=BOUND, scene_seed=0, loss_seed=1)
    counts, canvases = (TOY_COUNTS, TOY_CANVASES) if options.dry_run else (COUNTS, CANVASES)
    for batch, height, width, rows in canvases:
        for count in counts:
            scene = scenes.random_scene(batch, count, height, width)
            results.add(measure("plain", scene, height, width, rows, device))
    count, height, width = (4, 8, 7) if options.dry_run else (512, 75, 110)
    for name in TOY_SCENES if options.dry_run else list(scenes.SCENES)[1:]:
        scene = scenes.SCENES[name](1, count, height, width)
        results.add(measure(name, scene, height, width, height, device))
    results.finish(f"Errors against float64 (gradients: relative L2), aim {BOUND:g}\n\n{table(results.rows)}")


if __name__ == "__main__":
    main()
