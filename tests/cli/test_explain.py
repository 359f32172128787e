"""gvit explain on tiny models: pictures, tables and JSON, and what is refused."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.analysis.explanation import METHODS, attribute
from gvit.cli import main
from gvit.cli.explain import Options
from gvit.gaussians import Gaussians
from gvit.models.weights import save_model
from gvit.progress import ProgressBar

NAMES = ("cat", "dog", "7")


def save_tiny(path: Path, name: str, **kwargs) -> Path:
    torch.manual_seed(2)
    model = gvit.create_model(name, num_classes=3, **kwargs)
    with torch.no_grad():  # what an image looks like makes no difference to fresh weights
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.card = replace(model.card, class_names=NAMES)
    path.parent.mkdir(exist_ok=True)
    save_model(model, path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("run") / "model.safetensors", "gvit_tiny", num_gaussians=6)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name in ("a.png", "b/c.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 60, 3), np.uint8)).save(folder / name)
    return folder


def fails(capsys, *args: object) -> str:
    assert main(["explain", *map(str, args)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("gvit: error: ")


def test_each_image_gets_a_picture_and_a_table(run, photos, tmp_path, capsys):
    model = gvit.load_model(run).eval()
    methods = ["cdam", "opacity", "shap"]
    command = ["explain", str(run), str(photos), "--method", *methods, "--samples", "3", "--seed", "5"]
    assert main([*command, "--target", "dog", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in found] == [str(photos / "a.png"), str(photos / "b" / "c.jpg")]
    for row in found:
        inputs = gvit.load_images([row["file"]], model)
        (best, *_) = gvit.predict(model, inputs)[0]
        assert (row["predicted"], row["class"]) == (best.class_name, "dog")
        assert row["probability"] == pytest.approx(best.probability, rel=1e-5)
        for method in methods:
            expected = attribute(model, inputs, method, 1, samples=3, seed=5)[0].tolist()
            assert row["scores"][method] == pytest.approx(expected, rel=1e-4, abs=1e-5)
        with Image.open(row["picture"]) as picture:
            assert picture.width > 600
        with open(row["table"], newline="") as file:
            table = list(csv.DictReader(file))
        assert [float(line["shap"]) for line in table] == row["scores"]["shap"]
        # which is a column of the Gaussians, and not twice there
        assert [float(line["opacity"]) for line in table] == row["scores"]["opacity"]
        assert len(set(table[0])) == 9 + 2
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files == {"a.png", "a.csv", "b/c.png", "b/c.csv"}


def test_a_line_tells_what_is_explained_and_a_broken_image_costs_no_other(run, photos, tmp_path, capsys):
    (tmp_path / "broken.png").write_text("no image")
    sources = [str(tmp_path / "broken.png"), str(photos / "a.png")]
    guess = gvit.predict(gvit.load_model(run), photos / "a.png")[0][0]
    other = next(name for name in NAMES if name != guess.class_name)
    for target, told in ((None, ""), (other, f", explained: {other}")):
        chosen = [] if target is None else ["--target", target]
        out = tmp_path / "out"
        assert main(["explain", str(run), *sources, "--method", "det", *chosen, "--out", str(out)]) == 2
        printed = capsys.readouterr()
        assert printed.err == f"gvit: error: {tmp_path / 'broken.png'}: not an image file\n"
        expected = f"{photos / 'a.png'}  {guess.class_name} {100 * guess.probability:.1f} %{told}"
        assert printed.out.startswith(expected)
        assert printed.out.endswith(f"{out / 'a.png'}\n")


def test_a_class_is_named_or_numbered(run, photos, tmp_path, capsys):
    """A name that looks like a number is a name."""
    for text, name in (("cat", "cat"), ("1", "dog"), ("7", "7")):
        args = ["--method", "opacity", "--target", text, "--out", str(tmp_path), "--json"]
        assert main(["explain", str(run), str(photos / "a.png"), *args]) == 0
        assert json.loads(capsys.readouterr().out)[0]["class"] == name


def test_a_model_of_gaussians_explains_files_of_those(tmp_path, capsys):
    run = save_tiny(tmp_path / "reader" / "model.safetensors", "gaussian_vit_tiny", num_gaussians=6)
    gaussians = Gaussians(torch.randn(6, 9, generator=torch.Generator().manual_seed(0)), nominal_count=6)
    gaussians.save(tmp_path / "a.safetensors")
    args = ["--method", "occlusion", "edges", "--out", str(tmp_path / "out"), "--json"]
    assert main(["explain", str(run), str(tmp_path / "a.safetensors"), *args]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    model = gvit.load_model(run)
    inputs = gvit.load_images([tmp_path / "a.safetensors"], model)  # cropped as photographs are
    expected = attribute(model, inputs, "occlusion")[0].tolist()
    assert row["scores"]["occlusion"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert (tmp_path / "out" / "a.png").exists()
    for flag, value in (("--num-gaussians", 3), ("--looks", 2), ("--background", "white")):
        for command in ("explain", "predict"):
            out = ["--out", str(tmp_path / "none")] * (command == "explain")
            assert main([command, str(run), str(tmp_path / "a.safetensors"), flag, str(value), *out]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("gvit: error: gaussian_vit_tiny ")
            assert line.endswith(f"{flag} has no meaning for it")
    assert not (tmp_path / "none").exists()


def test_a_name_is_escaped_where_the_progress_is_told(run, photos, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(ProgressBar, "update", lambda _bar, _done, text: told.append(text))
    shutil.copy(photos / "a.png", tmp_path / "a\x1b[2J.png")
    assert (
        main(["explain", str(run), str(tmp_path), "--method", "opacity", "--out", str(tmp_path / "o")]) == 0
    )
    assert told == [r"a\x1b[2J.png"]


def test_bad_input_is_one_line(run, photos, tmp_path, capsys):
    out = ("--out", tmp_path / "out")
    assert fails(capsys, run, photos, "--method", "shapp", *out) == "unknown method 'shapp'; nearest: shap"
    assert (
        fails(capsys, run, photos, "--target", "dgo", *out)
        == "unknown class 'dgo': --target takes a class's name, or its number, 0 to 2; nearest: dog"
    )
    assert "0 to 2" in fails(capsys, run, photos, "--target", 3, *out)
    assert "no such file" in fails(capsys, run, photos / "gone.png", *out)
    assert "no images given" in fails(capsys, run)
    # the flag takes all that follows it
    assert "unknown method 'a.png'" in fails(capsys, run, "--method", "det", "a.png", *out)
    assert "--background must be a colour's name" in fails(capsys, run, photos, "--background", "whit", *out)
    assert "--samples must be at least 1" in fails(capsys, run, photos, "--samples", 0, *out)
    assert "holds the images" in fails(capsys, run, photos, "--out", photos)
    assert "an encoder alone" in fails(capsys, "gvit_tiny.photos", photos, *out)
    pixels = save_tiny(tmp_path / "pixels" / "model.safetensors", "vit_tiny_patch8")
    assert fails(capsys, pixels, photos, *out).startswith(
        "vit_tiny_patch8 reads patches and has no Gaussians to score"
    )
    assert not (tmp_path / "out").exists()


def test_the_help_names_every_method(capsys):
    assert f"Methods: {', '.join(METHODS)}." in " ".join(str(Options.__doc__).split())
