"""The scripts for a GPU run through on the CPU at a toy size, so that no time on a GPU is lost to a typing error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from forked import Forked

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks" / "gpu"
RESULTS = ROOT / "benchmarks" / "results"


def run(script: str, *arguments: str) -> tuple[int, str, str]:
    """Exit status, what it prints, and what it complains of."""
    return Forked(SCRIPTS / f"{script}.py", *arguments, cwd=ROOT).communicate()


def dry_run(out: Path, script: str, *arguments: str) -> tuple[dict, str]:
    """What a dry run writes and prints; it writes nowhere else."""
    before = {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()}
    status, printed, complained = run(script, *arguments, "--dry-run", "--out", str(out))
    assert status == 0, complained
    assert {path: path.stat().st_mtime_ns for path in RESULTS.iterdir()} == before
    (file,) = out.glob("gpu_*.json")
    content = json.loads(file.read_text())
    assert content["settings"]["dry_run"] is True
    assert content["provenance"].keys() >= {"commit", "gpu", "versions"}
    assert "\n| --- |" in printed
    return content, printed


def test_renderer_accuracy(tmp_path):
    content, printed = dry_run(tmp_path, "renderer_accuracy")
    for row in content["rows"]:
        assert row["image"] <= 1e-5, row
        assert max(row["relative_l2"].values()) <= 1e-5, row
        assert row["repeats"], row
    assert "| no |" not in printed


def test_renderer_speed(tmp_path):
    content, printed = dry_run(tmp_path, "renderer_speed")
    assert [row["who"].split()[0] for row in content["rows"]] == [
        "cuda",
        "cuda",
        "reference",
        "gsplat",
        "gsplat",
    ]
    for row in content["rows"]:
        assert row.get("problem") == "not installed" or row["forward_ms"] > 0
    assert "aim under 2 ms" in printed


def test_train_step(tmp_path):
    content, printed = dry_run(tmp_path, "train_step")
    *ordinary, looking, graphed = content["rows"]
    for row in (looking, graphed):
        assert row["turn_ms"] == row["loop_ms"] / 2
    for row in ordinary:
        assert set(row["parts_ms"]) == {"encoder", "renderer", "losses", "classifier", "optimizer"}
        assert row["images_per_second"] > 0
    assert "aim at most 10 %" in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line():
    status, _, complained = run("renderer_speed")
    assert status == 2
    assert len(complained.splitlines()) == 1
    assert "needs a GPU" in complained
