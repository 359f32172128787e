"""Files that were made to harm: each is refused in one line, and no code of theirs runs."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

import gvit
from gvit.cli import main
from gvit.data.sources import load_source, tars
from gvit.encoding import begin_set
from gvit.errors import InputError
from gvit.gaussians.shards import MANIFEST_NAME, Manifest
from gvit.models.weights import locate
from gvit.recipes import debug
from gvit.training.train import train


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata())  # noqa: SIM118


def header(size: int, text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", size) + text + data


LYING = {
    "a header of exabytes": header(2**62, b"{}"),
    "a header that is cut off": header(1000, b'{"a": '),
    "a header that is no JSON": header(8, b"\x1b[2Jboo!"),
    "data that lie beyond the end": header(
        60, b'{"raw":{"dtype":"F32","shape":[9,9],"data_offsets":[0,324]}}', b"\0" * 4
    ),
    "nothing": b"",
    "zeros": bytes(100),
}


def harmful_tensors(kind: str, tensors: dict, meta: dict) -> bytes:
    """A file of gvit's with a change that nobody's gvit makes."""
    name = "raw" if "raw" in tensors else "classifier.head.weight"
    if kind == "wrong shapes":
        tensors[name] = tensors[name][..., :-1].contiguous()
    elif kind == "a tensor is missing":
        del tensors[name]
    elif kind == "described by something else":
        meta = dict.fromkeys(meta, "[1, 2]")
    elif kind == "described by control characters":
        meta = {key: json.dumps({"\x1b]0;owned\x07": "\x1b[2J"}) for key in meta}
    elif kind == "not described":
        meta = {}
    return save(tensors, meta)


KINDS = (
    *("wrong shapes", "a tensor is missing", "described by something else"),
    *("described by control characters", "not described"),
)


def refused(capsys, *arguments: object) -> str:
    """The one line that the command line says."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gvit: error: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable(), err
    assert len(err) < 1000
    return err


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("images") / "image.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    return file


@pytest.mark.parametrize("content", [*LYING.values(), None, *KINDS], ids=[*LYING, "a pickle bomb", *KINDS])
def test_weights(content, image, tmp_path, capsys):
    file = tmp_path / "model.safetensors"
    if content is None:
        file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_bytes(harmful_tensors(content, *read(locate("digits"))))
    assert "model.safetensors: " in refused(capsys, "predict", file, image)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [*LYING.values(), None, *KINDS], ids=[*LYING, "a pickle bomb", *KINDS])
def test_gaussians(content, tmp_path, capsys):
    file = tmp_path / "gaussians.safetensors"
    gvit.Gaussians(torch.zeros(4, 9)).save(file)
    if content is None:
        file.write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    elif isinstance(content, bytes):
        file.write_bytes(content)
    else:
        file.write_bytes(harmful_tensors(content, *read(file)))
    assert "gaussians.safetensors: " in refused(capsys, "render", file, "--out", tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("out/*"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(debug(), folder)
    return folder


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_checkpoints(finished, tmp_path, capsys, how):
    run = shutil.copytree(finished, tmp_path / "run")
    bomb = {"step": 1, "model": Bomb(tmp_path / "ran")}
    if how == "pickle":
        (run / "checkpoint.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, run / "checkpoint.pt")
    assert "checkpoint.pt: damaged" in refused(capsys, "train", "--resume", run)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config | {"colour": 1}, "unknown field 'colour'"),
        (lambda config: config | {"\x1b[2J": 1}, "unknown field"),
        (lambda config: config | {"model": 7}, "config.json: damaged"),
        (lambda config: [config], "config.json: damaged"),
        (
            lambda config: config | {"schedule": config["schedule"] | {"epochs": 1e400}},
            "config.json: damaged",
        ),
    ],
    ids=[
        "a newer version's field",
        "control characters",
        "a number for a group",
        "a list",
        "an infinite length",
    ],
)
def test_configurations(finished, tmp_path, capsys, change, said):
    run = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(change(config)))
    assert said in refused(capsys, "train", "--resume", run)


OUTSIDE = ("../../outside", "/outside", "a/../../../outside")


def everything_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", OUTSIDE)
def test_members_of_tars_that_lead_elsewhere(tmp_path, monkeypatch, name, image):
    """Nothing is unpacked, and links are no images: what they point to is not read."""
    monkeypatch.setattr(tars, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    secret = tmp_path / "secret.png"
    shutil.copy(image, secret)
    data = tmp_path / "deep" / "er" / "data"
    data.mkdir(parents=True)
    for split in ("train", "val"):
        with tarfile.open(data / f"{split}-0.tar", "w") as file:
            for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                link = tarfile.TarInfo("0/link.png")
                link.type, link.linkname = kind, str(secret)
                file.addfile(link)
            for called, content in ((f"{name}.png", image.read_bytes()), (f"{name}.cls", b"0")):
                info = tarfile.TarInfo(called)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    before = everything_below(tmp_path)
    source = load_source("wds", "train", data)
    assert len(source) == 1
    assert source.load(0).size == (8, 8)
    assert {path for path in everything_below(tmp_path) - before if "cache" not in path.parts} == set()


def member(name: str, **header: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in header.items():
        setattr(info, field, value)
    return info


HUGE = {"GNU.sparse.realsize": "200000000"}
TARS = {
    "a size that leads back": [member("0/a.png"), member("0/b.png", size=-512)],
    "one of no file": [member("0", size=-512, type=tarfile.DIRTYPE)],
    "a size of no file": [member("0/a.png", size=2**80)],
    "a name of exabytes": [member("x", size=2**60, type=tarfile.GNUTYPE_LONGNAME)],
    "names of names": [member("x", size=0, type=tarfile.GNUTYPE_LONGNAME)] * 3000,
    "a sparse label": [member("a.png"), member("a.cls", type=tarfile.GNUTYPE_SPARSE)],
    "a label of 200 MB": [member("a.png"), member("a.cls", pax_headers=HUGE)],
    "a label of 5,000 digits": [member("a.png"), (member("a.cls"), b"9" * 5000)],
    "a label of brackets": [member("a.png"), (member("a.json"), b"[" * 200_000)],
}


@pytest.mark.parametrize("members", TARS.values(), ids=list(TARS))
def test_headers_and_labels_of_tars(tmp_path, monkeypatch, members):
    monkeypatch.setattr(tars, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    with (tmp_path / "train-0.tar").open("wb") as file:
        for one in members:
            info, content = one if isinstance(one, tuple) else (one, b"")
            info.size = info.size or len(content)
            file.write(info.tobuf(tarfile.PAX_FORMAT if info.pax_headers else tarfile.GNU_FORMAT))
            file.write(content + bytes(-len(content) % 512))
        file.write(bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"^[^\n]*train-0\.tar: [^\n]*$"):
            load_source("wds", "train", tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def manifest(**changes: object) -> dict:
    kept = Manifest({"model": "m"}, 4, "float32", "safetensors", 10, [], {"images": 10}, "0" * 16)
    told = {"gvit": 1, **vars(kept), "files": {"images": kept.files("images")}} | changes
    if "parts" in changes and "files" not in changes:
        told["files"] = {part: [f"{part}-00000-of-00001.{told['format']}"] for part in changes["parts"]}
    return told


@pytest.mark.parametrize(
    "changes",
    [
        *({"parts": {name: 10}} for name in OUTSIDE),
        {"format": "/../../outside"},
        {"files": {"images": ["../outside-00000-of-00001.safetensors"]}},
        {"parts": {"images": 10**15}, "shard_size": 1},
        {"parts": {"images": "ten"}},
        {"shard_size": 0},
        {"parts": ["images"]},
    ],
    ids=str,
)
def test_manifests_that_name_files_elsewhere(tmp_path, capsys, changes):
    """Nothing outside of the folder is read, and nothing is removed by ``--overwrite``."""
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest(**changes)))
    victim = tmp_path / "outside-00000-of-00001.safetensors"
    victim.write_bytes(b"precious")
    wanted = Manifest({"model": "m"}, 4, "float32", "safetensors", 10, [], {"images": 10}, "0" * 16)
    with pytest.raises(InputError, match=MANIFEST_NAME):
        begin_set(folder, wanted)
    assert MANIFEST_NAME in refused(
        capsys, "train", "gaussians", "--data-dir", folder, "--out", tmp_path / "run"
    )
    begin_set(folder, wanted, overwrite=True)
    assert victim.read_bytes() == b"precious"
    assert Manifest.read(folder) == wanted


@pytest.mark.parametrize("name", [*OUTSIDE, "..", "con\0trol"])
def test_class_names_that_are_no_folders(tmp_path, name):
    from gvit.data.collections import save_collection

    with pytest.raises(InputError, match="class names"):
        save_collection(tmp_path / "set", "train", [name], [0], gvit.Gaussians(torch.zeros(1, 4, 9)))
    assert {path.name for path in everything_below(tmp_path)} <= {"set"}
