"""The tutorials are read from top to bottom, and every line of code in them does what the text says."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage.data import astronaut

import gvit
from gvit.cli import main
from gvit.models.encoder import ENCODERS

DOCS = Path(__file__).parents[2] / "docs"


def follow(name: str, short: dict[str, list[str]] | None = None, **given: object) -> dict:
    """Run the blocks of a page in order; ``short`` are flags that make a command cheap, ``given`` names it uses."""
    names: dict = {"__name__": name, **given}
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        if language == "python":
            exec(compile(block, name, "exec"), names)
            continue
        for line in block.splitlines():
            command = shlex.split(line, comments=True)
            assert command[0] == "gvit"
            assert main([*command[1:], *(short or {}).get(command[1], [])]) == 0, line
    return names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_first_page(capsys):
    Image.fromarray(astronaut()[::16, ::16]).save("photo.jpg")
    Image.new("L", (20, 30), 128).save("digit.png")
    names = follow("index.md", {"encode": ["--num-gaussians", "8", "--looks", "1"]})
    assert names["picture"].shape == (1, 3, 512, 512)
    assert "digit.png" in capsys.readouterr().out
    assert Path("encoded", "photo.safetensors").exists()


def test_quick_start(capsys):
    names = follow("tutorials/quick_start.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "torch.Size([1, 300, 9])"
    assert "class_name='8'" in said[1]
    assert said[2] == "8 9"
    assert names["picture"].shape == (1, 3, 512, 512)
    assert len(names["first_fifty"].raw[0]) == 50


def test_own_images(capsys):
    for name, turned in (("cat", 0), ("dog", 180)):
        Path("photos", name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(astronaut()[:: 8 + i, :: 8 + i]).rotate(turned).save(f"photos/{name}/{i}.png")
    Path("new").mkdir()
    Image.open("photos/cat/0.png").save("new/1.jpg")
    follow("tutorials/own_images.md", {"train": ["--epochs", "1", "--num-gaussians", "4", "--looks", "1"]})
    assert re.search(r"^(cat|dog): \d+%$", capsys.readouterr().out, re.MULTILINE)
    assert Path("report.html").exists()


def test_decision(capsys):
    names = follow("tutorials/decision.md")
    said = capsys.readouterr().out
    kept = names["gaussians"][:, names["order"][names["count"] :]]
    assert names["model"].classify(kept).argmax() == 9
    assert 0 < names["count"] < 32
    assert f"a nine without {names['count']} of 32 Gaussians" in said
    assert float(re.findall(r"falls by ([\d.]+)", said)[0]) > 0


def test_photograph(capsys):
    names = follow("tutorials/photograph.md")
    fitted, by_hand = (
        float(text) for text in re.findall(r"^([\d.]+) dB$", capsys.readouterr().out, re.MULTILINE)
    )
    assert fitted > 20 > by_hand > 8
    assert torch.equal(names["loaded"].raw, names["result"].gaussians[0].raw)


def test_encoder(monkeypatch, capsys):
    monkeypatch.setitem(ENCODERS, "grid", None)  # and away again afterwards
    names = follow("tutorials/encoder.md")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "torch.Size([2, 16, 9]) torch.Size([2, 10])"
    assert names["result"].psnr > 8
    trained = gvit.load_model("runs/grid")
    assert trained.encoder.kind == "grid"
