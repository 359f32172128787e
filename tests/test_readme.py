"""The promises of README and docs that a test can hold them to."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gvit.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    flags = ["--epochs", "1", "--num-gaussians", "8"]
    assert main(["train", *flags, "--out", str(folder / "runs" / "digits")]) == 0
    Image.fromarray(np.full((20, 30), 128, np.uint8)).save(folder / "digit.png")
    (folder / "scans").mkdir()
    (folder / "more").mkdir()
    for place in ("scans", "more"):
        shutil.copy(folder / "digit.png", folder / place / "a.png")
    return folder


def test_the_python_example_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})
    assert (folder / "digit.safetensors").exists()
    assert "gvit_small" in capsys.readouterr().out


def test_the_commands_run(folder, monkeypatch):
    monkeypatch.chdir(folder)
    commands = [
        shlex.split(line, comments=True)
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("gvit ")
    ]
    assert {command[1] for command in commands} == {
        "predict",
        "evaluate",
        "train",
        "models",
        "fit",
        "reproduce",
    }
    for command in commands:
        if command[1] == "reproduce":
            assert main([*command[1:], "--epochs", "0.2", "--dry-run"]) == 0, command
        elif command[1] != "train":
            assert main(command[1:]) == 0, command
        elif "--resume" not in command:
            assert main([*command[1:], "--epochs", "0.2", "--num-gaussians", "4"]) == 0, command
    assert main(["train", "--resume", "runs/short"]) == 0


def test_the_picture_is_there_and_small():
    (name,) = re.findall(r"!\[[^\]]+\]\(([^)]+\.png)\)", README)
    assert 10_000 < (ROOT / name).stat().st_size < 500_000


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_example_of_analysis_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (example,) = blocks("python", (ROOT / "docs" / "analysis.md").read_text())
    names: dict = {}
    exec(compile(example, "analysis.md", "exec"), names)
    assert names["heat"].shape == (1, 16, 16)
    assert capsys.readouterr().out.startswith("rank correlation ")
    assert (folder / "explained.png").stat().st_size > 5000
    assert (folder / "regimes.png").stat().st_size > 5000


def test_the_example_of_training_on_a_folder_runs(tmp_path, capsys):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            picture = np.full((40, 60, 3), 40 * i + 20 * number, np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{i}.jpg")
    example, _ = blocks("python", (ROOT / "docs" / "training.md").read_text())
    exec(compile(example, "training.md", "exec"), {"photos": tmp_path / "photos", "out": tmp_path / "run"})
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert float(capsys.readouterr().out.split()[0]) in (0.0, 0.5, 1.0)


def test_the_page_on_reproduction_names_every_target():
    from gvit.reproduction.reproduce import TARGETS

    page = (ROOT / "docs" / "reproduce.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == set(TARGETS)


def test_the_example_of_frozen_gaussians_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    _, example = blocks("python", (ROOT / "docs" / "training.md").read_text())
    exec(compile(example, "training.md", "exec"), {})
    assert len(list((folder / "frozen").rglob("*.safetensors"))) == 1797
    assert main(["train", "gaussians", "--data-dir", "frozen", "--epochs", "0.5"]) == 0


def test_the_example_of_fitting_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python", (ROOT / "docs" / "fitting.md").read_text())
    exec(compile(example, "fitting.md", "exec"), {})
    assert (tmp_path / "astronaut.safetensors").exists()
    assert 20 < float(capsys.readouterr().out.split()[0]) < 40
