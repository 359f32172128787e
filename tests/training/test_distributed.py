"""Two processes under torchrun do what one does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gvit.cli import main
from gvit.training.distributed import World, load_optimizer

# 20 steps over all four phases, without what is random by place in the batch
ARGUMENTS = ["train", "debug", "--drop-path-rate", "0", "--batch-size", "16", "--epochs", str(20 / 89)]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


MEASURES = {
    *("pixel_loss", "perceptual_loss", "class_loss", "accuracy", "num_images"),
    *("reconstruction_gradient", "class_gradient", "gradient_cosine", "steered"),
    *("class_loss_after", "class_change", "class_change_predicted", "psnr_change", "guidance_weight"),
    "psnr_spent",
}


def command(*program: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]


def launch(*program: str) -> str:
    """What the two processes print."""
    done = subprocess.run(command(*program), env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(folder: Path, processes: int, *arguments: str) -> Path:
    training = [*ARGUMENTS, "--out", str(folder), *arguments]
    if processes == 1:
        assert main(training) == 0
        return folder
    printed = launch("-m", "gvit", *training)
    assert printed.count("top-1") == 1  # the main process alone speaks
    return folder


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pt", weights_only=True)


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_close(folder: Path, expected: Path, tolerance: float) -> None:
    weights, wanted = checkpoint(folder)["model"], checkpoint(expected)["model"]
    assert {k: v.shape for k, v in weights.items()} == {k: v.shape for k, v in wanted.items()}
    assert max((weights[name] - wanted[name]).abs().max() for name in wanted) < tolerance
    lines, wanted_lines = metrics(folder), metrics(expected)
    assert [line["step"] for line in lines] == [line["step"] for line in wanted_lines]
    for line, wanted_line in zip(lines, wanted_lines, strict=True):
        for name in MEASURES & set(wanted_line):
            assert line[name] == pytest.approx(wanted_line[name], abs=100 * tolerance), name
    assert lines[-1]["num_images"] == 360
    # exact: no image is counted twice, none is left out
    assert lines[-1]["top1"] == wanted_lines[-1]["top1"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("alone") / "run", 1, "--precision", "float64")


@pytest.mark.parametrize("options", [[], ["--accumulate", "2"], ["--fsdp"]], ids=str)
def test_two_processes_give_the_weights_of_one(alone, tmp_path, options):
    assert_close(run(tmp_path / "run", 2, "--precision", "float64", *options), alone, 1e-8)


def test_two_processes_are_guided_as_one_is(tmp_path):
    """Both of them have the same averaged classifier, and the same factor on gamma."""
    options = ["--precision", "float64", "--guided-steps", "added", "--guide-ema", "0.9"]
    options += ["--psnr-budget", "0.1", "--gamma-unit", "image", "--projection", "gaussian"]
    one, two = (run(tmp_path / str(count), count, *options) for count in (1, 2))
    assert_close(two, one, 1e-8)
    states = [checkpoint(folder)["guidance"] for folder in (one, two)]
    assert states[0]["multiplier"] == pytest.approx(states[1]["multiplier"], rel=1e-6)


@pytest.mark.parametrize(("saved", "ours"), [(None, True), (True, None), (False, True)])
def test_an_optimizer_goes_on_on_another_device(saved, ours):
    """A fused one counts its steps on the device (here one without numbers, in place of a GPU), others on the CPU."""
    before = torch.nn.Linear(2, 2)
    kept = torch.optim.AdamW(before.parameters())
    before(torch.ones(1, 2)).sum().backward()
    kept.step()
    state = kept.state_dict()
    state["param_groups"][0]["fused"] = saved
    network = torch.nn.Linear(2, 2, device="meta")
    optimizer = torch.optim.AdamW(network.parameters())
    optimizer.param_groups[0]["fused"] = ours
    load_optimizer(network, optimizer, state)
    assert optimizer.param_groups[0]["fused"] is ours
    assert {str(one["step"].device) for one in optimizer.state.values()} == {"meta" if ours else "cpu"}


def test_images_that_came_round_again_are_dropped(monkeypatch):
    images = torch.arange(7)
    shards = [{"label": torch.tensor(rows)} for rows in ([0, 3, 6], [1, 4, 0], [2, 5, 1])]
    monkeypatch.setattr(World, "_gather", lambda self, value: shards)
    assert torch.equal(World(1, 3).interleave(shards[1], 7)["label"], images)
    assert torch.equal(World().interleave({"label": images}, 7)["label"], images)


SHARDED = """
import torch.distributed
from torch.distributed.fsdp import FSDPModule

import gvit
from gvit.training.distributed import distribute, joined

with joined("cpu") as (world, _):
    encoder = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2).encoder
    whole = sum(p.numel() for p in encoder.parameters())
    found = distribute(encoder, world, fsdp=True)
    assert world.size == 2
    assert isinstance(found, FSDPModule)
    assert all(isinstance(block, FSDPModule) for block in found.blocks)
    here = sum(p.to_local().numel() for p in found.parameters())
    assert 0.4 * whole < here < 0.6 * whole, (here, whole)
"""


def test_fsdp_leaves_half_of_the_weights_in_each_of_two_processes(tmp_path):
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    launch(str(script))


def test_accumulation_gives_the_weights_of_the_whole_batch(alone, tmp_path):
    assert_close(run(tmp_path / "run", 1, "--precision", "float64", "--accumulate", "4"), alone, 1e-8)


def test_two_processes_in_float32(tmp_path):
    assert_close(run(tmp_path / "two", 2), run(tmp_path / "one", 1), 1e-4)


def test_an_error_of_one_process_is_told_by_it_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").touch()
    arguments = [*ARGUMENTS, "--out", str(tmp_path / "run")]
    ended = subprocess.run(
        command("-m", "gvit", *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode
    assert ended.stderr.count("already holds a run") == 1
    assert "[rank1]" not in ended.stderr  # no traceback of the one that waited


def test_an_interrupted_sharded_run_goes_on_to_the_same_result(alone, tmp_path):
    folder = tmp_path / "run"
    training = subprocess.Popen(
        command(
            *("-m", "gvit", *ARGUMENTS, "--out", str(folder)),
            *("--precision", "float64", "--fsdp", "--eval-every", "0.05"),
        ),
        env=ENVIRONMENT,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    training.send_signal(signal.SIGINT)
    training.wait(timeout=60)
    assert 0 < checkpoint(folder)["step"] < 20
    launch("-m", "gvit", "train", "--resume", str(folder))
    assert checkpoint(folder)["step"] == 20
    for name, value in checkpoint(alone)["model"].items():
        torch.testing.assert_close(checkpoint(folder)["model"][name], value, rtol=0, atol=1e-8)
