"""Animations."""

import itertools
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.errors import InputError
from gvit.fitting.frames import count_frames, fit_frames, open_frames
from gvit.fitting.image_files import FIT_ENDINGS, write_fit

NUM, STEPS = 40, 60


def frames(count: int = 4) -> list[Image.Image]:
    """A red square that moves by two pixels a frame, over a blue ground."""
    made = []
    for i in range(count):
        pixels = np.full((24, 32, 3), (0, 0, 90), np.uint8)
        pixels[8:16, 4 + 2 * i : 12 + 2 * i] = (250, 40, 0)
        made.append(Image.fromarray(pixels))
    return made


def animate(path, count: int = 4):
    first, *others = frames(count)
    first.save(path, save_all=True, append_images=others, duration=100, lossless=True)
    return path


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_frames_are_what_is_shown(tmp_path, suffix):
    path = animate(tmp_path / f"a.{suffix}")
    assert count_frames(path) == 4
    for found, expected in zip(open_frames(path), frames(), strict=True):
        difference = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(expected, int))
        assert difference.max() <= (8 if suffix == "gif" else 0)  # a palette of 256
    assert len(list(open_frames(path, 3))) == 1


def test_a_picture_for_who_shows_no_animations_is_no_frame(tmp_path):
    hidden, path = Image.new("RGB", (32, 24), "white"), tmp_path / "a.png"
    hidden.save(path, save_all=True, append_images=frames(), default_image=True)
    assert count_frames(path) == 4
    for found, expected in zip(open_frames(path), frames(), strict=True):
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(expected))
    assert len(list(open_frames(path, 3))) == 1


def test_no_more_frames_are_counted_than_there_can_be(tmp_path):
    path = animate(tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    chunk = content.index(b"acTL")
    struct.pack_into(">I", content, chunk + 4, 2**31)
    struct.pack_into(">I", content, chunk + 12, zlib.crc32(content[chunk : chunk + 12]))
    path.write_bytes(content)
    assert 4 < count_frames(path) <= len(content) / 38
    with pytest.raises(InputError, match=r"a\.png: frame 4 cannot be read"):
        list(open_frames(path))


def test_a_gaussian_keeps_its_index():
    """Each frame begins with the numbers of the one before, and none takes another's place."""
    fits = list(fit_frames(frames(), NUM, STEPS))
    for before, after in itertools.pairwise(fits):
        for name in ("scale_factor", "nominal_count", "aspect"):
            assert getattr(after.gaussians, name) == getattr(before.gaussians, name)
        moved = (after.gaussians.centers - before.gaussians.centers).norm(dim=-1)[0]
        # anybody else is further away: the mean distance of two of them is about half of the canvas
        assert moved.median() < 0.15
        shuffled = (after.gaussians.centers - before.gaussians.centers.roll(1, 1)).norm(dim=-1)[0]
        assert shuffled.median() > 3 * moved.median()
    expected = gvit.fit(
        frames()[1],
        None,
        STEPS // 2,
        fits[0].gaussians,
        adaptive=False,
        scale_factor=fits[0].gaussians.scale_factor,
    )
    torch.testing.assert_close(fits[1].gaussians.raw, expected.gaussians.raw)
    assert min(fitted.psnr.item() for fitted in fits) > 30


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [torch.rand(3, 16, 16), torch.rand(3, 16, 20)],
            "frame 1 is 20x16 pixels, but the frames before it are 16x16",
        ),
        ("an.gif", "got the name 'an.gif'; open_frames reads"),
        (Path("an.gif"), "got the name 'an.gif'; open_frames reads"),
    ],
)
def test_what_is_no_sequence_of_frames_is_refused(images, message, unchecked):
    with pytest.raises(InputError, match=message):
        list(fit_frames(images, 5, 2))


def test_a_photograph_with_a_preview_in_it_is_no_animation(tmp_path):
    first, second = (frame.resize(size) for frame, size in zip(frames(2), ((32, 24), (16, 12)), strict=True))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    with Image.open(tmp_path / "a.jpg") as file:
        assert file.n_frames == 2
    assert count_frames(tmp_path / "a.jpg") == 1


def test_frames_replace_nothing_that_gvit_did_not_write(tmp_path, capsys):
    path, folder = animate(tmp_path / "a.gif"), tmp_path / "a-frames"
    folder.mkdir()
    first, *_ = frames()
    first.save(folder / "00002.png")  # as ffmpeg takes an animation apart
    before = (folder / "00002.png").read_bytes()
    assert run(path, "--frames", "--out", tmp_path) == 2
    assert "a-frames/00002.png is there and was not written by gvit" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == ["00002.png"]
    assert (folder / "00002.png").read_bytes() == before
    (folder / "00002.png").rename(folder / "00000.bmp")
    assert (
        run(tmp_path, "--frames", "--out", tmp_path / "out") == 2
    )  # its first frame is what the other would be
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_files_of_a_video_come_by_their_numbers_and_have_one_size(tmp_path, capsys):
    folder = tmp_path / "video"
    folder.mkdir()
    for number in (1, 2, 10):
        frames()[0].save(folder / f"f{number}.png")
    assert run(folder, "--out", tmp_path / "out", "--sequence", "--json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [Path(json.loads(line)["source"]).stem for line in lines] == ["f1", "f2", "f10"]
    frames()[0].resize((16, 24)).save(folder / "f11.png")
    assert run(folder, "--out", tmp_path / "out", "--sequence") == 2
    assert "f11.png: is 16x24 pixels, but the frames before it are 32x24" in capsys.readouterr().err


def test_frames_are_upright(tmp_path):
    first, *others = frames()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned to the right
    first.save(tmp_path / "a.webp", save_all=True, append_images=others, lossless=True, exif=exif)
    shown = list(open_frames(tmp_path / "a.webp"))
    assert [frame.size for frame in shown] == [(24, 32)] * 4
    expected = first.transpose(Image.Transpose.ROTATE_270).convert("RGB")
    assert np.array_equal(np.array(shown[0].convert("RGB")), np.array(expected))


def test_an_animation_whose_fit_diverges_and_a_narrow_one(tmp_path, capsys):
    path = animate(tmp_path / "a.gif")
    assert (
        main(["fit", str(path), "--frames", "--out", str(tmp_path), "--steps", "5", "--ssim-weight", "1e300"])
        == 2
    )
    assert f"{path}: the fit diverged (" in capsys.readouterr().err
    small = [frame.resize((8, 8)) for frame in frames(2)]
    small[0].save(tmp_path / "s.gif", save_all=True, append_images=small[1:])
    assert run(tmp_path / "s.gif", "--frames", "--out", tmp_path, "--ssim-weight", 0.1) == 2
    assert capsys.readouterr().err.startswith(
        f"gvit: error: {tmp_path / 's.gif'}: --ssim-weight above 0 needs"
    )
    narrow = [frame.resize((3, 40)) for frame in frames(2)]
    narrow[0].save(tmp_path / "b.gif", save_all=True, append_images=narrow[1:])
    assert run(tmp_path / "b.gif", "--frames", "--out", tmp_path) == 0


def test_the_frame_whose_fit_diverges_is_named(tmp_path, capsys, monkeypatch):
    for number, frame in enumerate(frames(3)):
        frame.save(tmp_path / f"{number}.png")
    fits = []

    def diverges(*args, **settings):
        fits.append(None)
        if len(fits) == 2:
            raise ValueError("colors must be finite")
        return gvit.fit(*args, **settings)

    monkeypatch.setattr("gvit.fitting.frames.fit", diverges)
    assert run(tmp_path, "--sequence", "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.startswith(f"gvit: error: {tmp_path / '1.png'}: the fit diverged (")


def test_a_frame_of_other_numbers_is_named(tmp_path, capsys):
    first, second = (Image.fromarray(np.full((24, 32), value, np.float32)) for value in (0.5, 2))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    assert run(tmp_path / "a.tif", "--frames", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"gvit: error: {tmp_path / 'a.tif'}: frame 1 cannot be read (has numbers from 2 to 2"
    )


def test_an_interrupted_overwrite_leaves_no_frame_of_the_former_video(tmp_path, monkeypatch):
    path, out = animate(tmp_path / "a.gif"), tmp_path / "out" / "a-frames"
    assert run(path, "--frames", "--out", out.parent) == 0
    before = (out / "00000.safetensors").read_bytes()
    written = []

    def interrupted(*args):
        if written:
            raise KeyboardInterrupt
        written.append(write_fit(*args))
        return written[0]

    monkeypatch.setattr("gvit.fitting.image_files.write_fit", interrupted)
    assert run(path, "--frames", "--out", out.parent, "--seed", 1, "--overwrite") == 130
    assert [file.name for file in out.glob("*.safetensors")] == ["00000.safetensors"]
    assert (out / "00000.safetensors").read_bytes() != before


def test_overwriting_removes_the_frames_that_an_animation_no_longer_has(tmp_path):
    path, folder = animate(tmp_path / "a.gif"), tmp_path / "a-frames"
    assert run(path, "--frames", "--out", tmp_path) == 0
    animate(path, 2)
    for name in ("00003.png", "00007.png"):  # taken apart by something else
        frames()[0].save(folder / name)
    (folder / "000002.png").write_bytes((folder / "00002.png").read_bytes())  # a name of nobody here
    assert run(path, "--frames", "--out", tmp_path, "--overwrite") == 0
    ours = {f"0000{number}{ending}" for number in range(2) for ending in FIT_ENDINGS}
    assert {file.name for file in folder.iterdir()} == ours | {"00003.png", "00007.png", "000002.png"}


def test_the_picture_beside_an_animation_is_in_nobodys_way(tmp_path):
    path = animate(tmp_path / "loop.gif", 2)
    frames()[0].save(tmp_path / "loop.png")
    assert run(path, tmp_path / "loop.png", "--frames", "--out", tmp_path / "out") == 0
    assert len(list((tmp_path / "out").rglob("*.safetensors"))) == 3


def run(*args) -> int:
    return main(["fit", *map(str, args), "--num-gaussians", str(NUM), "--steps", "20"])


def test_the_command_fits_frames_and_goes_on(tmp_path, capsys):
    path = animate(tmp_path / "a.gif")
    frames()[0].save(tmp_path / "still.png")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(path, tmp_path / "still.png", "--out", whole, "--frames") == 0
    names = [f"{number:05}" for number in range(4)]
    assert sorted(file.stem for file in whole.glob("a-frames/*.safetensors")) == names
    assert (whole / "still.safetensors").exists()
    assert not (whole / "a.safetensors").exists()
    assert run(path, "--out", cut, "--frames") == 0
    (cut / "a-frames" / "00002.safetensors").unlink()
    capsys.readouterr()
    assert run(path, "--out", cut, "--frames", "--json") == 0
    told = capsys.readouterr()
    assert [Path(json.loads(line)["gaussians"]).stem for line in told.out.splitlines()] == names[2:]
    assert told.err.count("skipped") == 2  # the last frame comes from the one that was missing
    for name in names:
        expected = gvit.Gaussians.load(whole / "a-frames" / f"{name}.safetensors").raw
        torch.testing.assert_close(
            gvit.Gaussians.load(cut / "a-frames" / f"{name}.safetensors").raw, expected, rtol=1e-3, atol=1e-3
        )
    # without the flag it is a picture as any other
    assert run(path, "--out", tmp_path / "first") == 0
    assert [file.name for file in (tmp_path / "first").glob("*.safetensors")] == ["a.safetensors"]


def test_files_are_frames_of_one_video(tmp_path, capsys):
    """As those of an animation, goes on after the last one that is there, quantised or not."""
    folder = tmp_path / "video"
    folder.mkdir()
    for number, frame in enumerate(frames()):
        frame.save(folder / f"{number:05}.png")
    animate(tmp_path / "a.png")
    for bits in ([], ["--bits", "6"]):
        out, animated = tmp_path / f"out{len(bits)}", tmp_path / f"animated{len(bits)}"
        assert run(folder, "--out", out, "--sequence", *bits) == 0
        assert run(tmp_path / "a.png", "--out", animated, "--frames", *bits) == 0
        expected = {
            file.name: gvit.Gaussians.load(file).raw for file in animated.glob("a-frames/*.safetensors")
        }
        assert len(expected) == 4
        (out / "00003.safetensors").unlink()
        capsys.readouterr()
        assert run(folder, "--out", out, "--sequence", *bits) == 0
        assert capsys.readouterr().out.count("skipped") == 3
        for name, raw in expected.items():
            torch.testing.assert_close(gvit.Gaussians.load(out / name).raw, raw, rtol=1e-3, atol=1e-3)
    assert run(folder, "--out", tmp_path / "both", "--sequence", "--frames") == 2


def test_a_damaged_frame_is_named_and_the_others_stay(tmp_path, capsys):
    path = animate(tmp_path / "a.gif")
    path.write_bytes(path.read_bytes()[:-20])
    assert run(path, "--out", tmp_path / "out", "--frames") == 2
    assert capsys.readouterr().err.startswith(f"gvit: error: {path}: frame ")
    assert (tmp_path / "out" / "a-frames" / "00000.safetensors").exists()
    (tmp_path / "b.gif").write_text("no image")
    with pytest.raises(InputError, match="not an image file"):
        next(open_frames(tmp_path / "b.gif"))
