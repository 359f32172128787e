"""The benchmark of fits never takes a number for what it was not measured on."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def kodak():
    sys.path.insert(0, str(BENCHMARKS))  # for its import of provenance
    try:
        spec = importlib.util.spec_from_file_location("kodak", BENCHMARKS / "kodak.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def picture(folder: Path, name: str, seed: int) -> torch.Tensor:
    """A PNG file of smooth colours, and what it holds as an image [1, 3, 16, 24] in [0, 1]."""
    folder.mkdir(exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    pixels = coarse.repeat(4, 0).repeat(4, 1)
    Image.fromarray(pixels).save(folder / name)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture
def bench(kodak, tmp_path, capsys):
    """Run it on a folder with a few steps; gives the rows of its file, and what it said that it measured."""

    def run(folder: str = "photos", *, steps: int = 3, count: int = 20, seed: int = 0):
        kodak.main(
            f"--data-dir {tmp_path / folder} --out {tmp_path / 'out'} --counts {count} --inits random "
            f"--steps {steps} --seed {seed}".split()
        )
        lines = capsys.readouterr().out.splitlines()
        rows = json.loads((tmp_path / "out" / "kodak.json").read_text())["rows"]
        return rows, [line.split()[0] for line in lines if line.endswith(" dB")]

    return run


def test_what_was_measured_is_not_measured_again(bench, tmp_path):
    picture(tmp_path / "photos", "kodim01.png", 0)
    picture(tmp_path / "photos", "kodim02.png", 1)
    rows, measured = bench()
    assert measured == ["kodim01.png", "kodim02.png"]
    assert bench() == (rows, [])  # the seconds that it took, too


def test_another_image_of_the_same_name_is_measured(bench, tmp_path):
    picture(tmp_path / "photos", "kodim01.png", 0)
    bench()
    other = picture(tmp_path / "others", "kodim01.png", 5)
    rows, measured = bench("others")
    assert measured == ["kodim01.png"]
    digest = hashlib.sha256((tmp_path / "others" / "kodim01.png").read_bytes()).hexdigest()
    (row,) = (row for row in rows if row["sha256"] == digest)
    assert row["psnr"] == gvit.fit(other, 20, 3, "random", 0).psnr.item()
    assert len(rows) == 2  # the row of the first image stays
    assert rows[0]["psnr"] != row["psnr"]


@pytest.mark.parametrize("setting", [{"steps": 4}, {"count": 21}, {"seed": 1}])
def test_another_setting_is_measured(bench, tmp_path, setting):
    image = picture(tmp_path / "photos", "kodim01.png", 0)
    bench()
    rows, measured = bench(**setting)
    assert measured == ["kodim01.png"]
    values = {"count": 20, "steps": 3, "seed": 0} | setting
    expected = gvit.fit(image, values["count"], values["steps"], "random", values["seed"]).psnr.item()
    assert rows[-1]["psnr"] == expected


@pytest.mark.parametrize(
    ("name", "field", "found"),
    [
        ("source_digest", "code", lambda: "0123456789abcdef"),
        ("describe", "machine", lambda machine: "commit 0123456789, a machine of its own"),
    ],
)
def test_other_code_or_another_machine_measures_and_takes_the_rows_place(
    bench, kodak, tmp_path, monkeypatch, name, field, found
):
    picture(tmp_path / "photos", "kodim01.png", 0)
    (before,), _ = bench()
    monkeypatch.setattr(kodak, name, found)
    (after,), measured = bench()
    assert measured == ["kodim01.png"]
    assert before[field] != after[field]


def test_the_digest_of_the_source_sees_every_change(kodak, tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "b.py").write_text("y = 2\n")
    digests = {kodak.source_digest(tmp_path)}
    (tmp_path / "room" / "b.py").write_text("y = 3\n")
    digests.add(kodak.source_digest(tmp_path))
    (tmp_path / "room" / "b.py").rename(tmp_path / "b.py")
    digests.add(kodak.source_digest(tmp_path))
    assert len(digests) == 3


def test_every_committed_row_names_its_image_by_content():
    rows = json.loads((BENCHMARKS / "results" / "kodak.json").read_text())["rows"]
    named = {(row["image"], row["sha256"]) for row in rows}
    assert len(named) == len({name for name, _ in named}) == len({digest for _, digest in named}) == 8
