"""What a check of a folder finds, with files that are really damaged."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gvit.cli import main
from gvit.data.checking import FolderCheck, ImageFile, check_folder
from gvit.errors import InputError

RANDOM = np.random.default_rng(0)


def picture(width: int = 40, height: int = 40) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture
def photographs(tmp_path):
    """Two classes of four images to train on and two to test with."""
    folder = tmp_path / "photographs"
    for split, count in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for row in range(count):
                picture().save(folder / split / name / f"{row}.png")
    return folder


def names(files: list[ImageFile]) -> list[str]:
    return [one.file.name for one in files]


def test_a_clean_folder_is_counted_and_passes(photographs, capsys):
    check = check_folder(photographs)
    assert check.clean
    assert check.classes == {name: {"train": 4, "test": 2} for name in "ab"}
    assert check.modes == {"RGB": 12}
    assert main(["data", "check", str(photographs)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{photographs}: 12 images, 8 to train on and 4 to test with",
        "modes       RGB 12",
        "classes     2, of 4 images to train on each",
        "nothing to put right",
    ]


def test_broken_tiny_and_oversized_files_and_modes(photographs):
    place = photographs / "train" / "a"
    (place / "text.jpg").write_text("text")
    cut = (place / "0.png").read_bytes()
    (place / "cut.png").write_bytes(cut[: len(cut) // 2])
    picture(20, 300).save(place / "narrow.png")
    picture(40, 400).save(place / "long.png")
    Image.fromarray(RANDOM.integers(0, 256, (40, 40), np.uint8)).save(place / "grey.png")
    picture().convert("CMYK").save(place / "cmyk.jpg")
    (place / "notes.txt").touch()
    check = check_folder(photographs, min_side=30, max_side=350, workers=2)
    assert not check.clean
    assert names(check.broken) == ["cut.png", "text.jpg"]
    assert check.broken[1].error == "not an image file"
    assert names(check.tiny) == ["narrow.png"]
    assert names(check.oversized) == ["long.png"]
    assert check.modes == {"RGB": 14, "CMYK": 1, "L": 1}
    assert check.ignored == {".txt": 1}
    assert check.classes["a"] == {"train": 8, "test": 2}
    assert check.files == check_folder(photographs, workers=1).files


def test_duplicates_are_what_shows_the_same_and_leaks_are_among_them(photographs):
    first = photographs / "train" / "a" / "0.png"
    picture_of_first = Image.open(first)
    # the same picture in another file format, and the same file under another class
    picture_of_first.save(photographs / "val" / "a" / "copy.bmp")
    second = photographs / "train" / "a" / "1.png"
    (photographs / "train" / "b" / "twin.png").write_bytes(second.read_bytes())
    check = check_folder(photographs)
    assert [names(group) for group in check.duplicates] == [["0.png", "copy.bmp"], ["1.png", "twin.png"]]
    assert [names(group) for group in check.leaks] == [["0.png", "copy.bmp"]]
    assert [names(group) for group in check.contradictions] == [["1.png", "twin.png"]]
    assert not check.clean


def test_the_split_that_is_made_of_class_folders_is_the_one_of_training(photographs):
    check = check_folder(photographs / "train")
    assert check.classes == {name: {"train": 3, "test": 1} for name in "ab"}


def test_folders_that_cannot_be_trained_on_say_so_and_a_folder_of_images_need_not(photographs, capsys):
    assert check_folder(photographs / "train" / "a") == FolderCheck(
        check_folder(photographs / "train" / "a").files, 32, 8192, {}
    )
    assert check_folder(photographs / "train" / "a").clean
    (photographs / "val" / "c").mkdir()
    picture().save(photographs / "val" / "c" / "0.png")
    assert main(["data", "check", str(photographs)]) == 1
    assert "classes that train/ does not have: c" in capsys.readouterr().out
    (photographs / "one" / "class").mkdir(parents=True)
    picture().save(photographs / "one" / "class" / "0.png")
    (photographs / "one" / "part.parquet").touch()
    assert main(["data", "check", str(photographs / "one")]) == 1
    assert "for the *.parquet files here: --dataset parquet" in capsys.readouterr().out
    (photographs / "phone").mkdir()
    (photographs / "phone" / "0.heic").touch()
    assert main(["data", "check", str(photographs / "phone")]) == 2
    assert "1 .heic is left out" in capsys.readouterr().err
    for place in (photographs / "gone", photographs / "val" / "empty"):
        (photographs / "val" / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=r"no such folder|no images in this folder"):
            check_folder(place)


def test_the_report_and_its_json_name_odd_files_safely(photographs, capsys):
    odd = photographs / "train" / "a" / "x\n[red]\x1b[31m\u202e.png"
    odd.write_text("text")
    assert main(["data", "check", str(photographs)]) == 1
    printed = capsys.readouterr().out
    assert r"x\n[red]\x1b[31m\u202e.png: not an image file" in printed
    assert "\x1b" not in printed
    assert main(["data", "check", str(photographs), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["broken"] == [{"file": str(odd), "error": "not an image file"}]
    assert not report["clean"]


def test_what_is_not_used_is_told(photographs, capsys):
    shutil.copytree(photographs / "val", photographs / "test")
    note = f"{photographs}: tested with test/; val/ is not used"
    check = check_folder(photographs)
    assert (list(check.notes), check.clean) == ([note], True)
    assert main(["data", "check", str(photographs)]) == 0
    assert f"note        {note}" in capsys.readouterr().out.splitlines()
    assert main(["data", "check", str(photographs), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [note]


def test_what_else_could_be_meant(capsys):
    assert main(["data"]) == 2
    assert "gvit data check DIR" in capsys.readouterr().err
    assert main(["data", "chek", "x"]) == 2
    assert "nearest: data check" in capsys.readouterr().err
