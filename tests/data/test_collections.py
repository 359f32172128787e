"""Frozen sets of Gaussians: written, read by class folders, and refused where they don't agree."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import gvit
from gvit.data.collections import collect_gaussians, encode_with, find_kept, save_collection, write_collection
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples
from gvit.data.sources import Source, load_source
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import Manifest, Shard, write_shard


def some(count: int, num_gaussians: int = 4, **bounds) -> Gaussians:
    raw = torch.randn(count, num_gaussians, 9, generator=torch.Generator().manual_seed(count))
    return Gaussians(raw, **{"nominal_count": num_gaussians} | bounds)


def test_a_collection_comes_back_bit_by_bit(tmp_path):
    train, test = some(12, scale_factor=0.7, aspect=0.5), some(3, scale_factor=0.7, aspect=0.5)
    save_collection(tmp_path, "train", ["b", "a"], [0, 1] * 6, train)
    save_collection(tmp_path, "test", ["b", "a"], [1, 0, 1], test)
    read, held_out = (load_source("gaussians", split, tmp_path) for split in ("train", "test"))
    assert list(read.class_names) == ["a", "b"]
    assert (read.labels, held_out.labels) == ([0] * 6 + [1] * 6, [0, 0, 1])
    order = [*range(1, 12, 2), *range(0, 12, 2)]
    assert torch.equal(torch.stack([read.load(i).raw for i in range(12)]), train.raw[order])
    assert torch.equal(held_out.load(1).raw, test.raw[2])
    assert (read.load(0).scale_factor, read.load(0).aspect, read.example.aspect) == (0.7, 0.5, 0.5)
    with pytest.raises(InputError, match="train is there already"):
        save_collection(tmp_path, "train", ["a", "b"], [0, 1], some(2))
    for names in (["a", "a"], ["a", "b/c"], ["a", ""], ["a", ".b"]):
        with pytest.raises(InputError, match="different names of folders"):
            save_collection(tmp_path / "other", "train", names, [0, 1], some(2))
    with pytest.raises(InputError, match="1 labels for the Gaussians of 2 images"):
        save_collection(tmp_path / "other", "train", ["a", "b"], [0], some(2))


def test_class_folders_alone_are_split_as_images_are(tmp_path):
    gaussians = some(10)
    for number in range(10):
        for place, name in (("fits", "a"), ("fits", "b"), ("photos", "a"), ("photos", "b")):
            folder = tmp_path / place / name
            folder.mkdir(parents=True, exist_ok=True)
            if place == "fits":
                gaussians[number].save(folder / f"{number}.safetensors")
            # beside the Gaussians lie the pictures of them that 'gvit fit' writes
            Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / f"{number}.png")
    for split in ("train", "test"):
        fits = load_source("gaussians", split, tmp_path / "fits")
        photos = load_source("folder", split, tmp_path / "photos")
        assert fits.labels == photos.labels
        rows = [photos.load(i).getpixel((0, 0))[0] for i in range(len(photos))]
        assert torch.equal(torch.stack([fits.load(i).raw for i in range(len(fits))]), gaussians.raw[rows])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (some(1, 5), "holds 5 Gaussians with .*, but .*train/a/0000000.safetensors 4 Gaussians with"),
        (some(1, scale_factor=2.0), "scale_factor 2,"),
        (some(1, nominal_count=9), "nominal_count 9,"),
        (some(1, aspect=0.5), "aspect 0.5,"),
    ],
)
def test_files_have_to_agree(tmp_path, other, message):
    for split in ("train", "test"):
        save_collection(tmp_path, split, ["a", "b"], [0, 1], some(2))
    for file in ("train/b/0000001.safetensors", "test/b/0000001.safetensors"):
        other[0].save(tmp_path / file)
        images = load_source("gaussians", file.split("/")[0], tmp_path)
        images.load(0)
        with pytest.raises(InputError, match=f"{file}: .*{message}"):
            images.load(1)


def test_files_that_cannot_be_used_are_named(tmp_path):
    for split in ("train", "test"):
        save_collection(tmp_path, split, ["a", "b"], [0, 1], some(2))
    file = tmp_path / "train" / "b" / "0000001.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-10], b"", b"junk" * 30):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"b/0000001\.safetensors: not a file of Gaussians"):
            load_source("gaussians", "train", tmp_path).load(1)
    some(2).save(file)
    with pytest.raises(InputError, match=r"b/0000001\.safetensors: expected the Gaussians of one image"):
        load_source("gaussians", "train", tmp_path).load(1)
    bad = some(1)[0]
    bad.raw[0, 0] = torch.nan
    bad.save(file)
    with pytest.raises(InputError, match=r"b/0000001\.safetensors: expected .*finite"):
        load_source("gaussians", "train", tmp_path).load(1)
    file.unlink()
    with pytest.raises(InputError, match="class folders without Gaussians to train on: b"):
        load_source("gaussians", "train", tmp_path)
    with pytest.raises(InputError, match="data set 'gaussians' needs data_dir, a folder"):
        load_source("gaussians", "train")


def test_collected_gaussians_are_the_encoders_and_classified_the_same(tmp_path):
    pictures = torch.randint(0, 255, (5, 8, 8, 3), dtype=torch.uint8).numpy()
    images = Source(lambda i: Image.fromarray(pictures[i]), [0, 1, 0, 1, 1], ["a", "b"])
    model = gvit.create_model("gvit_tiny_denoising", num_classes=2, num_gaussians=6, scale_factor=0.7).train()
    torch.nn.init.xavier_uniform_(model.encoder.head[-1].weight)
    collected = collect_gaussians(model, images, batch_size=2)
    assert model.training
    assert (collected.scale_factor, collected.nominal_count) == (0.7, 6)
    model.eval()
    transform = eval_input(model, images)
    inputs = torch.stack([transform(images.load(i)) for i in range(5)])
    torch.testing.assert_close(collected.raw, model.encode(inputs).raw)
    # what is collected, saved, read and fed is what the model's own classifier saw
    for split in ("train", "test"):
        save_collection(tmp_path, split, images.class_names, images.labels, collected)
    given = gvit.create_model("gaussian_vit_tiny", num_classes=2, num_gaussians=6, scale_factor=0.7).eval()
    given.load_state_dict(model.classifier.state_dict())
    given.card.preprocessing.__dict__["crop_mode"] = "squash"
    read = load_source("gaussians", "test", tmp_path)
    transform = eval_input(given, read)
    logits = given(torch.stack([transform(read.load(i)) for i in range(5)]))
    torch.testing.assert_close(logits, model(inputs)[[0, 2, 1, 3, 4]], rtol=1e-3, atol=1e-4)


def write_set(folder, **changes) -> None:
    """Two images to train on and two to test with, in a shard each; ``changes`` are to that of the test."""
    folder.mkdir()
    parts = {"train": 2, "test": 2}
    Manifest({}, 4, "float32", "safetensors", 10, ["a", "b"], parts, "0" * 16).write(folder)
    shard = Shard(some(2).raw, ["0", "1"], [1.0] * 2, [(8, 8)] * 2, [30.0] * 2, [0, 1], 1.0, 4)
    for part in parts:
        write_shard(folder / f"{part}-00000-of-00001.safetensors", shard)
        shard = replace(shard, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [0, 2]}, "damaged: its labels are not those of 2 classes"),
        ({"labels": [-1, 0]}, "damaged: its labels"),
        ({"labels": None}, "damaged: its labels"),
        ({"raw": some(2, 5).raw}, "is of another set: num_gaussians 5, not 4"),
        ({"scale_factor": 2.0}, "is of another set: scale_factor 2.0, not 1.0"),
        ({"nominal_count": 9}, "is of another set: nominal_count 9, not 4"),
        ({"aspects": [0.5] * 2}, "images of 2 aspects"),
    ],
)
def test_shards_have_to_be_of_their_set(tmp_path, changes, message):
    write_set(tmp_path / "set", **changes)
    assert load_source("gaussians", "train", tmp_path / "set").labels == [0, 1]
    with pytest.raises(InputError, match=message):
        load_source("gaussians", "test", tmp_path / "set")


def test_a_damaged_image_of_a_shard_does_not_cost_the_others(tmp_path):
    raw = some(2).raw
    raw[0, 0, 0] = torch.nan
    write_set(tmp_path / "set", raw=raw)
    *good, damaged, last = find_kept([tmp_path / "set"])
    assert [one.name for one in (*good, last)] == ["0", "1", "1"]
    assert isinstance(damaged, InputError)


def numbered(count: int = 11) -> EvaluationSamples:
    """Images that are all of one value, their own number, in classes b, a, b, ..."""
    labels = [row % 2 for row in range(count)]
    source = Source(lambda row: row, labels, ["b", "a"])
    return EvaluationSamples(source, lambda row: torch.full((3, 4, 4), float(row)))


class Encode:
    """Gaussians that hold their image's number, and a count of the images that were encoded."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, images: torch.Tensor) -> Gaussians:
        numbers = images[:, 0, 0, 0]
        self.seen += numbers.int().tolist()
        return Gaussians(numbers[:, None, None].expand(-1, 2, 9).clone(), scale_factor=0.7, nominal_count=5)


def test_a_collection_is_written_in_the_order_of_the_samples(tmp_path):
    encode, done = Encode(), []
    files = {
        split: write_collection(tmp_path, split, numbered(count), encode, batch_size=4, progress=done.append)
        for split, count in (("train", 11), ("test", 4))
    }
    assert done == [4, 8, 11, 4]
    assert files["train"][:2] == [
        tmp_path / f"train/{name}.safetensors" for name in ("b/0000000", "a/0000001")
    ]
    found = [Gaussians.load(file) for file in files["train"]]
    assert [one.raw.unique().item() for one in found] == list(range(11))
    assert {(tuple(one.raw.shape), one.scale_factor, one.nominal_count) for one in found} == {
        ((2, 9), 0.7, 5)
    }
    read = load_source("gaussians", "train", tmp_path)
    assert [read.load(row).raw[0, 0] for row in range(11)] == [1, 3, 5, 7, 9, 0, 2, 4, 6, 8, 10]
    assert read.labels == [0] * 5 + [1] * 6
    # the same files that save_collection writes
    stacked = found[0].replace_raw(torch.stack([one.raw for one in found]))
    save_collection(tmp_path / "saved", "train", ["b", "a"], numbered().source.labels, stacked)
    for file in files["train"]:
        assert (tmp_path / "saved" / file.relative_to(tmp_path)).read_bytes() == file.read_bytes()
    assert [entry.name for entry in (tmp_path / "saved").iterdir()] == ["train"]


def test_an_interrupted_collection_goes_on_with_the_first_batch_that_is_not_complete(tmp_path):
    def stop(done: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    encode = Encode()
    with pytest.raises(KeyboardInterrupt):
        write_collection(tmp_path, "train", numbered(), encode, batch_size=4, progress=stop)
    assert encode.seen == [0, 1, 2, 3]
    files = write_collection(tmp_path, "train", numbered(), encode, batch_size=4)
    assert encode.seen == list(range(11))
    files[5].unlink()
    assert write_collection(tmp_path, "train", numbered(), encode, batch_size=4) == files
    assert encode.seen[11:] == [4, 5, 6, 7]
    assert all(Gaussians.load(file).raw[0, 0] == row for row, file in enumerate(files))
    with pytest.raises(InputError, match=r"0000010\.safetensors: is not of this data set; remove .*train"):
        write_collection(tmp_path, "train", numbered(10), encode)
    unusable = numbered()
    unusable.source.class_names[0] = "b/c"
    with pytest.raises(InputError, match="different names of folders"):
        write_collection(tmp_path / "other", "train", unusable, encode)


def test_what_an_interruption_left_does_not_get_into_a_saved_collection(tmp_path, monkeypatch):
    save, written = Gaussians.save, []

    def save_three(self, path) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Gaussians, "save", save_three)
        with pytest.raises(KeyboardInterrupt):
            save_collection(tmp_path, "train", ["a", "b"], [0, 0, 0, 1], some(4))
    assert not (tmp_path / "train").exists()
    save_collection(tmp_path, "train", ["a", "b"], [0, 1], some(2))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


def test_a_model_encodes_as_in_its_evaluation():
    model = gvit.create_model("gvit_tiny_denoising", num_classes=2, num_gaussians=6).double().train()
    torch.nn.init.xavier_uniform_(model.encoder.head[-1].weight)
    images = torch.rand(3, 3, 32, 32)
    gaussians = encode_with(model)(images)
    assert model.training
    assert not gaussians.raw.requires_grad
    with torch.no_grad():
        assert torch.equal(gaussians.raw, model.eval().encode(images.double()).raw)
