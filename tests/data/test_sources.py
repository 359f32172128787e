import io
import json
import shutil
import threading
from functools import partial

import numpy as np
import pytest
import torchvision
from filelock import FileLock
from PIL import Image

from gvit.data.labelled import labelled_folder, labelled_set
from gvit.data.sources import download, load_source
from gvit.data.sources.base import Keys
from gvit.errors import InputError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write_class(folder, value: int, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (value, i, 0)).save(folder / f"{i:02d}.png")


def pixels(images) -> list[tuple[int, int]]:
    """(class value, number) of each image."""
    return [images.load(i).getpixel((0, 0))[:2] for i in range(len(images))]


def test_digits_are_the_documented_split():
    train, test = load_source("digits", "train"), load_source("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    shares = np.bincount(test.labels) / 360
    np.testing.assert_allclose(shares, np.bincount(train.labels) / 1437, atol=0.003)
    assert train.load(0).size == (8, 8)
    assert train.load(0).mode == "RGB"
    of_train = {train.load(i).tobytes() for i in range(len(train))}
    assert sum(test.load(i).tobytes() in of_train for i in range(360)) <= 1
    assert load_source("digits", "test").labels == test.labels


def test_unknown_data_set():
    with pytest.raises(InputError, match="unknown data set 'digit'; nearest: digits"):
        load_source("digit", "train")


def test_train_and_val_folders(tmp_path):
    for split, count in (("train", 3), ("val", 2)):
        write_class(tmp_path / split / "cat", 10, count)
        write_class(tmp_path / split / "ant", 20, count)
    train, val = (load_source("folder", split, tmp_path) for split in ("train", "test"))
    assert list(train.class_names) == list(val.class_names) == ["ant", "cat"]
    assert train.labels == [0, 0, 0, 1, 1, 1]
    assert pixels(train) == [(20, 0), (20, 1), (20, 2), (10, 0), (10, 1), (10, 2)]
    assert val.labels == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("training", "held_out"),
    [("Train", "Test"), ("Training", "Testing"), ("TRAIN", "valid"), ("train", "Val")],
)
def test_folders_of_splits_are_no_classes_however_they_are_written(tmp_path, training, held_out):
    for split, count in ((training, 3), (held_out, 2)):
        write_class(tmp_path / split / "cat", 10, count)
        write_class(tmp_path / split / "ant", 20, count)
    train, val = (load_source("folder", split, tmp_path) for split in ("train", "test"))
    assert list(train.class_names) == list(val.class_names) == ["ant", "cat"]
    assert (train.labels, val.labels) == ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    assert list(labelled_folder(tmp_path).keys) == list(val.keys)
    write_class(tmp_path / held_out / "dog", 30, 1)
    with pytest.raises(InputError, match=rf"classes that {training}/ does not have: dog"):
        load_source("folder", "test", tmp_path)


def test_of_two_folders_that_are_held_out_test_is_for_the_test_and_the_other_is_named(tmp_path):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for name in ("ant", "cat"):
            write_class(tmp_path / split / name, 10, count)
    test = load_source("folder", "test", tmp_path)
    assert len(test) == 2
    assert test.notes == (f"{tmp_path}: tested with test/; val/ is not used",)
    assert list(labelled_folder(tmp_path).keys) == list(test.keys)
    # images of no class that anybody knows
    shutil.rmtree(tmp_path / "test")
    write_class(tmp_path / "test" / "unknown", 10, 5)
    test = load_source("folder", "test", tmp_path)
    assert len(test) == 4
    assert test.notes == (f"{tmp_path}: tested with val/; test/ is not used",)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    for name in ("car", "train"):
        write_class(tmp_path / "vehicles" / name, 10, 5)
        write_class(tmp_path / "receipts" / {"car": "invalid", "train": "valid"}[name], 10, 5)
    for folder, names in (("vehicles", ["car", "train"]), ("receipts", ["invalid", "valid"])):
        source = load_source("folder", "train", tmp_path / folder)
        assert (list(source.class_names), len(source)) == (names, 8)
        assert list(labelled_folder(tmp_path / folder).class_names) == names


def test_class_folders_alone_are_split_by_class(tmp_path):
    write_class(tmp_path / "a", 10, 10)
    write_class(tmp_path / "b", 20, 5)
    (tmp_path / "readme.txt").touch()
    train, test = (load_source("folder", split, tmp_path) for split in ("train", "test"))
    assert (train.labels, test.labels) == ([0] * 8 + [1] * 4, [0] * 2 + [1])
    assert not set(pixels(train)) & set(pixels(test))
    assert sorted(pixels(train) + pixels(test)) == sorted(
        [(10, i) for i in range(10)] + [(20, i) for i in range(5)]
    )
    assert pixels(load_source("folder", "test", tmp_path)) == pixels(test)


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="data set 'folder' needs data_dir, a folder") as caught:
        load_source("folder", "train")
    assert caught.value.for_command_line() == "data set 'folder' needs --data-dir FOLDER"
    with pytest.raises(InputError, match=r"^data_dir='.*gone': no such folder") as caught:
        load_source("folder", "train", tmp_path / "gone")
    assert caught.value.for_command_line() == f"--data-dir {tmp_path / 'gone'}: no such folder"
    with pytest.raises(InputError, match=r"a folder for each class, at least two, found 0$"):
        load_source("folder", "train", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-0.parquet").touch()
    with pytest.raises(InputError, match="found 1; for") as caught:
        load_source("folder", "train", tmp_path)
    assert caught.value.for_command_line().endswith("for the *.parquet files here: --dataset parquet")
    write_class(tmp_path / "train" / "a", 0, 1)
    with pytest.raises(InputError, match="no val/ or test/"):
        load_source("folder", "train", tmp_path)
    write_class(tmp_path / "train" / "b", 0, 0)
    (tmp_path / "val" / "a").mkdir(parents=True)
    (tmp_path / "val" / "c").mkdir()
    with pytest.raises(InputError, match=r"train: class folders without images to train on: b$"):
        load_source("folder", "train", tmp_path)
    with pytest.raises(InputError, match=r"takes no data_dir='.*the data set 'folder'") as caught:
        load_source("digits", "train", tmp_path)
    assert f"takes no --data-dir {tmp_path};" in caught.value.for_command_line()
    assert caught.value.for_command_line().endswith("gvit train folder --data-dir FOLDER")
    single = tmp_path / "single"
    write_class(single / "a", 0, 5)
    write_class(single / "b", 0, 1)
    with pytest.raises(
        InputError, match=r"single: class folders without images to train on: b; .* at least 2"
    ):
        load_source("folder", "train", single)
    with pytest.raises(InputError, match="classes that train/ does not have: c"):
        load_source("folder", "test", tmp_path)


def test_folders_that_cannot_be_looked_into(tmp_path, monkeypatch):
    for name in ("folder", "gaussians", "parquet"):
        with pytest.raises(InputError, match="no such folder"):
            load_source(name, "train", tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="no such folder"):
        labelled_set(tmp_path / ("x" * 300))

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)  # the superuser would be let in
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        load_source("folder", "train", tmp_path)


def write_parquet(path, labels: list[int], names: list[str]) -> None:
    def encode(label: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((4, 4), label * 10, np.uint8)).save(stream, "png")
        return stream.getvalue()

    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = pa.table(
        {"image": [{"bytes": encode(label), "path": "x.png"} for label in labels], "label": labels}
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def test_parquet(tmp_path):
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", [1, 0], ["a", "b"])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", [1], ["a", "b"])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [0], ["a", "b"])
    train, test = (load_source("parquet", split, tmp_path) for split in ("train", "test"))
    assert (train.labels, test.labels) == ([1, 0, 1], [0])
    assert list(train.class_names) == ["a", "b"]
    assert [pixel[0] for pixel in pixels(train)] == [10, 0, 10]
    assert train.load(0).mode == "RGB"
    write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", [0, 1], ["a", "b"])
    test = load_source("parquet", "test", tmp_path)
    assert (test.labels, test.notes) == ([0], ("tested with test-*; validation-* is not used",))
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    assert load_source("parquet", "test", tmp_path).labels == [0, 1]


def test_parquet_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"no train-\*\.parquet"):
        load_source("parquet", "train", tmp_path)
    path = tmp_path / "train-0.parquet"
    path.write_text("not Parquet")
    with pytest.raises(InputError, match=r"train-0\.parquet: not in the Hugging Face"):
        load_source("parquet", "train", tmp_path)
    pq.write_table(pa.table({"label": [0]}), path)
    with pytest.raises(InputError, match=r"train-0\.parquet: not in the Hugging Face"):
        load_source("parquet", "train", tmp_path)


@pytest.mark.parametrize(
    "described",
    [
        '{"info": null}',
        "[" * 200_000,
        '{"info": {"features": {"label": {"names": [null, 3]}}}}',
        '{"info": {"features": {"label": {"names": "ab"}}}}',
    ],
    ids=lambda text: text[:60],
)
def test_parquet_whose_description_is_damaged(tmp_path, described):
    write_parquet(tmp_path / "train-0.parquet", [0, 1], ["a", "b"])
    table = pq.read_table(tmp_path / "train-0.parquet")
    pq.write_table(table.replace_schema_metadata({"huggingface": described}), tmp_path / "train-0.parquet")
    with pytest.raises(InputError, match=r"train-0\.parquet: not in the Hugging Face image convention"):
        load_source("parquet", "train", tmp_path)


def test_parquet_without_names_of_classes(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [2, 0, 1, 2, 0, 1], ["a", "b", "c"])
    table = pq.read_table(tmp_path / "train-0.parquet").replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "train-0.parquet")
    train, test = (load_source("parquet", split, tmp_path) for split in ("train", "test"))
    assert (train.class_names, sorted(train.labels), sorted(test.labels)) == (
        ["0", "1", "2"],
        [0, 1, 2],
        [0, 1, 2],
    )
    words = table.set_column(1, "label", pa.array(["kiwi", "fig", "fig", "kiwi", "fig", "kiwi"]))
    pq.write_table(words, tmp_path / "train-0.parquet")
    train = load_source("parquet", "train", tmp_path)
    assert (train.class_names, sorted(train.labels)) == (["fig", "kiwi"], [0, 0, 1, 1])


def test_images_that_are_turned_in_a_table_are_upright(tmp_path):
    write_parquet(tmp_path / "train-0.parquet", [0, 1, 0, 1], ["a", "b"])
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.new("L", (5, 3)).save(stream, "jpeg", exif=exif)
    table = pq.read_table(tmp_path / "train-0.parquet")
    images = pa.array([{"bytes": stream.getvalue(), "path": None}] * 4)
    pq.write_table(table.set_column(0, "image", images), tmp_path / "train-0.parquet")
    image = load_source("parquet", "train", tmp_path).load(0)
    assert (image.mode, image.size) == ("RGB", (3, 5))


def test_what_is_hidden_or_of_an_unknown_format_is_no_image(tmp_path):
    for name in ("a", "b"):
        write_class(tmp_path / name, 10, 5)
        (tmp_path / name / "._00.png").touch()
        (tmp_path / name / "1.HEIC").touch()
        (tmp_path / name / "notes.txt").touch()
        (tmp_path / name / "folder.png").mkdir()
    (tmp_path / "__MACOSX" / "a").mkdir(parents=True)
    train, test = (load_source("folder", split, tmp_path) for split in ("train", "test"))
    assert (len(train), len(test), train.class_names) == (8, 2, ["a", "b"])
    told = f"{tmp_path}: 2 .heic are left out: gvit reads none of these, convert them to PNG or JPEG"
    assert train.notes == test.notes == (told,)


def test_a_set_of_torchvision_is_fetched_only_when_asked(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"torchvision's DTD is not in here .*DTD\('.*', download=True\)"
    ) as caught:
        load_source("torch/dtd", "train", tmp_path)
    assert caught.value.for_command_line().endswith("fetch it with --download")
    asked = []
    monkeypatch.setattr(torchvision.datasets, "DTD", lambda root, **given: asked.append((root, given)))
    download("torch/DTD", tmp_path / "new")
    assert [given.pop("download") for _, given in asked] == [True] * 3
    assert asked == [(tmp_path / "new", {"split": split}) for split in ("train", "val", "test")]
    with FileLock(tmp_path / "new" / ".DTD.lock"):  # another process is fetching it
        waiting = threading.Thread(target=download, args=("torch/DTD", tmp_path / "new"))
        waiting.start()
        waiting.join(0.3)
        assert len(asked) == 3
    waiting.join(60)
    assert len(asked) == 6
    monkeypatch.setattr("os.access", lambda *_: False)  # a folder that is only read, with the files in it
    (tmp_path / "new" / ".DTD.lock").unlink()
    download("torch/DTD", tmp_path / "new")
    assert len(asked) == 9
    assert not (tmp_path / "new" / ".DTD.lock").exists()
    with pytest.raises(InputError, match="download is for data sets torch/NAME, not for 'folder'"):
        download("folder", tmp_path)

    def fail(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "DTD", fail)
    with pytest.raises(InputError, match=r"torch/DTD: cannot be fetched to .* \(no network\)"):
        download("torch/DTD", tmp_path)
    with pytest.raises(InputError, match="unknown data set 'torch/flowers'; nearest: torch/Flowers102"):
        load_source("torch/flowers", "train", tmp_path)


def test_data_sets_of_the_hub(tmp_path, monkeypatch):
    hf = pytest.importorskip("datasets")
    asked = []

    def load(name, config, **given):
        asked.append((name, config, given))
        images = [Image.new("L", (4, 4), value) for value in range(10)]
        features = hf.Features({"img": hf.Image(), "labels": hf.Value("string")})
        whole = hf.Dataset.from_dict({"img": images, "labels": ["fig", "kiwi"] * 5}, features=features)
        return hf.DatasetDict({"train": whole.select(range(9, -1, -1)), "test": whole.select([])})

    monkeypatch.setattr(hf, "load_dataset", load)
    train, test = (load_source("HFDS/someone/fruit:small", split, tmp_path) for split in ("train", "test"))
    assert asked == [("someone/fruit", "small", {"cache_dir": str(tmp_path)})] * 2
    # its test is empty; rows are those of the selection, not of the table below it
    assert (len(train), len(test), train.class_names, train.own_split) == (8, 2, ["fig", "kiwi"], False)
    assert all(train.load(row).getpixel((0, 0))[0] % 2 == train.labels[row] for row in range(8))
    assert len(labelled_set(tmp_path, "hfds/someone/fruit:small")) == 10  # those to be measured are all
    numbers = hf.DatasetDict({"train": hf.Dataset.from_dict({"x": [1]})})
    monkeypatch.setattr(hf, "load_dataset", lambda *_, **__: numbers)
    with pytest.raises(InputError, match=r"^dataset='hfds/a': no column of images; there are: x"):
        load_source("hfds/a", "train")


def test_the_test_split_of_the_hub_is_the_first_that_has_labels(monkeypatch):
    hf = pytest.importorskip("datasets")

    def part(labels, names=("label", "image")):
        image = Image.new("L", (4, 4))
        features = hf.Features({"label": hf.Value("string"), "image": hf.Image()})
        return hf.Dataset.from_dict(
            {"label": labels, "image": [image] * len(labels)}, features=features
        ).select_columns(list(names))

    for test in (part(["a"], ["image"]), part([None, None])):
        splits = hf.DatasetDict({"train": part(["a", "b"]), "validation": part(["b"]), "test": test})
        monkeypatch.setattr(hf, "load_dataset", lambda *_, splits=splits, **__: splits)
        found = load_source("hfds/a", "test")
        assert (found.labels, found.class_names, found.notes) == ([1], ["a", "b"], ())
    splits = hf.DatasetDict({"train": part(["a", "b"]), "validation": part(["b"]), "test": part(["a", "a"])})
    monkeypatch.setattr(hf, "load_dataset", lambda *_, **__: splits)
    found = load_source("hfds/a", "test")
    assert (found.labels, found.notes) == ([0, 0], ("tested with test; validation is not used",))


def test_labels_of_the_hub_are_by_the_names_of_their_own_split(monkeypatch):
    hf = pytest.importorskip("datasets")

    def load(names, *_, **__):
        images = [Image.new("L", (4, 4))] * 2
        parts = {
            part: hf.Dataset.from_dict(
                {"image": images, "label": [0, 1]},
                features=hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=of)}),
            )
            for part, of in (("train", ["fig", "kiwi", "plum"]), ("test", names))
        }
        return hf.DatasetDict(parts)

    for names, labels in (
        (["kiwi", "fig", "plum"], [1, 0]),
        (["plum", "kiwi"], [2, 1]),
        (["kiwi", "fig", "date"], [1, 0]),
    ):
        monkeypatch.setattr(hf, "load_dataset", partial(load, names))
        test = load_source("hfds/a", "test")
        assert (test.labels, test.class_names) == (labels, ["fig", "kiwi", "plum"])
    monkeypatch.setattr(hf, "load_dataset", partial(load, ["fig", "date"]))
    with pytest.raises(InputError, match=r"split 'test' has classes that 'train' does not have: date$"):
        load_source("hfds/a", "test")


def test_keys_are_a_compact_list():
    keys = Keys(["a", "", "ä/ö", "\udcff"])
    assert (list(keys), keys[-1], list(keys[1:3])) == (["a", "", "ä/ö", "\udcff"], "\udcff", ["", "ä/ö"])
    with pytest.raises(IndexError):
        keys[4]
