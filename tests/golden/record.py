"""Record what the tiny models compute today: ``python tests/golden/record.py`` rewrites ``tiny_models.json``.

The test beside it compares: a refactoring that is meant to change nothing can show that it doesn't. Record again only
for a change that is meant, and say in the commit what it is.
"""

import json
from pathlib import Path
from typing import Any

import torch

import gvit

FILE = Path(__file__).with_name("tiny_models.json")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"gvit_tiny, {encoder}, {tokens}": (  # its name when these numbers were recorded
        "gvit_tiny_denoising",
        {"encoder": encoder, "tokens": tokens},
    )
    for encoder in ("denoising", "queries")
    for tokens in ("canonical", "raw")
} | {name: (name, {}) for name in ("vit_tiny_patch8", "gaussian_vit_tiny")}


@torch.inference_mode()
def outputs(case: str) -> dict[str, list]:
    """Of a seeded model on two seeded inputs: the first Gaussians' raw numbers (if it makes any) and the logits."""
    name, kwargs = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = gvit.create_model(name, num_classes=5, **kwargs).eval()
        for parameter in model.parameters():  # some start as zeros or ones, and would hide what they multiply
            parameter.add_(0.05 * torch.randn(parameter.shape))
    generator = torch.Generator().manual_seed(0)
    given = model.reads == "gaussians"
    images = (
        torch.randn(2, 32, 9, generator=generator) if given else torch.rand(2, 3, 32, 32, generator=generator)
    )
    found = {"logits": model(images)}
    if model.encoder is not None:
        found["raw"] = model.encode(images).raw[:, :2]
    return {key: [round(value, 7) for value in tensor.flatten().tolist()] for key, tensor in found.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({case: outputs(case) for case in CASES}, indent=1) + "\n")
