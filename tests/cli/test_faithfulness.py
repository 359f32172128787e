"""gvit faithfulness, right and wrong."""

import json

import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.models.weights import save_model

QUICK = ["--images", "4", "--steps", "1", "--draws", "1", "--methods", "opacity", "cdam"]


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """A patch ViT that has learned nothing, with the classes of the digits."""
    torch.manual_seed(0)
    model = gvit.create_model("vit_tiny_patch8", num_classes=10)
    model.card = gvit.load_model("digits").card
    file = tmp_path_factory.mktemp("models") / "patches.safetensors"
    save_model(model, file)
    return file


def fails(capsys, *args: object) -> str:
    assert main(["faithfulness", *map(str, args)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: error: ")
    assert printed.err.count("\n") == 1, printed.err
    return printed.err.removeprefix("gvit: error: ").strip()


def test_tables_of_two_models_and_a_file_with_every_image(patches, tmp_path, capsys):
    out = tmp_path / "there" / "table.json"
    ours = ["--images", "4", "--steps", "1", "--draws", "1", "--methods", "cdam"]
    assert (
        main(["faithfulness", "digits", "digits", *ours, "--against", str(patches), "--out", str(out)]) == 0
    )
    printed = capsys.readouterr().out
    for title in (
        "taking out Gaussians (32 an image)",
        "taking out pixels",
        "taking out patches (16 an image)",
    ):
        assert f", {title}**" in printed
    shown = f"{patches.parent.name}/patches.safetensors"  # most weights files are called alike
    assert f"(Gaussians) against {shown} (patches)" in printed
    content = json.loads(out.read_text())
    assert content["command"].startswith(f"gvit faithfulness digits digits --against {shown}")
    assert str(tmp_path) not in out.read_text()
    assert content["provenance"]["versions"]["gvit"] == gvit.__version__
    assert len(content["rows"]) == 4
    assert content["broken"] == []
    digits, vit = content["results"]
    assert digits["top1"] > 0.5
    assert (list(digits["measures"]), list(vit["measures"])) == (["units", "pixels"], ["units"])
    assert len(digits["measures"]["pixels"]["methods"]["cdam"]["images"]["deletion"]) == 4
    assert content["comparison"]["units"].keys() == {"cdam", "centre", "random"}


def test_nobody_elses_file_is_replaced(tmp_path, capsys):
    out = tmp_path / "package.json"
    out.write_text('{"name": "mine"}')
    said = fails(capsys, "digits", "digits", "--out", out, *QUICK)
    assert said.startswith(f"{out} is there and was not written by gvit")
    assert json.loads(out.read_text()) == {"name": "mine"}
    # its own is
    out.write_text(json.dumps({"command": "gvit faithfulness digits digits"}, indent=2))  # as by --json
    assert main(["faithfulness", "digits", "digits", "--out", str(out), "--no-pixels", *QUICK]) == 0
    assert "rows" in json.loads(out.read_text())


def test_json_is_the_same_with_the_same_seed(capsys):
    def measured(seed):
        command = ["faithfulness", "digits", "digits", "--json", "--no-pixels", "--seed", str(seed)]
        assert main([*command, *QUICK]) == 0
        content = json.loads(capsys.readouterr().out)
        return content["rows"], content["results"][0]["measures"]["units"]["methods"]

    assert measured(0) == measured(0)
    assert measured(0)[0] != measured(1)[0]


def test_a_broken_image_is_left_out_and_named(tmp_path, capsys):
    for name in ("3", "7"):
        (tmp_path / name).mkdir()
        for i in range(2):
            Image.new("RGB", (8, 8), (90 * i, 60, 30)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "7" / "1.png").write_bytes(b"no image")
    assert main(["faithfulness", "digits", str(tmp_path), "--no-pixels", "--json", *QUICK]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("gvit: broken, left out: ")
    assert "1.png" in printed.err
    assert len(json.loads(printed.out)["rows"]) == 3


def test_bad_input_is_named_in_one_line(patches, tmp_path, capsys):
    assert "missing RUN" in fails(capsys)
    assert "unknown method for Gaussians 'dett'; nearest: det" in fails(
        capsys, "digits", "digits", "--images", 2, "--methods", "dett"
    )
    assert "unknown method for patches 'det'" in fails(
        capsys, patches, "digits", "--images", 2, "--methods", "det"
    )
    assert "two of them at least, got 1" in fails(capsys, "digits", "digits", "--images", 1)
    assert "--steps must be at least 1" in fails(capsys, "digits", "digits", "--steps", 0)
    assert "no such folder" in fails(capsys, "digits", tmp_path / "nowhere")
    assert "--data-dir goes with the name of a data set" in fails(
        capsys, "digits", tmp_path, "--data-dir", tmp_path
    )
    assert "without test images of their own; name labelled images" in fails(capsys, "digits")
    assert "encoder alone" in fails(capsys, "gvit_tiny.photos", "digits")
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(capsys, "digits", "digits", "--out", tmp_path / "file" / "a.json")
    assert "is a folder" in fails(capsys, "digits", "digits", "--out", tmp_path)
    assert "ends in .json" in fails(capsys, "digits", "digits", "--out", tmp_path / "a.png")
    assert "nearest: --methods" in fails(capsys, "digits", "digits", "--method", "det")
