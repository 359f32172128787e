"""Every field of a configuration does what it says in a run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import gvit
import small_runs
from gvit.data.images import open_image
from gvit.evaluation import summarize
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.training.config import (
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from gvit.training.observers import Evaluated, Observer
from gvit.training.schedule import StepPlan
from gvit.training.setup import Setup, set_up
from gvit.training.train import train

ELSEWHERE = {  # where a field's effect is shown with more than a test here would have
    "schedule.min_steps": "test_scaling.py::test_a_run_on_few_images_is_scaled_and_says_so",
    "model.init": "test_loop.py::test_a_run_can_start_from_another_and_keep_what_fits",
    "model.looks": "test_any_number.py::test_a_batch_takes_as_many_optimizer_steps_as_looks_are_set",
    "objective.class_weights": "test_class_weights.py::test_every_class_counts_the_same_in_all",
    "objective.gaussians_range": "test_any_number.py::test_a_step_draws_a_number_of_its_range",
    "schedule.guide_lr": "test_notes.py::test_a_rate_of_its_own_for_the_guided_phase",
    "schedule.guided_steps": "test_guidance.py::test_how_many_optimizer_steps_ten_batches_take",
    "guidance.gamma_unit": "test_guidance.py::test_gamma_is_the_share_of_the_reconstructions_norm",
    "guidance.projection": "test_guidance.py::test_what_is_projected_works_against_no_reconstruction",
    "guidance.guide_ema": "test_guidance.py::test_the_average_follows_the_classifier_and_guides",
    "guidance.psnr_budget": "test_guidance.py::test_the_budget_holds_in_a_run",
    **dict.fromkeys(
        ("pixels.randaugment", "pixels.random_erase", "pixels.mixup", "pixels.cutmix"),
        "test_broken.py::test_what_is_done_to_pixels_changes_the_images_that_a_step_sees",
    ),
    "broken.max_broken": "test_broken.py::test_above_the_share_a_run_stops_and_its_checkpoint_stays",
    "broken.broken_test_images": "test_broken.py::test_or_it_counts_as_wrong",
    "optimizer.max_skipped": "test_stumbling.py::test_after_too_many_in_a_row_a_run_goes_back",
    "saving.keep_checkpoints": "test_history.py::test_the_last_checkpoints_stay",
    "saving.best_measure": "test_history.py::test_the_best_weights_are_those_of_the_chosen_measure",
    "compute.compile": "test_loop.py::test_compiled_networks_train_to_the_same_weights",
    "compute.graphs": "test_graphs.py::test_replayed_turns_train_as_ever",
    "compute.fsdp": "test_distributed.py::test_fsdp_leaves_half_of_the_weights_in_each_of_two_processes",
}
COVERED: set[str] = set()


def covers(*names: str) -> Any:
    """Says which fields a test is about; ``test_no_field_is_forgotten`` reads it."""
    COVERED.update(names)
    return lambda test: test


# 3 steps an epoch, one epoch a phase; guided steps are 9 and 11
CONFIG = TrainConfig(
    model=ModelConfig("gvit_tiny_denoising", num_gaussians=6),
    data=DataConfig("folder", batch_size=8, crop_mode="squash", hflip=False, min_crop=1.0),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 1, "perceptual_epochs": 1, "classify_epochs": 1, "guide_epochs": 1},
        **{"guide_every": 2, "gamma": 0.1, "eval_every": 100},
    ),
    optimizer=OptimizerConfig(base_lr=3e-2, warmup_epochs=0.0),
)
DRAW, PERCEPTUAL, CLASSIFY, GUIDED = 0, 3, 6, 9  # the first step of each phase


# How a run is looked into; the only functions here that know how training is built.


class Prepared:
    """All that ``train`` makes before the first step."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.setup: Setup = set_up(config)
        self.task, self.schedule, self.model = self.setup.task, self.setup.schedule, self.setup.task.model

    def evaluate(self) -> Any:
        return summarize(self.task.measure(self.setup.feed.test_loader), self.model.num_classes)


def prepared(config: TrainConfig) -> Prepared:
    return Prepared(config)


def plans(config: TrainConfig) -> list[StepPlan]:
    """What each step of the run does."""
    schedule = prepared(config).schedule
    return [schedule.plan(step) for step in range(schedule.total)]


def batches(run: Prepared, start: int, stop: int) -> Iterator[list[Any]]:
    """Each step's images, labels and g0, in parts."""
    return map(list, run.setup.feed.batches(start, stop, workers=0))


def gradients(run: Prepared, step: int, flip_labels: bool = False) -> dict[str, Tensor]:
    """What a step descends: a gradient for each parameter that it has one for. Needs a batch in one part."""
    ((batch,),) = batches(run, step, step + 1)
    if flip_labels:
        batch = batch._replace(labels=1 - batch.labels)
    run.model.train()
    run.model.zero_grad()
    run.task.objective.backward(batch, run.schedule.plan(step), 1.0)
    found = {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    return found


def take_steps(run: Prepared, start: int, stop: int) -> list[dict[str, float]]:
    """Measures of steps that really move the weights."""
    run.model.train()
    return [
        run.task.step(step, parts, run.schedule.plan(step), run.setup.rates(step))
        for step, parts in enumerate(batches(run, start, stop), start)
    ]


def evaluation_batch(run: Prepared) -> tuple[Tensor, Tensor]:
    """All test images and labels."""
    images, labels = zip(*run.setup.feed.test_loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def with_(config: TrainConfig = CONFIG, **groups: dict[str, Any]) -> TrainConfig:
    return small_runs.with_(config, **groups)


class Recorder(Observer):
    """Remembers."""

    def __init__(self) -> None:
        self.evaluations: list[int] = []

    def evaluation(self, evaluated: Evaluated) -> None:
        self.evaluations.append(evaluated.step)


# Data.


def save(folder: Path, split: str, images: list[np.ndarray]) -> None:
    for row, image in enumerate(images):
        place = folder / split / "ab"[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{row:02}.png")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Pictures of two classes, wider than high: 24 to train on, 20 to test with."""
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 20)):
        blocks = random.integers(0, 256, (count, 6, 8, 3), np.uint8)
        save(folder, split, list(blocks.repeat(8, 1).repeat(8, 2)))
    return folder


@pytest.fixture(scope="module")
def ramps(tmp_path_factory) -> Path:
    """Pictures that tell what happened to them: red is x, green is y, and blue is there where the picture is."""
    folder = tmp_path_factory.mktemp("ramps")
    places = np.round((np.arange(64) + 0.5) * 255 / 64).astype(np.uint8)
    image = np.full((64, 64, 3), 255, np.uint8)
    image[..., 0], image[..., 1] = places[None, :], places[:, None]
    for split, count in (("train", 24), ("test", 2)):
        save(folder, split, [image] * count)
    return folder


# in the middle, where no augmentation here can lose them
CENTERS = torch.tensor([[0.0, 0.0], [0.12, 0.03], [-0.1, 0.08], [0.05, -0.13], [-0.07, -0.11]])


@pytest.fixture(scope="module")
def scattered(tmp_path_factory) -> Path:
    """Five Gaussians, the same for every image."""
    folder = tmp_path_factory.mktemp("scattered")
    gaussians = Gaussians.from_values(
        CENTERS, torch.full((5, 2), 0.2), torch.zeros(5), torch.rand(5, 3), torch.full((5,), 0.5)
    )
    for split, count in (("train", 24), ("test", 2)):
        for row in range(count):
            place = folder / split / "ab"[row % 2]
            place.mkdir(parents=True, exist_ok=True)
            gaussians.save(place / f"{row:02}.safetensors")
    return folder


@pytest.fixture
def config(photographs) -> TrainConfig:
    return with_(data={"data_dir": photographs})


def seen_in_picture(image: Tensor) -> Tensor:
    """[2, 3]: the affine map from places in a training picture to places in its source, both in [-1, 1]."""
    middle = (torch.arange(32) + 0.5) / 16 - 1
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    there = image[2] > 0.999
    there[:2] = there[-2:] = there[:, :2] = there[:, -2:] = False  # resizing bends the ramps at the border
    places = torch.stack((x, y, torch.ones_like(x)), -1)[there]
    sources = 2 * image[:2, there].T - 1
    return torch.linalg.lstsq(places, sources).solution.T


def seen_in_gaussians(raw: Tensor) -> Tensor:
    """The same for Gaussians that were scattered at ``CENTERS``."""
    places = torch.cat((raw[:, :2].tanh(), torch.ones(5, 1)), 1)
    return torch.linalg.lstsq(places, CENTERS).solution.T


@covers("data.hflip", "data.min_crop", "data.rotate", "data.translate", "data.zoom")
@pytest.mark.parametrize("kind", ["pictures", "gaussians"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        (None, None),
        ("hflip", True),
        ("min_crop", 0.5),
        ("rotate", 20.0),
        ("translate", 0.2),
        ("zoom", 0.3),
    ],
)
def test_every_augmentation_changes_the_training_data_as_far_as_it_says(kind, field, value, request):
    folder = request.getfixturevalue("ramps" if kind == "pictures" else "scattered")
    changes = {} if field is None else {field: value}
    if kind == "pictures":
        config = with_(data={"data_dir": folder} | changes)
    else:
        config = with_(
            model={"model": "gaussian_vit_tiny", "num_gaussians": None},
            data={"dataset": "gaussians", "data_dir": folder} | changes,
        )
    see = seen_in_picture if kind == "pictures" else seen_in_gaussians
    images = torch.cat([part.inputs for parts in batches(prepared(config), 0, 6) for part in parts])
    maps = torch.stack([see(image) for image in images])
    assert len(maps) == 48
    linear, shifts = maps[:, :, :2], maps[:, :, 2]
    size = linear.det().abs().sqrt()
    mirrored = linear[:, 0, 0] < 0
    angles = torch.atan2(linear[:, 1, 0], linear[:, 0, 0]).rad2deg()[~mirrored].abs()
    aspects = linear[:, :, 0].norm(dim=1) / linear[:, :, 1].norm(dim=1)
    near = 0.02
    if field == "hflip":
        assert 12 <= mirrored.sum() <= 36
        assert (
            linear - torch.diag_embed(torch.stack((1.0 - 2 * mirrored, torch.ones(48)), 1))
        ).abs().max() < near
    else:
        assert not mirrored.any()
    if field == "min_crop":
        area = size.square()
        assert area.min() > 0.5 - near
        assert area.max() < 1 + near
        assert area.max() - area.min() > 0.3
        assert shifts.abs().max() > 0.1
        assert (aspects - 1).abs().max() > 0.1
    else:
        assert (aspects - 1).abs().max() < near
    if field == "rotate":
        assert 10 < angles.max() < 20 + 1
    else:
        assert angles.max() < 1
    if field == "zoom":  # the picture grows by what is seen less of it
        assert 1.15 < (1 / size).max() < 1.3 + near
        assert 0.7 - near < (1 / size).min() < 0.85
    elif field != "min_crop":
        assert (size - 1).abs().max() < near
    if field == "translate":
        assert 0.25 < shifts.abs().max() < 2 * 0.2 + near
    elif field != "min_crop":
        assert shifts.abs().max() < near


@covers("data.crop_mode", "data.crop_pct")
@pytest.mark.parametrize(("mode", "share"), [("squash", 0.5), ("center", 0.5), ("center", 0.8)])
def test_the_crop_of_evaluation_is_on_the_card_and_in_the_test_images(config, photographs, mode, share):
    run = prepared(with_(config, data={"crop_mode": mode, "crop_pct": share}))
    assert run.model.card.preprocessing.crop_mode == mode
    assert run.model.card.preprocessing.crop_pct == share
    images, _ = evaluation_batch(run)
    files = sorted((photographs / "test").rglob("*.png"))
    assert len(images) == len(files)
    for image, file in zip(images, files, strict=True):
        whole = open_image(file)
        if mode == "squash":
            width, height = 32, 32
        else:  # 64 x 48 pixels, of whose shorter side 32 pixels are the share
            height = round(32 / share)
            width = int(height * 64 / 48)
        resized = whole.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - 32) / 2), round((height - 32) / 2)
        pixels = np.asarray(resized.crop((left, top, left + 32, top + 32)))
        expected = torch.from_numpy(pixels.copy()).permute(2, 0, 1) / 255
        assert (image - expected).abs().max() < 0.02


@covers("data.dataset", "data.data_dir")
def test_data_come_from_the_named_place(config, photographs, ramps):
    ours, theirs = (prepared(with_(data={"data_dir": folder})) for folder in (photographs, ramps))
    assert list(ours.model.card.class_names) == ["a", "b"]
    assert len(evaluation_batch(ours)[1]) == 20
    assert len(evaluation_batch(theirs)[1]) == 2
    digits = prepared(with_(data={"dataset": "digits_5_9", "data_dir": None}))
    assert list(digits.model.card.class_names) == list("56789")


@covers("data.batch_size")
def test_a_step_reads_as_many_images_as_the_batch_has(config):
    for size, steps in ((8, 12), (6, 16)):
        run = prepared(with_(config, data={"batch_size": size}))
        ((batch,),) = batches(run, 0, 1)
        assert len(batch.inputs) == len(batch.labels) == size
        assert len(plans(run.config)) == steps  # 24 images an epoch


@covers("data.workers")
def test_workers_are_processes_that_load_the_same_images(config, tmp_path, monkeypatch):
    log = tmp_path / "processes"
    original = Image.open

    def opened(file, *args, **kwargs) -> Image.Image:
        with log.open("a") as lines:
            lines.write(f"{os.getpid()}\n")
        return original(file, *args, **kwargs)

    monkeypatch.setattr(Image, "open", opened)
    short = with_(config, model={"model": "vit_tiny_patch8"}, schedule={"epochs": 1 / 3})
    found = []
    for workers in (0, 1):
        log.write_text("")
        folder = tmp_path / str(workers)
        train(with_(short, data={"workers": workers}), folder)
        found.append(gvit.load_model(folder).state_dict())
        others = {int(line) for line in log.read_text().split()} - {os.getpid()}
        assert bool(others) == bool(workers)
    assert all(torch.equal(found[1][name], value) for name, value in found[0].items())


@covers("seed")
def test_the_seed_decides_weights_and_order_and_nothing_else_does(config):
    augmented = with_(config, data={"min_crop": 0.5})

    def start(seed: int) -> tuple[Tensor, ...]:
        run = prepared(replace(augmented, seed=seed))
        ((batch,),) = batches(run, 0, 1)
        return run.model.state_dict()["classifier.head.weight"], batch.inputs, *take_steps(run, 0, 1)

    one, again, other = start(1), start(1), start(2)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert one[2] == again[2]
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])
    assert one[2] != other[2]


# Model.


def encoded(model: gvit.models.gvit.GViT) -> Gaussians:
    images = torch.rand(2, 3, model.img_size, model.img_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.encode(images)


@covers("model.model")
@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "vit_tiny_patch8"])
def test_the_model_is_the_named_one(config, name):
    assert prepared(with_(config, model={"model": name})).model.card.name == name


@covers("model.img_size", "model.num_gaussians", "model.scale_factor")
def test_the_model_has_the_size_number_and_bound_that_are_asked_for(config):
    run = prepared(with_(config, model={"img_size": 48, "num_gaussians": 5, "scale_factor": 0.3}))
    assert run.model.card.preprocessing.img_size == 48
    ((batch,),) = batches(run, 0, 1)
    assert batch.inputs.shape == (8, 3, 48, 48)
    assert evaluation_batch(run)[0].shape == (20, 3, 48, 48)
    gaussians = encoded(run.model)
    assert gaussians.raw.shape == (2, 5, 9)
    assert (gaussians.scale_factor, gaussians.nominal_count) == (0.3, 5)


@covers("model.noise_std", "model.encoder")
def test_only_the_denoising_encoder_starts_from_noise_of_the_given_size(config):
    raw = {
        (kind, std): encoded(prepared(with_(config, model={"encoder": kind, "noise_std": std})).model).raw
        for kind in ("denoising", "queries")
        for std in (0.1, 0.4)
    }
    # before the first step its residual is 0
    torch.testing.assert_close(raw["denoising", 0.4], 4 * raw["denoising", 0.1])
    assert raw["denoising", 0.4].std() == pytest.approx(0.4, rel=0.25)
    assert torch.equal(raw["queries", 0.4], raw["queries", 0.1])
    assert not torch.equal(raw["queries", 0.1], raw["denoising", 0.1])


@covers("model.tokens")
def test_canonical_tokens_do_not_see_what_is_not_drawn(config):
    for tokens, blind in (("canonical", True), ("raw", False)):
        model = prepared(with_(config, model={"tokens": tokens})).model.eval()
        gaussians = encoded(model)
        turned = gaussians.raw.clone()
        turned[..., 4] += math.pi  # the same ellipse
        with torch.no_grad():
            change = model.classify(gaussians) - model.classify(gaussians.replace_raw(turned))
        assert (change.abs().max() < 1e-4) == blind


@covers("model.pool")
def test_only_the_class_tokens_pool_has_one_token_more(config):
    for pool, tokens in (("token", 7), ("avg", 6)):
        model = prepared(with_(config, model={"pool": pool})).model
        assert model.forward_features(torch.rand(2, 3, 32, 32)).shape[1] == tokens


@covers("model.drop_path_rate")
def test_stochastic_depth_is_on_in_training_only(config):
    for rate in (0.0, 0.5):
        model = prepared(with_(config, model={"drop_path_rate": rate})).model
        gaussians = encoded(model)
        for training in (True, False):
            model.train(training)
            torch.manual_seed(0)
            one, other = model.classify(gaussians), model.classify(gaussians)
            assert torch.equal(one, other) == (rate == 0 or not training)


def test_evaluation_sees_the_whole_network_whatever_mode_it_is_in(config):
    run = prepared(with_(config, model={"drop_path_rate": 0.5}))
    images, labels = evaluation_batch(run)
    logits: list[Tensor] = []
    run.model.get_classifier().register_forward_hook(lambda module, args, out: logits.append(out.detach()))

    def evaluated() -> tuple[Tensor, Any]:
        logits.clear()
        result = run.evaluate()
        return torch.cat(logits), result

    run.model.train()
    first, again = evaluated(), evaluated()
    assert run.model.training
    with torch.no_grad():
        expected = run.model.eval()(images)
        run.model.train()
        assert not torch.allclose(run.model(images), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first[0], expected)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[1].top1 == (expected.argmax(1) == labels).double().mean().item()


# Schedule.


@covers(
    "schedule.reconstruct_epochs",
    "schedule.perceptual_epochs",
    "schedule.classify_epochs",
    "schedule.guide_epochs",
    "schedule.epochs",
)
def test_phases_last_as_many_epochs_as_they_are_given(config):
    def lengths(**fields: float) -> list[int]:
        phases = [plan.phase for plan in plans(with_(config, schedule=fields))]
        return [phases.count(name) for name in ("reconstruct", "perceptual", "classify", "guide")]

    assert lengths() == [3, 3, 3, 3]
    assert lengths(reconstruct_epochs=2) == [6, 3, 3, 3]
    assert lengths(perceptual_epochs=2) == [3, 6, 3, 3]
    assert lengths(classify_epochs=2) == [3, 3, 6, 3]
    assert lengths(guide_epochs=2) == [3, 3, 3, 6]
    assert lengths(epochs=8) == [6, 6, 6, 6]


@covers("schedule.guide_every")
def test_one_step_in_so_many_of_the_last_phase_is_guided(config):
    for every, guided in ((2, [9, 11]), (1, [9, 10, 11]), (3, [9])):
        found = plans(with_(config, schedule={"guide_every": every}))
        assert [step for step, plan in enumerate(found) if plan.guided] == guided


@covers("schedule.gamma")
def test_gamma_is_the_weight_of_the_classifiers_gradient(config):
    found = []
    for gamma in (0.0, 0.1, 0.3):
        changed = with_(config, schedule={"gamma": gamma})
        assert plans(changed)[GUIDED].gamma == gamma
        found.append(gradients(prepared(changed), GUIDED))
    none, some, more = (torch.cat([g.flatten() for g in each.values()]) for each in found)
    assert all(name.startswith("encoder.") for name in found[2])
    assert (some - none).norm() > 1e-4
    assert ((more - none) - 3 * (some - none)).norm() < 1e-3 * (more - none).norm()


@covers("schedule.freeze_encoder")
def test_a_frozen_encoder_has_no_gradient_while_the_classifier_learns(config):
    for freeze in (False, True):
        run = prepared(with_(config, schedule={"freeze_encoder": freeze}))
        assert plans(run.config)[CLASSIFY].train_encoder != freeze
        found = {name.split(".")[0] for name, g in gradients(run, CLASSIFY).items() if g.any()}
        assert found == ({"classifier"} if freeze else {"classifier", "encoder"})


@covers("schedule.eval_every")
def test_evaluations_are_so_many_epochs_apart(config, tmp_path):
    short = with_(config, model={"model": "vit_tiny_patch8"}, schedule={"epochs": 2})
    for epochs, steps in ((1, [3, 6]), (2 / 3, [2, 4, 6]), (5, [6])):
        recorder = Recorder()
        train(with_(short, schedule={"eval_every": epochs}), tmp_path / f"{steps}", [recorder])
        assert recorder.evaluations == steps


# Objective.


@covers("objective.pixel_loss")
@pytest.mark.parametrize("kind", ["bce", "mse"])
def test_the_pixel_loss_is_the_named_one_of_what_the_models_gaussians_draw(config, kind):
    run = prepared(
        with_(config, objective={"pixel_loss": kind}, model={"scale_factor": 0.5, "noise_std": 0.0})
    )
    ((batch,),) = batches(run, DRAW, DRAW + 1)
    with torch.no_grad():
        raw = run.model.encode(batch.inputs).raw
    drawn = render(Gaussians(raw, scale_factor=0.5, nominal_count=6), 32, 32)
    expected = {
        "mse": F.mse_loss(drawn, batch.inputs),
        # squeezed from [0, 1] by half a grey level at each end
        "bce": F.binary_cross_entropy(drawn * (254 / 255) + 0.5 / 255, batch.inputs),
    }
    (measures,) = take_steps(run, DRAW, DRAW + 1)
    assert measures["pixel_loss"] == pytest.approx(expected.pop(kind).item(), rel=1e-4)
    assert measures["pixel_loss"] != pytest.approx(expected.popitem()[1].item(), rel=1e-2)


@covers("objective.perceptual_weight")
def test_the_perceptual_loss_has_the_given_weight(config):
    found = []
    for weight in (0.0, 0.2, 0.6):
        changed = with_(config, objective={"perceptual_weight": weight})
        found.append(gradients(prepared(changed), PERCEPTUAL))
    none, some, more = (torch.cat([g.flatten() for g in each.values()]) for each in found)
    assert (some - none).norm() > 1e-4
    assert ((more - none) - 3 * (some - none)).norm() < 1e-3 * (more - none).norm()


@covers("objective.gradient")
def test_only_the_joint_gradient_brings_the_labels_to_the_encoder_on_every_step(config):
    unguided = with_(config, schedule={"classify_epochs": 2, "guide_epochs": 0})
    for kind, reaches in (("cut", False), ("joint", True)):
        run = prepared(with_(unguided, objective={"gradient": kind}))
        assert not any(plan.guided for plan in plans(run.config))
        one, other = gradients(run, CLASSIFY), gradients(run, CLASSIFY, flip_labels=True)
        moved = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
        assert moved == ({"encoder", "classifier"} if reaches else {"classifier"})


def test_the_joint_gradient_is_the_cut_one_plus_that_of_the_classification(config):
    found = {}
    for kind in ("cut", "joint"):
        run = prepared(with_(config, objective={"gradient": kind}, model={"noise_std": 0.0}))
        found[kind] = gradients(run, CLASSIFY)
    ((batch,),) = batches(run, CLASSIFY, CLASSIFY + 1)
    F.cross_entropy(run.model(batch.inputs), batch.labels).backward()
    for name, parameter in run.model.encoder.named_parameters(prefix="encoder"):
        if name in found["cut"]:
            expected = found["cut"][name] + parameter.grad
            torch.testing.assert_close(found["joint"][name], expected, rtol=1e-3, atol=1e-5)


# Optimizer.

STEPS = 4  # from the first one of the classifier, which both networks go on from


def by_hand(
    start: dict[str, Tensor], steps: list[dict[str, Tensor]], settings: OptimizerConfig
) -> dict[str, Tensor]:
    """AdamW (Loshchilov and Hutter, 2019) in float64, on the gradients that each step had before clipping."""
    weights = {name: value.double() for name, value in start.items()}
    first = {name: torch.zeros_like(value) for name, value in weights.items()}
    second = {name: torch.zeros_like(value) for name, value in weights.items()}
    warmup = round(settings.warmup_epochs * 3)
    for step, gradient in enumerate(steps):
        done = (step - warmup) / (6 - warmup)
        share = (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * done))
        rate = share * settings.base_lr * 8 / 256
        for network in ("encoder.", "classifier."):
            own = [name for name in weights if name.startswith(network)]
            norm = math.sqrt(sum(gradient[name].double().square().sum().item() for name in own))
            kept = 1.0 if settings.clip_grad is None else min(1.0, settings.clip_grad / norm)
            for name in own:
                g = kept * gradient[name].double()
                first[name] = settings.beta1 * first[name] + (1 - settings.beta1) * g
                second[name] = settings.beta2 * second[name] + (1 - settings.beta2) * g.square()
                mean = first[name] / (1 - settings.beta1 ** (step + 1))
                power = second[name] / (1 - settings.beta2 ** (step + 1))
                own_rate = rate * (settings.layer_decay or 1.0) ** depth(name)
                shrunk = weights[name] * (1 - own_rate * decay(name, weights[name], settings))
                weights[name] = shrunk - own_rate * mean / (power.sqrt() + 1e-8)
    return weights


def decay(name: str, weight: Tensor, settings: OptimizerConfig) -> float:
    """Biases, norms, the class token and position embeddings are left alone."""
    spared = weight.ndim < 2 or "pos_embed" in name or "cls_token" in name
    return 0.0 if spared else settings.weight_decay


def depth(name: str) -> int:
    """Layers above a parameter of a classifier of three blocks; the encoder has no layer-wise decay."""
    if name.startswith("encoder.") or name.startswith(("classifier.head", "classifier.norm")):
        return 0
    if name.startswith("classifier.blocks."):
        return 3 - int(name.split(".")[2])
    return 4


@pytest.fixture(scope="module")
def plain_weights(photographs) -> dict[str, Tensor]:
    return optimized(photographs, {})[2]


def optimized(folder: Path, fields: dict[str, Any]) -> tuple[dict[str, Tensor], list, dict[str, Tensor]]:
    """The weights before, the gradients of each step, and the weights after."""
    run = prepared(
        with_(
            data={"data_dir": folder},
            schedule={
                "reconstruct_epochs": 0,
                "perceptual_epochs": 0,
                "classify_epochs": 2,
                "guide_epochs": 0,
            },
            optimizer=fields,
            compute={"precision": "float64"},
        )
    )
    parameters = dict(run.model.named_parameters())
    before = {name: value.detach().clone() for name, value in parameters.items()}
    steps: list[dict[str, Tensor]] = [{} for _ in range(STEPS)]
    for name, parameter in parameters.items():
        count = iter(range(STEPS))
        parameter.register_post_accumulate_grad_hook(
            lambda p, name=name, count=count: steps[next(count)].update({name: p.grad.clone()})
        )
    take_steps(run, 0, STEPS)
    return before, steps, {name: value.detach().clone() for name, value in parameters.items()}


@covers(
    "optimizer.base_lr",
    "optimizer.warmup_epochs",
    "optimizer.weight_decay",
    "optimizer.layer_decay",
    "optimizer.beta1",
    "optimizer.beta2",
    "optimizer.clip_grad",
)
@pytest.mark.parametrize(
    "fields",
    [
        {
            **{"base_lr": 1e-2, "warmup_epochs": 1.0, "weight_decay": 0.4, "layer_decay": 0.5},
            **{"beta1": 0.5, "beta2": 0.5},
        },
        {"clip_grad": 1e-2},
    ],
    ids=["all others", "clip_grad"],
)
def test_weights_move_as_adamw_of_these_settings_moves_them(photographs, plain_weights, fields):
    settings = replace(CONFIG.optimizer, **fields)
    before, steps, after = optimized(photographs, fields)
    expected = by_hand(before, steps, settings)
    assert max((after[name] - plain_weights[name]).abs().max().item() for name in after) > 1e-5
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=1e-6, atol=1e-9, msg=name)


@covers("optimizer.ema_decay")
def test_an_average_that_forgets_nothing_or_everything_is_the_first_or_the_last_weights(config, tmp_path):
    short = with_(config, model={"model": "vit_tiny_patch8"}, schedule={"epochs": 1})
    start = prepared(short).model.state_dict()
    train(short, tmp_path / "none")
    plain = gvit.load_model(tmp_path / "none").state_dict()
    assert not torch.equal(plain["head.weight"], start["head.weight"])
    for decay_, expected in ((1.0, start), (0.0, plain)):
        folder = tmp_path / f"{decay_}"
        train(with_(short, optimizer={"ema_decay": decay_}), folder)
        found = gvit.load_model(folder).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_average_counts_a_batch_once_however_often_the_encoder_looks(config):
    run = prepared(with_(config, model={"model": "gvit_tiny"}, optimizer={"ema_decay": 0.75}))
    start = {name: value.clone() for name, value in run.model.state_dict().items()}
    step = run.schedule.classify_start
    take_steps(run, step, step + 1)
    for name, value in run.task.ema.module.state_dict().items():
        torch.testing.assert_close(value, 0.75 * start[name] + 0.25 * run.model.state_dict()[name])


# Compute.


def watched(config: TrainConfig) -> tuple[list[tuple[torch.dtype, int]], dict[str, Tensor]]:
    """Number format and images of every call of a classifier block in one step, and the weights after it."""
    run = prepared(config)
    seen = []
    (block,) = (module for name, module in run.model.named_modules() if name == "classifier.blocks.1.mlp.fc1")
    block.register_forward_hook(lambda module, args, out: seen.append((out.dtype, len(out))))
    take_steps(run, CLASSIFY, CLASSIFY + 1)
    return seen, run.model.state_dict()


@covers("compute.precision", "compute.accumulate", "compute.grad_checkpointing")
def test_how_a_step_is_computed(config):
    plain, expected = watched(config)
    assert plain == [(torch.float32, 8)]
    assert watched(with_(config, compute={"precision": "bf16"}))[0] == [(torch.bfloat16, 8)]
    seen, weights = watched(with_(config, compute={"precision": "float64"}))
    assert seen == [(torch.float64, 8)]
    assert {value.dtype for value in weights.values()} == {torch.float64}
    assert watched(with_(config, compute={"accumulate": 2}))[0] == [(torch.float32, 4)] * 2
    # forward, and once more in the backward pass
    seen, weights = watched(with_(config, compute={"grad_checkpointing": True}))
    assert seen == [(torch.float32, 8)] * 2
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)


def test_no_field_is_forgotten():
    fields = set()
    for group, values in asdict(CONFIG).items():
        fields |= {f"{group}.{name}" for name in values} if isinstance(values, dict) else {group}
    assert fields == COVERED | ELSEWHERE.keys()
    here = Path(__file__).parent
    for place in ELSEWHERE.values():
        file, _, test = place.partition("::")
        assert f"def {test}(" in (here / file).read_text()
