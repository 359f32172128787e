"""Outputs of the seeded tiny models, so that a refactoring can prove itself neutral.

    python tests/golden/test_models.py

records them anew, which a change of the mathematics or of the initialisation needs, and nothing else does.
"""

import json
from pathlib import Path

import pytest
import torch

import gvit
from gvit.models.gvit import GViT

RECORD = Path(__file__).with_name("models.json")
VARIANTS = {
    "gvit_tiny": {},
    "gvit_tiny queries raw avg": {"encoder": "queries", "tokens": "raw", "pool": "avg"},
    "vit_tiny_patch8": {},
}


@torch.inference_mode()
def outputs(variant: str) -> dict[str, list]:
    """First Gaussians and logits of two random images; float64, so that the machine does not matter."""
    torch.manual_seed(0)
    model = gvit.create_model(variant.split()[0], num_classes=3, **VARIANTS[variant]).double().eval()
    if isinstance(model, GViT):  # away from the start, where the image does not matter yet
        torch.nn.init.normal_(model.encoder.head[-1].weight, std=0.1)
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    found = {"logits": model(images).tolist()}
    if isinstance(model, GViT):
        found["gaussians"] = model.encode(images).raw[:, :2].tolist()
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_seeded_models_answer_as_they_did(variant):
    expected, found = json.loads(RECORD.read_text())[variant], outputs(variant)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(torch.tensor(found[name]), torch.tensor(values), rtol=1e-5, atol=1e-6)


if __name__ == "__main__":
    RECORD.write_text(json.dumps({variant: outputs(variant) for variant in VARIANTS}, indent=1) + "\n")
