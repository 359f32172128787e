"""What the graph cut and the guidance do, in float64 with the reference renderer."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import gvit
from gvit.data.loading import Batch
from gvit.errors import InputError
from gvit.losses import pixel_loss, ssim
from gvit.rendering import render
from gvit.training.config import ObjectiveConfig
from gvit.training.objective import ClassificationObjective, GuidedObjective, Turn, compare_gradients
from gvit.training.schedule import StepPlan

DRAW = StepPlan("reconstruct", perceptual=False, classify=False, guided=False, gamma=0.0)
PERCEPTUAL = StepPlan("perceptual", perceptual=True, classify=False, guided=False, gamma=0.0)
CLASSIFY = StepPlan("classify", perceptual=True, classify=True, guided=False, gamma=0.0)
GUIDED = StepPlan("guide", perceptual=True, classify=True, guided=True, gamma=0.3)


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "num_gaussians": 6, "num_classes": 3}
    widths = {
        "encoder_dim": 24,
        "encoder_depth": 1,
        "encoder_heads": 2,
        "embed_dim": 24,
        "depth": 1,
        "num_heads": 2,
    }
    model = gvit.create_model("gvit_tiny_denoising", **sizes, **widths).double()
    for head in (model.encoder.head[-1], model.classifier.head):  # away from the special start
        torch.nn.init.normal_(head.weight, std=0.3)
    return model


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        torch.rand(4, 3, 16, 16, generator=generator, dtype=torch.float64),
        torch.tensor([0, 1, 2, 1]),
        torch.randn(4, 6, 9, generator=generator, dtype=torch.float64),
    )


def gradients(network: torch.nn.Module) -> list[torch.Tensor]:
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


def through(model, batch, plan, **config) -> tuple[list[torch.Tensor], list[torch.Tensor], dict]:
    """Gradients of encoder and classifier, and the losses, by the objective."""
    model.zero_grad()
    losses = GuidedObjective(model, ObjectiveConfig(**config)).backward(batch, plan)
    return gradients(model.encoder), gradients(model.classifier), losses


def directly(model, batch, reconstruction: float, classification: float, pixel="bce", weight=0.1):
    """The same by one backward through the sum of the losses."""
    model.zero_grad()
    raw = model.encoder(batch.inputs, batch.noise)
    drawn = render(model.encoder.gaussians(raw), 16, 16)
    drawing = pixel_loss(drawn, batch.inputs, pixel) + weight * (1 - ssim(drawn, batch.inputs).mean())
    naming = F.cross_entropy(model.classifier(raw), batch.labels)
    (reconstruction * drawing + classification * naming).backward()
    return gradients(model.encoder), gradients(model.classifier)


def assert_same(one: list[torch.Tensor], other: list[torch.Tensor]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_guided_cut_equals_the_summed_losses(model, batch):
    encoder, _, _ = through(model, batch, GUIDED)
    expected, _ = directly(model, batch, 1.0, GUIDED.gamma)
    assert_same(encoder, expected)


def test_guided_step_leaves_the_classifier_alone(model, batch):
    _, classifier, _ = through(model, batch, GUIDED)
    assert all((g == 0).all() for g in classifier)


def test_between_guided_steps_the_classifier_does_not_move_the_encoder(model, batch):
    encoder, classifier, _ = through(model, batch, CLASSIFY)
    assert_same(encoder, directly(model, batch, 1.0, 0.0)[0])
    assert_same(classifier, directly(model, batch, 0.0, 1.0)[1])


def test_joint_lets_the_classifier_through_at_weight_one(model, batch):
    encoder, classifier, _ = through(model, batch, CLASSIFY, gradient="joint")
    expected = directly(model, batch, 1.0, 1.0)
    assert_same(encoder, expected[0])
    assert_same(classifier, expected[1])


def test_the_first_phases_do_not_touch_the_classifier(model, batch):
    for plan, weight in ((DRAW, 0.0), (PERCEPTUAL, 0.1)):
        encoder, classifier, losses = through(model, batch, plan)
        assert_same(encoder, directly(model, batch, 1.0, 0.0, weight=weight)[0])
        assert all((g == 0).all() for g in classifier)
        assert "class_loss" not in losses


@pytest.mark.parametrize("pixel", ["bce", "mse"])
def test_losses_are_what_they_say(model, batch, pixel):
    _, _, losses = through(model, batch, CLASSIFY, pixel_loss=pixel, perceptual_weight=0.5)
    raw = model.encoder(batch.inputs, batch.noise)
    drawn = render(model.encoder.gaussians(raw), 16, 16)
    torch.testing.assert_close(losses["pixel_loss"], pixel_loss(drawn, batch.inputs, pixel).detach())
    torch.testing.assert_close(losses["perceptual_loss"], 1 - ssim(drawn, batch.inputs).mean().detach())
    torch.testing.assert_close(
        losses["class_loss"], F.cross_entropy(model.classifier(raw), batch.labels).detach()
    )
    assert not any(value.requires_grad for value in losses.values())


@pytest.mark.parametrize("plan", [PERCEPTUAL, CLASSIFY, GUIDED], ids=lambda plan: plan.phase)
@pytest.mark.parametrize("config", [{}, {"gradient": "joint"}], ids=str)
def test_parts_of_a_batch_add_up_to_the_whole(model, batch, plan, config):
    encoder, classifier, losses = through(model, batch, plan, **config)
    model.zero_grad()
    objective = GuidedObjective(model, ObjectiveConfig(**config))
    parts = [objective.backward(Batch(*(x[i : i + 2] for x in batch)), plan, share=0.5) for i in (0, 2)]
    assert_same(gradients(model.encoder), encoder)
    assert_same(gradients(model.classifier), classifier)
    for name in losses:
        if name.endswith("_loss"):
            torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, losses[name])


def test_a_frozen_encoder_gets_no_gradient_and_the_classifier_the_same_one(model, batch):
    _, expected, _ = through(model, batch, CLASSIFY)
    frozen = replace(CLASSIFY, train_encoder=False)
    for config in ({}, {"gradient": "joint"}):
        _, classifier, losses = through(model, batch, frozen, **config)
        assert all(p.grad is None for p in model.encoder.parameters())
        assert_same(classifier, expected)
        assert set(losses) == {"class_loss", "accuracy"}


@pytest.mark.parametrize("plan", [PERCEPTUAL, CLASSIFY, GUIDED], ids=lambda plan: plan.phase)
@pytest.mark.parametrize("still", ["encoder", "classifier"])
@pytest.mark.parametrize("gradient", ["cut", "joint"])
def test_a_part_whose_weights_need_no_gradient_gets_none_and_the_other_the_same(
    model, batch, plan, still, gradient
):
    expected = through(model, batch, plan, gradient=gradient)
    getattr(model, still).requires_grad_(False)
    found = through(model, batch, plan, gradient=gradient)
    assert all(p.grad is None for p in getattr(model, still).parameters())
    learning = 1 if still == "encoder" else 0
    assert_same(found[learning], expected[learning])
    assert found[2] == expected[2]


def test_images_that_are_not_square_are_refused():
    """Any-number encoders draw them in their aspect, which the losses know nothing of."""
    model = gvit.create_model("gvit_tiny", img_size=16, num_gaussians=4, num_classes=2)
    batch = Batch(torch.rand(2, 3, 16, 32), torch.tensor([0, 1]), None)
    with pytest.raises(InputError, match=r"must be square, got 16x32 \(height x width\)"):
        GuidedObjective(model, ObjectiveConfig()).backward(batch, CLASSIFY)


def test_guided_steps_tell_how_the_two_gradients_compare(model, batch):
    _, _, measures = through(model, batch, GUIDED)
    raw = model.encoder(batch.inputs, batch.noise).detach().requires_grad_()
    drawn = render(model.encoder.gaussians(raw), 16, 16)
    drawing = pixel_loss(drawn, batch.inputs) + 0.1 * (1 - ssim(drawn, batch.inputs).mean())
    (drawing_gradient,) = torch.autograd.grad(drawing, raw)
    (naming_gradient,) = torch.autograd.grad(F.cross_entropy(model.classifier(raw), batch.labels), raw)
    drawings, namings = (4 * gradient.flatten(1) for gradient in (drawing_gradient, naming_gradient))
    torch.testing.assert_close(measures["reconstruction_gradient"], drawings.norm(dim=1).mean())
    torch.testing.assert_close(measures["class_gradient"], namings.norm(dim=1).mean())
    cosines = (drawings * namings).sum(1) / drawings.norm(dim=1) / namings.norm(dim=1)
    torch.testing.assert_close(measures["gradient_cosine"], cosines.mean())
    # whatever the batch is split into
    halves = [
        through(model, Batch(*(x[rows] for x in (batch.inputs, batch.labels, batch.noise))), GUIDED)[2]
        for rows in (slice(2), slice(2, 4))
    ]
    for name in ("reconstruction_gradient", "class_gradient", "gradient_cosine", "steered"):
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, measures[name])
    assert "gradient_cosine" not in through(model, batch, CLASSIFY)[2]


def test_steered_is_the_share_that_the_classifier_moves_more():
    drawing, naming = torch.zeros(1, 4, 9), torch.zeros(1, 4, 9)
    drawing[..., 0] = 1.0
    naming[0, :, 1] = torch.tensor([0.0, 5.0, 15.0, 20.0])
    assert compare_gradients(drawing, naming, 0.1 * naming)["steered"] == 0.5
    assert compare_gradients(drawing, naming, 0.1 * naming)["gradient_cosine"] == 0


def class_loss_after_a_step(model, batch, sign: float) -> tuple[float, float, float]:
    """Move the Gaussians by sign * gamma * gradient of the class loss; returns loss before, after, and slope."""
    raw = model.encoder(batch.inputs, batch.noise).detach().requires_grad_()
    loss = F.cross_entropy(model.classifier(raw), batch.labels)
    (pull,) = torch.autograd.grad(loss, raw)
    step = 1e-4
    with torch.no_grad():
        after = F.cross_entropy(model.classifier(raw - step * sign * pull), batch.labels)
    return loss.item(), after.item(), step * pull.square().sum().item()


def test_guidance_descends_the_class_loss_and_eq_1_as_printed_climbs_it(model, batch):
    """What the objective adds at the Gaussians is +gamma * gradient: the encoder's gradient is its pullback."""
    with_guidance = through(model, batch, GUIDED)[0]
    without = through(model, batch, CLASSIFY)[0]
    raw = model.encoder(batch.inputs, batch.noise)
    leaf = raw.detach().requires_grad_()
    (pull,) = torch.autograd.grad(F.cross_entropy(model.classifier(leaf), batch.labels), leaf)
    pulled_back = torch.autograd.grad(
        raw, list(model.encoder.parameters()), GUIDED.gamma * pull, allow_unused=True
    )
    for guided, plain, added in zip(with_guidance, without, pulled_back, strict=True):
        torch.testing.assert_close(guided - plain, added, rtol=1e-7, atol=1e-12)

    before, after, slope = class_loss_after_a_step(model, batch, sign=+1)
    assert after < before
    assert before - after == pytest.approx(slope, rel=0.05)
    before, after, slope = class_loss_after_a_step(model, batch, sign=-1)  # Eq. 1 as printed
    assert after - before == pytest.approx(slope, rel=0.05)


def test_one_guided_step_of_the_encoder_lowers_the_class_loss_to_first_order(model, batch):
    """Along the guided part of the update, the weights of the encoder descend the class loss."""
    guided, plain = through(model, batch, GUIDED)[0], through(model, batch, CLASSIFY)[0]
    update = [g - p for g, p in zip(guided, plain, strict=True)]

    def class_loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(
                model.classifier(model.encoder(batch.inputs, batch.noise)), batch.labels
            ).item()

    before, step = class_loss(), 1e-4
    with torch.no_grad():
        for parameter, change in zip(model.encoder.parameters(), update, strict=True):
            parameter -= step * change
    expected = step / GUIDED.gamma * sum(u.square().sum().item() for u in update)
    assert before - class_loss() == pytest.approx(expected, rel=0.05)


def test_parts_of_a_batch_add_up_to_the_whole_for_a_classifier_alone():
    torch.manual_seed(0)
    network = gvit.create_model("vit_tiny_patch8", num_classes=3)
    whole = Batch(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 1]), torch.empty(4, 0))

    def gradient(*parts: Batch) -> torch.Tensor:
        network.zero_grad()
        for part in parts:
            ClassificationObjective(network).backward(part, CLASSIFY, 1 / len(parts))
        return network.head.weight.grad.clone()

    halves = [Batch(*(field[rows] for field in whole)) for rows in (slice(2), slice(2, 4))]
    torch.testing.assert_close(gradient(*halves), gradient(whole))


def test_an_encoder_that_cannot_draw_what_it_predicts_has_diverged():
    """It draws within its own turn, before anybody else looks at the Gaussians."""
    model = gvit.create_model("gvit_tiny", img_size=16, num_gaussians=4, num_classes=2)
    torch.nn.init.constant_(model.encoder.head.bias, torch.nan)
    objective = GuidedObjective(model, ObjectiveConfig(pixel_loss="psnr", perceptual_weight=0.0))
    batch = Batch(torch.rand(2, 3, 16, 16), torch.tensor([0, 1]), torch.zeros(2, 4, 9))
    plan = StepPlan(
        "reconstruct", perceptual=False, classify=False, train_encoder=True, guided=False, gamma=0.0
    )
    with pytest.raises(FloatingPointError, match="the Gaussians cannot be drawn: centers must be finite"):
        objective.backward(batch, plan, turn=Turn(of=2))


def test_shares_of_classes_weigh_their_losses(model, batch):
    """Mixed images: the loss is that of each class by its share, and the larger share is what is to be named."""
    shares = torch.tensor([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9], [0.6, 0.0, 0.4]])
    _, _, losses = through(model, batch._replace(labels=shares), GUIDED)
    with torch.no_grad():
        logits = model.classifier(model.encoder(batch.inputs, batch.noise))
    expected = -(shares * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(losses["class_loss"], expected)
    hits = (logits.argmax(-1) == torch.tensor([0, 1, 2, 0])).double().mean()
    assert losses["accuracy"].item() == hits.item()
    whole = F.one_hot(batch.labels, 3).double()
    for kind in (CLASSIFY, GUIDED):
        one, other = through(model, batch, kind), through(model, batch._replace(labels=whole), kind)
        for ours, theirs in zip(one[0] + one[1], other[0] + other[1], strict=True):
            torch.testing.assert_close(ours, theirs)
