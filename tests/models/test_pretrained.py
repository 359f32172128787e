"""Pretrained weights: by name, in the package or on a Hub that is faked here; refused where they are other ones."""

import hashlib
import shutil
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file

import gvit
from gvit.errors import InputError
from gvit.models import pretrained, registry
from gvit.models.architecture import Architecture
from gvit.models.pretrained import list_pretrained, shipped
from gvit.models.weights import load_model, save_model
from pretrained_models import add, trained

ROOT = Path(__file__).parents[2]
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package with a classifier of three classes and a general encoder."""
    place = tmp_path / "package"
    place.mkdir()
    (place / "index.json").write_text("{}")
    monkeypatch.setattr(pretrained, "FOLDER", place)
    classifier = trained(num_classes=3)
    classifier.card = replace(classifier.card, class_names=("a", "b", "c"))
    add(place, "gvit_tiny.abc", classifier)
    encoder = trained(seed=4, num_classes=0, num_gaussians=48)
    encoder.card = replace(encoder.card, encoder_only=True)
    weights = {n: w for n, w in encoder.state_dict().items() if n.startswith("encoder.")}
    add(place, "gvit_tiny.photos", encoder, weights)
    yield place
    pretrained._read.cache_clear()


def test_what_is_installed_is_what_its_index_and_its_card_say():
    entries = shipped()
    files = {file.name for file in pretrained.FOLDER.iterdir()}
    installed = [entry for entry in entries.values() if entry.hub is None]
    assert files == {"index.json"} | {f"{n}.md" for n in entries} | {e.file for e in installed}
    assert sum((pretrained.FOLDER / file).stat().st_size for file in files) < 15e6
    for entry in installed:
        content = (pretrained.FOLDER / entry.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)
        model = load_model(entry.name)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        if entry.name.endswith(".photos"):  # what others start from
            assert model.card.encoder_only
            assert model.encoder.any_number
        else:
            assert len(model.card.class_names) == model.num_classes > 0
        card = (pretrained.FOLDER / f"{entry.name}.md").read_text()
        for heading in ("## Data", "## Training", "## Numbers", "## Licence", entry.sha256, "commit", "    "):
            assert heading in card, (entry.name, heading)


def test_every_file_of_the_weights_is_package_data():
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "gvit"
    ]
    for file in pretrained.FOLDER.iterdir():
        name = file.relative_to(pretrained.FOLDER.parent).as_posix()
        assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_digits_are_classified_right_after_installation():
    from gvit.data.inputs import eval_input
    from gvit.data.loading import EvaluationSamples
    from gvit.data.sources import load_source

    model, source = gvit.load_model("digits"), load_source("digits", "test")
    samples = EvaluationSamples(source, eval_input(model, source))
    images = torch.stack([samples[i][0] for i in range(40)])
    found = [guesses[0].class_index for guesses in gvit.predict(model, images)]
    assert sum(a == b for a, b in zip(found, source.labels[:40], strict=True)) >= 38


def test_names_as_timm_has_them(folder):
    assert gvit.list_models(pretrained=True) == ["gvit_tiny.abc", "gvit_tiny.photos"]
    assert gvit.list_models("*.photos", pretrained=True) == ["gvit_tiny.photos"]
    assert list_pretrained("gvit_tiny") == ["gvit_tiny.abc", "gvit_tiny.photos"]
    assert "gvit_tiny.abc" not in gvit.list_models()
    named = gvit.load_model("gvit_tiny.abc")
    assert not named.training
    for other in ("abc", f"gvit_tiny.abc@{shipped()['gvit_tiny.abc'].sha256[:8]}"):
        assert torch.equal(gvit.load_model(other)(IMAGES), named(IMAGES))
    general = gvit.create_model("gvit_tiny", pretrained=True, num_classes=2)
    expected = gvit.load_model("gvit_tiny.photos").encoder.state_dict()
    assert all(torch.equal(general.encoder.state_dict()[n], w) for n, w in expected.items())


def test_unknown_names_get_the_nearest(folder):
    with pytest.raises(ValueError, match=r"no run here .*unknown pretrained model 'ac'; nearest: abc"):
        gvit.load_model("ac")
    with pytest.raises(
        ValueError, match=r"unknown pretrained model 'gvit_tiny.fotos'; nearest: gvit_tiny.photos"
    ):
        gvit.create_model("gvit_tiny.fotos", pretrained=True)
    with pytest.raises(ValueError, match=r"unknown model 'gvit_tiny.fotos'; nearest: gvit_tiny.photos"):
        gvit.create_model("gvit_tiny.fotos")
    with pytest.raises(
        ValueError, match="gvit_small has no pretrained weights of its own; there are: gvit_tiny"
    ):
        gvit.create_model("gvit_small", pretrained=True)
    with pytest.raises(InputError, match=r"gvit.training.train.train makes one$") as refused:
        gvit.load_model("runs/abc")  # a path, by its look
    assert refused.value.for_command_line().endswith("'gvit train' makes one")


def test_a_run_or_file_wins_over_a_name_but_a_folder_of_something_else_does_not(
    folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "abc").mkdir()
    assert gvit.load_model("abc").num_classes == 3
    save_model(trained(num_classes=5), tmp_path / "abc" / "model.safetensors")
    assert gvit.load_model("abc").num_classes == 5
    assert gvit.load_model("gvit_tiny.abc").num_classes == 3


def test_weights_of_half_precision_are_loaded_as_float32(folder):
    stored = load_file(folder / "gvit_tiny.abc.safetensors")
    assert {w.dtype for w in stored.values()} == {torch.float16}
    model = gvit.load_model("abc")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    whole = trained(num_classes=3).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, whole[name], rtol=1e-3, atol=1e-6)
    with pytest.raises(ValueError, match=r"dtype must be one of .*got torch.int8"):
        save_model(model, folder / "x.safetensors", dtype=torch.int8)
    with torch.no_grad():
        model.encoder.head.bias[0] = 1e6
    with pytest.raises(ValueError, match=r"encoder.head.bias holds numbers that torch.float16 can't"):
        save_model(model, folder / "x.safetensors", dtype=torch.float16)
    assert not (folder / "x.safetensors").exists()


def test_a_new_number_of_classes_makes_the_head_new_and_keeps_the_rest(folder):
    same = gvit.create_model("gvit_tiny.abc", pretrained=True)
    assert same.training
    assert same.card.class_names == ("a", "b", "c")
    theirs = gvit.load_model("gvit_tiny.abc").state_dict()
    assert all(torch.equal(same.state_dict()[n], w) for n, w in theirs.items())
    for num_classes in (0, 7):
        model = gvit.create_model(
            "gvit_tiny.abc", pretrained=True, num_classes=num_classes, drop_path_rate=0.1
        )
        assert (model.num_classes, model.card.class_names, model.card.name) == (num_classes, (), "gvit_tiny")
        for name, weight in model.state_dict().items():
            if not name.startswith("classifier.head."):
                assert torch.equal(weight, theirs[name]), name
    assert model(IMAGES).shape == (2, 7)


def test_a_tag_without_pretrained_is_its_architecture_with_fresh_weights(folder):
    model = gvit.create_model("gvit_tiny.photos", num_classes=2)
    assert model.encoder.num_gaussians == 48
    assert not model.encoder.head.weight.any()  # as it starts
    assert Architecture.of(model) == registry.architecture("gvit_tiny", num_gaussians=48, num_classes=2)


def test_a_tag_is_no_value_of_pretrained(folder):
    with pytest.raises(
        InputError, match="pretrained must be True or False, got 'digits'; a tag stands in the name"
    ):
        gvit.create_model("gvit_tiny", pretrained="digits")


def test_a_damaged_index_is_said_in_one_line(folder):
    (folder / "index.json").write_text("{")
    pretrained._read.cache_clear()
    with pytest.raises(InputError, match=r"index.json: damaged .*; install gvit again"):
        gvit.load_model("digits")


def test_a_name_on_the_hub_without_its_owner_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(InputError, match="hf-hub:foo: names on the Hub are OWNER/NAME"):
        gvit.load_model("hf-hub:foo")


@pytest.mark.parametrize(
    ("name", "kwargs", "named"),
    [
        ("gvit_tiny.abc", {"embed_dim": 48}, "embed_dim=48"),
        ("gvit_tiny.abc", {"depth": 4, "num_classes": 2}, "depth=4"),
        ("gvit_tiny.photos", {"encoder_dim": 48}, "encoder_dim=48"),
        ("gvit_tiny.abc", {"tokens": "canonical"}, "tokens='canonical'"),
        ("gvit_tiny.photos", {"scale_factor": 1.0}, "scale_factor=1"),
        ("gvit_tiny.abc", {"num_heads": 4}, "num_heads=4"),
    ],
)
def test_arguments_that_the_weights_do_not_go_with(folder, name, kwargs, named):
    with pytest.raises(ValueError, match="pretrained weights don't go with") as caught:
        gvit.create_model(name, pretrained=True, **kwargs)
    assert str(caught.value).endswith(f"don't go with {named}")
    gvit.create_model(name, **kwargs)  # they are an architecture all the same


def test_a_width_that_the_heads_cannot_share_is_none_that_weights_go_with(folder):
    with pytest.raises(
        ValueError, match=r"pretrained weights don't go with embed_dim=64 \(dim should be divisible"
    ):
        gvit.create_model("gvit_tiny.photos", pretrained=True, embed_dim=64)
    with pytest.raises(ValueError, match="dim should be divisible"):
        gvit.create_model("gvit_tiny.photos", embed_dim=64)


def test_above_a_general_encoder_everything_is_new(folder):
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(
            gvit.create_model("gvit_tiny.photos", pretrained=True, num_classes=4, depth=2, img_size=48)
        )
    first, second = (model.state_dict() for model in made)
    encoder = gvit.load_model("photos").encoder.state_dict()
    stored = load_file(folder / "gvit_tiny.photos.safetensors")
    assert stored.keys() == {f"encoder.{name}" for name in encoder}  # a file of the encoder alone
    for name in first:
        ours = name.removeprefix("encoder.")
        if name.startswith("encoder."):
            assert torch.equal(first[name], encoder[ours])
    assert not torch.equal(first["classifier.head.weight"], second["classifier.head.weight"])
    assert made[0].img_size == made[0].card.preprocessing.img_size == 48
    # once trained, its classifier is saved with it
    assert not made[0].card.encoder_only
    save_model(made[0], folder / "model.safetensors")
    loaded = gvit.load_model(folder / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[n], w) for n, w in first.items())


def test_a_damaged_or_exchanged_file_is_refused_in_one_line(folder):
    file = folder / "gvit_tiny.abc.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    for use in (gvit.load_model, lambda name: gvit.create_model(name, pretrained=True)):
        with pytest.raises(ValueError, match="is damaged or has been exchanged") as caught:
            use("gvit_tiny.abc")
        assert str(caught.value).count("\n") == 0
    shutil.copy(folder / "gvit_tiny.photos.safetensors", file)
    with pytest.raises(ValueError, match="is damaged or has been exchanged"):
        gvit.load_model("abc")
    file.unlink()
    with pytest.raises(ValueError, match="is missing in this installation"):
        gvit.load_model("abc")


def test_a_name_with_a_checksum_is_never_another_file(folder):
    name = shipped()["gvit_tiny.abc"].pinned
    assert gvit.load_model(name).num_classes == 3
    entry = add(folder, "gvit_tiny.abc", trained(num_classes=4))
    with pytest.raises(ValueError, match=f"{name}: this version of gvit has {entry.pinned} instead"):
        gvit.load_model(name)
    with pytest.raises(ValueError, match="has no such weights any more"):
        gvit.load_model(name.replace("abc", "abd"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A faked Hub: ``hub[(repository, file, revision)]`` is a file, or the error that asking for it raises."""
    there, asked = {}, []

    def hf_hub_download(repo_id, filename, *, revision=None, force_download=False):
        asked.append((repo_id, filename, revision))
        found = there.get((repo_id, filename, revision), FileNotFoundError("no network in tests"))
        if force_download:  # past the cache
            found = there.get("now", found)
        if isinstance(found, Exception):
            raise found
        return str(found)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    there["asked"] = asked
    return there


def test_a_repository_on_the_hub(hub, tmp_path):
    file = tmp_path / "model.safetensors"
    save_model(trained(num_classes=3), file)
    hub["someone/gvit-cats", "model.safetensors", None] = file
    hub["someone/gvit-cats", "model.safetensors", "v2"] = file
    expected = gvit.load_model(file)(IMAGES)
    for name in ("hf-hub:someone/gvit-cats", "hf-hub:someone/gvit-cats@v2", "hf_hub:someone/gvit-cats"):
        assert torch.equal(gvit.load_model(name)(IMAGES), expected)
    model = gvit.create_model("hf-hub:someone/gvit-cats", pretrained=True, num_classes=9)
    assert model(IMAGES).shape == (2, 9)
    assert gvit.create_model("hf-hub:someone/gvit-cats").num_classes == 3


def refusal(kind: str, text: str = "first\nsecond") -> Exception:
    """As huggingface_hub raises it, whichever HTTP library it has underneath."""
    error = getattr(errors, kind)
    return error.__new__(error, text)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (refusal("RepositoryNotFoundError"), "no such repository on the Hub"),
        (refusal("GatedRepoError"), "its terms have to be accepted"),
        (refusal("RevisionNotFoundError"), "the repository has no revision 'v1'"),
        (refusal("EntryNotFoundError"), "has no model.safetensors, so it is no model of gvit"),
        (refusal("LocalEntryNotFoundError"), "is not in the cache, and the Hub can't be reached"),
        (refusal("HFValidationError"), "names on the Hub are OWNER/NAME"),
        (refusal("OfflineModeIsEnabled"), r"cannot be downloaded \(first\)"),
        (ConnectionError("no route\nto host"), r"cannot be downloaded \(no route\)"),
    ],
)
def test_what_goes_wrong_on_the_hub_is_one_line(hub, error, line):
    hub["someone/gvit-cats", "model.safetensors", "v1"] = error
    with pytest.raises(ValueError, match=line) as caught:
        gvit.load_model("hf-hub:someone/gvit-cats@v1")
    assert str(caught.value).startswith("hf-hub:someone/gvit-cats@v1: ")
    assert "\n" not in str(caught.value)


def test_what_is_not_in_the_package_comes_from_the_hub_and_is_checked_too(folder, hub, tmp_path):
    place = tmp_path / "cache"
    place.mkdir()
    entry = add(folder, "gvit_tiny.cats", trained(num_classes=6), hub="someone/cats@v1", place=place)
    hub["someone/cats", entry.file, "v1"] = place / entry.file
    assert gvit.load_model("cats").num_classes == 6
    whole = (place / entry.file).read_bytes()
    assert "gvit_tiny.cats" in gvit.list_models(pretrained=True)
    shutil.copy(folder / "gvit_tiny.abc.safetensors", place / entry.file)
    with pytest.raises(ValueError, match=r"has been exchanged .*the Hub has another file by now"):
        gvit.load_model("cats")
    hub["now"] = tmp_path / "whole"
    (tmp_path / "whole").write_bytes(whole)
    assert gvit.load_model("cats").num_classes == 6  # the cache alone was damaged
    gvit.load_model("abc")
    assert {repository for repository, _, _ in hub["asked"]} == {"someone/cats"}  # nothing else was asked for


def test_offline_the_cache_of_the_hub_is_used_and_what_is_not_in_it_is_named(tmp_path, monkeypatch):
    """With the real huggingface_hub, switched off as HF_HUB_OFFLINE=1 does."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"hf-hub:a/b: model.safetensors is not in the cache, and the Hub can't be"
    ):
        gvit.load_model("hf-hub:a/b")
    repository = tmp_path / "models--a--b"
    commit = "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    save_model(trained(num_classes=3), snapshot / "model.safetensors")
    assert gvit.load_model("hf-hub:a/b").num_classes == 3
    (snapshot / "model.safetensors").write_bytes(b"text")
    with pytest.raises(ValueError, match="damaged, or not written by gvit"):
        gvit.load_model("hf-hub:a/b")
    with pytest.raises(ValueError, match="names on the Hub are OWNER/NAME"):
        gvit.load_model("hf-hub:a/b/c")


def test_no_folder_stands_for_a_name_with_a_checksum(folder, tmp_path, monkeypatch):
    entry = shipped()["gvit_tiny.abc"]
    monkeypatch.chdir(tmp_path)
    other = trained(num_classes=7)
    for name in (entry.pinned, "gvit_tiny"):
        (tmp_path / name).mkdir()
        save_model(other, tmp_path / name / "model.safetensors")
    assert pretrained.locate(entry.pinned) == entry.path()
    # create_model takes what has the name; load_model's names are those of folders, too
    assert gvit.create_model("gvit_tiny", pretrained=True).card.encoder_only is False
    assert gvit.create_model("gvit_tiny", pretrained=True).num_classes != 7
    assert gvit.load_model("gvit_tiny").num_classes == 7


@pytest.mark.parametrize("error", [errors.HfHubHTTPError.__bases__[0]("timed out"), ValueError("offline")])
def test_a_network_that_fails_is_one_line(hub, error):
    hub["a/b", "model.safetensors", None] = error
    with pytest.raises(InputError, match=r"^hf-hub:a/b: cannot be downloaded \((timed out|offline)\)$"):
        gvit.load_model("hf-hub:a/b")


def test_a_checksum_may_be_in_capitals_and_one_that_is_none_says_so(folder):
    entry = shipped()["gvit_tiny.abc"]
    name, _, digits = entry.pinned.partition("@")
    assert pretrained.locate(f"{name}@{digits.upper()}") == pretrained.locate(entry.pinned)
    for given in (digits[:7], "latest"):
        with pytest.raises(ValueError, match=f"after @ stand 8 to 64 hexadecimal digits.*{entry.pinned}"):
            gvit.load_model(f"{name}@{given}")
