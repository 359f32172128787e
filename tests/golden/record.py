"""Record what the tiny models compute today: ``python tests/golden/record.py`` rewrites ``tiny_models.json``.

The test beside it compares: a refactoring that is meant to change nothing can show that it doesn't. Record again only
for a change that is meant, and say in the commit what it is.
"""

import json
from pathlib import Path
from typing import Any

import torch

import gvit
from gvit.models.gvit import GViT

FILE = Path(__file__).with_name("tiny_models.json")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    f"gvit_tiny, {encoder}, {tokens}": ("gvit_tiny", {"encoder": encoder, "tokens": tokens})
    for encoder in ("denoising", "queries")
    for tokens in ("canonical", "raw")
} | {"vit_tiny_patch8": ("vit_tiny_patch8", {})}


@torch.inference_mode()
def outputs(case: str) -> dict[str, list]:
    """Of a seeded model on two seeded images: the first Gaussians' raw numbers (where it has any) and the logits."""
    name, kwargs = CASES[case]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = gvit.create_model(name, num_classes=5, **kwargs).eval()
        for parameter in model.parameters():  # some start as zeros or ones, and would hide what they multiply
            parameter.add_(0.05 * torch.randn(parameter.shape))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {"logits": model(images)}
    if isinstance(model, GViT):
        found["raw"] = model.encode(images).raw[:, :2]
    return {key: [round(value, 7) for value in tensor.flatten().tolist()] for key, tensor in found.items()}


if __name__ == "__main__":
    FILE.write_text(json.dumps({case: outputs(case) for case in CASES}, indent=1) + "\n")
