"""What every registered model promises."""

import pytest
import torch

import gvit
from gvit.gaussians import Gaussians

# the named models at a size that a test can afford; what a name decides beyond sizes stays
SMALL = {
    **{"img_size": 32, "patch_size": 16, "num_gaussians": 6, "num_classes": 4},
    **{"encoder_depth": 2, "depth": 2},
}
NAMES = gvit.list_models("gvit_*")


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    torch.manual_seed(0)
    return gvit.create_model(request.param, **SMALL).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_images_become_gaussians_become_logits(model, images):
    gaussians = model.encode(images)
    assert isinstance(gaussians, Gaussians)
    assert gaussians.raw.shape == (2, 6, 9)
    logits = model(images)
    assert logits.shape == (2, 4)
    assert logits.isfinite().all()
    assert torch.equal(model.classify(gaussians), logits)


def test_predictions_do_not_depend_on_the_rest_of_the_batch(model, images):
    torch.testing.assert_close(model(images[1:]), model(images)[1:], rtol=1e-4, atol=1e-5)


def test_gaussians_can_be_drawn_at_any_size(model, images):
    drawn = gvit.render(model.encode(images), 20, 40)
    assert drawn.shape == (2, 3, 20, 40)
    assert 0 <= drawn.min() <= drawn.max() <= 1


def test_every_parameter_learns(model, images):
    model.train()
    raw = model.encoder(images, torch.randn(2, 6, 9))
    raw.square().sum().backward()
    model.classifier(raw.detach()).square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    model.zero_grad()
    model.eval()
    assert not dead


def test_save_and_load_give_the_same_model(model, images, tmp_path):
    gvit.save_model(model, tmp_path / "model.safetensors")
    for path in (tmp_path, tmp_path / "model.safetensors"):
        loaded = gvit.load_model(path)
        assert not loaded.training
        assert torch.equal(loaded(images), model(images))
        assert loaded.card.name == model.card.name


def test_gradient_checkpointing_changes_nothing(model, images):
    raw = model.encode(images).raw.detach().requires_grad_()
    (plain,) = torch.autograd.grad(model.classifier(raw).square().sum(), raw)
    model.classifier.set_grad_checkpointing(True)
    (checkpointed,) = torch.autograd.grad(model.classifier(raw).square().sum(), raw)
    model.classifier.set_grad_checkpointing(False)
    torch.testing.assert_close(checkpointed, plain)


def test_wrong_images_are_refused_with_the_right_shape(model):
    with pytest.raises(ValueError, match=r"\[B, 3, 32, 32\], got \[2, 3, 16, 16\]"):
        model(torch.rand(2, 3, 16, 16))
