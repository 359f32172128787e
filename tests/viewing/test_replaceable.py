"""What gvit wrote is written anew; a file of somebody else stays, whatever lies beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

import gvit
from gvit.cli import main
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import is_shard
from gvit.gaussians.storage import may_hold_gaussians
from gvit.viewing.replaceable import check_replaceable

THEIRS = b"mine, and nobody else's"


@pytest.fixture
def gaussians(tmp_path) -> Path:
    file = tmp_path / "in" / "a.safetensors"
    file.parent.mkdir()
    Gaussians(torch.randn(3, 9, generator=torch.Generator().manual_seed(0))).save(file)
    return file


@pytest.fixture
def photo(tmp_path) -> Path:
    file = tmp_path / "photos" / "a.jpg"
    file.parent.mkdir()
    Image.new("RGB", (32, 24), "red").save(file)
    return file


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("run") / "model.safetensors"
    gvit.save_model(gvit.create_model("gvit_tiny", num_classes=3, num_gaussians=4), file)
    return file


def is_kept(capsys, place: Path, *command: object) -> None:
    """It is written, and again; where a file of somebody else's is, it stays."""
    assert main(list(map(str, command))) == 0
    assert main(list(map(str, command))) == 0, capsys.readouterr().err
    place.write_bytes(THEIRS)
    capsys.readouterr()
    assert main(list(map(str, command))) == 2
    assert f"{place} is there and was not written by gvit" in capsys.readouterr().err
    assert place.read_bytes() == THEIRS


@pytest.mark.parametrize("kind", ["png", "csv", "json", "svg"])
def test_drawings_and_tables(kind, gaussians, tmp_path, capsys):
    out = tmp_path / "out"
    is_kept(capsys, out / f"a.{kind}", "render", gaussians, "--out", out, "--format", kind)


def test_notes_with_a_name_are_somebody_elses(gaussians, tmp_path, capsys):
    place = tmp_path / "a.json"
    place.write_text(json.dumps({"name": "my notes", "class": "of 1999", "gaussians": []}, indent=1))
    assert main(["render", str(gaussians), "--out", str(tmp_path), "--format", "json"]) == 2
    assert f"{place} is there and was not written by gvit" in capsys.readouterr().err


def test_a_page_about_reports_is_somebody_elses(run, photo, tmp_path, capsys):
    place = tmp_path / "page.html"
    mark = '<meta name="generator" content="gvit report">'
    place.write_text(f"<!doctype html>\n<html>\n<head>\n<title>How they begin</title>\n<!--\n{mark}\n-->\n")
    assert main(["report", str(run), str(photo), "--out", str(place)]) == 2
    assert f"{place} is there and was not written by gvit" in capsys.readouterr().err


def test_a_picture_too_large_to_be_opened_is_somebody_elses(gaussians, tmp_path, capsys, monkeypatch):
    place = tmp_path / "a.png"
    Image.new("L", (64, 64)).save(place)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    assert main(["render", str(gaussians), "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{place} is there and was not written by gvit" in line


@pytest.mark.parametrize("most", [16, 3000])  # pixels: Pillow warns of more, and refuses twice as many
def test_a_picture_too_large_to_be_opened_is_known_again(gaussians, tmp_path, monkeypatch, most, recwarn):
    command = ["render", str(gaussians), "--out", str(tmp_path), "--size", "64"]
    assert main(command) == 0
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
    assert main(command) == 0
    assert not [warning for warning in recwarn if "pixels" in str(warning.message)]


@pytest.mark.parametrize("ending", ["png", "csv", "safetensors"])
def test_a_pipe_is_nobodys_and_is_not_waited_for(ending, tmp_path):
    pipe = tmp_path / f"a.{ending}"
    os.mkfifo(pipe)
    with pytest.raises(InputError, match="was not written by gvit"):
        check_replaceable(pipe)
    assert not may_hold_gaussians(pipe)
    assert not is_shard(pipe)


@pytest.mark.parametrize("ending", ["png", "csv"])
def test_explanations(ending, run, photo, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.safetensors").write_bytes(THEIRS)  # makes no difference
    is_kept(capsys, out / f"a.{ending}", "explain", run, photo, "--out", out)


def test_encodings_with_overwrite(photo, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["encode", photo, "--out", out, "--num-gaussians", 8, "--looks", 1, "--overwrite"]
    is_kept(capsys, out / "a.png", *command)


def test_reports(run, photo, tmp_path, capsys):
    page = tmp_path / "page.html"
    is_kept(capsys, page, "report", run, photo, "--out", page)
