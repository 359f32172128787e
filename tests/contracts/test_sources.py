"""What every registered source of data promises, on a made-up set in the layout that it reads."""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from gvit.data.labelled import labelled_set
from gvit.data.sources import SOURCES, load_source, tars
from gvit.data.splits import load_splits, record_splits
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.weights import load_model
from gvit.recipes import debug
from gvit.training.train import Interrupted, resume, train

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
hf = pytest.importorskip("datasets")
wds = pytest.importorskip("webdataset")
savemat = pytest.importorskip("scipy.io").savemat

# (class, number) of each image, classes first; numbers are an image's own
TRAIN = [(label, 10 * label + n) for label in range(2) for n in range(4)]
TEST = [(label, 100 + 10 * label + n) for label in range(2) for n in range(2)]
SPLITS = {"train": TRAIN, "test": TEST}
NAMES = ["first kind", "second kind"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Nothing is kept in the user's folders."""
    monkeypatch.setattr(tars, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # the files of these sets are known by their checksums, which made-up ones can't have
    for module in ("cifar", "flowers102"):
        monkeypatch.setattr(getattr(torchvision_datasets, module), "check_integrity", lambda *_: True)
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "_check_integrity", lambda _: True)


def picture(label: int, number: int) -> Image.Image:
    return Image.new("RGB", (6, 4), (100 + label, number, 7))


def encoded(label: int, number: int) -> bytes:
    stream = io.BytesIO()
    picture(label, number).save(stream, "png")
    return stream.getvalue()


def put(file: Path, content: bytes | str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)


# A writer for each source: a folder with TRAIN and TEST.


def write_folder(root: Path) -> None:
    for place, images in (("train", TRAIN), ("val", TEST)):
        for label, number in images:
            put(root / place / NAMES[label] / f"{number:03}.png", encoded(label, number))


def write_gaussians(root: Path) -> None:
    for place, images in SPLITS.items():
        for label, number in images:
            folder = root / place / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Gaussians(torch.full((3, 9), float(number))).save(folder / f"{number:03}.safetensors")


def write_parquet(root: Path) -> None:
    root.mkdir(parents=True)
    features = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
    for place, images in SPLITS.items():
        columns = {
            "image": [{"bytes": encoded(*image), "path": "x.png"} for image in images],
            "label": [label for label, _ in images],
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), root / f"{place}-0.parquet")


def write_hfds(root: Path) -> None:
    features = hf.Features({"picture": hf.Image(), "kind": hf.ClassLabel(names=NAMES)})
    hf.DatasetDict(
        {
            place: hf.Dataset.from_dict(
                {
                    "picture": [{"bytes": encoded(*image), "path": None} for image in images],
                    "kind": [label for label, _ in images],
                },
                features=features,
            )
            for place, images in (("train", TRAIN), ("validation", TEST))
        }
    ).save_to_disk(root)


def write_wds(root: Path) -> None:
    root.mkdir(parents=True)
    put(root / "classes.txt", "\n".join(NAMES))
    for shard, images in {"train-0": TRAIN[:5], "train-1": TRAIN[5:], "val-0": TEST}.items():
        with wds.TarWriter(str(root / f"{shard}.tar")) as writer:
            for label, number in images:
                key = f"{number:04}"
                writer.write({"__key__": key, "png": encoded(label, number), "cls": label, "txt": "words"})


def write_cub(root: Path) -> None:
    images = [*TRAIN, *TEST]
    lists = {
        "images": [f"{label + 1:03}.x/{number}.jpg" for label, number in images],
        "image_class_labels": [label + 1 for label, _ in images],
        "train_test_split": [int(image in TRAIN) for image in images],
        "classes": [f"{label + 1:03}.{name.replace(' ', '_')}" for label, name in enumerate(NAMES)],
    }
    for name, rows in lists.items():
        lines = [f"{number} {row}\n" for number, row in enumerate(rows, 1)]
        put(root / "CUB_200_2011" / f"{name}.txt", "".join(lines))
    for image, file in zip(images, lists["images"], strict=True):
        put(root / "CUB_200_2011" / "images" / file, encoded(*image))


def write_cifar(root: Path, files: dict[str, list], folder: str, label: str, meta: str, names: str) -> None:
    for file, images in files.items():
        rows = [np.asarray(picture(*image).resize((32, 32))).transpose(2, 0, 1).ravel() for image in images]
        data = {"data": np.array(rows, np.uint8).reshape(-1, 3072), label: [of for of, _ in images]}
        put(root / folder / file, pickle.dumps(data))
    put(root / folder / meta, pickle.dumps({names: NAMES}))


def write_cifar10(root: Path) -> None:
    files = {f"data_batch_{n + 1}": TRAIN[2 * n : 2 * n + 2] for n in range(5)} | {"test_batch": TEST}
    write_cifar(root, files, "cifar-10-batches-py", "labels", "batches.meta", "label_names")


def write_cifar100(root: Path) -> None:
    write_cifar(root, SPLITS, "cifar-100-python", "fine_labels", "meta", "fine_label_names")


def write_dtd(root: Path) -> None:
    for place, images in {"train": TRAIN[::2], "val": TRAIN[1::2], "test": TEST}.items():
        lines = [f"{NAMES[label]}/{number}.jpg\n" for label, number in images]
        put(root / "dtd" / "dtd" / "labels" / f"{place}1.txt", "".join(lines))
        for (label, number), line in zip(images, lines, strict=True):
            put(root / "dtd" / "dtd" / "images" / line.strip(), encoded(label, number))


def write_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    put(data / "variants.txt", "\n".join(NAMES))
    for place, images in (("trainval", TRAIN), ("test", TEST)):
        put(
            data / f"images_variant_{place}.txt",
            "".join(f"{number:07} {NAMES[label]}\n" for label, number in images),
        )
        for label, number in images:
            put(data / "images" / f"{number:07}.jpg", encoded(label, number))


def write_flowers(root: Path) -> None:
    folder, images = root / "flowers-102", [*TRAIN[::2], *TRAIN[1::2], *TEST]
    for number, image in enumerate(images, 1):
        put(folder / "jpg" / f"image_{number:05}.jpg", encoded(*image))
    savemat(folder / "imagelabels.mat", {"labels": [label + 1 for label, _ in images]})
    ids = {"trnid": range(1, 5), "valid": range(5, 9), "tstid": range(9, 13)}
    savemat(folder / "setid.mat", {name: list(numbers) for name, numbers in ids.items()})


def write_pets(root: Path) -> None:
    folder = root / "oxford-iiit-pet"
    for place, images in (("trainval", TRAIN), ("test", TEST)):
        names = [f"{NAMES[label].replace(' ', '_')}_{number}" for label, number in images]
        lines = [f"{name} {label + 1} 1 1\n" for name, (label, _) in zip(names, images, strict=True)]
        put(folder / "annotations" / f"{place}.txt", "".join(lines))
        for name, image in zip(names, images, strict=True):
            put(folder / "images" / f"{name}.jpg", encoded(*image))


def write_cars(root: Path) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(NAMES, object)})
    for place, file, images in (
        ("cars_train", "devkit/cars_train_annos.mat", TRAIN),
        ("cars_test", "cars_test_annos_withlabels.mat", TEST),
    ):
        rows = [(f"{number:05}.jpg", label + 1) for label, number in images]
        savemat(folder / file, {"annotations": np.array(rows, [("fname", object), ("class", object)])})
        for (name, _), image in zip(rows, images, strict=True):
            put(folder / place / name, encoded(*image))


def write_sun(root: Path) -> None:
    names = [name.replace(" ", "_") for name in NAMES]
    put(root / "SUN397" / "ClassName.txt", "".join(f"/{name[0]}/{name}\n" for name in names))
    for label, number in [*TRAIN, *TEST]:
        place = root / "SUN397" / names[label][0] / names[label]
        put(place / f"sun_{number}.jpg", encoded(label, number))


WRITERS: dict[str, Callable[[Path], None] | None] = {
    "cub": write_cub,
    "digits": None,
    "digits_0_4": None,
    "digits_5_9": None,
    "folder": write_folder,
    "gaussians": write_gaussians,
    "hfds": write_hfds,
    "parquet": write_parquet,
    "torch/CIFAR10": write_cifar10,
    "torch/CIFAR100": write_cifar100,
    "torch/DTD": write_dtd,
    "torch/FGVCAircraft": write_aircraft,
    "torch/Flowers102": write_flowers,
    "torch/OxfordIIITPet": write_pets,
    "torch/StanfordCars": write_cars,
    "torch/SUN397": write_sun,
    "wds": write_wds,
}
WRITTEN = [name for name, write in WRITERS.items() if write]


def without_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    for folder in [*(root / "train").iterdir()]:
        folder.rename(root / folder.name)
    (root / "train").rmdir()


# what may come without a test split, and how to take it away
UNSPLIT: dict[str, Callable[[Path], None]] = {
    "folder": without_val,
    "parquet": lambda root: (root / "test-0.parquet").unlink(),
    "wds": lambda root: (root / "val-0.tar").unlink(),
    "torch/SUN397": lambda root: None,
}


def content(source, row: int) -> tuple[str, int]:
    """Class name and number of a sample."""
    loaded = source.load(row)
    number = int(loaded.raw[0, 0]) if source.example is not None else loaded.getpixel((0, 0))[1]
    return source.class_names[source.labels[row]], number


def made(name: str, folder: Path) -> Path | None:
    write = WRITERS[name]
    if write is None:
        return None
    write(folder / "data")
    return folder / "data"


def test_no_source_is_forgotten():
    assert set(WRITERS) == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_keeps_to_its_word(name, tmp_path):
    """Splits agree in their classes and share no sample, keys are a sample's own, and loading twice gives the same."""
    data_dir = made(name, tmp_path)
    train, test = (load_source(name, split, data_dir) for split in ("train", "test"))
    assert list(train.class_names) == list(test.class_names)
    keys = [*train.keys, *test.keys]
    assert len(set(keys)) == len(keys)
    assert all(isinstance(key, str) and key for key in keys)
    for source in (train, test):
        assert len(source) == len(source.labels) == len(source.keys) == len(set(source.keys))
        assert set(source.labels) <= set(range(len(source.class_names)))
        for row in (0, len(source) - 1):
            first, again = source.load(row), source.load(row)
            if source.example is None:
                assert (first.mode, first.tobytes()) == ("RGB", again.tobytes())
            else:
                assert torch.equal(first.raw, again.raw)
                assert first.raw.shape == source.example.raw.shape


@pytest.mark.parametrize("name", WRITTEN)
def test_samples_are_those_that_were_written(name, tmp_path):
    data_dir = made(name, tmp_path)
    train, test = (load_source(name, split, data_dir) for split in ("train", "test"))
    found = {"train": train, "test": test}
    if name != "torch/SUN397":  # has no split of its own
        names = {"torch/Flowers102": ["pink primrose", "hard-leaved pocket orchid"]}.get(name)
        names = names or ([n.title() for n in NAMES] if name == "torch/OxfordIIITPet" else NAMES)
        for split, source in found.items():
            expected = [(names[label], number) for label, number in SPLITS[split]]
            assert sorted(content(source, row) for row in range(len(source))) == sorted(expected)
            assert source.own_split
        if name != "torch/Flowers102":  # whose names come from torchvision
            assert list(train.class_names) == names
    again = load_source(name, "train", data_dir)
    assert (again.labels, list(again.keys)) == (train.labels, list(train.keys))
    with pytest.raises(InputError, match=r"data set '.*' needs data_dir, a folder"):
        load_source(name, "train")


@pytest.mark.parametrize("name", UNSPLIT)
def test_a_fifth_is_kept_where_there_is_no_test_split_and_stays_the_same(name, tmp_path):
    data_dir = made(name, tmp_path)
    UNSPLIT[name](data_dir)
    train, test = load_splits(name, data_dir)
    assert not train.own_split
    assert not test.own_split
    whole = [content(source, row) for source in (train, test) for row in range(len(source))]
    assert len(set(whole)) == len(whole)
    assert [test.labels.count(label) for label in range(2)] == [1, 1]
    assert not set(train.keys) & set(test.keys)
    recorded = json.loads(json.dumps(record_splits(train, test)))
    for before, after in zip((train, test), load_splits(name, data_dir, recorded), strict=True):
        assert list(before.keys) == list(after.keys)
        assert list(before.labels) == list(after.labels)
        rows = range(len(before))
        assert [content(before, row) for row in rows] == [content(after, row) for row in rows]


@pytest.mark.parametrize("name", UNSPLIT)
def test_every_image_is_measured_where_there_is_no_test_split(name, tmp_path):
    data_dir = made(name, tmp_path)
    UNSPLIT[name](data_dir)
    train, test = load_splits(name, data_dir)
    whole = labelled_set(data_dir, name.upper() if name == "folder" else name)
    expected = [content(source, row) for source in (train, test) for row in range(len(source))]
    assert sorted(content(whole, row) for row in range(len(whole))) == sorted(expected)
    assert sorted(whole.keys) == sorted([*train.keys, *test.keys])


@pytest.mark.parametrize("name", ["folder", "gaussians", "hfds", "parquet", "wds"])
def test_the_test_split_alone_is_measured_where_there_is_one(name, tmp_path):
    measured = labelled_set(made(name, tmp_path), name)
    expected = sorted((NAMES[label], number) for label, number in TEST)
    assert sorted(content(measured, row) for row in range(len(measured))) == expected


@pytest.mark.parametrize("name", WRITTEN)
def test_an_image_that_cannot_be_read_is_named(name, tmp_path, monkeypatch):
    if name in ("gaussians", "torch/CIFAR10", "torch/CIFAR100"):
        pytest.skip("holds no encoded images")
    monkeypatch.setitem(globals(), "encoded", lambda label, number: b"<html>no image</html>")
    source = load_source(name, "train", made(name, tmp_path))
    with pytest.raises(InputError, match=r"not an image file") as caught:
        source.load(0)
    assert source.keys[0] in str(caught.value)


@pytest.mark.parametrize("name", ["wds", "hfds"])
def test_a_run_that_was_cut_goes_on_to_the_same_weights(name, tmp_path):
    data_dir = made(name, tmp_path)
    config = debug()
    config = replace(
        config,
        data=replace(config.data, dataset=name, data_dir=data_dir, batch_size=3),
        model=replace(config.model, model="vit_tiny_patch8", num_gaussians=None),
        schedule=replace(config.schedule, epochs=4.0),
    )
    whole = train(config, tmp_path / "whole")
    steps = iter(range(100))
    with pytest.raises(Interrupted) as stopped:
        train(config, tmp_path / "cut", stop=lambda: next(steps) == 2)
    assert stopped.value.step == 3
    assert resume(tmp_path / "cut") == whole
    one, other = (load_model(tmp_path / run) for run in ("whole", "cut"))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert list(one.card.class_names) == NAMES
