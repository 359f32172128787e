"""Frozen sets of Gaussians: written, read by class folders, and refused where they don't agree."""

import pytest
import torch
from PIL import Image

import gvit
from gvit.analysis.collections import collect_gaussians
from gvit.data.collections import save_collection
from gvit.data.datasets import LabelledImages, load_dataset
from gvit.data.inputs import eval_input
from gvit.errors import InputError
from gvit.gaussians import Gaussians


def some(count: int, num_gaussians: int = 4, **bounds) -> Gaussians:
    raw = torch.randn(count, num_gaussians, 9, generator=torch.Generator().manual_seed(count))
    return Gaussians(raw, **{"nominal_count": num_gaussians} | bounds)


def test_a_collection_comes_back_bit_by_bit(tmp_path):
    train, test = some(12, scale_factor=0.7, aspect=0.5), some(3, scale_factor=0.7, aspect=0.5)
    save_collection(tmp_path, "train", ["b", "a"], [0, 1] * 6, train)
    save_collection(tmp_path, "test", ["b", "a"], [1, 0, 1], test)
    read, held_out = (load_dataset("gaussians", split, tmp_path) for split in ("train", "test"))
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
        fits = load_dataset("gaussians", split, tmp_path / "fits")
        photos = load_dataset("folder", split, tmp_path / "photos")
        assert fits.labels == photos.labels
        rows = [photos.load(i).getpixel((0, 0))[0] for i in range(len(photos))]
        assert torch.equal(torch.stack([fits.load(i).raw for i in range(len(fits))]), gaussians.raw[rows])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (some(1, 5), "holds 5 Gaussians with .*, but .*train/a/0.safetensors 4 Gaussians with"),
        (some(1, scale_factor=2.0), "scale_factor 2,"),
        (some(1, nominal_count=9), "nominal_count 9,"),
        (some(1, aspect=0.5), "aspect 0.5,"),
    ],
)
def test_files_have_to_agree(tmp_path, other, message):
    for split in ("train", "test"):
        save_collection(tmp_path, split, ["a", "b"], [0, 1], some(2))
    for file in ("train/b/1.safetensors", "test/b/1.safetensors"):
        other[0].save(tmp_path / file)
        images = load_dataset("gaussians", file.split("/")[0], tmp_path)
        images.load(0)
        with pytest.raises(InputError, match=f"{file}: .*{message}"):
            images.load(1)


def test_files_that_cannot_be_used_are_named(tmp_path):
    for split in ("train", "test"):
        save_collection(tmp_path, split, ["a", "b"], [0, 1], some(2))
    file = tmp_path / "train" / "b" / "1.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-10], b"", b"junk" * 30):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"b/1\.safetensors: not a file of Gaussians"):
            load_dataset("gaussians", "train", tmp_path).load(1)
    some(2).save(file)
    with pytest.raises(InputError, match=r"b/1\.safetensors: expected the Gaussians of one image"):
        load_dataset("gaussians", "train", tmp_path).load(1)
    bad = some(1)[0]
    bad.raw[0, 0] = torch.nan
    bad.save(file)
    with pytest.raises(InputError, match=r"b/1\.safetensors: expected .*finite"):
        load_dataset("gaussians", "train", tmp_path).load(1)
    file.unlink()
    with pytest.raises(InputError, match="class folders without Gaussians to train on: b"):
        load_dataset("gaussians", "train", tmp_path)
    with pytest.raises(InputError, match="data set 'gaussians' needs --data-dir"):
        load_dataset("gaussians", "train")


def test_collected_gaussians_are_the_encoders_and_classified_the_same(tmp_path):
    pictures = torch.randint(0, 255, (5, 8, 8, 3), dtype=torch.uint8).numpy()
    images = LabelledImages(lambda i: Image.fromarray(pictures[i]), [0, 1, 0, 1, 1], ["a", "b"])
    model = gvit.create_model("gvit_tiny", num_classes=2, num_gaussians=6, scale_factor=0.7).train()
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
    read = load_dataset("gaussians", "test", tmp_path)
    transform = eval_input(given, read)
    logits = given(torch.stack([transform(read.load(i)) for i in range(5)]))
    torch.testing.assert_close(logits, model(inputs)[[0, 2, 1, 3, 4]], rtol=1e-3, atol=1e-4)
