"""Using a model from Python."""

import pytest
import torch

import gvit


def test_no_more_classes_than_there_are_and_none_without_a_head():
    model = gvit.create_model("gvit_tiny", num_gaussians=4, num_classes=2).eval()
    (guesses,) = gvit.predict(model, torch.rand(1, 3, 32, 32), top_k=5)
    assert {guess.class_name for guess in guesses} == {"0", "1"}
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="no classes"):
        gvit.predict(model, torch.rand(1, 3, 32, 32))
