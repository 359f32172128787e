"""WebDataset tars: what counts as a sample, where its class comes from, and what is refused."""

import gzip
import io
import json
import tarfile

import pytest
from PIL import Image

from gvit.data.sources import load_source, tars
from gvit.errors import InputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "tars"


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(stream, "png")
    return stream.getvalue()


def write(path, members: dict[str, bytes | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def samples(root, split: str = "train") -> list[tuple[int, str]]:
    """Pixel value and class name of each."""
    source = load_source("wds", split, root)
    return [
        (source.load(row).getpixel((0, 0))[0], source.class_names[source.labels[row]])
        for row in range(len(source))
    ]


def both(root, members: dict[str, bytes | str]) -> None:
    """The same in both splits."""
    write(root / "set-train-000.tar", members)
    write(root / "set-validation-000.tar", members)


def test_numbers_have_the_names_that_lie_beside_the_tars(tmp_path):
    both(tmp_path, {"a.PNG": picture(1), "a.cls": "1\n", "b.png": picture(2), "b.cls": "0"})
    assert samples(tmp_path) == [(1, "1"), (2, "0")]
    (tmp_path / "classnames.txt").write_text("cat\nlong-tailed dog\n")
    assert samples(tmp_path) == samples(tmp_path, "test") == [(1, "long-tailed dog"), (2, "cat")]
    (tmp_path / "classes.json").write_text(json.dumps({"0": "zero", "1": "one"}))
    (tmp_path / "classnames.txt").unlink()
    assert samples(tmp_path) == [(1, "one"), (2, "zero")]
    (tmp_path / "classes.json").write_text('["zero"]')
    with pytest.raises(InputError, match=r"classes\.json: label 1, where classes are numbered from 0 to 0"):
        samples(tmp_path)
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(InputError, match=r"classes\.json: not a list of class names"):
        samples(tmp_path)


def test_classes_by_name_by_json_and_by_folder(tmp_path):
    both(tmp_path / "name", {"a.png": picture(1), "a.cls": "dog", "b.png": picture(2), "b.cls": "cat"})
    assert samples(tmp_path / "name") == [(1, "dog"), (2, "cat")]
    both(
        tmp_path / "json",
        {"a.json": '{"label": 1}', "a.png": picture(1), "b.png": picture(2), "b.json": '{"label": 0}'},
    )
    assert samples(tmp_path / "json") == [(1, "1"), (2, "0")]
    # as 'tar cf' makes it of class folders, whose numbers are names
    both(tmp_path / "folder", {"205/x.png": picture(1), "31/x.png": picture(2), "31/._x.png": "of a Mac"})
    assert samples(tmp_path / "folder") == [(1, "205"), (2, "31")]
    (tmp_path / "folder" / "classes.json").write_text('{"31": "lamp", "205": "tree"}')
    assert samples(tmp_path / "folder") == [(1, "tree"), (2, "lamp")]


def test_other_members_and_folders_of_splits(tmp_path):
    write(
        tmp_path / "train" / "0.tar", {"n/a.png": picture(1), "n/a.txt": "words", "n/a.seg.png": picture(9)}
    )
    write(tmp_path / "train" / "1.tar", {"m/a.txt": "no image", "m/b.png": picture(2)})
    write(tmp_path / "val" / "0.tar", {"m/a.png": picture(3)})
    assert samples(tmp_path) == [(1, "n"), (2, "m")]
    assert samples(tmp_path, "test") == [(3, "m")]
    assert list(load_source("wds", "train", tmp_path).keys) == ["train/0.tar/n/a.png", "train/1.tar/m/b.png"]
    write(tmp_path / "val" / "0.tar", {"k/a.png": picture(3)})
    with pytest.raises(InputError, match="label 'k', which is none of the 2 classes to train on"):
        samples(tmp_path, "test")


def test_headers_are_read_once_and_again_where_a_tar_has_changed(tmp_path, cache, monkeypatch):
    both(tmp_path, {"a/a.png": picture(1), "b/b.png": picture(2)})
    first = samples(tmp_path)
    monkeypatch.setattr(tars, "_read_headers", lambda tar: pytest.fail(f"{tar} was read again"))
    assert samples(tmp_path) == first
    monkeypatch.undo()
    monkeypatch.setattr(tars, "user_cache_path", lambda *_, **__: cache.parent)
    both(tmp_path, {"a/a.png": picture(1), "b/b.png": picture(2), "b/c.png": picture(3)})
    assert samples(tmp_path) == [*first, (3, "b")]
    for file in cache.iterdir():
        for damaged in (b"damaged", b"", file.read_bytes()[:100]):
            file.write_bytes(damaged)
            assert samples(tmp_path) == [*first, (3, "b")]


def test_a_name_is_escaped_where_the_progress_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(tars.ProgressBar, "update", lambda _bar, _done, text: told.append(text))
    write(tmp_path / "train-\x1b[2J.tar", {"a/a.png": picture(1), "a/b.png": picture(2)})
    samples(tmp_path)
    assert told == [r"train-\x1b[2J.tar"]


def test_images_of_class_folders_may_have_dots_and_the_same_stem(tmp_path):
    names = ("a/1.30.12.png", "a/1.30.15.PNG", "a/x.png", "a/x.bmp", "b/v.2.png")
    both(tmp_path, {name: picture(number) for number, name in enumerate(names)})
    assert samples(tmp_path) == [(number, name[0]) for number, name in enumerate(names)]


def test_a_tar_is_of_one_split(tmp_path):
    members = {"a/a.png": picture(1), "b/b.png": picture(2)}
    tar = tmp_path / "x" / "train_val-0.tar"
    write(tar, members)
    with pytest.raises(
        InputError, match=r"train_val-0\.tar: is called after train and validation, .*trainval-"
    ):
        samples(tmp_path)
    # a name tells more than that of a folder
    write(tmp_path / "all-test-and-more" / "trainval-0.tar", members | {"b/c.png": picture(3)})
    tar.unlink()
    write(tmp_path / "train" / "val-0.tar", members)
    assert (len(samples(tmp_path)), len(samples(tmp_path, "test"))) == (3, 2)
    assert load_source("wds", "test", tmp_path).notes == ()
    write(tmp_path / "train" / "test-0.tar", {"a/t.png": picture(9)})
    assert samples(tmp_path, "test") == [(9, "a")]
    (told,) = load_source("wds", "test", tmp_path).notes
    assert told == f"1 tar not used, the first of them {tmp_path / 'train' / 'val-0.tar'}"


def test_tars_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match=r"no \.tar files here"):
        samples(tmp_path)
    members = {"a/a.png": picture(1), "b/b.png": picture(2)}
    both(tmp_path, members)
    tar = tmp_path / "set-train-000.tar"
    whole = tar.read_bytes()
    for damaged in (gzip.compress(whole), b"<html>", b"", whole[:600], whole[:1100]):
        tar.write_bytes(damaged)
        with pytest.raises(InputError, match=r"set-train-000\.tar: (not a whole, uncompressed tar|cut off)"):
            samples(tmp_path)
    # a header in the middle: what comes after it would be left out in silence
    tar.write_bytes(whole[:1024] + b"x" * 512 + whole[1536:])
    with pytest.raises(InputError, match=r"set-train-000\.tar: .*what is at byte 1024 is no header"):
        samples(tmp_path)
    write(tar, {"a.png": picture(1)})
    with pytest.raises(InputError, match=r"a has no class: no member a\.cls or a\.json, and no folder"):
        samples(tmp_path)
    for described in ("[]", '{"label": null}'):
        write(tar, {"a.png": picture(1), "a.json": described})
        with pytest.raises(InputError, match=r"a\.json has no label"):
            samples(tmp_path)
