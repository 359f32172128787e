"""``gvit encode`` as a person meets it, with an encoder of a moment's training."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.losses import psnr

QUICK = ("--num-gaussians", 40, "--looks", 2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A run's weights: what it draws moves from where it begins."""
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny")
    torch.nn.init.normal_(model.encoder.head.weight, std=0.02)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    gvit.save_model(model, path)
    return path


def write(path: Path, size=(20, 14), seed=0) -> Path:
    """An image of smooth colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def encode(*args: object) -> int:
    return main(["encode", *map(str, args)])


def fails(capsys, *args: object) -> str:
    assert encode(*args) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: error: ")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err.removeprefix("gvit: error: ").strip()


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


def test_gaussians_a_drawing_and_a_line_for_each_file_and_one_for_all(tmp_path, encoder, capsys):
    a, b = write(tmp_path / "in" / "a.png"), write(tmp_path / "in" / "cat" / "b.png", (14, 20), seed=1)
    out = tmp_path / "out"
    assert encode(tmp_path / "in", "--out", out, "--model", encoder, *QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    made = {file.relative_to(out).as_posix() for file in out.rglob("*.*")}
    assert made == {"a.safetensors", "a.png", "cat/b.safetensors", "cat/b.png"}
    told, model = [], gvit.load_model(encoder)
    for file, name, line in ((a, "a", lines[0]), (b, "cat/b", lines[1])):
        image = pixels(file)
        expected = model.encode(image, num_gaussians=40, looks=2)
        gaussians = gvit.Gaussians.load(out / f"{name}.safetensors")
        torch.testing.assert_close(gaussians.raw, expected[0].raw, rtol=1e-3, atol=1e-3)
        assert gaussians.aspect == pytest.approx(image.shape[-2] / image.shape[-1])
        drawn = gvit.render(gaussians, *image.shape[-2:]).clamp(0, 1)[None]
        assert (pixels(out / f"{name}.png") - drawn).abs().max() <= 0.51 / 255
        told.append(psnr(drawn, image).item())
        size = f"{image.shape[-1]}x{image.shape[-2]}"
        assert line.startswith(f"{file}  {told[-1]:.2f} dB  ")
        assert line.endswith(f" s  {size}  {out / name}.safetensors")
    mean = sum(told) / 2
    assert lines[2:] == [
        f"2 images by {encoder}, 40 Gaussians each: mean {mean:.2f} dB ({min(told):.2f} to {max(told):.2f})"
    ]


def test_a_large_image_is_reduced_for_the_encoder_and_drawn_at_its_own_size(tmp_path, encoder, capsys):
    file = write(tmp_path / "a.png", (120, 60))
    out = tmp_path / "out"
    assert encode(file, "--out", out, "--model", encoder.parent, *QUICK, "--max-side", 40) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "  120x60, encoded at 40x20  " in line
    with Image.open(out / "a.png") as picture:
        assert picture.size == (120, 60)
    image = pixels(file)
    drawn = gvit.render(gvit.Gaussians.load(out / "a.safetensors"), 60, 120).clamp(0, 1)[None]
    assert f"{psnr(drawn, image).item():.2f} dB" in line


def test_what_is_encoded_is_skipped_unless_overwritten(tmp_path, encoder, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert encode(file, "--out", out, "--model", encoder, *QUICK) == 0
    before = (out / "a.safetensors").read_bytes()
    capsys.readouterr()
    assert encode(file, "--out", out, "--model", encoder, *QUICK) == 0
    skipped = f"{file}  skipped: {out / 'a.safetensors'} is there, --overwrite makes it again"
    assert capsys.readouterr().out.splitlines() == [skipped]
    assert (out / "a.safetensors").read_bytes() == before
    for name in ("a.png", "b.png"):
        (out / f"{name}.99999999-0123abcd.partial").touch()
    assert encode(file, "--out", out, "--model", encoder, "--num-gaussians", 40, "--overwrite") == 0
    assert [left.name for left in out.glob("*.partial")] == ["b.png.99999999-0123abcd.partial"]
    assert (out / "a.safetensors").read_bytes() != before
    capsys.readouterr()
    message = fails(capsys, file, "--out", out, "--model", encoder, "--num-gaussians", 41)
    assert (
        "a.safetensors has 40 Gaussians, not 41: --num-gaussians 40 goes on, --overwrite makes it" in message
    )


def test_a_name_that_is_no_text_is_escaped_and_what_came_of_it_is_read_again(tmp_path, encoder, capsys):
    file, out = write(tmp_path / os.fsdecode(b"caf\xe9\x1b[2J.png")), tmp_path / "out"
    for told in ("", "skipped: "):
        assert encode(file, "--out", out, "--model", encoder, *QUICK) == 0
        assert capsys.readouterr().out.startswith(rf"{tmp_path}/caf\udce9\x1b[2J.png  {told}")
    assert {made.name for made in out.iterdir()} == {"caf\\xe9\x1b[2J.safetensors", "caf\\xe9\x1b[2J.png"}


def test_an_image_that_was_changed_is_not_skipped_in_silence(tmp_path, encoder, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert encode(file, "--out", out, "--model", encoder, *QUICK) == 0
    with Image.open(file) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(file)
    capsys.readouterr()
    message = fails(capsys, file, "--out", out, "--model", encoder, *QUICK)
    assert message.startswith(
        f"{out / 'a.safetensors'} was made of another image than {file} is now: --overwrite"
    )


def test_what_something_else_has_made_is_refused_and_what_does_not_say_so_is_skipped(
    tmp_path, encoder, capsys
):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    made = out / "a.safetensors"
    assert encode(file, "--out", out, "--model", encoder, *QUICK) == 0
    before = made.read_bytes()
    capsys.readouterr()
    other, copy = tmp_path / "other.safetensors", tmp_path / "copy.safetensors"
    gvit.save_model(gvit.create_model("gvit_tiny"), other)
    copy.write_bytes(encoder.read_bytes())
    digest = hashlib.sha256(encoder.read_bytes()).hexdigest()[:12]
    here = f"{made} was made by {encoder} ({digest}) with --looks 2 --max-side 768, not by "
    again = ": --overwrite makes it again, --out FOLDER writes elsewhere"
    for model, flags, named in (
        (other, QUICK, f"{other} ("),
        (encoder, (*QUICK[:2], "--looks", 3), "--looks 3 --max-side 768" + again),
        (encoder, (*QUICK, "--max-side", 10), "--looks 2 --max-side 10" + again),
    ):
        message = fails(capsys, file, "--out", out, "--model", model, *flags)
        assert message.startswith(here)
        assert named in message
    assert main(["fit", str(file), "--out", str(out), "--num-gaussians", "40"]) == 2
    assert "not by a fit: --overwrite" in capsys.readouterr().err
    assert made.read_bytes() == before
    assert encode(file, "--out", out, "--model", copy, *QUICK) == 0
    gvit.Gaussians.load(made).save(made)  # as a fit, or an older gvit, writes it
    assert encode(file, "--out", out, "--model", other, *QUICK) == 0
    assert capsys.readouterr().out.count("skipped") == 2


def test_one_bad_file_does_not_cost_the_others(tmp_path, encoder, capsys):
    write(tmp_path / "in" / "b.png")
    bad = tmp_path / "in" / "a.png"
    bad.write_text("text")
    assert encode(tmp_path / "in", "--out", tmp_path / "out", "--model", encoder, *QUICK) == 2
    printed = capsys.readouterr()
    assert printed.err == f"gvit: error: {bad}: not an image file\n"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"b.safetensors", "b.png"}
    assert printed.out.splitlines()[-1].startswith("1 image by ")


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, encoder, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    model = ("--model", encoder)
    for flag in ("--num-gaussians", "--looks", "--max-side"):
        assert fails(capsys, file, "--out", out, *model, flag, 0) == f"{flag} must be at least 1, got 0"
    for flag, value in {"--num-gaussians": "10,000,000", "--looks": "10,000"}.items():
        assert f"{flag} must be at least 1 and at most {value}, got 1" in fails(
            capsys, file, *model, flag, 10**20
        )
    for flag in ("--dataset", "--data-dir", "--shard-size", "--batch-size", "--workers"):
        value = tmp_path if flag == "--data-dir" else 3
        message = fails(capsys, file, "--out", out, *model, "--format", "files", flag, value)
        assert message == f"{flag} is for a set: --format safetensors or parquet"
    message = fails(capsys, file, "--out", out, *model, "--view", "crop", "--max-side", 40)
    assert message == "--max-side is for whole images: --view whole"
    assert "no images given" in fails(capsys, "--out", out, *model)
    assert "no such file" in fails(capsys, tmp_path / "gone.png", "--out", out, *model)
    assert "nearest: digits" in fails(capsys, file, "--out", out, "--model", "digts")
    twice = fails(capsys, "digits", file, "--out", out, *model)
    assert twice == f"digits and --model {encoder} are two models; name one"
    assert fails(capsys, file, "--out", tmp_path, *model).startswith(
        f"{file} is an image and would be replaced"
    )
    path = tmp_path / "model.safetensors"
    for name, found in {
        "gvit_tiny_denoising": "its encoder draws 32 Gaussians of 32x32 pixels only",
        "vit_tiny_patch8": "the model has no encoder",
    }.items():
        gvit.save_model(gvit.create_model(name), path)
        message = fails(capsys, file, "--out", out, "--model", path)
        assert message.startswith(f"--model {path}: {found}; ")
        assert message.endswith("; --view crop encodes squares with this one") is ("pixels only" in found)
    write(tmp_path / "more" / "a.png")
    assert "two --out folders" in fails(capsys, file, tmp_path / "more" / "a.png", "--out", out, *model)
    assert not out.exists()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_images_of_any_shape(tmp_path, encoder, size, capsys):
    file = write(tmp_path / "a.png", size)
    assert encode(file, "--out", tmp_path / "out", "--model", encoder, *QUICK, "--max-side", 50) == 0
    with Image.open(tmp_path / "out" / "a.png") as picture:
        assert picture.size == size
    assert "nan" not in capsys.readouterr().out


def test_what_is_encoded_can_be_fitted_on_read_and_trained_on(tmp_path, encoder):
    """The files are those of gvit fit."""
    for name in ("cat", "dog"):
        for number in range(5):
            write(tmp_path / "in" / name / f"{number}.png", seed=number)
    out = tmp_path / "out"
    assert encode(tmp_path / "in", "--out", out, "--model", encoder, *QUICK) == 0
    flags = ["--epochs", 1, "--batch-size", 4, "--out", tmp_path / "run"]
    assert main(["train", "gaussians", "--data-dir", str(out), *map(str, flags)]) == 0
    assert main(["predict", str(tmp_path / "run"), str(out / "cat" / "0.safetensors")]) == 0


def test_without_a_model_the_general_encoder_draws(tmp_path, capsys):
    file = write(tmp_path / "a.png", (64, 48))
    assert encode(file, "--out", tmp_path / "out", "--num-gaussians", 100) == 0
    assert "1 image by gvit_tiny.photos" in capsys.readouterr().out
