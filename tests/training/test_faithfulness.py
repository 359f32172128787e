"""Two models on the same images, each measured by the methods that it has."""

import pytest
import torch

import gvit
from gvit.errors import InputError
from gvit.models.weights import save_model
from gvit.training import faithfulness
from gvit.training.faithfulness import _names, assess_faithfulness


def test_models_have_names_that_tell_them_apart(tmp_path, monkeypatch):
    for run in ("a/run", "b/run"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path / "a" / "run")
    assert _names(["."]) == ["run"]
    assert _names(["model.safetensors"]) == ["run/model.safetensors"]
    assert _names(["gvit_tiny.digits", "."]) == ["gvit_tiny.digits", "run"]
    assert _names(["hf-hub:mine/net", "hf-hub:yours/net"]) == ["hf-hub:mine/net", "hf-hub:yours/net"]
    assert _names(["../run", "../../b/run"]) == ["a/run", "b/run"]
    weights = ["model.safetensors", tmp_path / "b" / "run" / "model.safetensors"]
    assert _names(weights) == ["a/run/model.safetensors", "b/run/model.safetensors"]


def test_a_method_of_one_model_is_left_out_for_the_other_and_of_none_is_refused_first(tmp_path, monkeypatch):
    torch.manual_seed(0)
    patches = gvit.create_model("vit_tiny_patch8", num_classes=10, depth=1)
    patches.card = gvit.load_model("digits").card
    save_model(patches, tmp_path / "patches.safetensors")

    def assess(methods):
        return assess_faithfulness(
            "digits",
            dataset="digits",
            against=tmp_path / "patches.safetensors",
            num_images=2,
            methods=methods,
            steps=1,
            draws=1,
            pixels=False,
        )

    found = assess(["cdam", "det"])
    ours, theirs = (list(result["measures"]["units"]["methods"]) for result in found["results"])
    assert ours == ["cdam", "det", "centre", "random"]
    assert theirs == ["cdam", "centre", "random"]
    assert found["comparison"]["units"].keys() == set(theirs)

    monkeypatch.setattr(faithfulness, "measure_faithfulness", lambda *args, **kwargs: pytest.fail("measured"))
    with pytest.raises(InputError, match="unknown method for Gaussians or patches 'dett'; nearest: det"):
        assess(["cdam", "dett"])
