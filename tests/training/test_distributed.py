"""Two processes under torchrun do what one does."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forked import Forked, forked
from gvit.cli import main
from gvit.recipes import debug
from gvit.training.config import ComputeConfig, GuidanceConfig, TrainConfig
from gvit.training.distributed import World, load_optimizer
from gvit.training.setup import set_up
from gvit.training.train import train

# 20 steps over all four phases, without what is random by place in the batch
CONFIG = debug()
CONFIG = replace(
    CONFIG,
    model=replace(CONFIG.model, img_size=16, drop_path_rate=0.0),
    data=replace(CONFIG.data, batch_size=16),
    schedule=replace(CONFIG.schedule, epochs=20 / 89),
    compute=ComputeConfig("float64"),
)
GUIDED = replace(
    CONFIG,
    schedule=replace(CONFIG.schedule, guided_steps="added"),
    guidance=GuidanceConfig("image", "gaussian", guide_ema=0.9, psnr_budget=0.1),
)
# a checkpoint after 10
STUMBLING = replace(
    CONFIG,
    schedule=replace(CONFIG.schedule, eval_every=10 / 89, gamma=10.0),
    optimizer=replace(CONFIG.optimizer, max_skipped=2),
)
TOGETHER = {
    "copies": CONFIG,
    "shards": replace(CONFIG, compute=ComputeConfig("float64", fsdp=True)),
    "guided": replace(GUIDED, compute=ComputeConfig("float64", accumulate=2)),
    "stumbling": STUMBLING,
    "unmeasured": replace(GUIDED, compute=ComputeConfig(accumulate=2)),
}
# the same for the command line
ARGUMENTS = ["train", "debug", "--drop-path-rate", "0", "--batch-size", "16", "--epochs", str(20 / 89)]
ARGUMENTS += ["--img-size", "16", "--precision", "float64", "--warmup-epochs", "0.1", "--device", "cpu"]

# trains every configuration of a folder by two processes; of the run "stumbling", the second one's numbers go bad, of
# "unmeasured" what it measures after its first guided step
TRAINING = """
import sys
from pathlib import Path

import torch
from torch.distributed.fsdp import FSDPModule

import gvit
import gvit.training.train as training
from gvit.training.config import TrainConfig
from gvit.training.distributed import distribute, joined
from gvit.training.objective import GuidedObjective
from gvit.training.task import Task

training.write_report = training.write_curves = lambda run: None
clean, step = Task._on_device, Task.step
bad = {5, 15, 16, 17}  # once each


def stepped(task, number, parts, plan, rates):
    task.bad = number in bad
    bad.discard(number)
    return step(task, number, parts, plan, rates)


effect, times = GuidedObjective.effect, iter(range(1000))


def unmeasured(objective, batch, turn):
    measures = effect(objective, batch, turn)  # networks are called by both processes or by none
    if next(times) == 0:
        raise FloatingPointError("the Gaussians cannot be drawn")
    return measures


def poisoned(task, batch):
    batch = clean(task, batch)
    return batch._replace(inputs=batch.inputs * torch.nan) if task.bad else batch


with joined("cpu") as (world, device):
    encoder = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2).encoder
    whole = sum(p.numel() for p in encoder.parameters())
    sharded = distribute(encoder, world, fsdp=True)
    assert all(isinstance(module, FSDPModule) for module in (sharded, *sharded.blocks))
    here = sum(p.to_local().numel() for p in sharded.parameters())
    Path(sys.argv[1], f"weights-{world.rank}.txt").write_text(f"{whole} {here}")
    for file in sorted(Path(sys.argv[1]).glob("*.json")):
        if file.stem == "stumbling" and not world.is_main:
            Task.step, Task._on_device = stepped, poisoned
        if file.stem == "unmeasured" and not world.is_main:
            Task.step, Task._on_device = step, clean
            GuidedObjective.effect = unmeasured
        config = TrainConfig.from_json(file.read_text())
        training.train(config, file.with_suffix(""), device=device, world=world)
"""


MEASURES = {
    *("pixel_loss", "perceptual_loss", "class_loss", "accuracy", "num_images"),
    *("reconstruction_gradient", "class_gradient", "gradient_cosine", "steered"),
    *("class_loss_after", "class_change", "class_change_predicted", "psnr_change", "guidance_weight"),
    "psnr_spent",
}


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


@pytest.fixture(scope="module", autouse=True)
def _no_pictures():
    with pytest.MonkeyPatch.context() as patch:
        for drawn in ("write_report", "write_curves"):
            patch.setattr(f"gvit.training.train.{drawn}", lambda run: None)
        yield


def by_one(folder: Path, config: TrainConfig) -> Path:
    train(config, folder)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    return by_one(tmp_path_factory.mktemp("alone") / "run", CONFIG)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """Runs of two processes, by name; all in one launch, which takes longer than a run."""
    folder = tmp_path_factory.mktemp("together")
    for name, config in TOGETHER.items():
        (folder / f"{name}.json").write_text(config.to_json())
    script = folder / "training.py"
    script.write_text(TRAINING)
    forked(script, folder, processes=2)
    return folder


@pytest.mark.parametrize("name", ["copies", "shards"])
def test_two_processes_give_the_weights_of_one(alone, together, name):
    assert_close(together / name, alone, 1e-8)


def test_two_processes_are_guided_as_one_is(together, tmp_path):
    """In parts of a batch, too: both have the same averaged classifier, and the same factor on gamma."""
    one, two = by_one(tmp_path / "one", GUIDED), together / "guided"
    assert_close(two, one, 1e-8)
    states = [checkpoint(folder)["guidance"] for folder in (one, two)]
    assert states[0]["multiplier"] == pytest.approx(states[1]["multiplier"], rel=1e-6)


def test_what_is_not_finite_in_one_process_is_left_out_in_both(together):
    """Counted; and after too many in a row both go back to the checkpoint, with gamma halved."""
    state, lines = checkpoint(together / "stumbling"), metrics(together / "stumbling")
    assert state["step"] == 20
    # of 5 alone: those after step 10 were done again
    assert [line["step"] for line in lines if line["kind"] == "skipped"] == [6]
    assert state["stumbling"] == {"skipped": 1, "in_a_row": 0, "gamma": 0.5}
    assert {line["gamma"] for line in lines if line["kind"] == "train"} == {0.0, 5.0}
    assert all(value.isfinite().all() for value in state["model"].values())


def test_what_one_process_cannot_measure_is_left_out_in_both(together):
    """The step is taken; of two parts, the second one is not measured either."""
    lines = [
        line for line in metrics(together / "unmeasured") if line["kind"] == "train" and "steered" in line
    ]
    assert ["class_change" in line for line in lines] == [False] + [True] * (len(lines) - 1)
    assert len(lines) > 1


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


def test_fsdp_leaves_half_of_the_weights_in_each_of_two_processes(together):
    for rank in (0, 1):
        whole, here = map(int, (together / f"weights-{rank}.txt").read_text().split())
        assert 0.4 * whole < here < 0.6 * whole


def test_an_evaluation_of_shards_ends_in_all_processes_where_it_ends_in_one(monkeypatch):
    """After the batch that ended it: whoever went on would wait for shards that nobody gives."""
    setup = set_up(CONFIG)
    asked, told = [], iter([False, True])
    monkeypatch.setattr(World, "any", lambda self, flag: flag or next(told))
    setup.task.config = TOGETHER["shards"]
    with pytest.raises(FloatingPointError, match="numbers of another process are not finite"):
        setup.task.measure(asked.append(1) or batch for batch in setup.feed.test_loader)
    assert len(asked) == 2 < len(setup.feed.test_loader)
    monkeypatch.setattr(World, "any", lambda self, flag: flag)
    sharded = setup.task.measure(setup.feed.test_loader)
    setup.task.config = CONFIG
    for name, value in setup.task.measure(setup.feed.test_loader).items():
        assert torch.equal(sharded[name], value), name


def test_an_error_of_one_process_is_told_by_it_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").touch()
    arguments = [*ARGUMENTS, "--out", str(tmp_path / "run")]
    # by torchrun's own command, as people start it
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run(
        [*torchrun, "-m", "gvit", *arguments], env=environment, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode
    assert ended.stderr.count("already holds a run") == 1
    assert "[rank1]" not in ended.stderr  # no traceback of the one that waited


def begun(folder: Path, *options: str) -> Forked:
    """A training by two processes that has saved for the first time."""
    arguments = [*ARGUMENTS, "--out", str(folder), "--eval-every", "0.1", *options]
    training = Forked("-m", "gvit", *arguments, processes=2)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists():
        assert training.poll() is None, training.communicate()[2]
        if time.monotonic() > deadline:
            training.communicate(timeout=0)  # ends it, and fails
        time.sleep(0.02)
    return training


def assert_same_weights(folder: Path, alone: Path) -> None:
    assert checkpoint(folder)["step"] == 20
    for name, value in checkpoint(alone)["model"].items():
        torch.testing.assert_close(checkpoint(folder)["model"][name], value, rtol=0, atol=1e-8)


def test_an_interrupted_sharded_run_goes_on_to_the_same_result(alone, tmp_path, capsys):
    folder = tmp_path / "run"
    training = begun(folder, "--fsdp")
    training.send_signal(signal.SIGINT)
    training.communicate(timeout=60)
    assert 0 < checkpoint(folder)["step"] < 20
    assert main(["train", "--resume", str(folder)]) == 2  # by one process there is nothing to shard
    assert capsys.readouterr().err.count("\n") == 1
    printed = forked("-m", "gvit", "train", "--resume", folder, processes=2)
    assert printed.count("top-1") == 1  # the main process alone speaks
    assert_same_weights(folder, alone)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds a process by Linux's /proc")
def test_where_a_process_is_killed_the_others_end_and_one_alone_goes_on(alone, tmp_path):
    folder = tmp_path / "run"
    training = begun(folder)
    (rank, *_) = Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()[::-1]
    os.kill(int(rank), signal.SIGKILL)
    status, _, told = training.communicate(timeout=60)
    assert status
    assert "SIGKILL" in told or "another one did" in told
    assert 0 < checkpoint(folder)["step"] < 20
    assert main(["train", "--resume", str(folder), "--device", "cpu"]) == 0
    assert_same_weights(folder, alone)
