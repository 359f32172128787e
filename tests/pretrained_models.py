"""Models among those that are shipped, for tests."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch

import gvit
from gvit.models import pretrained
from gvit.models.pretrained import Pretrained
from gvit.models.weights import save_model


def trained(name="gvit_tiny", seed=3, **kwargs):
    """A model whose weights are nobody else's."""
    torch.manual_seed(seed)
    model = gvit.create_model(name, **kwargs).eval()
    torch.nn.init.normal_(model.encoder.head.weight, std=0.02)
    return model


def add(folder: Path, name: str, model, weights=None, hub=None, place=None) -> Pretrained:
    """A model among those that are shipped, as ``benchmarks/publish.py`` puts it there."""
    file = (place or folder) / f"{name}.safetensors"
    save_model(model, file, weights, dtype=torch.float16)
    content = file.read_bytes()
    entry = Pretrained(name, "a test", file.name, hashlib.sha256(content).hexdigest(), len(content), hub)
    index = folder / "index.json"
    known = json.loads(index.read_text())
    index.write_text(json.dumps(known | {name: {k: v for k, v in asdict(entry).items() if k != "name"}}))
    pretrained._read.cache_clear()
    return entry
