"""Training runs end to end on a few digits with a model that fits a test."""

import json
import math
import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file

import gvit
from gvit.data.sources import SOURCES, Source, digits
from gvit.errors import InputError, for_command_line, for_python
from gvit.evaluation import Evaluation
from gvit.gaussians import Gaussians
from gvit.models import registry
from gvit.models.weights import save_model
from gvit.training import objective
from gvit.training.config import (
    DataConfig,
    GuidanceConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from gvit.training.dry_run import dry_run
from gvit.training.html_report import write_html_report
from gvit.training.loop import Loop
from gvit.training.motion import GaussianMotion, decision_distance
from gvit.training.observers import Evaluated, Observer, Start, Step, TensorBoardObserver
from gvit.training.report import assess, write_report
from gvit.training.run import Run
from gvit.training.schedule import Schedule
from gvit.training.setup import Setup, set_up
from gvit.training.train import Interrupted, resume, train
from gvit.viewing.figures import curves_figure

# 4 steps an epoch; phases end at 4, 8, 14 and 20; guided steps are 14 and 17
CONFIG = TrainConfig(
    model=ModelConfig("gvit_tiny_denoising", img_size=16, num_gaussians=8, drop_path_rate=0.1),
    data=DataConfig("few_digits", batch_size=8, crop_mode="squash", hflip=False, min_crop=0.8),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 1, "perceptual_epochs": 1, "classify_epochs": 1.5, "guide_epochs": 1.5},
        **{"guide_every": 3, "eval_every": 2},
    ),
    optimizer=OptimizerConfig(base_lr=3e-2, warmup_epochs=0.5, clip_grad=1.0),
)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    def load(split, data_dir=None) -> Source:
        whole = digits.source(split)
        return Source(whole.load, whole.labels[: {"train": 35, "test": 12}[split]], whole.class_names)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "few_digits", load)
        yield


class Recorder(Observer):
    """Remembers, may do something after a step, and asks to stop after another."""

    def __init__(self, stop_at: int | None = None, at: int | None = None, action=None) -> None:
        self.stop_at, self.at, self.action = stop_at, at, action
        self.notes, self.steps, self.phases, self.results = (), [], [], []

    def start(self, start: Start) -> None:
        self.notes = start.notes

    def step(self, step: Step) -> None:
        self.steps.append(step.number)
        self.phases.append(step.plan.phase)
        if step.number == self.at:
            self.action()

    def evaluation(self, evaluated: Evaluated) -> None:
        self.results.append((evaluated.step, evaluated.result))

    def stop(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.stop_at


def interrupt(config: TrainConfig, folder: Path, step: int) -> Interrupted:
    recorder = Recorder(step)
    with pytest.raises(Interrupted) as caught:
        train(config, folder, [recorder], stop=recorder.stop)
    return caught.value


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return gvit.load_model(folder).state_dict()


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in Run(folder).metrics_file.read_text().splitlines()]
    for line in lines:
        line.pop("images_per_second", None)  # time is not repeatable
    return lines


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = weights(one), weights(other)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert metrics(other) == metrics(one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(CONFIG, folder)
    return folder


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[Path, Recorder, Evaluation]:
    """The same run again, of observers: its folder, what they were told, and its result."""
    folder, recorder = tmp_path_factory.mktemp("runs") / "watched", Recorder()
    with pytest.MonkeyPatch.context() as patch, TensorBoardObserver(folder) as tensorboard:
        for drawn in ("write_report", "write_curves"):
            patch.setattr(f"gvit.training.train.{drawn}", lambda run: None)
        result = train(CONFIG, folder, [recorder, tensorboard])
    return folder, recorder, result


def test_a_run_holds_what_it_promises(finished):
    run = Run.open(finished)
    config = run.load_config()
    assert config == set_up(CONFIG).config
    # what was left to the named model and to the phases is written down
    named = {"scale_factor": 1.0, "encoder": "denoising", "noise_std": 0.1}
    named |= {"tokens": "canonical", "pool": "token"}
    assert asdict(config.model) == asdict(CONFIG.model) | named
    assert set_up(with_(model={"img_size": None})).config.model.img_size == 32
    assert config.schedule.epochs == 5
    assert config.schedule.phase_epochs() == CONFIG.schedule.phase_epochs()
    for group in ("data", "objective", "optimizer", "compute", "seed"):
        assert getattr(config, group) == getattr(CONFIG, group)
    assert run.report_file.stat().st_size > 10_000
    lines = metrics(finished)
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [8, 16, 20]
    # every tenth step, the last, and every guided one
    assert [line["step"] for line in lines if line["kind"] == "train"] == [10, 15, 18, 20]
    assert run.load_checkpoint()["step"] == 20
    model = gvit.load_model(finished)
    assert list(model.card.class_names) == list("0123456789")
    assert model.card.preprocessing.crop_mode == "squash"
    assert not list(finished.glob("*.partial"))


def test_the_best_weights_stay_and_begin_with_the_classifier(tmp_path, monkeypatch):
    """By top-1, the first of equals; a resumed run remembers what was best before."""
    scores = {8: 0.9, 12: 0.25, 16: 0.5, 20: 0.5}
    monkeypatch.setattr(
        Loop, "_evaluate", lambda loop, _: Evaluation(12, scores.get(loop.step, 0.0), None, 10.0, 0.1, [])
    )
    config, run = with_(schedule={"eval_every": 1.0}), Run(tmp_path / "run")
    kept = {}

    class Keep(Observer):
        def step(self, step: Step) -> None:
            kept[step.number - 1] = run.weights_file.read_bytes() if run.weights_file.exists() else b""

    interrupted = Recorder(18)
    with pytest.raises(Interrupted):
        train(config, run.folder, [Keep(), interrupted], stop=interrupted.stop)
    assert kept[11] != b""
    # up to step 8 the classifier has not learned: its 90 % are chance's
    assert run.best_file.read_bytes() == kept[16]
    assert run.best_file.read_bytes() != run.weights_file.read_bytes()
    resume(run.folder)
    assert run.best_file.read_bytes() == kept[16]
    assert gvit.load_model(run.best_file).card == gvit.load_model(run.folder).card


def test_the_best_encoder_draws_best(tmp_path):
    encoder = with_(
        schedule={"classify_epochs": 0, "guide_epochs": 0, "perceptual_epochs": 3, "eval_every": 1.0}
    )
    train(encoder, tmp_path)
    drawn = [line["psnr"] for line in metrics(tmp_path) if line["kind"] == "evaluation"]
    assert assess(Run(tmp_path).best_file).evaluation.psnr == pytest.approx(max(drawn), abs=1e-6)


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


def test_curves_tell_phases_losses_and_results(finished):
    figure = curves_figure([*metrics(finished)])
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["class loss", "pixel loss", "perceptual loss", "accuracy %", "PSNR dB", "learning rate"]
    psnr = figure.axes[4].lines[0].get_xydata().tolist()
    tests = [line for line in metrics(finished) if line["kind"] == "evaluation"]
    assert psnr == [[line["epoch"], line["psnr"]] for line in tests]
    phases = [text.get_text().strip() for text in figure.axes[0].texts]
    assert phases == ["classify", "guide"]  # the first logged step is the tenth
    assert Run(finished).curves_file.stat().st_size > 10_000


def test_the_observer_sees_every_step(watched):
    _, recorder, result = watched
    assert recorder.steps == list(range(1, 21))
    assert recorder.phases == ["reconstruct"] * 4 + ["perceptual"] * 4 + ["classify"] * 6 + ["guide"] * 6
    assert recorder.results[-1] == (20, result)
    assert result.num_images == 12


def test_the_same_seed_gives_the_same_run_and_another_seed_another(finished, watched, tmp_path):
    assert_same_run(finished, watched[0])
    train(replace(CONFIG, seed=1), tmp_path / "other")
    name = "encoder.head.2.weight"
    assert not torch.equal(weights(tmp_path / "other")[name], weights(finished)[name])


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


def test_resuming_a_finished_run_changes_nothing(finished, tmp_path):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    recorder = Recorder()
    result = resume(finished, [recorder])
    assert recorder.steps == []
    assert result.psnr == metrics(finished)[-1]["psnr"]
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def networks_that_move(setup: Setup, step: int) -> set[str]:
    model = setup.task.model
    before = {name: value.clone() for name, value in model.named_parameters()}
    (parts,) = setup.feed.batches(step, step + 1, workers=0)
    setup.task.step(step, parts, setup.schedule.plan(step), setup.rates(step))
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    return {name.split(".")[0] for name in moved}


def test_in_a_frozen_phase_no_weight_moves():
    setup = set_up(CONFIG)
    torch.nn.init.normal_(setup.task.model.encoder.head[-1].weight, std=0.1)
    assert networks_that_move(setup, 2) == {"encoder"}
    assert networks_that_move(setup, 6) == {"encoder"}
    assert networks_that_move(setup, 9) == {"encoder", "classifier"}
    assert networks_that_move(setup, 14) == {"encoder"}  # guided: weight decay and momentum included
    assert networks_that_move(setup, 15) == {"encoder", "classifier"}
    assert [set(setup.rates(step)) for step in (2, 9, 14)] == [
        {"encoder"},
        {"encoder", "classifier"},
        {"encoder"},
    ]


def test_a_folder_with_a_run_is_never_overwritten_unasked(finished, tmp_path):
    before = {file.name: file.read_bytes() for file in finished.iterdir()}
    with pytest.raises(InputError, match=r"already holds a run.*resume\(.*overwrite=True"):
        train(replace(CONFIG, seed=5), finished)
    assert {file.name: file.read_bytes() for file in finished.iterdir()} == before


def test_overwrite_replaces_the_run_and_leaves_other_files_alone(tmp_path):
    folder = tmp_path / "run"
    short = replace(CONFIG, schedule=replace(CONFIG.schedule, epochs=0.5))
    train(short, folder)
    (folder / "notes.txt").write_text("mine")
    train(replace(short, seed=2), folder, overwrite=True)
    assert Run(folder).load_config().seed == 2
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_unusable_configuration_writes_nothing(tmp_path):
    for bad in (
        replace(CONFIG, model=ModelConfig("gvit_tinny")),
        replace(CONFIG, data=replace(CONFIG.data, dataset="few")),
        replace(CONFIG, schedule=replace(CONFIG.schedule, epochs=0.01)),
    ):
        with pytest.raises(InputError, match=r"nearest|shorter than one step"):
            train(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run: cannot write a run here"):
        train(CONFIG, tmp_path / "file" / "run")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(tmp_path):
    wild = replace(CONFIG, optimizer=OptimizerConfig(base_lr=1e30, warmup_epochs=0))
    with pytest.raises(InputError, match=r"diverged at step \d+ \(\w+\): .*; lower base_lr"):
        train(wild, tmp_path / "run")
    # a checkpoint of a step before is not lost
    cut = tmp_path / "cut"
    interrupt(CONFIG, cut, 9)
    before = Run(cut).checkpoint_file.read_bytes()
    Run(cut).config_file.write_text(replace(CONFIG, optimizer=wild.optimizer).to_json())
    with pytest.raises(InputError, match="diverged"):
        resume(cut)
    assert Run(cut).checkpoint_file.read_bytes() == before


def test_gaussians_that_cannot_be_drawn_are_a_divergence_too(tmp_path, monkeypatch):
    def cannot(*args, **kwargs):
        raise ValueError("covariances must be positive")

    loop = Loop(set_up(with_(optimizer={"max_skipped": 0})), Run(tmp_path))
    for module, where in (("gvit.training.objective", "reconstruct"), ("gvit.evaluation", "evaluation")):
        with monkeypatch.context() as patch:
            patch.setattr(f"{module}.render", cannot)
            with pytest.raises(
                InputError, match=rf"diverged at step \d+ \({where}\): .*covariances must be positive; lower"
            ):
                loop.fit()


def with_(config: TrainConfig = CONFIG, **groups) -> TrainConfig:
    """The configuration with some fields of some groups replaced."""
    changed = {name: replace(getattr(config, name), **fields) for name, fields in groups.items()}
    return replace(config, **changed)


def test_a_warm_up_that_leaves_no_time_to_learn_is_pointed_out():
    short = with_(optimizer={"warmup_epochs": 2.0})  # of 5 epochs, 3 of them the classifier's
    assert set_up(CONFIG).notes == ()
    (note,) = set_up(short).notes
    told = "the warm-up, 2 epochs, takes over half of the classifier's 3; {} would be in proportion"
    assert for_python(note) == told.format("warmup_epochs=0.25")
    assert for_command_line(note) == told.format("--warmup-epochs 0.25")


def test_of_an_encoder_alone_the_warm_up_is_looked_at_too():
    phases = {
        "classify_epochs": 0.0,
        "guide_epochs": 0.0,
        "perceptual_epochs": 0.0,
        "reconstruct_epochs": 3.0,
    }
    note, _ = set_up(with_(schedule=phases, optimizer={"warmup_epochs": 2.0})).notes
    assert for_python(note).startswith("the warm-up, 2 epochs, takes over half of the encoder's 3;")


def test_a_phase_that_is_less_than_a_step_is_told():
    notes = map(for_python, set_up(with_(schedule={"guide_epochs": 0.001})).notes)
    assert "guide_epochs=0.001 are less than a step: the phase is left out" in notes


def test_a_batch_of_all_images_has_as_many_as_can_be_split():
    setup = set_up(with_(data={"batch_size": 2048}, compute={"accumulate": 3}))
    count = len(setup.feed.train)
    assert count % 3
    assert setup.feed.batch_size == 3 * (count // 3)
    assert f"{count} images to train on: a batch has {3 * (count // 3)}, not 2048" in map(
        for_python, setup.notes
    )


@pytest.mark.parametrize("epochs", [None, 6.25])
def test_an_average_that_never_forgets_the_first_weights_is_pointed_out(epochs):
    config = with_(schedule={"epochs": epochs})
    total = set_up(config).schedule.total
    (note,) = set_up(replace(config, optimizer=replace(config.optimizer, ema_decay=0.9999))).notes
    told = re.fullmatch(
        rf"ema_decay=0\.9999: of an average over {total} steps, 100 % are the weights before the first; "
        r"ema_decay=(0\.\d+) would be in proportion",
        for_python(note),
    )
    usual = float(told[1])
    assert 0.005 < usual**total < 0.05
    assert set_up(replace(config, optimizer=replace(config.optimizer, ema_decay=usual))).notes == ()


def test_what_a_model_without_gaussians_leaves_unused_is_pointed_out():
    assert set_up(with_(model={"model": "vit_tiny_patch8"})).notes == (
        "vit_tiny_patch8 reads pixels: what is set of Gaussians, their losses and guidance has no effect",
    )


def test_a_rate_of_its_own_for_the_guided_phase():
    setup = set_up(with_(schedule={"guide_lr": 0.02}))
    first = setup.schedule.steps_of("guide").start
    assert setup.rates(first)["encoder"] == pytest.approx(0.02 * setup.feed.batch_size / 256)
    assert setup.rates(first - 1) == set_up(CONFIG).rates(first - 1)


def test_a_rate_for_a_guided_phase_that_there_is_not_is_pointed_out():
    (note,) = set_up(with_(schedule={"guide_lr": 0.02, "guide_epochs": 0.0})).notes
    assert for_python(note) == "guide_lr has no effect: there is no guided phase"


@pytest.mark.parametrize("unguided", [{"guided_steps": "none"}, {"guide_epochs": 0.0}])
@pytest.mark.parametrize(
    "setting", [{"gamma_unit": "image"}, {"projection": "image"}, {"guide_ema": 0.9}, {"psnr_budget": 1.0}]
)
def test_guidance_of_no_step_is_pointed_out(unguided, setting):
    (name,) = setting
    assert set_up(with_(guidance=setting)).notes == ()
    (note,) = set_up(with_(guidance=setting, schedule=unguided)).notes
    assert for_python(note) == f"{name} has no effect: no step is guided"


def test_a_perceptual_phase_without_its_loss_is_pointed_out():
    (note,) = set_up(with_(objective={"perceptual_weight": 0.0})).notes
    assert note == "perceptual_epochs has no effect of its own: perceptual_weight is 0"


def test_what_is_asked_of_a_classifier_that_is_not_trained_is_pointed_out():
    alone = {"classify_epochs": 0.0, "guide_epochs": 0.0}
    asked = with_(schedule={**alone, "freeze_encoder": True}, objective={"class_weights": "balanced"})
    told = "an encoder alone is trained, no classifier: classify_epochs and guide_epochs are 0"
    assert set_up(with_(schedule=alone)).notes == (told,)
    assert set_up(asked).notes == (
        told,
        *(f"{name} has no effect: no classifier is trained" for name in ("class_weights", "freeze_encoder")),
    )


def test_a_least_number_of_steps_beside_epochs_is_pointed_out():
    setup = set_up(with_(schedule={"epochs": 5.0, "min_steps": 600}))
    assert [for_python(note) for note in setup.notes] == ["min_steps has no effect beside epochs"]
    assert set_up(setup.config).notes == ()  # as when it is resumed


def test_a_batch_that_cannot_be_split_is_refused(tmp_path):
    for split, message in (
        (with_(compute={"accumulate": 3}), "multiple of 3"),
        (with_(compute={"fsdp": True}), "torchrun"),
    ):
        with pytest.raises(InputError, match=message):
            train(split, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_both_networks_checkpoint_their_activations():
    model = set_up(with_(compute={"grad_checkpointing": True})).task.model
    assert model.encoder.grad_checkpointing
    assert model.classifier.grad_checkpointing


def test_compiled_networks_train_to_the_same_weights(tmp_path, monkeypatch):
    compiled = []
    compile_ = torch.nn.Module.compile

    def without_a_compiler(self, *args, **kwargs) -> None:
        compiled.append(type(self).__name__)
        compile_(self, backend="eager")

    def eights(split, data_dir=None) -> Source:
        """One size of batch: each other one is traced anew, which takes seconds."""
        whole = digits.source(split)
        return Source(whole.load, whole.labels[: {"train": 32, "test": 8}[split]], whole.class_names)

    monkeypatch.setitem(SOURCES, "few_digits", eights)
    shallow = registry._ENTRIES["gvit_tiny_denoising"]
    parts = shallow.architecture.with_arguments(depth=1, encoder_depth=1)
    monkeypatch.setitem(registry._ENTRIES, "gvit_tiny_denoising", replace(shallow, architecture=parts))
    monkeypatch.setattr(torch.nn.Module, "compile", without_a_compiler)
    # checks of annotations, which users don't have, would be traced with the rest
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    train(with_(compute={"compile": True}, model={"drop_path_rate": 0.0}), tmp_path / "compiled")
    assert compiled == ["DenoisingEncoder", "ViT"]
    train(with_(model={"drop_path_rate": 0.0}), tmp_path / "plain")
    for name, value in weights(tmp_path / "plain").items():
        torch.testing.assert_close(weights(tmp_path / "compiled")[name], value, rtol=1e-3, atol=1e-4)


def test_under_bf16_gaussians_and_losses_stay_in_float32(tmp_path, monkeypatch):
    autocast = []

    def watch(name: str) -> None:
        original = getattr(objective, name)

        def watched(*args):
            autocast.append(torch.is_autocast_enabled("cpu"))
            return original(*args)

        monkeypatch.setattr(objective, name, watched)

    for name in ("render", "pixel_loss", "ssim"):
        watch(name)

    def first_step(precision: str) -> tuple[dict, torch.Tensor, list[torch.dtype]]:
        config = with_(compute={"precision": precision}, model={"drop_path_rate": 0.0})
        setup = set_up(config)
        torch.manual_seed(0)
        torch.nn.init.normal_(setup.task.model.encoder.head[-1].weight, std=0.1)
        seen = []
        encoder, classifier = setup.task.model.encoder, setup.task.model.classifier
        for module in (
            encoder.gaussian_embed,
            encoder.blocks[0].mlp.fc1,
            encoder.head[0],
            classifier.patch_embed,
        ):
            module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
        (parts,) = setup.feed.batches(9, 10, workers=0)
        measures = setup.task.step(9, parts, setup.schedule.plan(9), setup.rates(9))
        with torch.autocast("cpu", torch.bfloat16):
            raw = encoder(parts[0].inputs, parts[0].noise)
        return measures, raw, seen

    measures, raw, seen = first_step("bf16")
    expected, expected_raw, _ = first_step("float32")
    assert raw.dtype == torch.float32
    assert seen[:4] == [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    assert autocast == [False] * 6
    for name in ("pixel_loss", "perceptual_loss", "class_loss"):
        assert measures[name] == pytest.approx(expected[name], rel=0.03)
        assert measures[name] != expected[name]
    assert (raw - expected_raw).abs().max() < 0.1


AVERAGED = replace(CONFIG, optimizer=replace(CONFIG.optimizer, ema_decay=0.9))


@pytest.fixture(scope="module")
def averaged(tmp_path_factory) -> tuple[Loop, dict[str, torch.Tensor], Evaluation]:
    """A whole run of averaged weights, their average by hand, and its result."""
    loop = Loop(set_up(AVERAGED), Run.create(tmp_path_factory.mktemp("runs") / "averaged", AVERAGED))
    parameters = dict(loop.setup.task.model.named_parameters())
    decayed = {name: value.detach().clone() for name, value in parameters.items()}

    class EveryStep(Observer):
        def step(self, step: Step) -> None:
            for name, value in parameters.items():
                decayed[name].lerp_(value.detach(), 0.1)

    loop.observers = [EveryStep()]
    return loop, decayed, loop.fit()


def test_the_moving_average_is_what_is_evaluated_and_saved(finished, averaged):
    loop, decayed, result = averaged
    saved = weights(loop.run.folder)
    for name, value in decayed.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(saved[name], value) for name, value in weights(finished).items())
    images = loop.setup.feed.test_loader
    assert gvit.evaluate(gvit.load_model(loop.run.folder), images).psnr == pytest.approx(result.psnr)


def test_an_interrupted_average_goes_on_to_the_same_result(averaged, tmp_path):
    interrupt(AVERAGED, tmp_path / "run", 7)
    resume(tmp_path / "run")
    assert_same_run(averaged[0].run.folder, tmp_path / "run")


def test_a_frozen_encoder_does_not_move_while_the_classifier_warms_up(tmp_path):
    setup = set_up(with_(schedule={"freeze_encoder": True}))
    torch.nn.init.normal_(setup.task.model.encoder.head[-1].weight, std=0.1)
    assert networks_that_move(setup, 6) == {"encoder"}
    assert networks_that_move(setup, 9) == {"classifier"}
    assert networks_that_move(setup, 15) == {"encoder", "classifier"}


def test_the_patch_vit_learns_in_every_step_of_the_same_recipe(tmp_path):
    config = with_(model={"model": "vit_tiny_patch8"})
    recorder = Recorder()
    result = train(config, tmp_path / "run", [recorder])
    assert recorder.phases == ["classify"] * 20
    assert result.psnr is None
    model = gvit.load_model(tmp_path / "run")
    assert model.card.name == "vit_tiny_patch8"
    interrupt(config, tmp_path / "cut", 7)
    resume(tmp_path / "cut")
    assert_same_run(tmp_path / "run", tmp_path / "cut")


def test_a_run_can_start_from_another_and_keep_what_fits(finished, tmp_path):
    source = weights(finished)

    def started(**model) -> tuple[dict[str, torch.Tensor], list[str]]:
        config = with_(model={"init": finished} | model)
        setup = set_up(config)
        return setup.task.model.state_dict(), [for_python(note) for note in setup.notes]

    same, notes = started()
    assert all(torch.equal(same[name], value) for name, value in source.items())
    assert notes == [f"encoder from {finished}", f"classifier from {finished}"]
    # the exchange of the classifier: the encoder stays
    wider, notes = started(pool="avg")
    assert all(torch.equal(wider[n], value) for n, value in source.items() if n.startswith("encoder."))
    assert "classifier new" in notes[1]
    # what the encoder's weights mean is not in their shapes
    other = with_(model={"scale_factor": 0.6, "noise_std": 0.4}, schedule={"epochs": 0.25})
    train(other, tmp_path / "other")
    kept = set_up(with_(model={"init": tmp_path / "other"}))
    encoder = kept.task.model.encoder
    assert (encoder.scale_factor, encoder.noise_std) == (0.6, 0.4)
    assert kept.task.model.tokens.scale_factor == 0.6
    assert len(kept.notes) == 2
    changed = set_up(with_(model={"init": tmp_path / "other", "scale_factor": 0.9}))
    assert changed.task.model.encoder.scale_factor == 0.9
    told = f"the encoder of {tmp_path / 'other'} learned with scale_factor=0.6, not 0.9"
    assert for_python(changed.notes[0]) == told
    # nothing but --init names the model
    unnamed, _ = started(model=None, num_gaussians=None)
    assert all(torch.equal(unnamed[name], value) for name, value in source.items())
    with pytest.raises(InputError, match="no model: give init='RUN'"):
        started(model=None, init=None)
    with pytest.raises(InputError, match=r"its encoder \(16 px, 8 Gaussians.*does not fit this model's"):
        started(num_gaussians=9)
    with pytest.raises(InputError, match="cannot start from"):
        started(model="vit_tiny_patch8")


def test_transfer_keeps_the_body_and_starts_a_head_for_the_new_classes(finished, tmp_path, monkeypatch):
    def three_digits(split, data_dir=None) -> Source:
        whole = digits.source(split)
        rows = [i for i, label in enumerate(whole.labels) if label < 3][:24]
        return Source(lambda i: whole.load(rows[i]), [whole.labels[i] for i in rows], ["0", "1", "2"])

    monkeypatch.setitem(SOURCES, "three_digits", three_digits)
    config = with_(
        model={"init": finished},
        data={"dataset": "three_digits"},
        schedule={
            **{"reconstruct_epochs": 0, "perceptual_epochs": 0, "classify_epochs": 4, "guide_epochs": 0},
            "freeze_encoder": True,
        },
        optimizer={"layer_decay": 0.5, "warmup_epochs": 0.0},
    )
    task = set_up(config).task
    assert all(group.get("lr_scale", 1.0) == 1 for group in task.optimizers["encoder"].param_groups)
    rates = {}
    for group in task.optimizers["classifier"].param_groups:
        rates |= {id(p): group["lr_scale"] for p in group["params"]}
    scale = {name: rates[id(p)] for name, p in task.model.classifier.named_parameters()}
    assert scale["head.weight"] == scale["norm.weight"] == 1
    assert scale["blocks.2.attn.qkv.weight"] == 0.5
    assert scale["blocks.0.attn.qkv.weight"] == 0.125
    assert scale["patch_embed.proj.weight"] == 0.0625
    recorder = Recorder()
    train(config, tmp_path / "run", [recorder])
    assert recorder.notes[1].endswith("its head new for other classes")
    before, after = weights(finished), weights(tmp_path / "run")
    assert all(torch.equal(after[n], value) for n, value in before.items() if n.startswith("encoder."))
    body = "classifier.blocks.0.attn.qkv.weight"
    assert after["classifier.head.weight"].shape[0] == 3
    assert 0 < (after[body] - before[body]).abs().max() < 0.05


def test_as_many_classes_that_are_others_get_a_new_head(finished, tmp_path, monkeypatch):
    def renamed(split, data_dir=None) -> Source:
        digits_ = SOURCES["few_digits"](split)
        return Source(digits_.load, digits_.labels, [f"a {name}" for name in digits_.class_names])

    monkeypatch.setitem(SOURCES, "renamed", renamed)
    setup = set_up(with_(model={"init": finished}, data={"dataset": "renamed"}))
    assert setup.notes[1].endswith("its head new for other classes")
    source, found = weights(finished), setup.task.model.state_dict()
    assert not torch.equal(found["classifier.head.weight"], source["classifier.head.weight"])
    body = "classifier.blocks.0.attn.qkv.weight"
    assert torch.equal(found[body], source[body])


def test_in_the_guided_phase_it_is_logged_how_far_gaussians_moved(finished):
    evaluations = {line["step"]: line for line in metrics(finished) if line["kind"] == "evaluation"}
    assert "moved" not in evaluations[8]
    assert 0 <= evaluations[20]["moved"] <= 1
    assert evaluations[20]["drift"] > 0
    assert evaluations[20]["decision_distance"] > 0
    guided = [line for line in metrics(finished) if line.get("gamma")]
    assert [line["step"] for line in guided] == [15, 18]
    assert all(-1 <= line["gradient_cosine"] <= 1 and 0 <= line["steered"] <= 1 for line in guided)


def test_gaussians_have_moved_when_they_lie_more_than_a_pixel_away():
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2)
    motion = GaussianMotion(model, torch.rand(2, 3, 32, 32))
    assert motion.measure() is None
    motion.begin()
    assert motion.measure()[:2] == (0, 0)
    with torch.no_grad():
        model.encoder.noise[0, 0] += 3.0  # some pixels to the right
        model.encoder.noise[1, 1] += 0.05  # a tenth of one
    measured = motion.measure()
    assert measured.moved == 0.25
    assert measured.drift == pytest.approx(0.1 * math.hypot(3.0, 0.05), rel=0.05)


def test_beyond_the_decision_distance_a_linear_classifier_decides_otherwise():
    class Linear(torch.nn.Module):
        weight = torch.randn(3, 36, generator=torch.Generator().manual_seed(0))

        def classify(self, gaussians):
            return gaussians.raw.flatten(1) @ self.weight.T

    model, raw = Linear(), torch.randn(5, 4, 9, generator=torch.Generator().manual_seed(1))
    distances = decision_distance(model, Gaussians(raw))
    first, second = model.classify(Gaussians(raw)).topk(2).indices.unbind(-1)
    away = torch.nn.functional.normalize(model.weight[second] - model.weight[first], dim=1)
    for share, decided in ((0.99, first), (1.01, second)):
        there = raw + share * (distances[:, None] * away).unflatten(1, (4, 9))
        assert (model.classify(Gaussians(there)).topk(2).indices[:, 0] == decided).all()


def test_tensorboard_gets_the_same_numbers(finished, watched):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(watched[0] / "tensorboard"))
    events.Reload()
    logged = {line["step"]: line for line in metrics(finished) if line["kind"] == "train"}
    losses = {event.step: event.value for event in events.Scalars("train/class_loss")}
    assert losses[10] == pytest.approx(logged[10]["class_loss"], rel=1e-5)
    for name in ("top1", "top5"):
        assert [event.step for event in events.Scalars(f"test/{name}")] == [8, 16, 20]


def test_a_report_does_not_take_an_evaluation_of_earlier_weights_for_that_of_these(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr("gvit.training.report_images._POOL", 5)  # more would be measured anew
    interrupt(CONFIG, tmp_path / "run", 10)  # evaluated after 8 steps
    # whose checkpoint was removed to have more room, or is damaged
    for name in ("removed", "damaged"):
        shutil.copytree(finished, tmp_path / name)
    Run(tmp_path / "removed").checkpoint_file.unlink()
    Run(tmp_path / "damaged").checkpoint_file.write_bytes(b"x")
    whole = dict.fromkeys((finished, tmp_path / "removed", tmp_path / "damaged"), "all 12 test images")
    for folder, measured_on in (whole | {tmp_path / "run": "5 of 12 test images"}).items():
        write_html_report(folder, out=tmp_path / "report.html", num_images=1)
        assert f"of {measured_on}" in (tmp_path / "report.html").read_text()


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path):
    plan = dry_run(set_up(CONFIG))
    assert [(cost.phase, cost.steps) for cost in plan.phases] == [
        *[("reconstruct", 4), ("perceptual", 4), ("classify", 6), ("guide", 6)]
    ]
    assert [set(cost.learning_rates) for cost in plan.phases] == [{"encoder"}] * 2 + [
        {"encoder", "classifier"}
    ] * 2
    assert all(cost.step_seconds > 0 for cost in plan.phases)
    assert plan.evaluations == 3
    assert plan.seconds >= sum(cost.steps * cost.step_seconds for cost in plan.phases)
    assert 1e8 < plan.peak_memory < 1e11  # bytes, of a process with PyTorch
    assert not (tmp_path / "run").exists()
    assert "guide" in str(plan)


def test_a_dry_run_pays_for_what_the_guided_phase_begins_with():
    setup = set_up(replace(CONFIG, guidance=GuidanceConfig(guide_ema=0.9, psnr_budget=1.0)))
    dry_run(setup)
    guidance = setup.task.guidance
    assert guidance.averaged is not None
    assert guidance.multiplier > 0  # a guided step was measured against the encoder that the phase began with


@pytest.mark.parametrize("once", ["compiling", "recording"])
def test_a_dry_run_does_not_count_what_happens_once_as_a_step(once, monkeypatch):
    seen = set()

    def timed(trainer, step):
        first = step not in seen
        seen.add(step)
        return 100.0 if first else 1.0

    monkeypatch.setattr("gvit.training.dry_run._timed_step", timed)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # which takes its time
    setup = set_up(with_(compute={"compile": once == "compiling"}))
    if once == "recording":  # as on a GPU
        setup.task.graphs = {"encoder": setup.task.networks["encoder"]}
    plan = dry_run(setup)
    assert [cost.step_seconds for cost in plan.phases] == [1.0] * 4


def test_a_dry_run_does_not_count_what_happens_once_for_each_batch_of_an_evaluation(monkeypatch):
    """Imports, and compiling for evaluation."""
    setup = set_up(CONFIG)
    measure, begun = setup.task.measure, []

    def first_slow(batches):
        if not begun:
            time.sleep(2)
        begun.append(1)
        return measure(batches)

    monkeypatch.setattr(setup.task, "measure", first_slow)
    assert dry_run(setup).evaluation_seconds < 2


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
    with pytest.raises(InputError, match="no run here"):
        resume(tmp_path / "nowhere")


def test_motion_is_watched_on_the_test_images(monkeypatch):
    """``moved`` is about images that nothing was trained on, spread over all of them."""
    monkeypatch.setattr("gvit.training.setup._NUM_PROBES", 5)
    setup = set_up(CONFIG)
    tests = [image for image, _ in setup.feed.tests]
    assert torch.equal(setup.task.motion.images, torch.stack(tests[::3]))  # of 12


def test_augmentation_leaves_the_test_images_alone():
    plain = set_up(with_(data={"min_crop": 1.0}))
    strong = {"hflip": True, "min_crop": 0.3, "rotate": 30.0, "translate": 0.2, "zoom": 0.3}
    augmented = set_up(with_(data=strong))
    for (one, _), (other, _) in zip(plain.feed.test_loader, augmented.feed.test_loader, strict=True):
        assert torch.equal(one, other)


def test_chance_inside_a_step_depends_on_seed_step_and_place():
    """Stochastic depth draws from torch's global generator: not the same blocks in every step."""

    def drawn(seed: int, step: int) -> list[float]:
        setup = set_up(replace(with_(compute={"accumulate": 2}), seed=seed))
        numbers = []

        def backward(batch, plan, share, turn) -> dict:
            numbers.append(torch.rand(1).item())
            return {"class_loss": torch.zeros(())}

        setup.task.objective.backward = backward
        (parts,) = setup.feed.batches(step, step + 1, workers=0)
        setup.task.step(step, parts, setup.schedule.plan(step), {})
        return numbers

    first = drawn(0, 9)
    assert first == drawn(0, 9)
    assert len({*first, *drawn(0, 10), *drawn(1, 9)}) == 6


def test_who_asks_to_stop_after_the_last_step_gets_a_finished_run(tmp_path):
    recorder = Recorder(stop_at=2)
    short = with_(schedule={"epochs": 0.5})
    result = train(short, tmp_path / "run", [recorder], stop=recorder.stop)
    assert recorder.results == [(2, result)]
    assert Run(tmp_path / "run").load_checkpoint()["step"] == 2


def test_observers_are_told_the_notes(tmp_path):
    config = with_(model={"model": "vit_tiny_patch8"}, schedule={"epochs": 0.5})
    recorder = Recorder()
    train(config, tmp_path / "run", [recorder])
    assert recorder.notes == set_up(config).notes
    assert recorder.notes


def test_accumulated_gradients_are_those_of_the_whole_batch():
    """AdamW hardly sees a gradient's size, so that weights would not tell."""

    def gradients(parts: int) -> dict[str, torch.Tensor]:
        compute = {"accumulate": parts, "precision": "float64"}
        setup = set_up(with_(compute=compute, model={"drop_path_rate": 0.0}))
        (batch,) = setup.feed.batches(9, 10, workers=0)
        setup.task.step(9, batch, setup.schedule.plan(9), {})  # nothing learns: gradients stay
        return {name: value.grad for name, value in setup.task.model.named_parameters()}

    whole = gradients(1)
    for name, value in gradients(2).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=1e-10)


def damaged_copy(finished: Path, tmp_path: Path) -> Run:
    folder = tmp_path / "run"
    folder.mkdir()
    for file in finished.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return Run(folder)


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


@pytest.mark.parametrize("name", ["report.png", "metrics.jsonl"])
def test_what_cannot_be_written_is_named(finished, tmp_path, name, monkeypatch):
    monkeypatch.setattr("gvit.training.train.write_report", write_report)
    run = damaged_copy(finished, tmp_path)
    (run.folder / name).unlink()
    (run.folder / name).mkdir()
    with pytest.raises(InputError, match=re.escape(name)):
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


def test_the_configuration_that_is_written_down_has_the_same_schedule():
    """Epochs that are given stretch the phases as they were given: anything else would round to other steps."""
    schedule = ScheduleConfig(
        epochs=10.0, reconstruct_epochs=150.0, perceptual_epochs=50.0, classify_epochs=10.0, guide_epochs=30.0
    )
    setup = set_up(replace(CONFIG, schedule=schedule))
    written = TrainConfig.from_json(setup.config.to_json())
    assert Schedule.from_config(written.schedule, 22) == Schedule.from_config(schedule, 22)
    assert Schedule.from_config(schedule, 22).ends == (138, 183, 192, 220)


def test_sources_that_cannot_be_trained_on_are_named(monkeypatch):
    def source(split, count, names) -> Source:
        whole = digits.source(split)
        return Source(whole.load, whole.labels[:count], names)

    names = [str(name) for name in range(10)]
    for empty, told in (("train", "no images to train on"), ("test", "no images to test with")):
        monkeypatch.setitem(
            SOURCES, "few_digits", lambda s, d=None, e=empty: source(s, 0 if s == e else 20, names)
        )
        with pytest.raises(InputError, match=told):
            set_up(CONFIG)
    turned = names[::-1]
    monkeypatch.setitem(
        SOURCES, "few_digits", lambda s, d=None: source(s, 20, names if s == "train" else turned)
    )
    with pytest.raises(InputError, match="other classes, or another order"):
        set_up(CONFIG)
