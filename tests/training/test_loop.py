"""Training runs end to end on a few digits with a model that fits a test."""

import math
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import jaxtyping
import pytest
import torch

import gvit
from gvit.data.sources import SOURCES, Source, digits
from gvit.errors import InputError, for_python
from gvit.evaluation import Evaluation
from gvit.gaussians import Gaussians
from gvit.models import registry
from gvit.training import objective
from gvit.training.config import ModelConfig, OptimizerConfig
from gvit.training.html_report import write_html_report
from gvit.training.loop import Loop
from gvit.training.motion import GaussianMotion, decision_distance
from gvit.training.observers import Observer, Step, TensorBoardObserver
from gvit.training.report import assess, write_report
from gvit.training.run import Run
from gvit.training.setup import Setup, set_up
from gvit.training.train import Interrupted, resume, train
from gvit.viewing.figures import curves_figure
from small_runs import CONFIG, Recorder, assert_same_run, damaged_copy, interrupt, metrics, weights, with_

pytestmark = pytest.mark.usefixtures("few_digits")


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


def test_of_an_encoder_alone_the_warm_up_is_looked_at_too():
    phases = {
        "classify_epochs": 0.0,
        "guide_epochs": 0.0,
        "perceptual_epochs": 0.0,
        "reconstruct_epochs": 3.0,
    }
    note, _ = set_up(with_(schedule=phases, optimizer={"warmup_epochs": 2.0})).notes
    assert for_python(note).startswith("the warm-up, 2 epochs, takes over half of the encoder's 3;")


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


@pytest.mark.parametrize("name", ["report.png", "metrics.jsonl"])
def test_what_cannot_be_written_is_named(finished, tmp_path, name, monkeypatch):
    monkeypatch.setattr("gvit.training.train.write_report", write_report)
    run = damaged_copy(finished, tmp_path)
    (run.folder / name).unlink()
    (run.folder / name).mkdir()
    with pytest.raises(InputError, match=re.escape(name)):
        resume(run.folder)
