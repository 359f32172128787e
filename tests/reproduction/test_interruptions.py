"""How ``gvit reproduce`` ends early: what is saved, and what it says."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from forked import Forked
from gvit.cli import main
from small_tables import small_tables


def long_ones(folder: Path, seeds: int = 1) -> list[str]:
    """Trainings side by side, one for each seed, that are not done before a test is."""
    long = ["table1b", "--recipe", "debug", "--epochs", "99", "--eval-every", "99", "--seeds", str(seeds)]
    long += ["--jobs", str(seeds)]
    return [*long, "--out", str(folder / "results"), "--runs", str(folder / "runs")]


def steps(run: Path) -> int:
    """That it has logged so far."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for(condition) -> None:
    until = time.monotonic() + 120
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)


def test_terminated_it_saves_and_says_how_to_go_on(tmp_path):
    """Its workers are told, too, as by a batch system; of SIGINT, which they ignore, they hear from it alone."""
    process = Forked("-m", "gvit", "reproduce", *long_ones(tmp_path), new_session=True)
    wait_for(lambda: any(steps(file.parent) >= 10 for file in tmp_path.rglob("metrics.jsonl")))
    os.killpg(process.pid, signal.SIGTERM)
    status, _, said = process.communicate(timeout=60)
    assert status == 143
    assert said.endswith("stopped, saved; the same command goes on\n")
    assert "Traceback" not in said
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] >= 10
    assert not (tmp_path / "results").exists()


def test_a_closed_terminal_ends_it_saved(tmp_path):
    """All of its processes are told, multiprocessing's own included."""
    command = [sys.executable, "-m", "gvit", "reproduce", *long_ones(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    wait_for(lambda: any(steps(file.parent) >= 10 for file in tmp_path.rglob("metrics.jsonl")))
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 129
    assert said.splitlines()[1:] == ["stopped, saved; the same command goes on"]
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] >= 10


def test_a_second_ctrl_c_does_not_end_it_before_all_is_saved(tmp_path):
    process = Forked("-m", "gvit", "reproduce", *long_ones(tmp_path), new_session=True)
    wait_for(lambda: any(steps(file.parent) >= 10 for file in tmp_path.rglob("metrics.jsonl")))
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.1)
    status, _, said = process.communicate(timeout=60)
    assert status == 130
    assert "Traceback" not in said
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] >= 10


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="tells of processes in another way")
def test_ctrl_c_while_its_workers_start_is_answered_in_a_line(tmp_path):
    process = Forked("-m", "gvit", "reproduce", *long_ones(tmp_path), new_session=True)

    def begun() -> bool:
        """That a worker runs Python and has not loaded everything yet."""
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = [(Path("/proc") / child / "cmdline").read_text() for child in children]
        return any("spawn_main" in command for command in commands)

    wait_for(begun)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    status, _, said = process.communicate(timeout=60)
    assert status == 130
    assert "Traceback" not in said
    assert said.endswith("stopped, saved; the same command goes on\n")


def test_a_killed_worker_is_told_in_a_line_and_the_others_save(tmp_path, capsys):
    def kill_one() -> None:
        wait_for(lambda: [steps(file.parent) >= 10 for file in tmp_path.rglob("metrics.jsonl")] == [True] * 2)
        # the one that was started last, whose end the pool itself may miss
        os.kill(max(child.pid for child in multiprocessing.active_children()), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    with small_tables():
        assert main(["reproduce", *long_ones(tmp_path, seeds=2)]) == 2
    killer.join()
    assert capsys.readouterr().err.splitlines()[-1] == (
        "gvit: error: a job's process was killed; where memory ran out, fewer --jobs need less. What was done is "
        "saved; the same command goes on"
    )
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")  # nothing has been evaluated yet
    assert not list(tmp_path.rglob("result.json"))  # nor has it been waited for a job to be done
    assert torch.load(checkpoint, weights_only=True)["step"] >= 10
