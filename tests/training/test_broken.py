"""Runs on folders in which files are really damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from forked import forked
from gvit.cli import main
from gvit.errors import InputError
from gvit.training.config import (
    BrokenConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PixelConfig,
    ScheduleConfig,
    TrainConfig,
)
from gvit.training.dry_run import dry_run
from gvit.training.loop import Loop
from gvit.training.observers import BrokenImage, ConsoleObserver, Observer
from gvit.training.report import assess, write_report
from gvit.training.run import Run
from gvit.training.setup import set_up
from gvit.training.train import Interrupted, resume, train
from small_runs import assert_same_run, metrics

DAMAGED = ("a/03.png", "b/x\n[red]\x1b[31m.png")
SHOWN = (DAMAGED[0], r"b/x\n[red]\x1b[31m.png")


@pytest.fixture
def photographs(tmp_path) -> Path:
    """24 images to train on, two of them broken, and 8 to test with."""
    folder = tmp_path / "photographs"
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for row in range(count):
                image = Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8))
                image.save(folder / split / name / f"{row:02}.png")
    (folder / "train" / "b" / "11.png").unlink()
    (folder / "train" / DAMAGED[1]).write_text("<html>")
    cut = (folder / "train" / DAMAGED[0]).read_bytes()
    (folder / "train" / DAMAGED[0]).write_bytes(cut[: len(cut) // 2])
    return folder


@pytest.fixture
def config(photographs) -> TrainConfig:
    """3 steps an epoch."""
    return TrainConfig(
        model=ModelConfig("gvit_tiny_denoising", num_gaussians=4),
        data=DataConfig("folder", photographs, batch_size=8),
        schedule=ScheduleConfig(
            **{"reconstruct_epochs": 1, "perceptual_epochs": 1, "classify_epochs": 1, "guide_epochs": 1},
            eval_every=2,
        ),
        optimizer=OptimizerConfig(base_lr=1e-2, warmup_epochs=0.5),
        broken=BrokenConfig(max_broken=0.1),
    )


def write_image(path: Path) -> None:
    Image.new("RGB", (24, 24)).save(path)


class Recorder(Observer):
    """Remembers."""

    def __init__(self) -> None:
        self.found: list[BrokenImage] = []

    def broken(self, image: BrokenImage) -> None:
        self.found.append(image)


def test_broken_images_are_left_out_named_once_and_counted_whatever_reads_them(config, tmp_path, capsys):
    recorder = Recorder()
    train(config, tmp_path / "run", [recorder, ConsoleObserver()])
    told = capsys.readouterr().err
    for count, image in enumerate(recorder.found, 1):
        assert (image.split, image.count, image.total) == ("train", count, 24)
        assert image.step <= 6  # two epochs show both, or nearly
    for name, reason in zip(SHOWN, ("truncated", "web page"), strict=True):
        assert [reason in line for line in told.splitlines() if name in line] == [True]
    assert "\x1b" not in told
    lines = [line for line in metrics(tmp_path / "run") if line["kind"] == "broken"]
    assert [line["error"] for line in lines] == [image.error for image in recorder.found]
    assert sum(SHOWN[1] in line["error"] for line in lines) == 1
    # the same run with processes that read, and with an interruption after the first is known
    train(replace(config, data=replace(config.data, workers=2)), tmp_path / "workers")
    assert_same_run(tmp_path / "run", tmp_path / "workers")
    cut = Recorder()
    with pytest.raises(Interrupted):
        train(config, tmp_path / "cut", [cut], stop=lambda: bool(cut.found))
    rest = Recorder()
    resume(tmp_path / "cut", [rest])
    assert cut.found + rest.found == recorder.found
    assert_same_run(tmp_path / "run", tmp_path / "cut")


def test_what_has_been_mended_is_no_longer_broken(config, photographs, tmp_path):
    """Also where a file before it is gone, so that rows are others than they were."""
    with pytest.raises(InputError, match="2 of 24 training images"):
        train(replace(config, broken=BrokenConfig(max_broken=0.05)), tmp_path / "strict")
    one = replace(config, broken=BrokenConfig(max_broken=0.05))
    (photographs / "train" / DAMAGED[1]).unlink()
    write_image(photographs / "train" / "b" / "12.png")
    cut = Recorder()
    with pytest.raises(Interrupted):
        train(one, tmp_path / "run", [cut], stop=lambda: bool(cut.found))
    assert [DAMAGED[0] in image.error for image in cut.found] == [True]
    write_image(photographs / "train" / DAMAGED[0])
    (photographs / "train" / "b" / "07.png").write_text("<html>")
    rest = Recorder()
    resume(tmp_path / "run", [rest])  # one of 24 is allowed, and no more is broken
    assert [("b/07.png" in image.error, image.count) for image in rest.found] == [(True, 1)]
    # told once, however often the run is resumed, and found again by its name
    write_image(photographs / "train" / "a" / "000.png")
    (photographs / "train" / "a" / "00.png").unlink()
    loop = Loop(set_up(one), Run(tmp_path / "run"))
    loop.load(Run(tmp_path / "run").load_checkpoint())
    ((row, error),) = loop.broken.known["train"].items()
    assert loop.setup.feed.train.keys[row].endswith("b/07.png")
    assert "web page" in error


def test_above_the_share_a_run_stops_and_its_checkpoint_stays(config, tmp_path):
    strict = replace(config, broken=BrokenConfig(max_broken=0.05))
    with pytest.raises(
        InputError, match=r"^2 of 24 training images .*max_broken=0\.05 .*(truncated|web page)"
    ):
        train(strict, tmp_path / "run")
    last = metrics(tmp_path / "run")[-1]
    assert (last["kind"], last["count"]) == ("broken", 2)


def test_the_default_allows_one_of_few_and_zero_none(config, photographs, tmp_path):
    with pytest.raises(
        InputError, match=r"^2 of 24 .*; gvit.data.checking.check_folder .* mended or removed"
    ):
        train(replace(config, broken=BrokenConfig()), tmp_path / "two")
    (photographs / "train" / DAMAGED[1]).unlink()
    train(replace(config, broken=BrokenConfig()), tmp_path / "one")
    with pytest.raises(InputError, match=r"^1 of 23 training images"):
        train(replace(config, broken=BrokenConfig(max_broken=0)), tmp_path / "none")


def test_a_run_that_stopped_goes_on_when_broken_files_are_removed(config, photographs, tmp_path):
    """Also where the data have no split of their own; and what it made can be measured without them."""
    for name in ("a", "b"):
        (photographs / name).mkdir()
        for number in range(10):
            write_image(photographs / name / f"{number}.png")
    for split in ("train", "test"):
        shutil.rmtree(photographs / split)
    run = tmp_path / "run"
    train(replace(config, schedule=replace(config.schedule, epochs=1.0)), run)
    first, *_, last = Run(run).load_split()["train"]
    for key in (first, last):
        (photographs / key).write_text("<html>")
    with pytest.raises(InputError, match=r"^2 of 16 training images"):
        train(config, run, overwrite=True)
    (photographs / first).unlink()
    resume(run)
    (photographs / last).unlink()
    assert assess(run).evaluation.num_images == 4


def test_a_broken_test_image_fails_by_name_and_nothing_is_lost(config, photographs, tmp_path):
    (photographs / "test" / "a" / "01.png").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"^1 of 8 test images .*broken_test_images='wrong'.*a/01\.png: .*it is empty$"
    ):
        train(config, tmp_path / "run")
    assert Run(tmp_path / "run").load_checkpoint()["step"] == 6
    Image.new("RGB", (24, 24)).save(photographs / "test" / "a" / "01.png")
    assert resume(tmp_path / "run").num_images == 8


def test_an_evaluation_that_failed_is_done_when_the_image_is_there_again(
    config, photographs, tmp_path, capsys
):
    """Told, and the best so far, as if nothing had happened; and what moves is compared with what there is."""
    config = replace(config, schedule=replace(config.schedule, eval_every=4))
    damaged = photographs / "test" / "a" / "00.png"
    content = damaged.read_bytes()
    damaged.write_text("")
    with pytest.raises(InputError, match="1 of 8 test images cannot be read"):
        train(config, tmp_path / "run")
    damaged.write_bytes(content)
    run = Run(tmp_path / "run")
    result = resume(run.folder, [ConsoleObserver()])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert "left" not in line  # no step has been taken, which would tell
    assert "img/s" not in line
    told = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [line["step"] for line in told if line["kind"] == "evaluation"] == [12]
    assert run.best_file.exists()
    assert result.broken == []
    written = run.metrics_file.read_text()
    resume(run.folder)  # only once
    assert run.metrics_file.read_text().count('"evaluation"') == written.count('"evaluation"')


def test_or_it_counts_as_wrong(config, photographs, tmp_path, capsys):
    lenient = replace(config, broken=BrokenConfig(0.1, "wrong"))
    damaged = photographs / "test" / "a" / "01.png"
    content = damaged.read_bytes()
    damaged.write_bytes(b"")
    recorder, run = Recorder(), tmp_path / "run"
    result = train(lenient, run, [recorder])
    assert [image.error for image in recorder.found if image.split == "test"] == result.broken
    assert result.broken == [f"{damaged}: not an image file: it is empty"]
    assert sum(map(sum, result.confusion)) == 7
    assert result.top1 * 8 == sum(result.confusion[i][i] for i in range(2))
    assert metrics(run)[-1]["broken"] == 1
    assert assess(run).evaluation == result
    with pytest.raises(InputError, match=r"a/01\.png"):
        assess(run, broken_test_images="fail")
    assert main(["evaluate", str(run)]) == 0
    assert f"{damaged}: not an image file" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--broken-test-images", "fail"]) == 2
    assert write_report(Run(run)) is not None
    assert dry_run(set_up(lenient)).seconds > 0
    # the other images were measured as ever
    damaged.write_bytes(content)
    whole = assess(run).evaluation
    assert whole.num_images * whole.top1 - result.num_images * result.top1 in (0, 1)


def test_two_processes_know_of_each_others_broken_images(photographs, tmp_path):
    arguments = [
        *("train", "folder", "--data-dir", str(photographs), "--init", "None", "--num-gaussians", "4"),
        *("--max-broken", "0.1", "--batch-size", "8", "--epochs", "2", "--precision", "float64"),
        *("--mixup", "0.8", "--cutmix", "1", "--looks", "1", "--workers", "0"),
    ]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    forked("-m", "gvit", *arguments, "--out", tmp_path / "two", processes=2)
    one, two = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("one", "two"))
    assert one["broken"] == two["broken"]
    assert len(one["broken"]["train"]) == 2
    assert max((one["model"][name] - two["model"][name]).abs().max() for name in one["model"]) < 1e-8


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_pairs_need_an_even_number_of_images(config, name):
    for batch_size, accumulate in ((7, 1), (6, 2)):
        odd = replace(
            config,
            data=replace(config.data, batch_size=batch_size),
            compute=replace(config.compute, accumulate=accumulate),
            pixels=PixelConfig(**{name: 1.0}),
        )
        with pytest.raises(
            InputError, match=rf"{name} mixes images in pairs, .* a multiple of {2 * accumulate}$"
        ):
            set_up(odd)


@pytest.mark.parametrize(
    ("field", "value"), [("randaugment", 9), ("random_erase", 0.5), ("mixup", 0.8), ("cutmix", 1.0)]
)
def test_what_is_done_to_pixels_changes_the_images_that_a_step_sees(config, field, value):
    def batch(pixels: PixelConfig, step: int = 0):
        feed = set_up(replace(config, pixels=pixels)).feed
        ((batch,),) = feed.batches(step, step + 1, workers=0)
        return batch

    plain, changed = batch(PixelConfig()), batch(PixelConfig(**{field: value}))
    assert (plain.inputs != changed.inputs).flatten(1).any(1).sum() > 0
    assert torch.equal(plain.noise, changed.noise)
    assert torch.equal(batch(PixelConfig(**{field: value})).inputs, changed.inputs)
    mixes = field in ("mixup", "cutmix")
    assert changed.labels.is_floating_point() == mixes
    if mixes:
        torch.testing.assert_close(changed.labels.sum(1), torch.ones(8))


def test_gaussians_have_no_pixels(config, tmp_path):
    raw = gvit.Gaussians(torch.randn(4, 9))
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "fits" / split / name).mkdir(parents=True)
            raw.save(tmp_path / "fits" / split / name / "0.safetensors")
    on_gaussians = replace(
        config,
        model=ModelConfig("gaussian_vit_tiny"),
        data=DataConfig("gaussians", tmp_path / "fits", batch_size=2),
        pixels=PixelConfig(mixup=1.0),
    )
    with pytest.raises(InputError, match="mixup is for images, but the data set holds Gaussians"):
        set_up(on_gaussians)
