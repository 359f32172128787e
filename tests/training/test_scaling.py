"""A run that is told nothing else fits its data: batch, epochs, where it starts, and what it says of itself."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.errors import InputError, for_command_line
from gvit.evaluation import Evaluation
from gvit.models import pretrained
from gvit.models.pretrained import shipped
from gvit.models.weights import save_model
from gvit.recipes import folder as folder_recipe
from gvit.recipes import load_recipe
from gvit.reproduction.reproduce import plan
from gvit.training.config import AUTO, DataConfig, ModelConfig, ScheduleConfig, TrainConfig
from gvit.training.scaling import fitting_batch, in_proportion, stretched
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train
from pretrained_models import add, trained


def test_the_batch_is_an_eighth_of_the_images_within_bounds():
    found = {number: fitting_batch(number) for number in (1, 24, 64, 120, 160, 200, 400, 512, 10**6)}
    assert found == {1: 8, 24: 8, 64: 8, 120: 16, 160: 16, 200: 32, 400: 64, 512: 64, 10**6: 64}
    sizes = [fitting_batch(number) for number in range(1, 600)]
    assert sizes == sorted(sizes)


def test_few_steps_are_stretched_to_the_least_number_and_many_are_left_alone():
    schedule = folder_recipe().schedule
    least, usual = schedule.min_steps, sum(schedule.phase_epochs())
    assert stretched(schedule, 10**4) == schedule
    for steps_per_epoch in (1, 7, 8, 9):
        longer = stretched(schedule, steps_per_epoch)
        assert least <= longer.epochs * steps_per_epoch < least + steps_per_epoch
        assert longer.epochs == round(longer.epochs) > usual
        proportions = [length / longer.epochs for length in longer.phase_epochs()]
        assert proportions == pytest.approx([length / usual for length in schedule.phase_epochs()])
        assert stretched(longer, steps_per_epoch) == longer  # resumed, it is the same
    for given in ({"epochs": 3.0}, {"min_steps": None}):
        mine = replace(schedule, **given)
        assert stretched(mine, 1) == mine


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of 15: 24 to train with."""
    place = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("cat", "dog")):
        (place / name).mkdir()
        for i in range(15):
            pixels = np.random.default_rng(i).integers(0, 100, (3, 3, 3)) + 100 * number
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.resize((40, 30), Image.Resampling.BICUBIC).save(place / name / f"{i}.png")
    return place


def config(photos: Path, **model) -> TrainConfig:
    recipe = folder_recipe()
    settings = {"num_gaussians": 6, "looks": 1, "img_size": 16} | model
    return replace(
        recipe,
        model=replace(recipe.model, **settings),
        data=replace(recipe.data, data_dir=photos),
    )


def notes(setup) -> list[str]:
    return [str(note) for note in setup.notes]


def test_a_run_on_few_images_is_scaled_and_says_so(photos):
    setup = set_up(config(photos))
    told = (
        "24 images to train on: batches of 8 and 200 epochs instead of 60 (600 steps); batch_size and epochs"
    )
    assert notes(setup)[0] == f"{told} decide otherwise"
    assert (setup.config.data.batch_size, setup.config.schedule.epochs, setup.schedule.total) == (
        8,
        200,
        600,
    )
    again = set_up(setup.config)
    assert again.schedule == setup.schedule
    assert not [note for note in notes(again) if "images to train on" in note]


def test_what_is_given_wins(photos):
    given = config(photos)
    given = replace(
        given, data=replace(given.data, batch_size=12), schedule=replace(given.schedule, epochs=2.0)
    )
    setup = set_up(given)
    assert (setup.feed.batch_size, setup.schedule.total) == (12, 4)
    assert not [note for note in notes(setup) if "images to train on" in note]


def test_phases_given_on_the_command_line_are_not_stretched(photos, capsys):
    small = [
        "--data-dir",
        str(photos),
        "--num-gaussians",
        "6",
        "--looks",
        "1",
        "--img-size",
        "16",
        "--dry-run",
    ]
    for flags, epochs in (
        ([], 200.0),
        (["--classify-epochs", "3"], 15.0),
        (["--classify_epochs=3"], 15.0),
        (["--classify-epochs", "3", "--min-steps", "60"], 20.0),
        (["--epochs", "2"], 2.0),
        (["--min-steps", "None"], 60.0),
        (["--eval-every", "2", "--warmup-epochs", "4"], 200.0),
    ):
        assert main(["train", "folder", *small, *flags]) == 0
        printed = capsys.readouterr().out
        assert f"epochs={epochs} " in printed, flags
    assert "eval_every=2.0\n" in printed
    assert "warmup_epochs=4.0 " in printed


def test_warm_up_and_evaluations_are_stretched_with_the_phases(photos):
    given = config(photos)
    usual = in_proportion(given)
    assert (usual.schedule.eval_every, usual.optimizer.warmup_epochs) == (5, 3)
    setup = set_up(given)  # 600 steps
    assert (setup.eval_steps, setup.warmup_steps) == (50, 30)
    again = set_up(setup.config)
    assert (again.eval_steps, again.warmup_steps) == (50, 30)
    mine = replace(
        given,
        schedule=replace(given.schedule, eval_every=2.0),
        optimizer=replace(given.optimizer, warmup_epochs=4.0),
    )
    setup = set_up(mine)
    assert (setup.schedule.total, setup.eval_steps, setup.warmup_steps) == (600, 6, 12)
    # in short runs there is nothing to see in between
    short = set_up(replace(given, schedule=replace(given.schedule, epochs=2.0)))
    assert (short.schedule.total, short.eval_steps) == (6, 15)


@pytest.fixture
def package(tmp_path, monkeypatch):
    place = tmp_path / "package"
    place.mkdir()
    (place / "index.json").write_text("{}")
    monkeypatch.setattr(pretrained, "FOLDER", place)
    pretrained._read.cache_clear()
    yield place
    pretrained._read.cache_clear()


@pytest.fixture
def general(package):
    """Weights to start from among what is shipped, beside an encoder alone."""
    encoder = trained(seed=5, num_classes=0)
    encoder.card = replace(encoder.card, encoder_only=True)
    weights = {n: w for n, w in encoder.state_dict().items() if n.startswith("encoder.")}
    add(package, "gvit_tiny.photos", encoder, weights)
    return add(package, "gvit_tiny.cifar10", trained(seed=4, num_classes=10))


def test_without_pretrained_weights_the_recipe_starts_from_random_numbers(photos, package):
    setup = set_up(config(photos))
    assert setup.config.model.init is None
    assert not setup.task.model.encoder.head.weight.any()
    assert not [note for note in notes(setup) if "encoder" in note]


def test_the_folder_recipe_starts_from_pretrained_weights_and_says_so(photos, general):
    setup = set_up(config(photos))
    assert str(setup.config.model.init) == general.pinned
    line = f"starts from {general.name} (init=None: from random numbers)"
    assert line in notes(setup)
    assert line.replace("init=None", "--init None") in map(for_command_line, setup.notes)
    assert f"encoder from {general.pinned}" in notes(setup)
    assert f"classifier from {general.pinned}, its head new for other classes" in notes(setup)
    ours, theirs = setup.task.model.state_dict(), gvit.load_model(general.name).state_dict()
    head = {name for name in ours if name.startswith("classifier.head.")}
    assert len(head) == 2
    assert all(torch.equal(theirs[name], ours[name]) for name in ours.keys() - head)
    without = set_up(config(photos, init=None)).task.model.state_dict()
    assert all(torch.equal(ours[name], without[name]) for name in head)


@pytest.mark.parametrize(
    "model", [{"model": "vit_tiny_patch8", "num_gaussians": None}, {"model": "gvit_tiny_denoising"}]
)
def test_models_without_pretrained_weights_of_their_own_take_none(photos, general, model):
    setup = set_up(config(photos, **{"looks": None, "img_size": 32} | model))
    assert setup.config.model.init is None
    assert not [note for note in notes(setup) if "gvit_tiny." in note]


def test_pretrained_weights_that_do_not_fit_are_not_taken(photos, package):
    add(package, "gvit_tiny.cifar10", trained(num_classes=10, encoder_dim=48))
    setup = set_up(config(photos))
    assert setup.config.model.init is None
    assert "gvit_tiny.cifar10 does not fit this encoder, which starts from random numbers" in notes(setup)


def test_an_interrupted_run_goes_on_with_the_encoder_that_it_began_with(photos, package, general, tmp_path):
    """Whatever the package holds by then."""
    short = config(photos)
    short = replace(short, schedule=replace(short.schedule, epochs=2.0))
    whole = train(short, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(short, tmp_path / "run", stop=lambda: True)
    shutil.copytree(tmp_path / "run", tmp_path / "later")
    add(package, general.name, trained(seed=9, num_classes=10))  # another one, of the same size
    assert resume(tmp_path / "run") == whole
    (package / "index.json").write_text("{}")
    pretrained._read.cache_clear()
    assert resume(tmp_path / "later") == whole
    first, *others = (gvit.load_model(tmp_path / name).state_dict() for name in ("whole", "run", "later"))
    assert all(torch.equal(first[n], other[n]) for n in first for other in others)
    held = json.loads((tmp_path / "later" / "config.json").read_text())["model"]["init"]
    assert held == general.pinned
    # begun anew, it is the same encoder or none
    (tmp_path / "later" / "checkpoint.pt").unlink()
    (tmp_path / "later" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="this version of gvit has no such weights any more"):
        resume(tmp_path / "later")


def test_init_takes_names_and_paths(package, general, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ModelConfig(init="auto").init == AUTO
    assert ModelConfig(init="photos").init == Path("photos")
    assert ModelConfig(init="hf-hub:a/b").init == Path("hf-hub:a/b")
    assert ModelConfig(init="gone").init == tmp_path / "gone"
    (tmp_path / "photos").mkdir()
    assert ModelConfig(init="photos").init == Path("photos")  # a folder of images, perhaps
    save_model(trained(), tmp_path / "photos" / "model.safetensors")
    assert ModelConfig(init="photos").init == tmp_path / "photos"
    for value in ("auto", "gvit_tiny.photos@0123456789ab", "hf-hub:a/b@v1"):
        held = TrainConfig(ModelConfig(init=value), DataConfig())
        assert TrainConfig.from_json(held.to_json()) == held


def test_pretrained_weights_whose_file_is_lost_are_named(photos, general, package, capsys):
    (package / general.file).unlink()
    assert main(["train", "folder", "--data-dir", str(photos), "--dry-run"]) == 2
    line = f"gvit: error: gvit_tiny.cifar10: {general.file} is missing in this installation; install gvit again\n"
    assert capsys.readouterr().err == line
    assert set_up(config(photos, init=None)).config.model.init is None


def test_a_misspelt_name_gets_the_nearest(photos, general, capsys):
    flags = ["--data-dir", str(photos), "--init", "gvit_tiny.fotos", "--dry-run"]
    assert main(["train", "folder", *flags]) == 2
    assert "nearest: gvit_tiny.photos" in capsys.readouterr().err


def test_the_papers_comparisons_start_from_nothing(photos, general, tmp_path):
    target = plan("table1b", "folder", 1, tmp_path / "store", data_dir=photos)
    configs = [row.job.config for row in target.rows]
    assert configs
    assert {c.model.init for c in configs} == {None}
    assert {c.schedule.min_steps for c in configs} == {None}


def evaluation(confusion, psnr=None) -> Evaluation:
    counts = np.array(confusion)
    top1 = np.trace(counts) / counts.sum()
    return Evaluation(int(counts.sum()), float(top1), None, psnr, psnr and 0.5, confusion)


@pytest.mark.parametrize(
    ("confusion", "concerned"),
    [
        (np.full((5, 5), 2).tolist(), True),  # 20 % of 50, five classes
        ((2 * np.eye(5, dtype=int) + 1).tolist(), False),  # 43 % of 35
        ((np.eye(5, dtype=int) + 1).tolist(), True),  # 33 % of 30: two standard deviations are 15 points
        ((10 * np.eye(5, dtype=int) + 20).tolist(), False),  # 27 % of 550
        ([[90, 0], [10, 0]], True),  # the larger class's name for all
        ([[9, 0], [0, 9]], False),
    ],
)
def test_a_result_that_chance_would_reach_is_named(confusion, concerned):
    found = evaluation(confusion, 25.0).concerns()
    assert bool(found) == concerned
    if found:
        assert "no better than chance (" in found[0]
        assert "--batch-size" in for_command_line(found[0])


def test_pictures_under_eighteen_decibels_are_named():
    good = [[9, 0], [0, 9]]
    assert not evaluation(good, 18.0).concerns()
    assert not evaluation(good).concerns()
    (line,) = evaluation(good, 14.7).concerns()
    assert line.startswith("PSNR of 14.7 dB: ")
    assert "--num-gaussians" in for_command_line(line)
    assert "--init with a trained encoder" in for_command_line(line)
    (line,) = evaluation(good, 14.7).concerns(initialized=True)
    assert line.startswith("PSNR of 14.7 dB: ")
    assert "init" not in line


@pytest.mark.parametrize(("start", "advised"), [("auto", False), ("None", True)])
def test_a_run_that_began_with_an_encoder_is_not_told_to_try_one(
    start, advised, photos, general, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("gvit.evaluation._POOR", 99.0)  # six Gaussians are enough for these images
    small = ["--data-dir", str(photos), "--num-gaussians", "6", "--looks", "1", "--img-size", "16"]
    short = ["--epochs", "1", "--base-lr", "1e-9", "--init", start]
    assert main(["train", "folder", *small, *short, "--out", str(tmp_path / "run")]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("PSNR of")]
    assert ("--init with a trained encoder" in line) == advised


def test_a_run_that_learned_nothing_says_so_at_its_end_and_one_that_classifies_nothing_does_not(
    photos, package, tmp_path, capsys
):
    small = ["--data-dir", str(photos), "--num-gaussians", "6", "--looks", "1", "--img-size", "16"]
    assert (
        main(["train", "folder", *small, "--base-lr", "1e-9", "--epochs", "2", "--out", str(tmp_path / "a")])
        == 0
    )
    errors = capsys.readouterr().err
    assert errors.count("is no better than chance (50.0 %, and 6 test images): try more --epochs") == 1
    drawing = ["--classify-epochs", "0", "--guide-epochs", "0", "--reconstruct-epochs", "1"]
    assert main(["train", "folder", *small, *drawing, "--out", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    assert "chance" not in printed.err
    assert "top-1" not in printed.out + printed.err
    image = next(photos.rglob("*.jpg"), None) or next(photos.rglob("*.png"))
    assert main(["predict", str(tmp_path / "b"), str(image)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: error: an encoder alone, without a classifier: 'gvit encode' draws")
    assert printed.err.count("\n") == 1
    assert not printed.out
    # its pictures can be measured
    assert main(["evaluate", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr()
    assert "PSNR " in printed.out
    assert "top-1" not in printed.out


def test_only_the_folder_recipe_scales_and_starts_by_itself():
    for name in ("digits", "cifar10", "imagenette", "imagenet1k"):
        recipe = load_recipe(name)
        assert recipe.model.init is None
        assert recipe.data.batch_size is not None
        assert recipe.schedule.min_steps is None
    assert isinstance(folder_recipe().schedule, ScheduleConfig)
    assert set(shipped()) >= {"gvit_tiny.digits"}
