"""A split that was made stays the same, whatever comes to the data later."""

import pytest
from PIL import Image

from gvit.data.splits import load_splits, load_test, record_splits
from gvit.errors import InputError


def write(folder, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(first, first + count):
        Image.new("RGB", (2, 2), (n, 0, 0)).save(folder / f"{n:03}.png")


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        write(tmp_path / name, 10, 50)
    return tmp_path


def test_what_comes_later_is_left_out_and_told(photos):
    train, test = load_splits("folder", photos)
    recorded = record_splits(train, test)
    write(photos / "cat", 30)  # before the others in their order, of which some would now be trained on
    assert set(load_test("folder", photos).keys) != set(test.keys)
    again = load_splits("folder", photos, recorded)
    assert [list(source.keys) for source in again] == [list(train.keys), list(test.keys)]
    assert [source.labels for source in again] == [train.labels, test.labels]
    assert again[0].load(3).tobytes() == train.load(3).tobytes()
    assert again[0].notes == ("30 images that came after the run had begun: left out",)
    assert list(load_test("folder", photos, recorded).keys) == list(test.keys)


def test_what_is_gone_is_named(photos):
    recorded = record_splits(*load_splits("folder", photos))
    first, *others = recorded["train"]
    (photos / first).unlink()
    write(photos / "cat", 1)
    train, test = load_splits("folder", photos, recorded)
    assert train.notes == (
        f"1 training image gone, the first of them {first}",
        "1 image that came after the run had begun: left out",
    )
    assert [list(source.keys) for source in (train, test)] == [others, recorded["test"]]
    assert record_splits(train, test) == {**recorded, "train": others}
    gone = recorded["test"][1]
    (photos / gone).unlink()
    with pytest.raises(
        InputError, match=f"1 test image of the run cannot be found any more, .* {gone}: put back"
    ):
        load_splits("folder", photos, recorded)


def test_a_split_of_the_data_is_not_written_down(photos):
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write(photos / split / name, 2)
    assert record_splits(*load_splits("folder", photos)) is None


def test_a_split_that_came_later_does_not_take_the_place_of_the_recorded_one(photos):
    recorded = record_splits(*load_splits("folder", photos))
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            write(photos / split / name, 2)
    with pytest.raises(InputError, match="4 test images of the run cannot be found any more"):
        load_splits("folder", photos, recorded)
    again = load_splits(
        "folder", photos, {**recorded, "train": ["train/cat/000.png"], "test": ["val/dog/001.png"]}
    )
    assert record_splits(*again) == {
        "class_names": ["cat", "dog"],
        "train": ["train/cat/000.png"],
        "test": ["val/dog/001.png"],
    }
