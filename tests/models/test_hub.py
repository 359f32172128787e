"""A model goes into a folder or onto the Hub and comes back the same; the Hub is faked here."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from unittest import mock

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

import gvit
from gvit.cli import main
from gvit.errors import InputError
from gvit.models import registry
from gvit.models.base import ImageClassifier
from gvit.models.gvit import GViT
from gvit.models.vit import ViT
from pretrained_models import trained

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def model():
    made = trained("gvit_tiny", num_classes=3, num_gaussians=16)
    names, seen = ("cat", "do|g", "a\nb"), replace(made.card.preprocessing, crop_mode="squash")
    made.card = replace(made.card, class_names=names, preprocessing=seen)
    return made


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that is a folder: ``hub / OWNER / NAME`` are the files of a repository."""
    place = tmp_path / "hub"

    def create_repo(api, repo_id, *, private, exist_ok):
        (place / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        (place / "asked.json").write_text(json.dumps([repo_id, private, api.token]))

    def upload_folder(api, *, repo_id, folder_path, commit_message, revision, create_pr):
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)
        url = f"https://huggingface.co/{repo_id}/commit/{'0' * 40}"
        return huggingface_hub.CommitInfo(
            commit_url=url, commit_message=commit_message, commit_description="", oid="0" * 40
        )

    def hf_hub_download(
        repo_id,
        filename,
        *,
        revision=None,
        token=None,
        cache_dir=None,
        force_download=False,
        local_files_only=False,
    ):
        file = place / repo_id / filename
        if not file.exists():
            raise errors.EntryNotFoundError.__new__(errors.EntryNotFoundError, filename)
        return str(file)

    # with the signatures of the real ones
    there = {
        "create_repo": create_repo,
        "upload_folder": upload_folder,
        "hf_hub_download": lambda _, *args, **kwargs: hf_hub_download(*args, **kwargs),
    }
    for name, function in there.items():
        real = getattr(huggingface_hub.HfApi, name)
        monkeypatch.setattr(huggingface_hub.HfApi, name, mock.create_autospec(real, side_effect=function))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_mine")
    return place


def test_a_folder_gives_the_same_model_in_gvit_and_in_timm(model, tmp_path, capsys):
    import timm
    from PIL import Image

    folder = tmp_path / "new" / "cats"
    model.save_pretrained(folder)
    assert {file.name for file in folder.iterdir()} == FILES
    for load in (GViT.from_pretrained, ImageClassifier.from_pretrained, gvit.load_model):
        loaded = load(folder)
        assert (loaded.card, loaded.training) == (model.card, False)
        assert torch.equal(loaded(IMAGES), model(IMAGES))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert torch.equal(theirs(IMAGES), model(IMAGES))
    assert (theirs.card.class_names, theirs.card.preprocessing.crop_mode) == (
        model.card.class_names,
        "squash",
    )
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=5)(IMAGES).shape == (2, 5)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    assert main(["predict", str(folder), str(tmp_path / "red.png")]) == 0
    assert "red.png" in capsys.readouterr().out
    # it is weights, and no run
    assert main(["evaluate", str(folder)]) == 2
    assert "weights without a run" in capsys.readouterr().err


def test_a_registered_models_own_head_is_loaded_by_timm(tmp_path, monkeypatch):
    """Its number of classes is the name's own, so no argument tells it."""
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    tokens, sizes = registry.TOKENIZERS["canonical"], {"img_size": 16, "num_gaussians": 5, "num_classes": 3}
    registry.register_model(
        "gvit_of_three", "for this test", tokens, "denoising", patch_size=8, depth=1, **sizes
    )
    model = gvit.create_model("gvit_of_three").eval()
    model.save_pretrained(tmp_path / "three")
    import timm

    theirs = timm.create_model(f"local-dir:{tmp_path / 'three'}", pretrained=True)
    assert torch.equal(theirs.classifier.head.weight, model.classifier.head.weight)


def test_a_patch_vit_and_an_encoder_alone_go_there_and_back(tmp_path):
    patches = gvit.create_model("vit_tiny_patch8", num_classes=2).eval()
    patches.save_pretrained(tmp_path / "vit", dtype=torch.float16)
    torch.testing.assert_close(
        ViT.from_pretrained(tmp_path / "vit")(IMAGES), patches(IMAGES), rtol=0, atol=0.02
    )
    alone = trained("gvit_tiny", num_classes=0)
    alone.card = replace(alone.card, encoder_only=True)
    alone.save_pretrained(tmp_path / "alone")
    assert torch.equal(GViT.from_pretrained(tmp_path / "alone").encode(IMAGES).raw, alone.encode(IMAGES).raw)
    card = huggingface_hub.ModelCard.load(tmp_path / "alone" / "README.md")
    assert card.data.pipeline_tag == "image-feature-extraction"
    assert "model.encode(images)" in card.text
    named = trained("gvit_tiny", num_classes=2)
    named.card = replace(named.card, encoder_only=True, class_names=("cat", "dog"))
    named.save_pretrained(tmp_path / "named")
    assert "label_names" not in json.loads((tmp_path / "named" / "config.json").read_text())
    assert gvit.load_model(tmp_path / "named").card.class_names == ("cat", "dog")


def test_the_example_of_a_model_that_reads_gaussians_runs(tmp_path):
    model = gvit.create_model("gaussian_vit_tiny", num_classes=2)
    model.save_pretrained(tmp_path / "reader")
    made = trained("gvit_tiny", num_classes=2).encode(IMAGES[:1])[0]
    made.save(tmp_path / "image.safetensors")
    card = huggingface_hub.ModelCard.load(tmp_path / "reader" / "README.md")
    (example,) = card.text.split("```python\n")[1:]
    example = example.partition("```")[0].replace("image.safetensors", f"{tmp_path}/image.safetensors")
    names: dict = {}
    exec(example.replace('"reader"', repr(str(tmp_path / "reader"))), names)
    assert names["logits"].shape == (1, 2)


@pytest.mark.parametrize(
    "seen", [("center", 1.0, "bilinear"), ("center", 0.5, "bicubic"), ("squash", 1.0, "bicubic")]
)
def test_timm_crops_as_the_model_was_trained(seen, tmp_path):
    import timm

    crop_mode, crop_pct, interpolation = seen
    model = trained("gvit_tiny", num_classes=2)
    how = replace(
        model.card.preprocessing, crop_mode=crop_mode, crop_pct=crop_pct, interpolation=interpolation
    )
    model.card = replace(model.card, preprocessing=how)
    model.save_pretrained(tmp_path / "saved")
    theirs = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True)
    assert theirs.card.preprocessing == how
    assert [theirs.pretrained_cfg[name] for name in ("crop_mode", "crop_pct", "interpolation")] == list(seen)


def test_the_card_tells_what_the_hub_reads_the_measures_and_how_to_load(model, tmp_path):
    measures = {"num_images": 40, "top1": 0.875, "top5": None, "psnr": 30.25, "ssim": 0.9}
    measures |= {"num_gaussians": 12, "looks": None}
    run = tmp_path / "run"
    run.mkdir()
    (run / "evaluation.json").write_text(json.dumps(measures | {"class_names": list(model.card.class_names)}))
    model.save_pretrained(tmp_path / "cats", license="mit", about="Tells *cats*.", evaluation=run)
    card = huggingface_hub.ModelCard.load(tmp_path / "cats" / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["license"]) == ("gvit", "mit")
    assert (data["pipeline_tag"], data["tags"]) == (
        "image-classification",
        ["gvit", "gaussian-splatting", "timm"],
    )
    for line in (
        "# cats",
        "Tells *cats*.",
        "On 40 test images, with 12 Gaussians.",
        "| top-1 | 87.50 % |",
        "| PSNR | 30.250 dB |",
    ):
        assert line in card.text.splitlines(), line
    assert "| classes | 3: cat, do\\|g, a\\nb |" in card.text  # a name can't break the table
    assert "top-5" not in card.text
    assert str(tmp_path) not in card.text
    (example,) = card.text.split("```python\n")[1:]
    names: dict = {}
    exec(example.partition("print(")[0].replace('"cats"', repr(str(tmp_path / "cats"))), names)
    assert torch.equal(names["model"](IMAGES), model(IMAGES))


def test_a_card_that_somebody_has_written_stays(model, hub, tmp_path):
    folder = tmp_path / "cats"
    model.save_pretrained(folder, about="first")
    model.save_pretrained(folder, about="second")
    assert "second" in (folder / "README.md").read_text()
    (folder / "README.md").write_text("mine")
    model.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "mine"
    model.push_to_hub("me/cats")
    model.push_to_hub("me/cats", about="again")
    assert "again" in (hub / "me" / "cats" / "README.md").read_text()
    (hub / "me" / "cats" / "README.md").write_text("mine")
    model.push_to_hub("me/cats")
    assert (hub / "me" / "cats" / "README.md").read_text() == "mine"


def test_what_is_pushed_is_what_is_loaded(model, hub):
    address = model.push_to_hub("hf-hub:me/cats", private=True, token="hf_other", license="mit")
    assert address.startswith("https://huggingface.co/me/cats/commit/")
    assert json.loads((hub / "asked.json").read_text()) == ["me/cats", True, "hf_other"]
    assert {file.name for file in (hub / "me" / "cats").iterdir()} == FILES
    assert 'gvit.load_model("hf-hub:me/cats")' in (hub / "me" / "cats" / "README.md").read_text()
    for loaded in (
        gvit.load_model("hf-hub:me/cats"),
        GViT.from_pretrained("me/cats", token="hf_other"),
        GViT.from_pretrained("hf-hub:me/cats@main"),
        GViT.from_pretrained("me/cats", revision="v1"),
    ):
        assert torch.equal(loaded(IMAGES), model(IMAGES))


def refused(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_saved_is_refused_and_leaves_nothing(model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"data": {}}')
    (run / "evaluation.json").write_text('{"class_names": ["x"], "num_images": 1}')
    new, file = tmp_path / "new", tmp_path / "file"
    file.write_text("text")
    assert "holds a config.json that is no saved model's" in refused(model.save_pretrained, run)
    assert {f.name for f in run.iterdir()} == {"config.json", "evaluation.json"}
    assert "is a file" in refused(model.save_pretrained, file)
    assert "cannot write" in refused(model.save_pretrained, file / "x")
    assert "not found; gvit.training.report.assess writes it" in refused(
        model.save_pretrained, new, evaluation=tmp_path
    )
    assert "damaged" in refused(model.save_pretrained, new, evaluation=file)
    assert "no evaluation of gvit's" in refused(model.save_pretrained, new, evaluation=run)
    whole = {"num_images": 1, "top1": 1, "top5": None, "psnr": None, "ssim": None, "class_names": ["x"]}
    (run / "evaluation.json").write_text(json.dumps(whole))
    assert "other classes" in refused(model.save_pretrained, new, evaluation=run)
    large = trained("gvit_tiny", num_classes=3)
    torch.nn.init.constant_(large.encoder.head.bias, 1e6)
    assert "can't; save as torch.bfloat16" in refused(large.save_pretrained, new, dtype=torch.float16)
    assert not new.exists()
    model.save_pretrained(new)
    before = {f.name: f.read_bytes() for f in new.iterdir()}
    refused(large.save_pretrained, new, dtype=torch.float16)
    assert {f.name: f.read_bytes() for f in new.iterdir()} == before


def test_what_cannot_be_loaded_is_refused_in_a_line(model, hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("cats")
    assert "of class GViT, not ViT; GViT.from_pretrained" in refused(ViT.from_pretrained, "cats")
    assert "model.safetensors not found" in refused(GViT.from_pretrained, tmp_path / "none")
    assert "revision='v1' is of models on the Hub" in refused(GViT.from_pretrained, "cats", revision="v1")
    text = refused(GViT.from_pretrained, "runs/cats")
    assert text.startswith("runs/cats: no such folder here; hf-hub:runs/cats: has no model.safetensors")
    Path("cats/model.safetensors").write_bytes(b"text")
    assert "not written by gvit" in refused(GViT.from_pretrained, "cats")


def test_what_cannot_be_pushed_is_refused_in_a_line_before_anything_is_made(model, hub, monkeypatch):
    for name in ("cats", "me/cats/x", "me/c--ats", "me/", ""):
        assert f"hf-hub:{name}: names on the Hub are OWNER/NAME" in refused(model.push_to_hub, name)
    refused(model.push_to_hub, "me/cats", evaluation="none")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hf-hub:me/cats: no token; run 'hf auth login'" in refused(model.push_to_hub, "me/cats")
    assert not hub.exists()


def http_error(status: int) -> Exception:
    error = errors.HfHubHTTPError.__new__(errors.HfHubHTTPError)
    error.server_message = f"{status} from\nthe Hub"
    error.response = type("Response", (), {"status_code": status})()
    return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (http_error(403), r"this token may not write there \(403 from the Hub\)"),
        (http_error(500), r"cannot be uploaded \(500 from the Hub\)"),
        (ConnectionError("no route\nto host"), r"cannot be uploaded \(no route\)"),
        (errors.HfHubHTTPError.__bases__[0]("no name\nfound"), r"cannot be uploaded \(no name\)"),
        (errors.RevisionNotFoundError.__new__(errors.RevisionNotFoundError, "x"), "has no branch 'v1'"),
    ],
)
def test_what_goes_wrong_while_pushing_is_one_line(model, hub, monkeypatch, error, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", fail)
    with pytest.raises(InputError, match=line) as caught:
        model.push_to_hub("me/cats", branch="v1")
    assert str(caught.value).startswith("hf-hub:me/cats: ")
    assert "\n" not in str(caught.value)
    assert list((hub / "me" / "cats").iterdir()) == []
