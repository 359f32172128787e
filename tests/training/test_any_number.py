"""One set of weights for any number of Gaussians."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import gvit
from gvit.errors import InputError
from gvit.recipes import digits
from gvit.training.config import ObjectiveConfig
from gvit.training.setup import set_up


def config_of(number_range):
    config = digits()
    return replace(
        config,
        model=replace(config.model, num_gaussians=8),
        data=replace(config.data, batch_size=8),
        objective=replace(config.objective, gaussians_range=number_range),
    )


def drawn(setup, step):
    """How many Gaussians the classifier is given in a step."""
    seen = []
    handle = setup.task.model.classifier.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[1])
    )
    (parts,) = setup.feed.batches(step, step + 1, workers=0)
    setup.task.step(step, parts, setup.schedule.plan(step), setup.rates(step))
    handle.remove()
    assert len(seen) == 1
    return seen[0]


def test_a_step_draws_a_number_of_its_range():
    setup = set_up(config_of((4, 64)))
    first = setup.schedule.classify_start
    counts = [setup.task.draw_count(step) for step in range(2000)]
    assert min(counts) == 4
    assert max(counts) == 64
    assert np.median(counts) == pytest.approx(16, abs=2)  # half of them below the geometric mean
    assert len({drawn(setup, step) for step in range(first, first + 4)}) > 1
    assert drawn(setup, first) == counts[first] == set_up(config_of((4, 64))).task.draw_count(first)
    assert drawn(set_up(config_of(None)), first) == 8


def test_a_batch_takes_as_many_optimizer_steps_as_looks_are_set():
    config = config_of(None)
    taken = []
    for looks, expected in ((None, 12), (3, 3)):
        setup = set_up(replace(config, model=replace(config.model, looks=looks)))
        setup.task.optimizers["encoder"].register_step_post_hook(lambda *_: taken.append(1))
        (parts,) = setup.feed.batches(0, 1, workers=0)
        setup.task.step(0, parts, setup.schedule.plan(0), setup.rates(0))
        assert len(taken) == expected
        taken.clear()


def test_a_range_is_a_smaller_and_a_larger_number():
    for pair in ((9, 4), (0, 5)):
        message = f"gaussians_range must be a smaller and a larger number, at least 1, got {pair}"
        with pytest.raises(InputError, match=re.escape(message)):
            ObjectiveConfig(gaussians_range=pair)


def test_an_encoder_of_one_number_has_no_range():
    config = config_of((4, 64))
    with pytest.raises(InputError, match="gaussians_range needs an encoder of any number of Gaussians"):
        set_up(replace(config, model=replace(config.model, model="gvit_tiny_denoising")))
    with pytest.raises(InputError, match="gaussians_range needs tokens of any number of Gaussians"):
        set_up(replace(config, model=replace(config.model, tokens="canonical")))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    whole = gvit.create_model("gvit_tiny", num_classes=3, num_gaussians=16).eval()
    torch.nn.init.normal_(whole.encoder.head.weight, std=0.02)
    return whole


def test_a_model_encodes_and_classifies_any_number_size_and_aspect(model):
    with torch.inference_mode():
        for count, height, width in ((5, 32, 32), (16, 24, 40), (100, 50, 20)):
            images = torch.rand(2, 3, height, width)
            gaussians = model.encode(images, num_gaussians=count, looks=2)
            assert gaussians.raw.shape == (2, count, 9)
            assert gaussians.aspect == height / width
            assert model.classify(gaussians).shape == (2, 3)
        assert len(model.encode(images)) == 16
        assert model(images).shape == (2, 3)


def test_more_looks_are_more_turns(model):
    images = torch.rand(1, 3, 32, 32)
    state = model.encoder.begin(images, num_gaussians=7)
    for looks in (1, 2, 3):
        state = model.encoder(images, state=state)
        torch.testing.assert_close(model.encode(images, num_gaussians=7, looks=looks).raw, state.raw)


@pytest.mark.parametrize("name", ["gvit_tiny_denoising", "vit_tiny_patch8"])
def test_models_of_one_number_refuse_another(name):
    model = gvit.create_model(name, num_classes=3)
    images = torch.rand(1, 3, 32, 32)
    for option in ("num_gaussians", "looks"):
        with pytest.raises(InputError, match=option):
            gvit.predict(model, images, **{option: 5})


def test_numbers_below_one_are_refused(model):
    for option in ("num_gaussians", "looks"):
        with pytest.raises(InputError, match=f"{option} must be a whole number, at least 1 .* got 0"):
            model.encode(torch.rand(1, 3, 32, 32), **{option: 0})


def test_a_turn_descends_minus_the_psnr_of_its_picture(model):
    from gvit.data.loading import Batch
    from gvit.losses import pixel_loss
    from gvit.training.objective import GuidedObjective, Turn
    from gvit.training.schedule import Schedule

    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(images, torch.tensor([0, 1]), torch.empty(2, 16, 9))
    plan = Schedule(ends=(1, 2, 3, 4), guide_every=1, gamma=0.1).plan(0)
    for config, last in ((ObjectiveConfig(), "bce"), (ObjectiveConfig("psnr", 0.0), "psnr")):
        objective, turn = GuidedObjective(model, config), Turn(of=2)
        state = model.encoder.begin(images)
        for loss in ("psnr", last):
            model.zero_grad()
            measures = objective.backward(batch, plan, turn=turn)
            found = model.encoder.head.weight.grad.clone()
            model.zero_grad()
            state = model.encoder(images, state=state)
            drawn = gvit.render(model.encoder.gaussians(state.raw), 32, 32)
            expected = pixel_loss(drawn, images, loss)
            expected.backward()
            torch.testing.assert_close(measures["pixel_loss"], expected.detach())
            torch.testing.assert_close(found, model.encoder.head.weight.grad, rtol=1e-3, atol=1e-6)
            state = state._replace(raw=state.raw.detach())
            turn = turn.then()
