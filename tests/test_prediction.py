"""Using a model from Python."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.evaluation import evaluate
from gvit.models.card import Preprocessing


def test_what_is_not_a_list_of_files():
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2)
    with pytest.raises(ValueError, match=r"must be a list of files: \['digit.png'\]"):
        gvit.load_images("digit.png", model)
    with pytest.raises(ValueError, match="no images given"):
        gvit.load_images([], model)


def test_weights_and_gaussians_are_as_readable_as_other_files(tmp_path):
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2)
    gvit.save_model(model, tmp_path / "model.safetensors")
    gvit.Gaussians(torch.zeros(4, 9)).save(tmp_path / "fit.safetensors")
    (tmp_path / "other").touch()
    assert len({file.stat().st_mode for file in tmp_path.iterdir()}) == 1


def test_no_more_classes_than_there_are_and_none_without_a_head():
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=2).eval()
    (guesses,) = gvit.predict(model, torch.rand(1, 3, 32, 32), top_k=5)
    assert {guess.class_name for guess in guesses} == {"0", "1"}
    assert sum(guess.probability for guess in guesses) == pytest.approx(1)
    with pytest.raises(ValueError, match="top_k must be at least 1, got -1"):
        gvit.predict(model, torch.rand(1, 3, 32, 32), top_k=-1)
    model.reset_classifier(0)
    with pytest.raises(ValueError, match="an encoder alone, without a classifier"):
        gvit.predict(model, torch.rand(1, 3, 32, 32))
    features = gvit.create_model("vit_tiny_patch8", num_classes=0)
    with pytest.raises(ValueError, match="no classes, only features"):
        gvit.predict(features, torch.rand(1, 3, 32, 32))


def test_a_name_is_no_model(unchecked):
    with pytest.raises(ValueError, match=r"as gvit.load_model\('digits'\) gives one, got str"):
        gvit.predict("digits", torch.rand(1, 3, 32, 32))


def test_a_classifier_that_has_learned_nothing_gives_no_answer():
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=7)
    model.card = replace(model.card, encoder_only=True)
    with pytest.raises(ValueError, match="an encoder alone, without a classifier"):
        gvit.predict(model, torch.rand(1, 3, 32, 32))
    with pytest.warns(UserWarning, match="is an encoder alone: its classifier has learned nothing"):
        model(torch.rand(1, 3, 32, 32))
    result = evaluate(model, [(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))])
    assert result.top1 is result.top5 is None
    assert str(result).startswith("PSNR ")
    assert str(result).count("of 2 test images") == 1
    assert not [line for line in result.concerns() if "top-1" in line]


def test_predictions_are_those_of_evaluation_mode():
    torch.manual_seed(0)
    model = gvit.create_model("vit_tiny_patch8", num_classes=3, drop_path_rate=0.9).train()
    images = torch.rand(2, 3, 32, 32)
    first = gvit.predict(model, images)
    assert all(gvit.predict(model, images) == first for _ in range(3))
    assert model.training
    assert gvit.predict(model.eval(), images) == first


def test_files_of_masked_and_reordered_gaussians_are_read_as_classify_reads_them(tmp_path):
    torch.manual_seed(0)
    model = gvit.create_model("gaussian_vit_tiny", num_classes=3, num_gaussians=6).eval()
    model.card = replace(model.card, preprocessing=Preprocessing(32, "squash"))  # the whole canvas
    gaussians = gvit.Gaussians(torch.randn(1, 6, 9), 1.0, 6)
    for name, chosen in (("order", [5, 2, 0, 1, 4, 3]), ("fewer", [4, 1])):
        changed = gaussians[:, chosen]
        changed[0].save(tmp_path / f"{name}.safetensors")
        inputs = gvit.load_images([tmp_path / f"{name}.safetensors"], model)
        torch.testing.assert_close(model(inputs), model.classify(changed), rtol=1e-4, atol=1e-5)


def test_every_form_of_an_image_is_classified_alike(tmp_path):
    torch.manual_seed(0)
    model = gvit.create_model("vit_tiny_patch8", num_classes=3).eval()
    torch.nn.init.normal_(model.head.weight)
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "a.png")
    images = gvit.load_images([tmp_path / "a.png"], model)
    (expected,) = gvit.predict(model, images)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [
        tmp_path / "a.png",
        Image.fromarray(array),
        array,
        tensor,
        tensor / 255,
        tensor[None],
        array / 255,
    ]
    for form in forms:
        assert gvit.predict(model, form) == [expected]
        if not isinstance(form, Path):  # of which a list is wanted
            torch.testing.assert_close(gvit.load_images(form, model), images, atol=1e-6, rtol=0)
    several = gvit.load_images((form for form in forms[:4]), model)
    assert torch.equal(several, images.expand(4, -1, -1, -1))
    # of the model's own size they are read as they are
    backwards = images.numpy()[..., ::-1].copy()[..., ::-1]  # as BGR is turned into RGB
    for batch in (images.numpy(), images.double(), images.double().numpy(), backwards):
        assert gvit.predict(model, batch) == [expected]
    assert gvit.predict(model, images.half())[0][0].class_index == expected[0].class_index
    assert [guesses[0].class_index for guesses in gvit.predict(model, forms[:4])] == [
        expected[0].class_index
    ] * 4
    with pytest.raises(ValueError, match="several images go in a list"):
        gvit.predict(model, np.zeros((60, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="no images"):
        gvit.predict(model, [])


def test_transparency_is_laid_over_the_background():
    torch.manual_seed(0)
    model = gvit.create_model("vit_tiny_patch8", num_classes=3).eval()
    clear = np.zeros((32, 32, 4), np.uint8)
    for background, value in (("black", 0.0), ("white", 1.0), ((1.0, 1.0, 1.0), 1.0)):
        assert torch.all(gvit.load_images([clear], model, background) == value)
        solid = torch.full((1, 3, 32, 32), value)
        assert gvit.predict(model, clear, background=background) == gvit.predict(model, solid)


def test_classes_of_a_head_that_was_replaced_by_hand_are_numbers():
    model = gvit.load_model("gvit_tiny.digits")
    model.classifier.reset_classifier(20)
    (guesses,) = gvit.predict(model, torch.rand(1, 3, 32, 32), top_k=20)
    assert sorted(int(guess.class_name) for guess in guesses) == list(range(20))
    assert model.facts()["classes"] == "20"
    assert "label_names" not in model.pretrained_cfg
