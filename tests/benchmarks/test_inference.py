"""The benchmark of inference sets each network beside timm's ViT of the same size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def inference(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))  # for its import of provenance
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the script sets, too
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    spec = importlib.util.spec_from_file_location("inference", BENCHMARKS / "inference.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inference", module)
    spec.loader.exec_module(module)
    return module


def test_ratios_are_to_timms_vit_of_the_same_size(inference, tmp_path, capsys):
    flags = ["--models", "gvit_tiny", "--dry-run", "--runtimes", "eager", "--out", str(tmp_path)]
    inference.main(flags)
    content = json.loads((tmp_path / "inference.json").read_text())
    rows = {(row["network"], row["batch"]): row for row in content["rows"]}
    timm = "timm vit_tiny_patch16_224, of this size"
    names = ["gvit_tiny, whole", "its encoder", "its classifier", "vit_tiny_patch8", timm]
    assert list(rows) == [(name, batch) for name in names for batch in (1, 2)]
    for (_, batch), row in rows.items():
        assert row["ratio"] == row["ms"] / rows[timm, batch]["ms"]
    assert f"\n| {timm} | " in capsys.readouterr().out
    patches, same = (network.module for network in inference.networks("gvit_tiny", True)[-2:])
    blocks = [{name: p.shape for name, p in module.blocks.named_parameters()} for module in (patches, same)]
    assert blocks[0] == blocks[1]


def test_onnx_runtime_computes_what_is_measured(inference):
    network = inference.networks("gvit_tiny", True)[-1]
    inputs = network.example.repeat(3, 1, 1, 1)
    (found,) = inference.prepare(network, "onnx")(inputs)
    assert found == pytest.approx(network.module(inputs).numpy(), abs=1e-4)
