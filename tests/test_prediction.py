"""Using a model from Python."""

import pytest
import torch

import gvit


def test_what_is_not_a_list_of_files():
    model = gvit.create_model("gvit_tiny", num_gaussians=4, num_classes=2)
    with pytest.raises(ValueError, match=r"must be a list of files: \['digit.png'\]"):
        gvit.load_images("digit.png", model)
    with pytest.raises(ValueError, match="no files"):
        gvit.load_images([], model)


def test_weights_and_gaussians_are_as_readable_as_other_files(tmp_path):
    model = gvit.create_model("gvit_tiny", num_gaussians=4, num_classes=2)
    gvit.save_model(model, tmp_path / "model.safetensors")
    gvit.Gaussians(torch.zeros(4, 9)).save(tmp_path / "fit.safetensors")
    (tmp_path / "other").touch()
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_no_more_classes_than_there_are_and_none_without_a_head():
    model = gvit.create_model("gvit_tiny", num_gaussians=4, num_classes=2).eval()
    (guesses,) = gvit.predict(model, torch.rand(1, 3, 32, 32), top_k=5)
    assert {guess.class_name for guess in guesses} == {"0", "1"}
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="no classes"):
        gvit.predict(model, torch.rand(1, 3, 32, 32))
