"""``gvit render`` as a person meets it."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import Manifest, Shard, write_shard

COLUMNS = ["x", "y", "scale1", "scale2", "angle", "red", "green", "blue", "opacity"]


def some(seed: int = 0, aspect: float = 0.5) -> Gaussians:
    raw = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed))
    return Gaussians(raw, scale_factor=2.0, nominal_count=6, aspect=aspect)


def render(*args: object) -> int:
    return main(["render", *map(str, args)])


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    assert render(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith("gvit: error: ")
    assert error.count("\n") == 1, error
    return error


def size_of(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_pictures_at_any_size(tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "out"
    some().save(file, size=(20, 40))
    for flags, size in (
        ((), (40, 20)),
        (("--scale", 2.5), (100, 50)),
        (("--size", 64), (64, 32)),
        (("--size", "30x30"), (30, 30)),
    ):
        assert render(file, "--out", out, *flags) == 0
        assert size_of(out / "a.png") == size
    picture = gvit.render(some(), 30, 30).clamp(0, 1)
    with Image.open(out / "a.png") as drawn:
        assert (
            max(abs(a / 255 - b) for a, b in zip(drawn.getpixel((7, 9)), picture[:, 9, 7], strict=True))
            < 0.51 / 255
        )
    some().save(file)  # as an older gvit wrote it
    assert render(file, "--out", out) == 0
    assert size_of(out / "a.png") == (512, 256)
    some().save(tmp_path / "b.safetensors", size=(20, 40))
    assert "give --size instead" in fails(capsys, tmp_path, "--out", out, "--scale", 2)
    assert size_of(out / "b.png") == (80, 40)  # the others are drawn
    some().save(file, size=(0, 0))
    assert render(file, "--out", out) == 0
    assert size_of(out / "a.png") == (512, 256)


def test_a_file_that_is_named_twice_is_drawn_once(tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "out"
    some().save(file, size=(20, 40))
    (tmp_path / "b.safetensors").symlink_to(file)
    assert render(file, file, tmp_path, "--out", out) == 0
    assert [made.name for made in out.iterdir()] == ["a.png"]


def test_what_was_fitted_over_white_is_drawn_over_white(tmp_path, capsys):
    file, out = tmp_path / "a.safetensors", tmp_path / "out"
    few = some().replace(opacities=torch.zeros(6))
    few.save(file, size=(20, 40))
    assert render(file, "--out", out, "--background", "#ff8000") == 0
    with Image.open(out / "a.png") as drawn:
        assert drawn.getpixel((7, 9)) == (255, 128, 0)
    assert render(file, "--out", out, "--background", "#ff8000", "--format", "svg") == 0
    assert 'fill="#ff8000"/>' in (out / "a.svg").read_text()
    assert "--background must be a colour's name" in fails(capsys, file, "--out", out, "--background", "whit")


def test_numbers_for_people_who_look(tmp_path):
    some().save(tmp_path / "a.safetensors", size=(20, 40))
    for form in ("json", "csv", "svg"):
        assert render(tmp_path / "a.safetensors", "--out", tmp_path, "--format", form) == 0
    told = json.loads((tmp_path / "a.json").read_text())
    assert (told["name"], told["class"], told["width"], told["height"]) == ("a.safetensors", None, 40, 20)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == COLUMNS == list(told["gaussians"][0])
    assert [[float(x) for x in row] for row in rows[1:]] == [list(g.values()) for g in told["gaussians"]]
    centers = some().in_pixels(20, 40)[0]
    assert told["gaussians"][3]["x"] == pytest.approx(centers[3, 0].item(), rel=1e-5)
    assert (tmp_path / "a.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_shards_of_a_set_with_names_that_would_collide_or_lead_elsewhere(tmp_path, form, capsys):
    names = ["cat/1.jpg", "cat/1.png", "../../evil\n.png", "/etc/x"]
    raw = torch.stack([some(seed).raw for seed in range(4)])
    folder, out = tmp_path / "set", tmp_path / "out"
    folder.mkdir()
    manifest = Manifest({}, 6, "float32", form, 10, ["no", "yes"], {"test": 4}, "")
    manifest.write(folder)
    shard = Shard(raw, names, [0.5] * 4, [(10, 20)] * 4, [30.0] * 4, [0, 1, 1, 0], 2.0, 6)
    (name,) = manifest.files("test")
    write_shard(folder / name, shard)
    assert render(folder, "--out", out, "--format", "json") == 0
    assert "evil\\n.json  " in capsys.readouterr().out  # a terminal obeys what stands in a name
    made = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.json"))
    assert made == ["cat/1.json", "cat/1.png.json", "etc/x.json", "evil\n.json"]
    assert json.loads((out / "cat" / "1.png.json").read_text())["class"] == "yes"
    assert render(folder / name, "--out", out) == 0
    expected = gvit.render(some(3), 10, 20).clamp(0, 1)
    with Image.open(out / "etc" / "x.png") as drawn:
        assert abs(drawn.getpixel((4, 5))[0] / 255 - expected[0, 5, 4]) < 0.51 / 255
    write_shard(folder / name, replace(shard, sizes=[(0, 0)] * 4))
    assert "not a shard of Gaussians" in fails(capsys, folder / name, "--out", out)
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    assert name in fails(capsys, folder, "--out", out)


def test_bad_input_is_one_line(tmp_path, capsys):
    file = tmp_path / "a.safetensors"
    some().save(file)
    assert "no files given" in fails(capsys, "--out", tmp_path)
    for size in ("0", "axb", "1x2x3", "-4", f"1x{10**20}"):
        assert "--size takes pixels" in fails(capsys, file, f"--size={size}")
    assert "give one of them" in fails(capsys, file, "--size", 3, "--scale", 1)
    assert "--scale must be above 0" in fails(capsys, file, "--scale", 0)
    for form in ("json", "csv"):
        message = fails(capsys, file, "--out", tmp_path / "none", "--format", form, "--background", "black")
        assert "--background is for pictures: --format png or svg" in message
    assert not (tmp_path / "none").exists()
    some().save(file, size=(20, 40))
    assert "a.safetensors: would be more than 1,000,000,000 pixels" in fails(capsys, file, "--scale", 1e300)
    assert "no such file" in fails(capsys, tmp_path / "b.safetensors")
    (tmp_path / "b.safetensors").write_text("text")
    assert "not a file of Gaussians" in fails(capsys, tmp_path, "--out", tmp_path / "out")
    assert (tmp_path / "out" / "a.png").exists()  # the others are drawn
    assert render(file, "--out", tmp_path / "out") == 0  # again
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert "a.png is there and was not written by gvit" in fails(capsys, file, "--out", tmp_path)
    assert size_of(tmp_path / "a.png") == (4, 4)
