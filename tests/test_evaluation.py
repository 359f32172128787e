"""How good a model is: against scikit-learn and scikit-image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gvit
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources import load_source
from gvit.errors import InputError
from gvit.evaluation import evaluate, measure, mistakes, summarize


def answering(logits: Tensor, gaussians: gvit.Gaussians | None, monkeypatch) -> nn.Module:
    """A model that looks at no image: the i-th that it is shown is answered by row i."""
    model = gvit.create_model("vit_tiny_patch8", num_classes=logits.shape[1])
    shown = 0

    def answer(inputs: Tensor, **drawing: int | None) -> tuple[Tensor, gvit.Gaussians | None]:
        nonlocal shown
        rows = slice(shown, shown + len(inputs))
        shown += len(inputs)
        return logits[rows], None if gaussians is None else gaussians[rows]

    monkeypatch.setattr(model, "forward_with_gaussians", answer, raising=False)
    return model


def test_a_model_comes_back_in_the_modes_that_its_modules_had():
    model = gvit.create_model("vit_tiny_patch8", num_classes=2).train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    evaluate(model, [(torch.rand(1, 3, 32, 32), torch.zeros(1, dtype=torch.long))])
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("classes", [2, 5, 6, 20])
def test_shares_and_counts_are_scikit_learns(classes, monkeypatch):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(97, classes, generator=generator)
    labels = torch.randint(classes - 1, (97,), generator=generator)  # one class has no image
    model = answering(logits, None, monkeypatch)
    result = evaluate(model, zip(torch.zeros(97, 3, 8, 8).split(10), labels.split(10), strict=True))
    predicted = logits.argmax(1)
    assert result.num_images == 97
    assert result.top1 == accuracy_score(labels, predicted)
    assert result.confusion == confusion_matrix(labels, predicted, labels=range(classes)).tolist()
    if classes > 5:
        assert result.top5 == top_k_accuracy_score(labels, logits.double(), k=5, labels=range(classes))
        assert result.top1 < result.top5 < 1
    else:
        assert result.top5 is None
    assert (result.psnr, result.ssim) == (None, None)
    assert str(result) == f"top-1 {100 * result.top1:.2f} % of 97 test images"


def test_with_another_number_of_gaussians_and_of_looks():
    """Measured is the picture of the Gaussians that ``encode`` makes."""
    model = gvit.load_model("digits")
    source = load_source("digits", "test").take(range(6))
    shown = EvaluationSamples(source, eval_input(model, source))
    batches = list(evaluation_loader(shown, 6))
    images = batches[0][0]
    measured = measure(model, batches, num_gaussians=7, looks=3)
    with torch.no_grad():
        drawn = gvit.render(model.encode(images, num_gaussians=7, looks=3), 32, 32).clamp(0, 1)
    errors = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1)
        for a, b in zip(images, drawn, strict=True)
    ]
    assert measured["psnr"].tolist() == pytest.approx(errors, abs=1e-3)
    assert measure(model, batches)["psnr"].mean() > measured["psnr"].mean() + 3
    with pytest.raises(InputError, match="makes no Gaussians: num_gaussians has"):
        measure(gvit.create_model("vit_tiny_patch8"), batches, num_gaussians=7)


def test_pictures_are_compared_image_by_image(monkeypatch):
    """Means over images, whatever the batches; a picture without error counts 100 dB."""
    generator = torch.Generator().manual_seed(0)
    gaussians = gvit.Gaussians(torch.randn(4, 6, 9, generator=generator))
    gaussians.raw[3, :, 8] = -20  # invisible: draws black
    images = torch.rand(4, 3, 16, 16, generator=generator)
    images[3] = 0
    labels = torch.arange(4)
    model = answering(torch.eye(4), gaussians, monkeypatch)
    measured = measure(model, zip(images.split(3), labels.split(3), strict=True))
    drawn = gvit.render(gaussians, 16, 16).clamp(0, 1).numpy()
    psnrs = [
        peak_signal_noise_ratio(image, picture, data_range=1)
        for image, picture in zip(images[:3].numpy(), drawn[:3], strict=True)
    ]
    ssims = [
        structural_similarity(
            image, picture, data_range=1, channel_axis=0, gaussian_weights=True, use_sample_covariance=False
        )
        for image, picture in zip(images.numpy(), drawn, strict=True)
    ]
    np.testing.assert_allclose(measured["psnr"], [*psnrs, 100], rtol=1e-5)
    np.testing.assert_allclose(measured["ssim"], ssims, atol=1e-5)
    result = summarize(measured, 4)
    assert (result.psnr, result.ssim) == pytest.approx((np.mean([*psnrs, 100]), np.mean(ssims)), rel=1e-4)
    assert f"PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.3f}" in str(result)


@pytest.mark.parametrize("places", [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda")], ids=str)
def test_batches_may_lie_on_another_device_than_the_model(places, monkeypatch):
    """Shapes and devices alone are computed, so that no GPU need be there."""
    model = answering(torch.zeros(3, 4), None, monkeypatch)
    with FakeTensorMode(allow_non_fake_inputs=True):
        inputs = torch.zeros(3, 3, 8, 8, device=places[0])
        labels = torch.zeros(3, dtype=torch.long, device=places[1])
        measured = measure(model, [(inputs, labels)])
    assert measured.keys() == {"label", "broken", "predicted", "confidence"}
    assert {column.device.type for column in measured.values()} == {"cpu"}


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "vit_tiny_patch8", "gaussian_vit_tiny"])
def test_a_model_is_measured_in_evaluation_mode_and_comes_back_in_its_own(name):
    torch.manual_seed(0)
    kwargs = {} if name.startswith("vit") else {"num_gaussians": 4}
    model = gvit.create_model(name, num_classes=7, drop_path_rate=0.9, **kwargs)
    for head in (module for part, module in model.named_modules() if part.endswith("head")):
        if isinstance(head, nn.Linear):
            nn.init.normal_(head.weight)
    inputs = torch.randn(24, 4, 9) if name.startswith("gaussian") else torch.rand(24, 3, 32, 32)
    labels = torch.arange(24) % 7
    model.train()
    found = measure(model, list(zip(inputs.split(5), labels.split(5), strict=True)))
    assert model.training
    model.eval()
    with torch.no_grad():
        assert torch.equal(found["predicted"], model(inputs).argmax(1))
        assert ("psnr" in found) == (name == "gvit_tiny_denoising")
    measure(model, [(inputs[:2], labels[:2])])
    assert not model.training
    evaluation = evaluate(model, [(inputs, labels)])
    assert evaluation == replace(summarize(found, 7), psnr=evaluation.psnr, ssim=evaluation.ssim)


def test_what_cannot_be_measured_is_refused(unchecked):
    labels = torch.zeros(1, dtype=torch.long)
    model = gvit.create_model("vit_tiny_patch8", num_classes=2)
    whole = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"^inputs of uint8: give images as floats in \[0, 1\]"):
        evaluate(model, [(whole, labels)])
    assert evaluate(model, [(whole.half(), labels)]).num_images == 1
    features = gvit.create_model("vit_tiny_patch8", num_classes=0)
    with pytest.raises(InputError, match=r"no classes \(num_classes=0\) and no encoder"):
        evaluate(features, [(whole.float(), labels)])
    encoder = gvit.create_model("gvit_tiny_denoising", num_gaussians=4, num_classes=0)
    drawn = evaluate(encoder, [(whole.float(), labels)])
    assert str(drawn).startswith("PSNR ")
    with pytest.raises(InputError, match="an encoder alone gives no answers"):
        _ = drawn.chance


def test_classes_are_scikit_learns_and_mistakes_are_listed_by_confidence(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 5, generator=generator)
    logits[:, 4] = -9  # no image is called so
    labels = torch.randint(1, 5, (60,), generator=generator)  # no image is of class 0
    model = answering(logits, None, monkeypatch)
    measured = measure(model, zip(torch.zeros(60, 3, 8, 8).split(7), labels.split(7), strict=True))
    found = summarize(measured, 5).per_class(list("abcde"))
    precision, recall, _, counts = precision_recall_fscore_support(
        labels, logits.argmax(1), labels=range(5), zero_division=np.nan
    )
    assert [result.class_name for result in found] == list("abcde")
    assert [result.num_images for result in found] == counts.tolist()
    for of, expected in (("precision", precision), ("recall", recall)):
        values = [getattr(result, of) for result in found]
        assert [value is None for value in values] == np.isnan(expected).tolist()
        np.testing.assert_allclose([v for v in values if v is not None], expected[~np.isnan(expected)])
    assert found[4].precision is None
    assert found[0].recall is None
    wrong = mistakes(measured)
    assert {one.index for one in wrong} == set((logits.argmax(1) != labels).nonzero()[:, 0].tolist())
    assert [one.confidence for one in wrong] == sorted((one.confidence for one in wrong), reverse=True)
    for one in wrong:
        assert (one.label, one.predicted) == (labels[one.index], logits[one.index].argmax())
        assert one.confidence == pytest.approx(logits[one.index].softmax(0).max().item())
