"""How strong a class gradient of the paper's weight is beside the gradient of each loss of the picture.

python benchmarks/guidance_weight.py gvit_tiny.cifar10 parquet --data-dir FOLDER
python benchmarks/guidance_weight.py gvit_tiny.digits digits

Gradients are those at the Gaussians that a trained encoder makes of training images, not augmented: of an image's
cross-entropy by its classifier, and of what the Gaussians draw against the image. Gamma, the weight of the class
gradient, is 0.1 (paper, Table 1b); the losses are minus the PSNR, which the recipes of the refining encoder
descend, and the paper's BCE + 0.1 (1 - SSIM). ``share`` is gamma times the mean norm of the class gradient, in units
of the mean norm of the picture's; ``steered`` the share of the Gaussians to which more is added than they have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy

import gvit
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples
from gvit.data.splits import load_splits
from gvit.losses import pixel_loss, ssim
from gvit.rendering import render
from provenance import describe, provenance, write_results

GAMMA = 0.1


def measure(model: gvit.GViT, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """A row for each loss of the picture."""
    model.eval()
    with torch.no_grad():
        raw = model.encoder(images)

    def gradient(loss: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = raw.clone().requires_grad_()
        # of the images' own losses, not of their mean
        return torch.autograd.grad(loss(leaf), leaf)[0] * len(images)

    def drawn(leaf: Tensor) -> Tensor:
        return render(model.encoder.gaussians(leaf), *images.shape[-2:])

    def paper(leaf: Tensor) -> Tensor:
        picture = drawn(leaf)
        return pixel_loss(picture, images, "bce") + 0.1 * (1 - ssim(picture, images)).mean()

    losses = {
        "minus the PSNR": lambda leaf: pixel_loss(drawn(leaf), images, "psnr"),
        "BCE + 0.1 (1 - SSIM)": paper,
    }
    guiding = GAMMA * gradient(lambda leaf: cross_entropy(model.classifier(leaf), labels))
    rows = []
    for name, loss in losses.items():
        drawing = gradient(loss)
        rows.append(
            {
                "loss": name,
                "norm": drawing.flatten(1).norm(dim=1).mean().item(),
                "guiding_norm": guiding.flatten(1).norm(dim=1).mean().item(),
                "cosine": cosine_similarity(drawing.flatten(1), guiding.flatten(1)).mean().item(),
                "steered": (guiding.norm(dim=-1) > drawing.norm(dim=-1)).float().mean().item(),
            }
        )
        rows[-1]["share"] = rows[-1]["guiding_norm"] / rows[-1]["norm"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a pretrained name or a run, with an encoder and a classifier")
    parser.add_argument("dataset", help="whose training images are looked at")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--images", type=int, default=256, help="spread evenly over the training images")
    parser.add_argument("--out", type=Path, help="folder for the results (default: benchmarks/results)")
    options = parser.parse_args(arguments)
    model = gvit.load_model(options.model)
    train, _ = load_splits(options.dataset, options.data_dir)
    samples = EvaluationSamples(train, eval_input(model, train))
    chosen = range(0, len(samples), max(1, len(samples) // options.images))[: options.images]
    images, labels = samples.__getitems__(list(chosen))
    rows = measure(model, images, labels)
    settings = {"model": options.model, "dataset": options.dataset, "images": len(images), "gamma": GAMMA}
    write_results(f"guidance_weight_{Path(options.model).name}", settings, rows, options.out)
    print("| loss of the picture | its gradient | 0.1 x class gradient | share | cosine | steered |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['loss']} | {row['norm']:.3g} | {row['guiding_norm']:.3g} | {row['share']:.3g} | "
            f"{row['cosine']:+.3f} | {100 * row['steered']:.1f} % |"
        )
    print(f"{len(images)} images, {describe(provenance())}")


if __name__ == "__main__":
    main()
