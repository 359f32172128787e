"""``gvit fit`` as a person meets it."""

import errno
import json
import os
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import gvit
from gvit import files
from gvit.cli import main
from gvit.data.convert import as_pixels
from gvit.errors import InputError
from gvit.fitting.frames import count_frames, open_frames
from gvit.fitting.image_files import FIT_ENDINGS, fit_files, write_fit
from gvit.fitting.optimise import Fit
from gvit.losses import ms_ssim, psnr
from gvit.targets import Target, plan_targets
from gvit.viewing.figures import fit_figure

QUICK = ("--num-gaussians", 12, "--steps", 3)


def run(*args: object) -> int:
    return main(["fit", *map(str, args)])


def write(path, size=(20, 14), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def fails(capsys, *args: object) -> str:
    assert run(*args) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: error: ")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err.removeprefix("gvit: error: ").strip()


def test_three_files_per_image_and_a_line(tmp_path, capsys):
    a, b = write(tmp_path / "in" / "a.png"), write(tmp_path / "in" / "cat" / "b.jpg", (14, 20))
    out = tmp_path / "out"
    assert run(tmp_path / "in", "--out", out, *QUICK) == 0
    made = {str(file.relative_to(out)) for file in out.rglob("*.*")}
    endings = (".safetensors", ".png", "-fit.png")
    assert made == {name + ending for name in ("a", "cat/b") for ending in endings}
    gaussians = gvit.Gaussians.load(out / "cat" / "b.safetensors")
    assert gaussians.raw.shape == (12, 9)
    assert gaussians.aspect == pytest.approx(20 / 14)
    drawn = (gvit.render(gaussians, 20, 14) * 255).round().byte().permute(1, 2, 0).numpy()
    with Image.open(out / "cat" / "b.png") as picture:
        assert np.array_equal(np.asarray(picture), drawn)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(a), str(b)]
    assert all(" dB  " in line and line.count(" s  ") == 1 for line in lines)


def test_the_command_fits_as_the_function_does(tmp_path):
    """Also in a batch with an image of the same size."""
    files = [write(tmp_path / "in" / f"{seed}.png", seed=seed) for seed in range(3)]
    assert run(*files, "--out", tmp_path, *QUICK, "--batch-size", 2, "--seed", 5, "--init", "grid") == 0
    image = torch.from_numpy(np.array(Image.open(files[1]))).permute(2, 0, 1)[None] / 255
    expected = gvit.fit(image, 12, 3, "grid", seed=5).gaussians[0].raw
    torch.testing.assert_close(
        gvit.Gaussians.load(tmp_path / "1.safetensors").raw, expected, rtol=1e-3, atol=1e-3
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A file of a model whose encoder draws any number, with weights that move what it begins with."""
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny")
    torch.nn.init.normal_(model.encoder.head.weight, std=0.02)
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    gvit.save_model(model, path)
    return path


def test_a_start_is_what_an_encoder_draws_of_each_image(tmp_path, encoder, capsys):
    """At the image's own size and aspect, all that are wanted or half of them; what is fitted stays so."""
    files = [write(tmp_path / "in" / f"{seed}.png", seed=seed) for seed in range(2)]
    for start, drawn_first, flags in ((encoder, 6, ()), (encoder.parent, 12, ["--no-adaptive"])):
        out = tmp_path / start.name
        assert run(*files, "--out", out, *QUICK, "--start", start, *flags) == 0
        for file in files:
            image = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
            drawn = gvit.load_model(encoder).encode(image, num_gaussians=drawn_first)
            expected = gvit.fit(image, 12, 3, drawn, adaptive=not flags).gaussians[0]
            found = gvit.Gaussians.load(out / f"{file.stem}.safetensors")
            assert found.scale_factor == expected.scale_factor
            torch.testing.assert_close(found.raw, expected.raw, rtol=1e-3, atol=5e-3)
    capsys.readouterr()
    assert run(*files, "--out", out, *QUICK, "--start", encoder) == 0
    assert capsys.readouterr().out.count("skipped") == 2


def test_a_model_that_cannot_start_a_fit_says_so_in_a_line(tmp_path, encoder, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    path = tmp_path / "model.safetensors"
    cannot = {
        "gvit_tiny_denoising": "its encoder draws 32 Gaussians of 32x32 pixels only",
        "vit_tiny_patch8": "the model has no encoder",
    }
    for name, found in cannot.items():
        gvit.save_model(gvit.create_model(name), path)
        assert fails(capsys, file, "--out", out, "--start", path).startswith(f"--start {path}: {found}; ")
    assert "no run here" in fails(capsys, file, "--out", out, "--start", tmp_path / "gone")
    for init in ("grid", "gradient"):
        both = fails(capsys, file, "--out", out, "--start", encoder, "--init", init)
        assert both == f"--init {init} and --start {encoder} are two places to begin; give one"
    assert not out.exists()


def test_another_image_of_the_same_name_is_not_taken_for_the_one_that_is_fitted(tmp_path, capsys):
    first, same = write(tmp_path / "a" / "1.png"), write(tmp_path / "c" / "1.png")
    other, out = write(tmp_path / "b" / "1.png", seed=1), tmp_path / "out"
    assert run(first, "--out", out, *QUICK) == 0
    before = {file: file.read_bytes() for file in out.iterdir()}
    capsys.readouterr()
    assert fails(capsys, other, "--out", out, *QUICK) == (
        f"{out / '1.safetensors'} was made of another image than {other} is now: --overwrite makes it again, "
        "--out FOLDER writes elsewhere"
    )
    assert {file: file.read_bytes() for file in out.iterdir()} == before
    assert run(same, "--out", out, *QUICK) == 0  # the same picture elsewhere
    assert capsys.readouterr().out.count("skipped") == 1
    assert run(other, "--out", out, *QUICK, "--overwrite") == 0
    assert (out / "1.safetensors").read_bytes() != before[out / "1.safetensors"]


def test_an_image_that_is_replaced_while_it_is_fitted_is_fitted_again(tmp_path, capsys):
    file, out = write(tmp_path / "1.png"), tmp_path / "out"

    def replaced(images):
        write(file, seed=1)
        return gvit.fit(images, 12, 3)

    (fitted,) = fit_files(plan_targets([file], out, FIT_ENDINGS), replaced)
    write_fit(fitted)
    assert "was made of another image than" in fails(capsys, file, "--out", out, *QUICK)


def test_what_is_fitted_is_skipped_unless_overwritten(tmp_path, capsys):
    first = write(tmp_path / "in" / "a.png")
    out = tmp_path / "out"
    assert run(first, "--out", out, *QUICK) == 0
    before = (out / "a.safetensors").read_bytes()
    second = write(tmp_path / "in" / "b.png", seed=1)
    capsys.readouterr()
    assert run(tmp_path / "in", "--out", out, *QUICK, "--seed", 1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{first}  skipped: {out / 'a.safetensors'} is there")
    assert lines[1].startswith(f"{second}  ")
    assert (out / "a.safetensors").read_bytes() == before
    assert run(first, "--out", out, *QUICK, "--seed", 1, "--overwrite") == 0
    assert (out / "a.safetensors").read_bytes() != before
    # a set of images with different numbers of Gaussians would be no data set
    third = write(tmp_path / "in" / "c.png", seed=2)
    capsys.readouterr()
    assert run(first, third, "--out", out, "--num-gaussians", 13, "--steps", 3) == 2
    assert "a.safetensors has 12 Gaussians, not 13: --num-gaussians 12 goes on" in capsys.readouterr().err
    (out / "a.safetensors").write_bytes(b"damaged")
    assert run(first, third, "--out", out, *QUICK) == 2
    assert "a.safetensors: not a file of Gaussians" in capsys.readouterr().err
    assert not (out / "c.safetensors").exists()


def test_names_that_are_no_text_are_escaped_and_their_results_are_read_again(tmp_path, capsys):
    file, out = write(tmp_path / os.fsdecode(b"caf\xe9\x1b[2J.png")), tmp_path / "out"
    assert run(file, "--out", out, *QUICK) == 0
    shown = rf"{tmp_path}/caf\udce9\x1b[2J.png  "
    assert capsys.readouterr().out.startswith(shown)
    assert {made.name for made in out.iterdir()} == {
        f"caf\\xe9\x1b[2J{ending}" for ending in (".safetensors", ".png", "-fit.png")
    }
    assert run(file, "--out", out, *QUICK) == 0
    assert capsys.readouterr().out.startswith(shown + "skipped: ")
    nowhere = tmp_path / os.fsdecode(b"\xe9")
    assert "a folder whose name is not UTF-8" in fails(capsys, file, "--out", nowhere, *QUICK)
    assert not nowhere.exists()


def test_where_results_cannot_be_written_the_former_ones_stay(tmp_path, monkeypatch, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert run(file, "--out", out, *QUICK) == 0
    before = {made.name: made.read_bytes() for made in out.iterdir()}
    again = (file, "--out", out, *QUICK, "--seed", 1, "--overwrite")
    to_disk = files._to_disk

    def full(path):
        if path.name.startswith("a.safetensors"):  # the last one
            raise OSError(errno.ENOSPC, "No space left on device")
        to_disk(path)

    monkeypatch.setattr(files, "_to_disk", full)
    assert fails(capsys, *again) == f"{out / 'a.safetensors'}: cannot be written (No space left on device)"

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gvit.targets.save_figure", interrupted)
    assert run(*again) == 130
    assert {made.name: made.read_bytes() for made in out.iterdir()} == before


def test_gaussians_are_not_left_beside_a_picture_that_replaces_theirs(tmp_path, monkeypatch):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert run(file, "--out", out, *QUICK) == 0
    put = files._put

    def killed(partial, path):
        put(partial, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "_put", killed)
    assert run(file, "--out", out, *QUICK, "--seed", 1, "--overwrite") == 130
    assert {made.name for made in out.iterdir()} == {"a.png", "a-fit.png"}


def test_no_more_images_than_a_batch_are_held(tmp_path, monkeypatch):
    """Of forty sizes, three images each; counted while they are alive."""
    targets = [
        Target(write(tmp_path / f"{size}-{seed}.png", (12 + size, 12), seed), tmp_path / f"{size}-{seed}")
        for seed in range(3)
        for size in range(40)
    ]
    alive, most = weakref.WeakSet(), []

    def read(path):
        pixels = as_pixels(path)
        alive.add(pixels)
        most.append(len(alive))
        return pixels

    def fit_images(images):
        return Fit(gvit.Gaussians(torch.zeros(len(images), 1, 9)), torch.zeros(len(images)))

    monkeypatch.setattr("gvit.fitting.image_files.as_pixels", read)
    done = [fitted.target.name for fitted in fit_files(targets, fit_images, batch_size=2)]
    assert sorted(done) == sorted(target.name for target in targets)
    assert max(most) <= 3  # a batch, and the last one of the batch before, which its user still has


def test_images_that_lie_on_their_side_or_have_alpha_share_no_batch(tmp_path):
    """The header has the same size for all of them."""
    upright = write(tmp_path / "in" / "a.png", (20, 14))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(upright).save(tmp_path / "in" / "b.png", exif=exif)
    Image.open(upright).convert("RGBA").rotate(30).save(tmp_path / "in" / "c.png")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *QUICK) == 0
    aspects = {name: gvit.Gaussians.load(tmp_path / "out" / f"{name}.safetensors").aspect for name in "abc"}
    assert aspects == pytest.approx({"a": 0.7, "b": 1 / 0.7, "c": 0.7})


def test_transparency_lies_over_the_background(tmp_path, capsys):
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[4:12, 4:12] = (255, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "logo.png")
    flags = ("--num-gaussians", 30, "--steps", 60, "--background", "white")
    assert run(tmp_path / "logo.png", "--out", tmp_path / "out", *flags) == 0
    drawn = np.asarray(Image.open(tmp_path / "out" / "logo.png"))
    assert drawn[0, 0].min() > 240
    assert drawn[8, 8, 0] > 200
    assert drawn[8, 8, 1] < 60
    flags = (*QUICK, "--background", "whit")
    assert "--background must be a colour's name" in fails(capsys, tmp_path / "logo.png", *flags)


def test_what_nobody_can_read_is_counted_once(tmp_path, capsys):
    write(tmp_path / "in" / "a.png")
    for name in ("b.heic", "c.HEIC", "d.pdf", "e.txt", "._b.heic"):
        (tmp_path / "in" / name).touch()
    (tmp_path / "in" / "f.raw").mkdir()
    assert run(tmp_path / "in", "--out", tmp_path / "out", *QUICK) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gvit: warning: 2 .heic, 1 .pdf are left out: ")
    (tmp_path / "in" / "a.png").unlink()
    assert run(tmp_path / "in", "--out", tmp_path / "out", *QUICK) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_fit_without_its_gaussians_was_interrupted_and_is_done_again(tmp_path):
    file = write(tmp_path / "in" / "a.png")
    assert run(file, "--out", tmp_path, *QUICK) == 0
    (tmp_path / "a.safetensors").unlink()
    for name in ("a.safetensors", "a.png", "a-fit.png", "b.png"):
        (tmp_path / f"{name}.99999999-0123abcd.partial").touch()
    assert run(file, "--out", tmp_path, *QUICK) == 0
    assert (tmp_path / "a.safetensors").exists()
    assert [left.name for left in tmp_path.glob("*.partial")] == ["b.png.99999999-0123abcd.partial"]


def test_images_that_would_overwrite_each_others_results(tmp_path, capsys):
    a, b = write(tmp_path / "in" / "a.png"), write(tmp_path / "in" / "a.jpg")
    out = tmp_path / "out"
    message = fails(capsys, a, b, "--out", out)
    assert str(a) in message
    assert str(b) in message
    assert "two --out folders" in message
    c = write(tmp_path / "in" / "a-fit.png")  # the picture of one, the figure of the other
    assert "a-fit.png" in fails(capsys, a, c, "--out", out)
    assert not out.exists()


def test_results_are_no_images_to_fit(tmp_path, capsys):
    file = write(tmp_path / "a.png")
    out = tmp_path / "fits"
    assert run(tmp_path, "--out", out, *QUICK) == 0
    assert [target.source for target in plan_targets([tmp_path], out)] == [file]
    assert "holds the images" in fails(capsys, tmp_path, "--out", tmp_path)


def test_a_pattern_that_reaches_into_the_results_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(2):
        write(tmp_path / "in" / f"{number}.png", seed=number)
    for skipped in (0, 2):
        assert run("**/*.png", *QUICK) == 0
        assert capsys.readouterr().out.count("skipped") == skipped
    # somebody's own image there is one of them
    write(tmp_path / "fits" / "own" / "3.png", seed=3)
    assert run("**/*.png", *QUICK) == 0
    assert (tmp_path / "fits" / "3.safetensors").exists()
    # beside images of another format there is room
    assert run("in/*.png", "--out", "jpg", *QUICK) == 0
    write(tmp_path / "jpg" / "2.jpg")
    assert run("jpg/*.jpg", "--out", "jpg", *QUICK) == 0
    assert (tmp_path / "jpg" / "2.safetensors").exists()


def test_a_loop_of_links_in_a_folder_is_an_image_that_cannot_be_read(tmp_path, capsys):
    folder = tmp_path / "in"
    write(folder / "a.png")
    for suffix in (".jpg", ".heic"):
        (folder / f"loop{suffix}").symlink_to(folder / f"loop{suffix}")
    assert run(folder, "--out", tmp_path / "fits", *QUICK) == 2
    assert "loop.jpg: cannot be read as an image" in capsys.readouterr().err
    assert (tmp_path / "fits" / "a.safetensors").is_file()


def test_results_are_replaced_also_where_the_gaussians_are_gone(tmp_path):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert run(file, "--out", out, *QUICK) == 0
    (out / "a.safetensors").unlink()  # as if it had been interrupted before them
    assert run(file, "--out", out, *QUICK) == 0
    assert (out / "a.safetensors").exists()


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 7), (3, 100)])
def test_images_of_few_rows_are_images(tmp_path, shape):
    file, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    assert run(file, "--out", tmp_path / "out", *QUICK) == 0
    with Image.open(tmp_path / "out" / "a.png") as drawn:
        assert drawn.size == shape[::-1]
    assert torch.equal(as_pixels(file), torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_a_fit_that_diverges_is_one_line(tmp_path, capsys):
    file = write(tmp_path / "a.png")
    line = fails(capsys, file, "--out", tmp_path / "out", *QUICK, "--ssim-weight", 1e300)
    assert line.startswith(f"{file}: the fit diverged (")
    assert line.endswith("; lower --ssim-weight")
    assert not list((tmp_path / "out").glob("*"))


def test_weights_are_not_replaced_by_gaussians(tmp_path, capsys):
    file, weights = write(tmp_path / "a.png"), tmp_path / "out" / "a.safetensors"
    weights.parent.mkdir()
    save_file({"weight": torch.zeros(2)}, weights)
    before = weights.read_bytes()
    for flag in ([], ["--overwrite"]):
        line = fails(capsys, file, "--out", weights.parent, *QUICK, *flag)
        assert line == f"{weights} is there and was not written by gvit; move it, or choose another --out"
    assert weights.read_bytes() == before
    weights.write_bytes(b"damaged")
    assert run(file, "--out", weights.parent, *QUICK, "--overwrite") == 0


def test_no_image_is_replaced(tmp_path, capsys):
    file = write(tmp_path / "a.png")
    before = file.read_bytes()
    assert fails(capsys, file, "--out", tmp_path).startswith(f"{file} is an image and would be replaced")
    assert file.read_bytes() == before
    other = write(tmp_path / "b-fit.png")
    assert fails(capsys, write(tmp_path / "b.jpg"), "--out", tmp_path, *QUICK) == (
        f"{other} is there and was not written by gvit; move it, or choose another --out"
    )
    other.unlink()
    # beside a file of another format there is room
    assert [target.picture_file for target in plan_targets([write(tmp_path / "b.jpg")], tmp_path)] == [
        tmp_path / "b.png"
    ]


def test_one_bad_file_does_not_cost_the_others(tmp_path, capsys):
    write(tmp_path / "in" / "a.png")
    bad = tmp_path / "in" / "b.png"
    bad.write_text("text")
    assert run(tmp_path / "in", "--out", tmp_path / "out", *QUICK) == 2
    assert capsys.readouterr().err == f"gvit: error: {bad}: not an image file\n"
    assert (tmp_path / "out" / "a.safetensors").exists()


def test_bad_input_is_one_line_and_writes_nothing(tmp_path, capsys):
    file, out = write(tmp_path / "a.png"), tmp_path / "out"
    assert "nearest: gradient" in fails(capsys, file, "--out", out, "--init", "gradiant")
    assert fails(capsys, file, "--out", out, "--steps", 0) == "--steps must be at least 1, got 0"
    assert "--num-gaussians must be" in fails(capsys, file, "--out", out, "--num-gaussians", 0)
    assert "at most 10,000,000" in fails(capsys, file, "--out", out, "--num-gaussians", 10**20)
    assert fails(capsys, file, "--out", out, "--num-gaussians", 2**20 + 1, "--bits", 6) == (
        "--bits is for at most 1,048,576 Gaussians an image, got --num-gaussians 1048577"
    )
    assert "unknown loss" in fails(capsys, file, "--out", out, "--loss", "l2")
    assert "no such file" in fails(capsys, tmp_path / "gone.png", "--out", out)
    assert "11x11" in fails(capsys, write(tmp_path / "b.png", (8, 8)), "--out", out, "--ssim-weight", 0.1)
    assert not out.exists()
    (tmp_path / "file").touch()
    assert "cannot write results here" in fails(capsys, file, "--out", tmp_path / "file" / "x", *QUICK)


def test_without_an_image_a_photograph_is_fitted(tmp_path, monkeypatch):
    # the one figure of this file that is drawn
    monkeypatch.setattr("gvit.fitting.image_files.fit_figure", fit_figure)
    assert run("--out", tmp_path, "--num-gaussians", 30, "--steps", 1) == 0
    with Image.open(tmp_path / "astronaut-fit.png") as figure:
        assert figure.width > 2.5 * figure.height


def test_a_pipe_is_refused_where_it_would_be_waited_for(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    target = Target(pipe, tmp_path / "out")
    (found,) = fit_files([target], lambda images: pytest.fail("there is nothing to fit"))
    assert isinstance(found, InputError)
    assert "not a file" in str(found)
    assert count_frames(pipe) == 1
    with pytest.raises(InputError, match="not a file"):
        next(open_frames(pipe))


def test_bits_are_kept_and_told(tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (176, 180, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    command = ["fit", str(tmp_path / "a.png"), "--out", str(tmp_path / "fits"), "--num-gaussians", "40"]
    assert main([*command, "--steps", "3", "--bits", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    file = tmp_path / "fits" / "a.safetensors"
    assert told["bytes"] == file.stat().st_size < 700
    assert told["bits_per_pixel"] == 8 * told["bytes"] / (176 * 180)
    image = as_pixels(tmp_path / "a.png")
    drawn = gvit.render(gvit.Gaussians.load(file), 176, 180)
    assert told["psnr"] == pytest.approx(psnr(drawn, image).item(), abs=1e-3)
    assert told["ms_ssim"] == pytest.approx(ms_ssim(drawn, image).item(), abs=1e-4)
    # with the same bits it goes on, with others it is refused
    assert main([*command, "--bits", "5", "--json"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "skipped" in said.err
    for others in (["--bits", "6"], []):
        assert main([*command, *others]) == 2
        assert "a.safetensors has --bits 5: --bits 5 goes on, --overwrite makes" in capsys.readouterr().err
