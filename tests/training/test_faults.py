"""Faults that are really injected: what a run's folder holds after them, and what is said."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from forked import Forked, forked
from gvit.errors import InputError
from gvit.files import replacing
from gvit.recipes import debug
from gvit.training.observers import Observer, Step
from gvit.training.run import Run
from gvit.training.train import resume, train

CONFIG = replace(debug(), model=replace(debug().model, img_size=16))


class Act(Observer):
    """Does something after a step."""

    def __init__(self, at: int, action) -> None:
        self.at, self.action = at, action

    def step(self, step: Step) -> None:
        if step.number == self.at:
            self.action()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        for drawn in ("write_report", "write_curves"):
            patch.setattr(f"gvit.training.train.{drawn}", lambda run: None)
        train(CONFIG, folder)
    return folder


def same_weights(one: Path, other: Path) -> bool:
    models = [Run(folder).load_checkpoint()["model"] for folder in (one, other)]
    return all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_full_disk_keeps_the_checkpoint_and_says_so(finished, tmp_path):
    """A limit on the size of files, as a full disk is: in the middle of the file, and by the operating system."""
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.save_checkpoint({"step": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"checkpoint\.pt: cannot be written \(File too large\)"):
            run.save_checkpoint(Run(finished).load_checkpoint())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.load_checkpoint() == {"step": 1}
    assert [file.name for file in run.folder.iterdir()] == ["checkpoint.pt"]


# forks a process that saves without end and kills it, at 50 random moments
KILLING = """
import os, random, signal, sys, time, torch
torch.set_num_threads(1)  # those of the parent are none of a forked process
from pathlib import Path
from gvit.training.run import Run
run, chance, step = Run(Path(sys.argv[1])), random.Random(0), 0
for _ in range(50):
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        while True:
            step += 1
            run.save_checkpoint({"step": step, "weights": torch.full((200_000,), float(step))})
            os.write(writing, step.to_bytes(4, "big"))
    step = int.from_bytes(os.read(reading, 4), "big")
    time.sleep(chance.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(writing)
    while told := os.read(reading, 4):
        step = int.from_bytes(told, "big")
    state = run.load_checkpoint()
    assert step <= state["step"] <= step + 1, (step, state["step"])
    assert (state["weights"] == state["step"]).all()
    step = state["step"]
    print("whole", *sorted(file.name for file in run.folder.iterdir()))
"""


def test_a_process_killed_while_it_saves_leaves_the_last_whole_checkpoint(tmp_path):
    """What it was about to write is gone when the folder is used again."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "killing.py").write_text(KILLING)
    lines = forked(tmp_path / "killing.py", folder).splitlines()
    assert len(lines) == 50
    assert any(line.endswith(".partial") for line in lines)  # it was killed in the middle of it
    (folder / "film.partial").touch()  # somebody else's
    (folder / "checkpoint.pt.partial").touch()  # an older gvit's
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "step-000012.pt.99999999-0123abcd.partial").touch()
    Run(folder).remove_partial()
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))
    assert names == ["checkpoint.pt", "checkpoints", "film.partial"]


def test_two_who_write_a_file_at_once_leave_it_whole(tmp_path):
    file = tmp_path / f"{'ä' * 125}.json"  # as long as a name may be
    with replacing(file) as one:
        one.write_text("one, ")
        with replacing(file) as other:
            other.write_text("other")
        with one.open("a") as going_on:
            going_on.write("whole")
        assert file.read_text() == "other"
    assert file.read_text() == "one, whole"
    assert list(tmp_path.iterdir()) == [file]


# sends itself two signals of a kind in the middle of saving, in a forked process for each kind
TWICE = """
import os, signal, sys, torch
from pathlib import Path
from gvit.cli.signals import stop_requests
from gvit.training.run import Run
run, whole = Run(Path(sys.argv[1])), torch.save
run.folder.mkdir()
run.save_checkpoint({"step": 1})

def interrupted(state, file):
    whole(state, file)
    file.flush()
    os.kill(os.getpid(), number)
    assert stop()
    os.kill(os.getpid(), number)
    raise AssertionError("still here")

for number in (signal.SIGINT, signal.SIGTERM):
    child = os.fork()
    if not child:
        torch.save = interrupted
        try:
            with stop_requests() as stop:
                run.save_checkpoint({"step": 2})
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), run.load_checkpoint()["step"])
"""


def test_a_second_signal_while_it_saves_breaks_no_file(tmp_path):
    (tmp_path / "twice.py").write_text(TWICE)
    assert forked(tmp_path / "twice.py", tmp_path / "run").split() == ["130", "1", "-15", "1"]


def test_a_killed_loading_process_costs_no_step(finished, tmp_path):
    def kill() -> None:
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    config = replace(CONFIG, data=replace(CONFIG.data, workers=1))
    with pytest.raises(
        InputError, match=r"a process that loads images was killed .*Saved at step \d+; go on"
    ):
        train(config, tmp_path, [Act(7, kill)])
    assert Run(tmp_path).load_checkpoint()["step"] >= 7
    resume(tmp_path)
    assert same_weights(tmp_path, finished)


@pytest.mark.skipif(sys.platform != "linux", reason="loading processes are not forked here")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_tells_a_whole_group_to_end_ends_no_loading_process(finished, tmp_path, number):
    """The main process is told, too, saves, and ends them then."""

    def tell() -> None:
        loading = multiprocessing.active_children()
        assert loading
        for process in loading:
            subprocess.run(["kill", f"-{number.value}", str(process.pid)], check=True)

    train(replace(CONFIG, data=replace(CONFIG.data, workers=1)), tmp_path, [Act(7, tell)])
    assert same_weights(tmp_path, finished)


# ends while a loader is still there, and with it the process that loads
LEFT = """
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import load_source
from gvit.data.transforms import eval_transform
from gvit.models.card import Preprocessing

samples = EvaluationSamples(load_source("digits", "test"), eval_transform(Preprocessing(16)))
batches = iter(evaluation_loader(samples, 1, workers=1))
next(batches)
raise RuntimeError("of somebody's script")
"""


def test_a_script_that_fails_in_the_middle_of_loading_ends(tmp_path):
    (tmp_path / "left.py").write_text(LEFT)
    status, _, told = Forked(tmp_path / "left.py").communicate(timeout=30)
    assert status == 1
    assert "of somebody's script" in told


def test_a_folder_is_one_run_s(tmp_path, monkeypatch):
    monkeypatch.setattr("gvit.training.run._PATIENCE", 0.1)
    refused = []

    def another() -> None:
        for start in (lambda: train(CONFIG, tmp_path, overwrite=True), lambda: resume(tmp_path)):
            with pytest.raises(InputError, match="another process is training here") as caught:
                start()
            refused.append(caught.value)

    train(CONFIG, tmp_path, [Act(3, another)])
    assert len(refused) == 2
    resume(tmp_path)


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path):
    holding = "import sys, time; from pathlib import Path; from gvit.training.run import Run\n"
    holding += "with Run(Path(sys.argv[1])).locked(): Path(sys.argv[1], 'held').touch(); time.sleep(60)"
    (tmp_path / "holding.py").write_text(holding)
    process = Forked(tmp_path / "holding.py", tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / "held").exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert (tmp_path / "held").exists()
    threading.Timer(0.5, process.send_signal, [signal.SIGKILL]).start()
    with Run(tmp_path).locked():  # it waits a little
        status, *_ = process.communicate()
        assert status == -signal.SIGKILL
