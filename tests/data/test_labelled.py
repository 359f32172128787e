"""Labelled images that are not a run's own."""

import pytest
import torch
from PIL import Image

from gvit import Gaussians
from gvit.data.labelled import labelled_folder, labelled_set, with_classes
from gvit.data.sources import load_source
from gvit.errors import InputError


def fill(root, **counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (4, 4), (10 * i, 0, 0)).save(root / name / f"{i}.png")
    return root


def test_every_image_of_class_folders_counts(tmp_path):
    source = labelled_folder(fill(tmp_path, cat=1, dog=3, empty=0))
    assert source.class_names == ["cat", "dog"]
    assert list(source.labels) == [0, 1, 1, 1]
    assert list(source.keys) == ["cat/0.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert source.load(3).getpixel((0, 0)) == (20, 0, 0)


def test_what_counts_is_what_counts_in_training(tmp_path):
    fill(tmp_path, _other=2, cat=2, __MACOSX=1)
    (tmp_path / "cat" / "._0.png").touch()  # what a Mac leaves beside a file
    (tmp_path / "cat" / "folder.png").mkdir()
    source, trained = labelled_folder(tmp_path), load_source("folder", "train", tmp_path)
    assert source.class_names == trained.class_names == ["_other", "cat"]
    assert list(source.keys) == ["_other/0.png", "_other/1.png", "cat/0.png", "cat/1.png"]


@pytest.mark.parametrize("held_out", ["val", "test", "validation"])
def test_where_there_is_a_test_split_it_is_that(tmp_path, held_out):
    fill(tmp_path / "train", cat=4)
    assert len(labelled_folder(tmp_path)) == 4
    fill(tmp_path / held_out, cat=2)
    assert list(labelled_folder(tmp_path).keys) == [f"{held_out}/cat/0.png", f"{held_out}/cat/1.png"]


def test_the_test_split_is_the_one_that_training_tests_with(tmp_path):
    fill(tmp_path / "test", images=3)  # without labels, as Kaggle's are
    fill(tmp_path / "val", cat=1, dog=1)
    assert {key.split("/")[0] for key in labelled_set(tmp_path, "folder", ["owl", "dog"]).keys} == {"val"}
    # nothing says that these are no class
    assert labelled_folder(tmp_path, ["owl"]).class_names == ["images"]
    fill(tmp_path / "train", cat=2, dog=2)
    assert list(labelled_folder(tmp_path).keys) == list(load_source("folder", "test", tmp_path).keys)


def test_every_file_of_gaussians_counts(tmp_path):
    for place in ("cat/0", "dog/0", "dog/1", "dog/deeper/2"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Gaussians(torch.full((3, 9), float(place[-1]))).save(tmp_path / f"{place}.safetensors")
    source = labelled_set(tmp_path, "gaussians")
    assert (list(source.labels), source.class_names) == ([0, 1, 1, 1], ["cat", "dog"])
    assert [source.load(row).raw[0, 0] for row in range(4)] == [0, 0, 1, 2]
    assert len(source.example) == 3
    Gaussians(torch.zeros(4, 9)).save(tmp_path / "dog" / "1.safetensors")
    with pytest.raises(InputError, match=r"1\.safetensors: holds 4 Gaussians .* but .*0\.safetensors 3 "):
        source.load(2)
    fill(tmp_path / "photos", cat=1)
    with pytest.raises(InputError, match=r"no Gaussians in class folders here; .*/CLASS/\*\.safetensors$"):
        labelled_set(tmp_path / "photos", "gaussians")


def test_any_parquet_file_counts_unless_some_are_called_after_a_split(tmp_path):
    pa, pq = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    with pytest.raises(InputError, match=r"no \*\.parquet here or in data/"):
        labelled_set(tmp_path, "parquet")
    fill(tmp_path, cat=1)
    content = (tmp_path / "cat" / "0.png").read_bytes()
    counts = {"new": 5, "train-0": 4, "val-0": 3, "test-0": 2}
    for name, count in counts.items():
        table = {"image": [{"bytes": content, "path": None}] * count, "label": ["a"] * count}
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        source = labelled_set(tmp_path)  # found without being named
        assert (len(source), source.class_names) == (count, ["a"])
    assert source.notes == ("tested with test-*; val-* is not used",)
    for name in ("new", "train-0", "val-0"):
        (tmp_path / f"{name}.parquet").unlink()
    assert len(labelled_set(tmp_path, "parquet")) == 2


def test_classes_are_matched_by_name(tmp_path):
    source = labelled_folder(fill(tmp_path, dog=1, cat=2))
    matched = with_classes(source, ["owl", "dog", "cat"])
    assert list(matched.labels) == [2, 2, 1]
    assert matched.class_names == ["owl", "dog", "cat"]
    with pytest.raises(
        InputError, match=r"does not know: cat, dog; nearest: cats; its 2 classes: cats, owl\."
    ):
        with_classes(source, ["cats", "owl"])


def test_folders_without_labelled_images(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        labelled_set(tmp_path / "gone")
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match="no images in class folders here"):
        labelled_set(tmp_path)
    with pytest.raises(InputError, match="unknown data set 'fodler'; nearest: folder"):
        labelled_set(tmp_path, "fodler")


def test_the_files_and_classes_are_those_that_a_model_is_trained_on(tmp_path):
    fill(tmp_path, _rare=5, cat=5, __MACOSX=1)
    (tmp_path / "cat" / "._0.png").write_bytes(b"what a Mac adds")
    source = labelled_folder(tmp_path)
    parts = [load_source("folder", split, tmp_path) for split in ("train", "test")]
    assert source.class_names == parts[0].class_names == ["_rare", "cat"]
    assert sorted(source.keys) == sorted([*parts[0].keys, *parts[1].keys])
