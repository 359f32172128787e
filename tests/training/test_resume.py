"""Runs that were cut, killed, damaged or copied go on."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

import gvit
from gvit.data.sources import SOURCES, Source, digits
from gvit.errors import InputError
from gvit.models import registry
from gvit.models.weights import save_model
from gvit.training.report import write_report
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train
from small_runs import CONFIG, Recorder, assert_same_run, damaged_copy, interrupt, metrics, with_

pytestmark = pytest.mark.usefixtures("few_digits")


def test_an_extended_run_goes_on_with_its_last_phase(finished, tmp_path):
    """The phases before stay; rates are those of a run that was planned as long; a repeated command changes nothing."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    Run(folder).folder.joinpath("evaluation.json").write_text("{}")
    recorder = Recorder(24)
    with pytest.raises(Interrupted):
        resume(folder, [recorder], stop=recorder.stop, epochs=7)
    assert recorder.steps == [21, 22, 23, 24]
    assert set(recorder.phases) == {"guide"}
    assert not (folder / "evaluation.json").exists()
    again = Recorder()
    resume(folder, [again], epochs=7)
    assert again.steps == [25, 26, 27, 28]
    assert metrics(folder)[: len(metrics(finished)) - 1] == metrics(finished)[:-1]
    planned = set_up(with_(schedule={"guide_epochs": 3.5}))
    assert Run(folder).load_config() == planned.config
    last = [line for line in metrics(folder) if line["kind"] == "train" and line["step"] > 20]
    for line in last:
        rates = planned.rates(line["step"] - 1)
        assert line["lr_encoder"] == rates["encoder"]
    straight = Recorder()
    shutil.copytree(finished, tmp_path / "straight")
    resume(tmp_path / "straight", [straight], epochs=7)
    assert_same_run(tmp_path / "straight", folder)


@pytest.mark.parametrize("epochs", [3, float("inf"), float("nan")])
def test_a_run_is_not_made_shorter(finished, epochs):
    before = Run(finished).config_file.read_bytes()
    with pytest.raises(InputError, match=r"epochs=.*: the run has 5 epochs; more extend it"):
        resume(finished, epochs=epochs)
    assert Run(finished).config_file.read_bytes() == before


@pytest.mark.parametrize("cut", [3, 8, 15])  # inside an epoch, at the end of a phase, between guided steps
def test_an_interrupted_run_goes_on_to_the_same_result(finished, tmp_path, cut):
    folder = tmp_path / "run"
    assert interrupt(CONFIG, folder, cut).step == cut
    # who stops does not wait for an evaluation, which may take longer than there is time
    due = set_up(CONFIG).eval_steps
    assert [line["step"] for line in metrics(folder) if line["kind"] == "evaluation"] == list(
        range(due, cut, due)
    )
    recorder = Recorder()
    resume(folder, [recorder])
    assert recorder.steps[0] == cut + 1
    assert_same_run(finished, folder)


def test_an_encoder_that_draws_in_turns_goes_on_to_the_same_result(tmp_path):
    config = with_(model={"model": "gvit_tiny", "looks": 3}, schedule={"epochs": 2.5})
    train(config, tmp_path / "whole")
    assert metrics(tmp_path / "whole")[-1]["psnr"] > 13  # and 10.6 dB before it has learned
    interrupt(config, tmp_path / "cut", 7)
    resume(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_killed_run_goes_on_from_its_last_checkpoint(finished, tmp_path):
    folder = tmp_path / "run"

    class PowerFailure(Exception):
        pass

    def fail() -> None:
        raise PowerFailure

    with pytest.raises(PowerFailure):
        train(CONFIG, folder, [Recorder(at=11, action=fail)])
    with Run(folder).metrics_file.open("a") as file:
        file.write('{"kind": "train", "st')  # half a line
    recorder = Recorder()
    resume(folder, [recorder])
    assert recorder.steps[0] == 9
    assert_same_run(finished, folder)


def test_an_interrupted_run_of_the_first_version_goes_on(finished, tmp_path):
    """It wrote down neither architecture nor what the configuration left to the named model."""
    folder = tmp_path / "run"
    interrupt(CONFIG, folder, 9)
    run = Run(folder)
    run.config_file.write_text(CONFIG.to_json())
    state = run.load_checkpoint()
    del state["architecture"], state["name"]
    run.save_checkpoint(state)
    card = asdict(gvit.load_model(folder).card)
    card["name"] = "gvit_tiny"  # as it was called
    card["kwargs"] = {"img_size": 16, "num_gaussians": 8, "drop_path_rate": 0.1, "num_classes": 10}
    save_file(gvit.load_model(folder).state_dict(), run.weights_file, {"gvit.model": json.dumps(card)})
    resume(folder)
    assert_same_run(finished, folder)
    assert run.load_config().model == Run(finished).load_config().model


def test_resuming_depends_on_no_default(finished, tmp_path, monkeypatch):
    """What the model's name stands for may have changed meanwhile."""
    folder = tmp_path / "run"
    interrupt(CONFIG, folder, 9)
    entries = dict(registry._ENTRIES)
    entries["gvit_tiny_denoising"] = entries["gvit_small"]
    monkeypatch.setattr(registry, "_ENTRIES", entries)
    resume(folder)
    assert_same_run(finished, folder)


def test_a_run_that_trains_no_classifier_is_an_encoder_alone_from_its_start_and_goes_on(finished, tmp_path):
    drawing = replace(CONFIG.schedule, classify_epochs=0, guide_epochs=0)
    config = replace(CONFIG, schedule=drawing)
    result = train(config, tmp_path / "whole")
    assert result.top1 is None
    assert "top1" not in {k for line in metrics(tmp_path / "whole") for k, v in line.items() if v is not None}
    interrupt(config, tmp_path / "cut", 3)
    assert gvit.load_model(tmp_path / "cut").card.encoder_only
    assert str(resume(tmp_path / "cut")) == str(result)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert write_report(Run(tmp_path / "whole")) is not None
    above = set_up(replace(CONFIG, model=replace(CONFIG.model, init=tmp_path / "whole")))
    assert any("classifier new" in note for note in above.notes)
    assert not above.task.model.card.encoder_only
    assert not gvit.load_model(finished).card.encoder_only


def test_random_numbers_outside_are_left_alone(tmp_path):
    """Each step seeds torch's generator: who trains between two draws must not draw the run's."""
    before = torch.get_rng_state()
    interrupt(CONFIG, tmp_path / "run", 2)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(Interrupted):
        resume(tmp_path / "run", until=4, stop=lambda: True)
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    recorder = Recorder()
    result = resume(finished, [recorder])
    assert recorder.steps == []
    assert result.psnr == metrics(finished)[-1]["psnr"]
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_damaged_run_files_are_named(finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    run = Run(folder)
    whole = run.checkpoint_file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"junk" * 100):
        run.checkpoint_file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"checkpoint\.pt: damaged"):
            resume(folder)
    run.config_file.write_text("{")
    with pytest.raises(InputError, match=r"config\.json: damaged"):
        resume(folder)
    with pytest.raises(InputError, match=r"no run here .*; gvit.training.train.train makes one"):
        resume(tmp_path / "nowhere")


def test_a_run_that_lost_its_checkpoint_is_not_trained_anew(finished, tmp_path):
    run = damaged_copy(finished, tmp_path)
    run.checkpoint_file.unlink()
    before = run.weights_file.read_bytes()
    with pytest.raises(InputError, match=r"has weights, but no checkpoint\.pt to go on from.*overwrite=True"):
        resume(run.folder)
    assert run.weights_file.read_bytes() == before


def test_what_was_kept_of_a_run_that_lost_its_checkpoint_is_named(tmp_path):
    interrupt(with_(saving={"keep_checkpoints": 2}), tmp_path / "run", 10)
    run = Run(tmp_path / "run")
    run.checkpoint_file.unlink()
    (kept, *_) = sorted((run.folder / "checkpoints").iterdir(), reverse=True)
    with pytest.raises(InputError, match=rf"no checkpoint\.pt to go on from; resume\('{kept}'\), or train"):
        resume(run.folder)


@pytest.mark.parametrize("saved", [0, 1])
def test_what_is_killed_in_the_middle_of_its_first_save_goes_on(finished, tmp_path, monkeypatch, saved):
    """Before the weights are written, and after them."""

    class Killed(Exception):
        pass

    def kill(model, file, weights):
        if saved:
            save_model(model, file, weights)
        raise Killed

    monkeypatch.setattr("gvit.training.loop.save_model", kill)
    with pytest.raises(Killed):
        train(CONFIG, tmp_path / "run")
    monkeypatch.undo()
    recorder = Recorder()
    resume(tmp_path / "run", [recorder])
    assert recorder.steps[0] == 9  # 8 were saved
    assert_same_run(finished, tmp_path / "run")


def test_the_best_weights_are_there_before_a_checkpoint_says_so(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def kill(model, file, weights):
        if file.name == "model.safetensors":
            raise Killed
        save_model(model, file, weights)

    config = with_(model={"model": "vit_tiny_patch8"})  # its first evaluation counts
    monkeypatch.setattr("gvit.training.loop.save_model", kill)
    with pytest.raises(Killed):
        train(config, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.load_checkpoint()["best"] is not None
    assert run.best_file.exists()


@pytest.mark.parametrize("damage", [b"x", None])
def test_weights_that_are_damaged_or_lost_come_back_from_the_checkpoint(finished, tmp_path, damage):
    run = damaged_copy(finished, tmp_path)
    run.weights_file.unlink()
    if damage is not None:
        run.weights_file.write_bytes(damage)
    resume(run.folder)
    assert_same_run(finished, run.folder)


def test_a_damaged_line_of_the_metrics_costs_none_of_the_others(finished, tmp_path):
    run = damaged_copy(finished, tmp_path)
    lines = run.metrics_file.read_text().splitlines(keepends=True)
    for bad in ("{bad\n", "5\n", "{}\n"):
        content = "".join([lines[0], bad, *lines[1:]])
        run.metrics_file.write_text(content)
        with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: damaged"):
            resume(run.folder)
        assert run.metrics_file.read_text() == content
    run.metrics_file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"metrics\.jsonl: damaged"):
        resume(run.folder)


def test_classes_that_changed_meanwhile_stop_a_resumed_run(tmp_path, monkeypatch):
    interrupt(CONFIG, tmp_path / "run", 9)
    for names, told in (
        ([f"a {name}" for name in range(10)], "differing: 0, 1"),
        (["1", "0", *map(str, range(2, 10))], "in another order"),
    ):

        def changed(split, data_dir=None, names=names) -> Source:
            whole = digits.source(split)
            return Source(whole.load, whole.labels[:40], names)

        monkeypatch.setitem(SOURCES, "few_digits", changed)
        with pytest.raises(InputError, match=rf"trained on 10 classes, but its data set has 10 now \({told}"):
            resume(tmp_path / "run")


def test_resuming_needs_no_run_that_it_started_from(finished, tmp_path):
    source = damaged_copy(finished, tmp_path).folder
    config = with_(model={"init": source})
    train(config, tmp_path / "whole")
    interrupt(config, tmp_path / "cut", 9)
    source.rename(tmp_path / "elsewhere")
    resume(tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_checkpoint_with_arguments_that_are_unknown_is_refused(tmp_path):
    interrupt(CONFIG, tmp_path / "run", 9)
    run = Run(tmp_path / "run")
    state = run.load_checkpoint()
    state["architecture"]["vit"]["nope"] = 2
    run.save_checkpoint(state)
    with pytest.raises(InputError, match="nope"):
        resume(run.folder)


@pytest.mark.parametrize("state", [[1], {"step": 3}])
def test_a_checkpoint_of_something_else_is_named(finished, tmp_path, state):
    run = damaged_copy(finished, tmp_path)
    torch.save(state, run.checkpoint_file)
    with pytest.raises(
        InputError, match=r"checkpoint\.pt: (damaged|not of this run's model \(it has no 'model')"
    ):
        resume(run.folder)
