"""The command line as a person meets it: one trained run, then every verb on it, right and wrong."""

import csv
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gvit
from forked import Forked
from gvit.cli import main
from gvit.cli.dispatch import _COMMANDS
from gvit.cli.parsing import flags_of
from gvit.cli.train import NewRun
from gvit.data.loading import EvaluationSamples
from gvit.data.sources import load_source
from gvit.data.transforms import eval_transform
from gvit.models.complexity import model_complexity


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of a few seconds: how well it classifies doesn't matter here, that it always answers the same does."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    flags = [
        "--epochs",
        "1",
        "--reconstruct-epochs",
        "1",
        "--perceptual-epochs",
        "0",
        "--classify-epochs",
        "8",
    ]
    small = ["--num-gaussians", "12", "--looks", "3", "--batch-size", "32", "--guide-epochs", "1"]
    assert main(["train", "digits", *flags, *small, "--out", str(folder)]) == 0
    return folder


def fails(capsys, *args: object) -> str:
    """Run a command that must fail as bad input does; returns its one line."""
    assert main([str(arg) for arg in args]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: error: ")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err.removeprefix("gvit: error: ").strip()


def predictions(capsys, *args: object) -> list[dict]:
    assert main(["predict", *map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_train_leaves_a_whole_run(run):
    names = {"config.json", "metrics.jsonl", "model.safetensors", "checkpoint.pt", "report.png"}
    names |= {"best.safetensors", "curves.png", ".lock"}
    assert {file.name for file in run.iterdir()} == names
    with Image.open(run / "report.png") as picture:
        assert picture.width > 800
    assert json.loads((run / "config.json").read_text())["model"]["num_gaussians"] == 12


@pytest.fixture(scope="module")
def digit_files(tmp_path_factory) -> Path:
    """Test digits as files of other sizes and modes; the name tells the row of the test set."""
    folder = tmp_path_factory.mktemp("digits")
    test = load_source("digits", "test")

    def write(row: int, what: str, image: Image.Image, suffix: str = "png", **kwargs) -> None:
        image.save(folder / f"{row:03d}-{what}.{suffix}", **kwargs)

    for row in range(12):
        image = test.load(row)
        grey = np.asarray(image)[..., 0]
        white = np.full((8, 8, 4), 255, np.uint8)
        white[..., 3] = grey
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by whoever shows it
        write(row, "rgb", image)
        write(row, "grey", image.convert("L"))
        write(row, "palette", image.convert("P", palette=Image.Palette.ADAPTIVE))
        write(row, "rgba", image.convert("RGBA"))
        write(row, "transparent", Image.fromarray(white))
        write(row, "sixteen", Image.fromarray(grey.astype(np.uint16) * 257))
        write(row, "rotated", image.rotate(90), exif=exif)
        write(row, "large", image.resize((256, 256), Image.Resampling.NEAREST))
        write(row, "jpeg", image.resize((64, 64), Image.Resampling.BICUBIC), "jpg", quality=95)
    return folder


def test_predict_on_files_agrees_with_the_images_in_memory(run, digit_files, capsys):
    model = gvit.load_model(run)
    images = EvaluationSamples(load_source("digits", "test"), eval_transform(model.card.preprocessing))
    exact = {"rgb", "grey", "palette", "rgba", "transparent", "sixteen", "rotated"}
    found = predictions(capsys, run, digit_files, "--top-k", 10)
    assert len(found) == 12 * 9
    same_class = []
    for entry in found:
        row, what = Path(entry["file"]).stem.split("-")
        (expected,) = gvit.predict(model, images[int(row)][0][None], top_k=10)
        best = entry["predictions"][0]
        same_class.append(best["class_index"] == expected[0].class_index)
        if what in exact:
            assert same_class[-1], entry["file"]
            assert best["probability"] == pytest.approx(expected[0].probability, abs=1e-4)
    # other sizes and lossy files differ in a few grey levels
    assert np.mean(same_class) > 0.95


def test_predict_shows_a_readable_line_per_image(run, digit_files, capsys):
    file = digit_files / "000-rgb.png"
    assert main(["predict", str(run), str(file), "--top-k", "2"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(str(file))
    assert line.count(" %") == 2


def test_predict_takes_folders_patterns_and_weights_files(run, digit_files, capsys):
    everything = predictions(capsys, run, digit_files)
    assert [Path(entry["file"]).name for entry in everything] == sorted(
        file.name for file in digit_files.iterdir()
    )
    assert len(predictions(capsys, run / "model.safetensors", digit_files / "*-rgb.png")) == 12
    for entry in everything:
        probabilities = [guess["probability"] for guess in entry["predictions"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert len(probabilities) == 3


def test_one_bad_file_does_not_cost_the_others(run, digit_files, tmp_path, capsys):
    (tmp_path / "a.png").write_text("text")
    (tmp_path / "b.png").write_bytes((digit_files / "000-rgb.png").read_bytes())
    assert main(["predict", str(run), str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"gvit: error: {tmp_path / 'a.png'}: not an image file\n"
    assert printed.out.startswith(str(tmp_path / "b.png"))


def test_a_pretrained_name_classifies_right_after_installation(digit_files, capsys):
    expected = predictions(capsys, "gvit_tiny.digits", digit_files)
    assert predictions(capsys, "digits", digit_files) == expected
    labels = load_source("digits", "test").labels
    found = [
        int(entry["predictions"][0]["class_name"]) == labels[int(Path(entry["file"]).name[:3])]
        for entry in expected
    ]
    assert np.mean(found) > 0.9
    assert "nearest: digits" in fails(capsys, "predict", "digts", digit_files)


@pytest.mark.parametrize("name", ["photos", "gvit_tiny"])
def test_an_encoder_alone_says_what_it_is_for(name, capsys):
    line = fails(capsys, "predict", name, "gone.png")
    assert line.startswith("an encoder alone, without a classifier: 'gvit encode' draws with it")


def test_evaluate_agrees_with_training(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "evaluation.json").read_text())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert {name: result[name] for name in ("top1", "top5", "psnr", "ssim")} == {
        name: last[name] for name in ("top1", "top5", "psnr", "ssim")
    }
    confusion = np.array(result["confusion"])
    assert confusion.sum() == 360
    assert np.trace(confusion) / 360 == pytest.approx(result["top1"])
    assert confusion.sum(1).tolist() == np.bincount(load_source("digits", "test").labels).tolist()
    assert f"top-1   {100 * result['top1']:.2f} %" in printed
    assert (run / "confusion.png").stat().st_size > 1000


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """The test digits as class folders."""
    folder = tmp_path_factory.mktemp("labelled") / "set"
    test = load_source("digits", "test")
    for row, label in enumerate(test.labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        test.load(row).save(folder / str(label) / f"{row:03}.png")
    return folder


def test_evaluate_on_other_images(run, labelled, tmp_path, capsys):
    """The run's own test images as files: the same answers, and each mistake is what 'predict' says."""
    assert main(["evaluate", str(run)]) == 0
    own = json.loads((run / "evaluation.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data-dir", str(labelled), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = run / "evaluation-set"
    assert result == json.loads((folder / "evaluation.json").read_text())
    assert result["per_class"] == own["per_class"]
    assert (result["num_images"], result["top1"], result["confusion"]) == (360, own["top1"], own["confusion"])
    rows = list(csv.DictReader((folder / "mistakes.csv").open()))
    assert len(rows) == 360 - round(360 * own["top1"])
    assert [row["confidence"] for row in rows] == sorted((row["confidence"] for row in rows), reverse=True)
    for row in rows[:5]:
        assert row["image"].startswith(f"{row['true']}/")
        (answer,) = predictions(capsys, run, labelled / row["image"], "--top-k", 1)
        (best,) = answer["predictions"]
        assert best["class_name"] == row["predicted"] != row["true"]
        assert best["probability"] == pytest.approx(float(row["confidence"]), abs=1e-3)
    for name in ("mistakes.png", "confusion.png"):
        assert (folder / name).stat().st_size > 5000
    # another folder of the same name
    other = tmp_path / "other" / labelled.name
    shutil.copytree(labelled / "0", other / "0")
    before = (folder / "evaluation.json").read_bytes()
    for flags, found in (((), other), (("--dataset", "folder"), f"folder in {other}")):
        assert main(["evaluate", str(run), "--data-dir", str(other), *flags]) == 2
        said = f"{folder} holds the results of {labelled}, not of {found}: --out FOLDER writes elsewhere"
        assert said in capsys.readouterr().err
    assert (folder / "evaluation.json").read_bytes() == before


@pytest.mark.usefixtures("undrawn")
def test_evaluate_takes_weights_files_and_names(run, labelled, tmp_path, capsys):
    out = tmp_path / "out"
    for place in ("digits", run / "best.safetensors"):
        assert main(["evaluate", str(place), "--data-dir", str(labelled), "--out", str(out)]) == 0
        printed = capsys.readouterr().out
        assert str(out / "mistakes.csv") in printed.splitlines()
        share = json.loads((out / "evaluation.json").read_text())["top1"]
        assert f"top-1   {100 * share:.2f} %" in printed
    assert main(["evaluate", "digits", "--dataset", "digits", "--out", str(out)]) == 0
    assert json.loads((out / "evaluation.json").read_text())["top1"] > 0.9
    assert main(["evaluate", str(run / "best.safetensors")]) == 0  # on the run's own
    assert (run / "evaluation-best" / "evaluation.json").exists()
    assert main(["evaluate", str(run), "--num-gaussians", "16", "--looks", "2"]) == 0
    worse = json.loads((run / "evaluation-16-gaussians-2-looks" / "evaluation.json").read_text())
    usual = json.loads((run / "evaluation.json").read_text())
    assert worse["psnr"] < usual["psnr"]
    assert (worse["num_gaussians"], worse["looks"]) == (16, 2)
    assert (usual["num_gaussians"], usual["looks"]) == (12, gvit.load_model(run).encoder.turns)


def test_evaluate_needs_classes_that_the_model_knows(run, labelled, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0").symlink_to(labelled / "0")
    (tmp_path / "set" / "zero").symlink_to(labelled / "1")
    line = fails(capsys, "evaluate", run, "--data-dir", tmp_path / "set", "--out", tmp_path / "out")
    assert line.startswith("classes that the model does not know: zero; its 10 classes: 0, 1, 2")
    assert not (tmp_path / "out").exists()
    assert "no such folder" in fails(capsys, "evaluate", run, "--data-dir", tmp_path / "gone")


def test_bad_images(run, tmp_path, capsys):
    text = tmp_path / "text.png"
    text.write_text("text")
    assert fails(capsys, "predict", run, text) == f"{text}: not an image file"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    cut = tmp_path / "cut.jpg"
    noise.save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    assert fails(capsys, "predict", run, cut).startswith(f"{cut}: cannot be read as an image (")
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in fails(capsys, "predict", run, tmp_path / "empty")
    assert "no such file" in fails(capsys, "predict", run, tmp_path / "gone.png")
    assert "no images given" in fails(capsys, "predict", run)
    assert fails(capsys, "predict", cut, cut).startswith(f"{cut}: not a model; name a run folder, ")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_stops_training_with_its_name(tmp_path, capsys, workers):
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20, 20)).save(tmp_path / "photos" / name / f"{i}.png")
    for name in ("a", "b"):  # of five images one is held out: of two, one at least is trained on
        for i in (1, 2):
            (tmp_path / "photos" / name / f"{i}.png").write_text("not an image")
    flags = ["--data-dir", tmp_path / "photos", "--num-gaussians", 4, "--epochs", 1, "--workers", workers]
    assert main(["train", "folder", *map(str, flags), "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("gvit: error: ")
    assert last.endswith("png: not an image file")


def test_bad_runs(run, tmp_path, capsys):
    for command in (["predict", tmp_path / "gone", "x.png"], ["evaluate", tmp_path / "gone"]):
        assert "no run here" in fails(capsys, *command)
    assert "no run here" in fails(capsys, "train", "--resume", tmp_path / "gone")
    for name in ("digits", "gvit_tiny.digits"):
        assert fails(capsys, "evaluate", name).startswith(
            f"{name}: pretrained weights, not a run with test images"
        )
    assert "nearest: digits" in fails(capsys, "evaluate", "digit")
    assert "'gvit faithfulness digits digits'" in fails(capsys, "faithfulness", "digits")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in filter(Path.is_file, run.iterdir()):
        (damaged / file.name).write_bytes(file.read_bytes()[:-50])
    assert "model.safetensors: damaged" in fails(capsys, "predict", damaged, "x.png")
    (damaged / "config.json").write_bytes((run / "config.json").read_bytes())
    assert "checkpoint.pt: damaged" in fails(capsys, "train", "--resume", damaged)


def test_a_run_that_goes_on_keeps_its_settings(run, capsys):
    told = "cannot be given with --resume: a run goes on with its own settings"
    assert fails(capsys, "train", "--resume", run, "--base-lr", 3) == f"--base-lr {told}"
    assert fails(capsys, "train", "--resume", run, "--epochs", 0.5).startswith(
        "--epochs 0.5: the run has 1 epoch"
    )
    assert fails(capsys, "train", "--resume", run, "--overwrite") == f"--overwrite {told}"
    assert fails(capsys, "train", "digits", "--resume", run) == f"the recipe digits {told}"


def test_a_fit_that_could_not_be_written_is_not_begun(digit_files, tmp_path, capsys, monkeypatch):
    def too_late(*args, **kwargs):
        raise AssertionError("fitted first")

    monkeypatch.setattr("gvit.fitting.optimise.fit", too_late)
    image = next(digit_files.iterdir())
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert "cannot write results here" in fails(capsys, "fit", image, "--out", out)
    (tmp_path / "fits" / f"{image.stem}.png").mkdir(parents=True)
    assert "is a folder, where a result has to go" in fails(capsys, "fit", image, "--out", tmp_path / "fits")


def test_bad_arguments(run, tmp_path, capsys):
    assert fails(capsys, "train", "digits", "--device", "meta").startswith(
        "--device meta: not available here"
    )
    assert fails(capsys, "train", "digit").startswith("unknown recipe 'digit'; nearest: digits")
    assert fails(capsys, "trian") == "unknown command 'trian'; nearest: train"
    assert fails(capsys, "train", "--model", "gvit_tinny").startswith(
        "unknown model 'gvit_tinny'; nearest: gvit_tiny"
    )
    out = tmp_path / "never"
    assert fails(capsys, "train", "--batch-size", 0, "--out", out).startswith(
        "--batch-size must be at least 1, got 0"
    )
    assert "--epochs" in fails(capsys, "train", "--epoch", 3, "--out", out)
    assert "abc" in fails(capsys, "train", "--epochs", "abc", "--out", out)
    assert "not available here" in fails(capsys, "train", "--device", "cuda:99", "--out", out)
    for command in ("train", "fit"):
        assert "at least 0" in fails(capsys, command, "--seed", 10**20, "--out", out)
    assert fails(capsys, "predict", run, "x", "--top-k", 0) == "--top-k must be at least 1, got 0"
    assert not out.exists()


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_other_classes_than_its_data_has_now(tmp_path, capsys):
    photos = tmp_path / "photos"
    for name in ("a", "b"):
        (photos / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20, 20)).save(photos / name / f"{i}.png")
    run = tmp_path / "run"
    flags = ["--data-dir", photos, "--num-gaussians", 4, "--epochs", 4, "--workers", 0, "--out", run]
    command = ["train", "folder", *map(str, flags)]
    assert main(command) == 0
    assert "8 images to train on: batches of 8; --batch-size and --epochs" in capsys.readouterr().err
    assert main(["evaluate", str(run)]) == 0
    capsys.readouterr()
    (photos / "a").rename(photos / "c")
    assert "2 classes, but its data set has 2 now (differing: a, c)" in fails(capsys, "evaluate", run)
    # and what was measured of the old weights doesn't stay beside the new
    (photos / "c").rename(photos / "a")
    assert (run / "evaluation.json").exists()
    assert main([*command, "--overwrite"]) == 0
    assert not {"evaluation.json", "confusion.png"} & {file.name for file in run.iterdir()}


def test_bad_output_folders(run, tmp_path, capsys):
    before = (run / "model.safetensors").read_bytes()
    message = fails(capsys, "train", "--epochs", 1, "--out", run)
    assert "already holds a run" in message
    assert "--overwrite" in message
    assert (run / "model.safetensors").read_bytes() == before
    (tmp_path / "file").touch()
    assert "cannot write a run here" in fails(capsys, "train", "--out", tmp_path / "file" / "run")


@pytest.mark.parametrize("args", [[], *([command] for command in _COMMANDS)])
def test_help_fits_eighty_columns_and_gives_an_example(args, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    try:
        code = main([*args, "--help"])
    except SystemExit as end:
        code = end.code
    assert code == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "xample" in printed


@pytest.fixture(scope="module")
def counted_once():
    """What a model costs does not change between two tests, and counting takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gvit.models.complexity.model_complexity", functools.cache(model_complexity))
        yield


@pytest.mark.usefixtures("counted_once")
def test_models_lists_sizes_and_costs(capsys):
    assert main(["models", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert [cost["name"] for cost in costs] == gvit.list_models()
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    end = lines.index("")
    assert lines[end + 1] == "pretrained"
    assert [line.split()[0] for line in lines[end + 2 :] if line[0] != " "] == gvit.list_models(
        pretrained=True
    )
    tagged = [name for cost in costs for name in cost["pretrained"]]
    assert tagged == gvit.list_models(pretrained=True)
    assert [line.split()[0] for line in lines[2:end]] == gvit.list_models()
    for line, cost in zip(lines[2:end], costs, strict=True):
        millions = [cost[f"{part}_parameters"] / 1e6 for part in ("encoder", "classifier", "head")]
        gmacs = [cost[f"{part}_gmacs"] for part in ("encoder", "classifier")]
        expected = [cost["img_size"], cost["tokens"], *millions, *gmacs]
        assert [float(number) for number in line.split()[1:]] == pytest.approx(expected, abs=0.0051)


@pytest.mark.usefixtures("counted_once")
def test_models_takes_patterns(capsys):
    assert main(["models", "*vit_tiny*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [
        *("gaussian_vit_tiny", "gaussian_vit_tiny_any"),
        *("gvit_tiny", "gvit_tiny_denoising", "vit_tiny_patch4", "vit_tiny_patch8"),
    ]
    assert [line.split()[0] for line in lines[2 : lines.index("")]] == names
    assert main(["models", "gvit_tiny.*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[0] == "gvit_tiny"
    assert any(line.startswith("gvit_tiny.digits ") for line in lines[5:])
    assert main(["models", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[0] == "gvit_tiny"
    assert lines[5].startswith("gvit_tiny.digits ")
    assert main(["models", "vit_*"]) == 0
    assert "pretrained" not in capsys.readouterr().out
    assert fails(capsys, "models", "gvit_tinny").startswith("unknown model 'gvit_tinny'; nearest: gvit_tiny")
    assert fails(capsys, "models", "resnet*").startswith("unknown model 'resnet*'; ")


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(gvit.__file__).parents[1])}


def test_an_interruption_is_saved_and_says_how_to_go_on(tmp_path):
    """A real process, a real signal, once training has begun."""
    process = Forked("-m", "gvit", "train", "--num-gaussians", "8", "--out", tmp_path / "run")
    while process.poll() is None and '"step"' not in _text(tmp_path / "run" / "metrics.jsonl"):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    status, _, errors = process.communicate(timeout=60)
    assert status == 130
    assert errors.splitlines()[-1].endswith(f"go on with: gvit train --resume {tmp_path / 'run'}")
    assert "Traceback" not in errors
    assert gvit.load_model(tmp_path / "run").encoder.num_gaussians == 8


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gvit {gvit.__version__}\n"


@pytest.mark.parametrize(
    "before",
    ["", "from gvit.cli import main; main(['--help'])", "from gvit.cli import main; main(['--version'])"],
)
def test_nothing_heavy_at_import_time(before):
    """Neither ``import gvit`` nor what the command line says of itself waits for a large library."""
    code = f"import sys, gvit; {before}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment()
    ).stdout.split()
    heavy = {
        "torch",
        "torchvision",
        "timm",
        "numba",
        "triton",
        "sklearn",
        "skimage",
        "matplotlib",
        "tyro",
        "rich",
        "PIL",
    }
    assert "gvit" in loaded
    assert not heavy & set(loaded)


def test_the_help_of_a_command_waits_for_nothing_heavy():
    """One process for all: what a command imports, it still has after the next ones."""
    heavy = ("torch", "torchvision", "timm", "numba", "sklearn", "skimage", "matplotlib", "PIL", "numpy")
    code = f"""
import importlib, sys
for command in {_COMMANDS}:
    try:
        code = importlib.import_module(f"gvit.cli.{{command}}").run(["--help"])
    except SystemExit as end:
        code = end.code
    print(command, code, [name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment())
    assert done.stderr.splitlines() == [f"{command} 0 []" for command in _COMMANDS]


def test_the_help_of_training_begins_with_the_flags_that_people_use(capsys):
    with pytest.raises(SystemExit):
        main(["train", "folder", "--help"])
    printed = capsys.readouterr().out
    listed = re.findall(r"^[│ ] (--[a-z][\w-]*)", printed, re.MULTILINE)
    assert listed[:4] == ["--data-dir", "--out", "--overwrite", "--epochs"]
    assert len(listed) == len(set(listed))
    assert set(re.findall(r"(?:, )(--no-[\w-]+)", printed)) | set(listed) == set(flags_of(NewRun))
    # with the recipe's own values
    assert "(default: 64)" in printed[printed.index("--img-size") : printed.index("--num-gaussians")]


def test_every_public_name_is_there():
    for name in gvit.__all__:
        assert getattr(gvit, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        gvit.nonsense  # noqa: B018


def test_report_of_a_run_shows_test_images_curves_and_confusion(run, tmp_path, capsys):
    file = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(file), "--num-images", "4", "--method", "det"]) == 0
    assert capsys.readouterr().out.startswith(f"{file}  4 images, ")
    text = file.read_text()
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert f"<strong>{100 * last['top1']:.2f} %</strong><small>of 360 test images</small>" in text
    assert f"<strong>{last['psnr']:.2f} dB</strong>" in text
    assert "class loss" in text
    counts = [int(count) for count in re.findall(r"<td[^>]*>(\d+)</td>", text.partition('class="pairs"')[0])]
    assert sum(counts) == 360
    verdicts = re.findall(r'<span class="verdict (good|bad)">', text)
    assert sorted(set(verdicts)) == ["bad", "good"]
    assert len(verdicts) == 4


def test_report_tells_what_is_wrong(run, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert "no such file" in fails(capsys, "report", run, tmp_path / "missing.png", "--out", out)
    assert "--num-images must be at least 1" in fails(capsys, "report", run, "--num-images", 0, "--out", out)
    assert "--out" in fails(capsys, "report", run, "--out", tmp_path / "report.png")
    assert "unknown method 'cdm'" in fails(capsys, "report", run, "--method", "cdm", "--out", out)
    assert "--data-dir" in fails(capsys, "report", "digits", "--out", out)
    assert "no run here" in fails(capsys, "report", tmp_path, "--out", out)
    assert not out.exists()
