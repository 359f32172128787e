"""``gvit encode RUN SOURCE``: whole data sets, whatever interrupts it and however many processes there are."""

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from forked import Forked, forked
from gvit.cli import main
from gvit.cli.sets import _conclude, is_data_set
from gvit.data.images import open_image
from gvit.data.sources import Source, load_source
from gvit.encoding import ImageEncoder, begin_set, encode_set, images, plan_set, unlabelled
from gvit.errors import InputError
from gvit.gaussians.shards import MANIFEST_NAME, read_set, read_shard, write_shard
from gvit.losses import psnr
from pretrained_models import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run's weights, of a model with a classifier: 24 px, 20 Gaussians."""
    folder = tmp_path_factory.mktemp("run")
    model = trained(img_size=24, num_gaussians=20, looks=2, num_classes=2)
    gvit.save_model(model, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of 15 smooth images each, of several sizes, without a split."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(15):
            pixels = generator.integers(0, 256, (4, 4, 3), np.uint8)
            size = (30 + number, 40 - number)
            image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
            image.save(folder / name / f"{number}.png")
    return folder


def encode(*args: object) -> int:
    return main(["encode", *map(str, args)])


def fails(capsys, *args: object) -> str:
    capsys.readouterr()
    assert encode(*args) == 2
    error = capsys.readouterr().err
    assert error.startswith("gvit: error: ")
    assert error.count("\n") == 1, error
    return error


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def program(run: Path, photos: Path, out: Path) -> list[object]:
    return ["-m", "gvit", "encode", run, photos, "--out", out, "--shard-size", "4"]


@pytest.fixture(scope="module")
def whole(run, photos, tmp_path_factory) -> Path:
    """The set, by one process without an interruption."""
    out = tmp_path_factory.mktemp("whole")
    assert encode(run, photos, "--out", out, "--shard-size", 4) == 0
    return out


def test_names_labels_and_the_gaussians_of_the_evaluation(run, photos, whole):
    manifest, files = read_set(whole)
    assert (manifest.class_names, manifest.parts) == (["cat", "dog"], {"train": 24, "test": 6})
    assert [file.name for file in files["test"]] == [f"test-0000{i}-of-00002.safetensors" for i in (0, 1)]
    shards = [read_shard(file) for part in files.values() for file in part]
    names = [name for shard in shards for name in shard.names]
    assert sorted(names) == sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    model = gvit.load_model(run)
    for shard in shards:
        assert [manifest.class_names[label] for label in shard.labels] == [
            n.split("/")[0] for n in shard.names
        ]
        expected = model.encode(gvit.load_images([photos / name for name in shard.names], model))
        torch.testing.assert_close(torch.stack([shard[i].raw for i in range(len(shard))]), expected.raw)
        assert (shard[0].scale_factor, shard[0].nominal_count) == (expected.scale_factor, 20)


def test_gaussians_of_another_number_are_those_that_were_measured_and_a_set_that_says_otherwise_is_made_again(
    photos, tmp_path
):
    out = tmp_path / "set"
    asked = ("--out", out, "--num-gaussians", 60, "--looks", 3, "--max-side", 32)
    assert encode("gvit_tiny.photos", photos, "--dataset", "images", *asked) == 0
    (file,) = read_set(out)[1]["images"]
    shard = read_shard(file)
    for row, (height, width) in enumerate(shard.sizes[:3]):
        image = open_image(photos / shard.names[row])
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255
        drawn = gvit.render(shard[row][None], height, width).clamp(0, 1)
        assert psnr(drawn, pixels[None]).item() == pytest.approx(shard.psnr[row], abs=1e-3)
    written = file.read_bytes()
    # as gvit wrote it once
    write_shard(file, replace(shard, raw=torch.stack([g.raw for g in shard]), nominal_count=128))
    assert encode("gvit_tiny.photos", photos, "--dataset", "images", *asked) == 0
    assert file.read_bytes() == written


def test_killed_at_a_random_moment_and_started_again_the_shards_are_the_same_to_the_byte(
    run, photos, whole, tmp_path
):
    process = Forked(*program(run, photos, tmp_path))
    wanted, end = random.randrange(7), time.monotonic() + 120
    while len(list(tmp_path.glob("*.safetensors"))) < wanted or not (tmp_path / MANIFEST_NAME).exists():
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(0.02 * random.random())
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    assert encode(run, photos, "--out", tmp_path, "--shard-size", 4) == 0
    assert contents(tmp_path) == contents(whole)
    assert all(file.stat().st_mtime_ns == written for file, written in done.items())  # not made again


def test_two_processes_and_loading_workers_make_the_same_files(run, photos, whole, tmp_path):
    printed = forked(*program(run, photos, tmp_path / "two"), processes=2)
    assert "30 images in 8 files" in printed
    assert contents(tmp_path / "two") == contents(whole)
    assert encode(run, photos, "--out", tmp_path / "one", "--shard-size", 4, "--workers", 2) == 0
    assert contents(tmp_path / "one") == contents(whole)


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_both_formats_hold_the_same_and_can_be_trained_on(run, photos, whole, tmp_path, form):
    out = tmp_path / "set"
    assert encode(run, photos, "--out", out, "--shard-size", 7, "--format", form, "--half") == 0
    manifest, files = read_set(out)
    assert (manifest.dtype, len(files["train"])) == ("float16", 4)
    halves = {
        name: shard[i]
        for file in files["test"]
        for shard in [read_shard(file)]
        for i, name in enumerate(shard.names)
    }
    for file in read_set(whole)[1]["test"]:
        shard = read_shard(file)
        for row, name in enumerate(shard.names):
            drawn, exact = gvit.render(halves[name], 24, 24), gvit.render(shard[row], 24, 24)
            assert (drawn - exact).abs().max() < 0.02
    flags = ["--data-dir", out, "--epochs", 1, "--batch-size", 8, "--out", tmp_path / "run"]
    assert main(["train", "gaussians", *map(str, flags)]) == 0
    assert list(gvit.load_model(tmp_path / "run").card.class_names) == ["cat", "dog"]


def test_encode_then_render_gives_the_psnr_of_evaluate_and_16_bits_cost_little(tmp_path, capsys):
    """With the shipped model of digits, on test images of half of them."""
    flags = ["--epochs", 0.1, "--min-crop", 1, "--out", tmp_path / "run"]
    assert main(["finetune", "digits", "--dataset", "digits_5_9", *map(str, flags)]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    expected = json.loads((tmp_path / "run" / "evaluation.json").read_text())["psnr"]
    for name, extra in (("full", ()), ("half", ("--half",))):
        assert encode(tmp_path / "run", "digits_5_9", "--out", tmp_path / name, *extra) == 0
        shards = [read_shard(file) for file in read_set(tmp_path / name)[1]["test"]]
        told = [value for shard in shards for value in shard.psnr]
        assert abs(np.mean(told) - expected) < (1e-3 if name == "full" else 0.1)
    # what gvit render draws, rounded to 8 bits as a picture is, against what evaluate reads
    capsys.readouterr()
    assert main(["render", str(tmp_path / "full"), "--out", str(tmp_path / "pictures")]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    with Image.open(line.split("  ")[0]) as picture:
        drawn = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    shard = read_shard(read_set(tmp_path / "full")[1]["train"][0])
    assert (drawn - gvit.render(shard[0], 32, 32).clamp(0, 1)).abs().max() <= 0.51 / 255


def test_whole_images_without_classes(run, photos, tmp_path, capsys):
    out = tmp_path / "set"
    assert (
        encode(run, photos, "--out", out, "--dataset", "images", "--view", "whole", "--num-gaussians", 9) == 0
    )
    (file,) = read_set(out)[1]["images"]
    shard = read_shard(file)
    assert shard.labels is None
    row = shard.names.index("dog/3.png")
    assert (shard.sizes[row], len(shard[row])) == ((37, 33), 9)
    assert shard[row].aspect == pytest.approx(37 / 33)
    message = fails(capsys, run, photos, "--out", out, "--dataset", "images", "--num-gaussians", 9)
    assert "holds a set with other view (whole, not crop)" in message
    assert main(["train", "gaussians", "--data-dir", str(out), "--out", str(tmp_path / "r")]) == 2
    assert "a set of images without classes" in capsys.readouterr().err


def test_folders_that_are_no_classes_are_told_how_they_are_encoded(run, photos, tmp_path, capsys):
    for year, image in (("2023", "a"), ("2024", "b")):
        (tmp_path / "years" / year).mkdir(parents=True)
        (tmp_path / "years" / year / f"{image}.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    asked, hint = (
        (run, tmp_path / "years", "--out", tmp_path / "set"),
        "; --dataset images encodes them without",
    )
    message = fails(capsys, *asked)
    assert "class folders without images to train on: 2023, 2024" in message
    assert message.endswith(f"{hint} classes\n")
    assert hint not in fails(capsys, *asked, "--dataset", "folder")  # it was meant
    assert encode(*asked, "--dataset", "images") == 0


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ((), "encoded"),
        ((), "cat/encoded"),
        ((), "dog"),
        (("--format", "parquet"), "."),
        (("--format", "parquet"), "data"),
        (("--dataset", "Folder"), "encoded"),
    ],
)
def test_a_set_that_would_count_as_a_part_of_its_images_is_refused(
    run, photos, tmp_path, capsys, flags, place
):
    photos = shutil.copytree(photos, tmp_path / "photos")
    message = fails(capsys, run, photos, "--out", photos / place, *flags)
    assert f"lies where the images of {photos} are looked for; choose another --out folder" in message
    assert sorted(file.name for file in photos.iterdir()) == ["cat", "dog"]


def test_a_set_that_would_count_as_a_split_is_refused_before_it_is_one(run, photos, tmp_path, capsys):
    for part in ("train", "val"):
        shutil.copytree(photos, tmp_path / part)
    assert "lies where the images" in fails(capsys, run, tmp_path, "--out", tmp_path / "Test")
    assert not (tmp_path / "Test").exists()


@pytest.mark.parametrize(
    ("flags", "place"), [((), ".sets"), ((), "."), (("--dataset", "images", "--format", "parquet"), "data")]
)
def test_a_set_where_nobody_looks_for_images_goes_on(run, photos, tmp_path, capsys, flags, place):
    photos = shutil.copytree(photos, tmp_path / "photos")
    for _ in range(2):
        assert encode(run, photos, "--out", photos / place, *flags) == 0, capsys.readouterr().err


@pytest.mark.parametrize("places", [["cat"], [f"{s}/{c}" for s in ("train", "val") for c in ("cat", "dog")]])
def test_a_set_beside_its_images_is_neither_a_class_nor_a_split(run, photos, tmp_path, capsys, places):
    for place in places:
        shutil.copytree(photos / Path(place).name, tmp_path / place)
    for _ in range(2):
        assert encode(run, tmp_path, "--out", tmp_path / "encoded") == 0, capsys.readouterr().err


def test_files_of_many_images_and_images_themselves_are_told_from_files_of_gaussians(whole, photos, capsys):
    (shard, *_) = read_set(whole)[1]["test"]
    with pytest.raises(
        InputError, match=r"many images \(a set of 'gvit encode'\); 'gvit evaluate --data-dir"
    ) as told:
        gvit.Gaussians.load(shard)
    assert str(told.value).startswith(f"{shard}: holds")
    reader = whole.parent / "reader.safetensors"
    gvit.save_model(gvit.create_model("gaussian_vit_tiny", num_classes=2, depth=1), reader)
    for command in ("predict", "explain", "report"):
        asked = ("--out", whole.parent / "out.html") * (command != "predict")
        for file, said in (
            (shard, "'gvit encode --format files' writes files of single images"),
            (photos / "cat" / "0.png", "an image, and Gaussians are read here, not images; 'gvit encode' or"),
        ):
            assert main([command, str(reader), str(file), *map(str, asked)]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"gvit: error: {file}: ")
            assert said in line


def test_images_of_a_folder_that_is_named_as_that_of_a_data_set_and_never_of_nothing(
    run, photos, tmp_path, capsys
):
    asked = ("--dataset", "images", "--data-dir", photos / "cat", "--out", tmp_path / "set")
    assert encode(run, *asked) == 0
    assert read_set(tmp_path / "set")[0].parts == {"images": 15}
    assert "takes SOURCE or --data-dir, not both" in fails(capsys, run, photos / "dog", *asked)
    # a name alone is the model's, where the images are named by a flag
    assert "holds a set with other weights" in fails(capsys, "gvit_tiny.photos", *asked)
    with pytest.raises(InputError, match="no images given"):
        unlabelled([])


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        *((name, True) for name in ("digits", "CUB", "hfds/a/b", "torch/flowers", "torch/DTD")),
        *(
            (name, False)
            for name in ("CUB/*.jpg", "digits/cat", "torch/*.png", "hfds/cat.jpg", "Folder/a.png")
        ),
    ],
)
def test_a_pattern_or_a_file_below_a_folder_that_is_called_like_a_data_set_is_none(name, is_one):
    assert is_data_set([name]) is is_one


@pytest.mark.parametrize("name", ["torch/DTD", "Torch/dtd"])
def test_a_data_set_of_torchvision_is_known_by_its_name(run, tmp_path, capsys, name):
    asked = (name, "--data-dir", tmp_path)
    message = fails(capsys, run, *asked, "--out", tmp_path / "set")
    assert "torchvision's DTD is not in here" in message
    assert main(["faithfulness", str(run), *map(str, asked)]) == 2
    assert "torchvision's DTD is not in here" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_large_images_are_held_in_8_bits_and_drawn_and_kept_one_by_one(
    run, photos, tmp_path, form, monkeypatch, encoded_rows
):
    folder = tmp_path / "some"
    folder.mkdir()
    for number in range(6):
        with Image.open(photos / "cat" / f"{number}.png") as image:
            image.resize((40, 30) if number % 2 else (20, 50)).save(folder / f"{number}.png")
    asked = ("--dataset", "images", "--view", "whole", "--max-side", 32, "--num-gaussians", 9)
    asked += ("--format", form)
    assert encode(run, folder, "--out", tmp_path / "together", *asked) == 0

    drawn, render = [], images.render
    dtypes, alive = encoded_rows
    alive.clear()  # of those that were drawn together

    def rendered(gaussians, height, width):
        drawn.append(len(gaussians.raw))
        return render(gaussians, height, width)

    monkeypatch.setattr(images, "_PIXELS_AT_ONCE", 2000)
    monkeypatch.setattr(images, "render", rendered)
    assert encode(run, folder, "--out", tmp_path / "one by one", *asked) == 0
    assert drawn == [2, 1, 1, 1, 1]  # 1,000 pixels each, and 1,200
    assert dtypes == {torch.uint8}
    assert max(alive) <= 2
    assert contents(tmp_path / "one by one") == contents(tmp_path / "together")


def test_what_a_set_comes_to_is_told_without_its_gaussians(run, photos, tmp_path, capsys, monkeypatch):
    import pyarrow.parquet as pq

    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(photos / "cat" / "0.png", folder / "0.png")
    (folder / "1.png").write_text("text")
    out = tmp_path / "set"
    message = fails(capsys, run, folder, "--out", out, "--format", "parquet", "--shard-size", 1)
    good, bad = read_set(out)[1]["images"]
    assert read_shard(bad).raw.shape == (0, 20, 9)  # a file without an image can be read
    shard = read_shard(good, with_raw=False)
    assert (shard.names, shard.psnr) == (["0.png"], read_shard(good).psnr)
    columns, read_table = [], pq.read_table

    def read(path, **kwargs):
        columns.extend(kwargs["columns"])
        return read_table(path, **kwargs)

    monkeypatch.setattr(pq, "read_table", read)
    assert _conclude(out, "a model")
    printed = capsys.readouterr()
    assert printed.err == message
    assert f"mean {shard.psnr[0]:.2f} dB" in printed.out
    assert "psnr" in columns
    assert "raw" not in columns


def test_what_cannot_be_read_is_named_and_costs_nothing_else(run, photos, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes((photos / "cat" / f"{number}.png").read_bytes())
    (folder / "1.png").write_text("text")
    error = fails(capsys, run, folder, "--out", tmp_path / "set")
    assert f"{folder / '1.png'}: not an image file" in error
    (file,) = read_set(tmp_path / "set")[1]["images"]
    assert read_shard(file).names == ["0.png", "2.png"]
    assert list(read_shard(file).failed) == ["1.png"]
    before = file.stat().st_mtime_ns
    assert "1.png" in fails(capsys, run, folder, "--out", tmp_path / "set")  # told again
    assert file.stat().st_mtime_ns == before
    (folder / "1.png").write_bytes((photos / "cat" / "1.png").read_bytes())
    assert encode(run, folder, "--out", tmp_path / "set") == 0  # and tried again
    assert read_shard(file).names == ["0.png", "1.png", "2.png"]
    assert not read_shard(file).failed


def test_sets_and_single_images_have_folders_of_their_own(run, photos, whole, tmp_path, capsys):
    image = photos / "cat" / "0.png"
    before = contents(whole)
    asked = ("--num-gaussians", 20, "--looks", 1)
    error = fails(capsys, image, "--model", run, "--out", whole, *asked)
    assert "holds a set of Gaussians (manifest.json)" in error
    assert contents(whole) == before
    damaged = shutil.copytree(whole, tmp_path / "damaged")
    (damaged / MANIFEST_NAME).write_text("{")
    assert "holds a set of Gaussians" in fails(capsys, image, "--model", run, "--out", damaged, *asked)
    (tmp_path / MANIFEST_NAME).write_text("{}")  # of a web page, say
    assert encode(image, "--model", run, "--out", tmp_path, *asked) == 0
    (tmp_path / MANIFEST_NAME).unlink()
    assert capsys.readouterr().out.splitlines()[-1].startswith("1 image by ")
    error = fails(capsys, run, photos, "--out", tmp_path)
    assert "holds files of single images, 0.safetensors for one" in error
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_another_set_is_refused_and_replaced_only_when_told_so(run, photos, whole, tmp_path, capsys):
    out = tmp_path / "set"
    assert encode(run, photos, "--out", out, "--shard-size", 10) == 0
    before = contents(out)
    for flags, named in (
        (("--shard-size", 4), "other shard size (10, not 4)"),
        (("--shard-size", 10, "--half"), "other --half (float32, not float16)"),
        (("--shard-size", 10, "--dataset", "images"), "other images or labels"),
    ):
        assert named in fails(capsys, run, photos, "--out", out, *flags)
        assert contents(out) == before
    assert encode(run, photos, "--out", out, "--shard-size", 4, "--overwrite") == 0
    assert contents(out) == contents(whole)
    assert "--half is for a set" in fails(capsys, photos, "--out", tmp_path / "b", "--half")
    assert "no such file" in fails(capsys, run, tmp_path / "nothing", "--out", tmp_path / "b")
    (out / "train-00000-of-00006.safetensors").unlink()
    assert main(["train", "gaussians", "--data-dir", str(out), "--out", str(tmp_path / "r")]) == 2
    assert "1 of 8 files are missing, train-00000-of-00006.safetensors first" in capsys.readouterr().err


def test_nothing_is_removed_where_other_files_are_in_the_way(run, photos, whole, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    shutil.copy(run / "model.safetensors", out)
    before = contents(out)
    error = fails(capsys, run, photos, "--out", out, "--overwrite")
    assert "holds files of single images, model.safetensors for one" in error
    assert contents(out) == before


def test_shards_that_no_manifest_vouches_for_are_not_taken_over(run, photos, whole, tmp_path, capsys):
    out = tmp_path / "set"
    shutil.copytree(whole, out)
    for damage in ("", "{", None):
        (out / MANIFEST_NAME).unlink() if damage is None else (out / MANIFEST_NAME).write_text(damage)
        before = contents(out)
        error = fails(capsys, run, photos, "--out", out, "--shard-size", 4)
        assert MANIFEST_NAME in error
        assert contents(out) == before
        begin_set(out, read_set(whole)[0], overwrite=True)
        assert contents(out) == {MANIFEST_NAME: (whole / MANIFEST_NAME).read_bytes()}
        shutil.copytree(whole, out, dirs_exist_ok=True)


def test_killed_while_it_removes_a_set_the_rest_does_not_pass_for_the_new_one(
    run, photos, whole, tmp_path, capsys, monkeypatch
):
    out, remove, removed = shutil.copytree(whole, tmp_path / "set"), Path.unlink, []

    def killed(file: Path, missing_ok: bool = False) -> None:
        if file.suffix == ".safetensors" and removed:
            raise KeyboardInterrupt
        remove(file, missing_ok)
        removed.extend([file] * (file.suffix == ".safetensors"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            begin_set(out, read_set(whole)[0], overwrite=True)
    assert len(contents(out)) == 7
    asked = (run, photos, "--out", out, "--shard-size", 4)
    assert "holds a set without manifest.json" in fails(capsys, *asked)
    assert encode(*asked, "--overwrite") == 0
    assert contents(out) == contents(whole)


def test_what_was_half_written_is_removed_when_it_goes_on(whole, tmp_path):
    for name in ("train-00000-of-00006.safetensors", MANIFEST_NAME, "film"):
        (tmp_path / f"{name}.99999999-0123abcd.partial").touch()
    written = f"test-00000-of-00002.safetensors.{os.getppid()}-0123abcd.partial"  # by a process that lives
    (tmp_path / written).touch()
    begin_set(tmp_path, read_set(whole)[0])
    assert sorted(contents(tmp_path)) == sorted(["film.99999999-0123abcd.partial", written, MANIFEST_NAME])


def test_what_was_there_counts_as_done(run, photos, whole, tmp_path):
    manifest, files = read_set(shutil.copytree(whole, tmp_path / "set"))
    files["train"][2].unlink()
    parts = {part: load_source("folder", part, photos) for part in ("train", "test")}
    encoder, seen = ImageEncoder(gvit.load_model(run)), []
    made = encode_set(encoder, parts, tmp_path / "set", manifest, batch_size=3, progress=seen.append)
    assert [file for file, _ in made] == [files["train"][2]]
    assert seen == [26, 29, 30]


def test_without_pyarrow_no_parquet_is_begun(run, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "need pyarrow" in fails(capsys, run, photos, "--out", tmp_path / "set", "--format", "parquet")
    assert not (tmp_path / "set").exists()


def test_a_number_that_nothing_could_hold_is_one_line(photos, tmp_path, capsys):
    asked = ("--out", tmp_path / "set", "--num-gaussians", 10**20)
    assert "at most 10,000,000, got 1" in fails(capsys, "gvit_tiny.photos", photos, *asked)
    assert not (tmp_path / "set").exists()


def test_parts_have_the_same_classes_in_the_same_order(run):
    encoder = ImageEncoder(gvit.load_model(run))
    for names in (["dog", "cat"], ["cat"]):
        parts = {"train": Source(list, [0], ["cat", "dog"]), "test": Source(list, [0], names)}
        with pytest.raises(InputError, match="test has other classes, or another order of them, than train"):
            plan_set(encoder, parts, {}, "safetensors", 4)


def test_photographs_in_a_file_that_is_called_like_a_shard_are_not_replaced(whole, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = replace(read_set(whole)[0], format="parquet")
    name = manifest.files("train")[0]
    pq.write_table(pa.table({"image": [b"precious"]}), tmp_path / name)
    before = contents(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"holds files of another data set, {name} for one"):
            begin_set(tmp_path, manifest, overwrite)
        assert contents(tmp_path) == before
