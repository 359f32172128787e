"""Ways in which the classifier's gradient may meet the reconstruction's, and what is told about it."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

import small_runs
from gvit.errors import InputError
from gvit.losses import psnr
from gvit.rendering import render
from gvit.training.config import (
    ComputeConfig,
    DataConfig,
    GuidanceConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from gvit.training.guidance import Guidance, without_conflict
from gvit.training.loop import Loop
from gvit.training.objective import GuidedObjective
from gvit.training.run import Run
from gvit.training.setup import Setup, set_up
from gvit.training.train import Interrupted, resume, train
from small_runs import assert_same_run, assert_same_weights, metrics, weights

# 4 steps an epoch; a step of drawing, one of classifying, and ten guided ones
CONFIG = TrainConfig(
    model=ModelConfig("gvit_tiny_denoising", img_size=16, num_gaussians=8),
    data=DataConfig("few_digits", batch_size=8, crop_mode="squash", hflip=False, min_crop=0.8),
    schedule=ScheduleConfig(
        **{"reconstruct_epochs": 0.25, "perceptual_epochs": 0, "classify_epochs": 0.25, "guide_epochs": 2.5},
        **{"guide_every": 10, "eval_every": 1, "gamma": 0.3},
    ),
    optimizer=OptimizerConfig(base_lr=3e-2, warmup_epochs=0.0, clip_grad=1.0),
)
GUIDE = 2  # the first step of the guided phase
UNITS = {"batch": (0, 1, 2), "image": (1, 2), "gaussian": (2,)}
DENOISING, REFINING = {}, {"model": "gvit_tiny", "looks": 3}
kinds = pytest.mark.parametrize("kind", [DENOISING, REFINING], ids=["denoising", "refining"])


pytestmark = pytest.mark.usefixtures("few_digits")


def with_(config: TrainConfig = CONFIG, **groups: dict) -> TrainConfig:
    return small_runs.with_(config, **groups)


def take_steps(setup: Setup, first: int, count: int) -> list[dict[str, float]]:
    """Steps from wherever the weights are; measures of each, and what it did to its batch."""
    setup.task.model.train()
    found = []
    for step, parts in enumerate(setup.feed.batches(first, first + count, workers=0), first):
        plan = setup.schedule.plan(step)
        if step == GUIDE:
            setup.task.begin(plan.phase)
        measures = setup.task.step(step, parts, plan, setup.rates(step))
        found.append(measures | setup.task.effect(step, parts))
    return found


def two_gradients(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    reconstruction, classification = torch.randn(2, 5, 7, 9, generator=generator, dtype=dtype)
    return reconstruction, 3 * classification


# What is added to the reconstruction's gradient.


def test_by_default_it_is_gamma_times_the_class_gradient():
    reconstruction, classification = two_gradients()
    push = Guidance(GuidanceConfig()).push(reconstruction, classification, 0.1)
    assert torch.equal(push, 0.1 * classification)


@pytest.mark.parametrize("unit", UNITS)
def test_gamma_is_the_share_of_the_reconstructions_norm(unit):
    reconstruction, classification = two_gradients()
    push = Guidance(GuidanceConfig(gamma_unit=unit)).push(reconstruction, classification, 0.3)
    norms, wanted, own = (
        torch.linalg.vector_norm(x, dim=UNITS[unit]) for x in (push, reconstruction, classification)
    )
    torch.testing.assert_close(norms, 0.3 * wanted)
    inner = (push * classification).sum(UNITS[unit])
    torch.testing.assert_close(inner, norms * own)  # only its length has changed


@pytest.mark.parametrize("unit", ["image", "gaussian"])
def test_what_is_projected_works_against_no_reconstruction(unit):
    over = UNITS[unit]
    reconstruction, classification = two_gradients()
    before = (classification * reconstruction).sum(over)
    assert (before < 0).any()
    assert (before > 0).any()
    push = Guidance(GuidanceConfig(projection=unit)).push(reconstruction, classification, 1.0)
    after = (push * reconstruction).sum(over)
    assert after.min() > -1e-12
    agreeing = (before > 0).reshape(before.shape + (1,) * len(over)).expand_as(push)
    assert torch.equal(push[agreeing], classification[agreeing])
    # nothing but the conflict is gone
    gone = classification - push
    lengths = gone.norm(dim=over) * reconstruction.norm(dim=over)
    torch.testing.assert_close(lengths, before.clamp(max=0).abs())


def test_a_projected_gradient_is_measured_after_its_projection():
    reconstruction, classification = two_gradients()
    config = GuidanceConfig(gamma_unit="image", projection="image")
    push = Guidance(config).push(reconstruction, classification, 0.5)
    torch.testing.assert_close(push.norm(dim=(1, 2)), 0.5 * reconstruction.norm(dim=(1, 2)))
    assert (push * reconstruction).sum((1, 2)).min() > -1e-12


@pytest.mark.parametrize("unit", ["loss", *UNITS])
@pytest.mark.parametrize("projection", ["none", "image", "gaussian"])
def test_no_gradient_makes_it_anything_but_finite(unit, projection):
    ordinary = two_gradients(torch.float32)
    sizes = (0.0, 1e-45, 1e-38, 1e-30, 1e-20, 1.0, 1e15)
    guidance = Guidance(GuidanceConfig(gamma_unit=unit, projection=projection))
    for one, other in product(sizes, sizes):
        reconstruction, classification = one * ordinary[0], other * ordinary[1]
        reconstruction[0], classification[1] = 0.0, 0.0  # images
        reconstruction[2, 0], classification[2, 1] = 0.0, 0.0  # Gaussians
        push = guidance.push(reconstruction, classification, 1.0)
        assert push.isfinite().all(), (one, other)
        assert (push[1] == 0).all() or unit == "batch"
        if unit == "image":
            assert (push[0] == 0).all()
            if min(one, other) > 1e-30:  # a small gradient is a direction like any other
                wanted = reconstruction[3:].double().norm(dim=(1, 2))
                torch.testing.assert_close(push[3:].double().norm(dim=(1, 2)), wanted, rtol=1e-4, atol=0)


def test_without_a_reconstruction_there_is_no_conflict():
    _, classification = two_gradients()
    assert torch.equal(
        without_conflict(classification, torch.zeros_like(classification), (1, 2)), classification
    )


# The budget.


@pytest.mark.parametrize("strength", [0.03, 1.0, 30.0])
@pytest.mark.parametrize("budget", [0.0, 0.5, 2.0])
def test_a_toy_spends_its_budget_and_no_more(strength, budget):
    """A number x costs 5 x^2 dB, and the class loss is -strength * x."""
    guidance = Guidance(GuidanceConfig(psnr_budget=budget))
    x, spent = torch.zeros(1, 1, 9), []
    for _ in range(600):
        spent.append(5 * x[0, 0, 0].item() ** 2)
        reconstruction, classification = 10 * x, torch.zeros(1, 1, 9)
        classification[..., 0] = -strength
        x = x - 0.02 * (reconstruction + guidance.push(reconstruction, classification, 0.1))
        guidance.settle(spent[-1])
    assert max(spent) < budget + 0.5
    assert sum(spent[-100:]) / 100 < budget + 0.05
    if 10.0 * strength >= math.sqrt(20 * budget):  # a hundred times gamma is enough to spend it
        assert spent[-1] == pytest.approx(budget, abs=0.1)


def test_without_a_budget_nothing_is_settled():
    guidance = Guidance(GuidanceConfig())
    guidance.settle(5.0)
    assert guidance.factor == 1
    assert guidance.state() == {}


@kinds
def test_the_budget_holds_in_a_run(kind, monkeypatch):
    """Of a classifier that wants every Gaussian transparent."""
    spoilt = with_(
        model=kind,
        schedule={"reconstruct_epochs": 3, "guide_epochs": 10, "guide_every": 1, "gamma": 3.0},
        guidance={"gamma_unit": "image"},
        optimizer={"base_lr": 0.1},
    )

    def fade(self, raw, labels, plan, weight, share):
        pull = torch.zeros_like(raw)
        pull[..., 8] = 1.0
        return pull, {"class_loss": raw[..., 8].detach().mean()}

    monkeypatch.setattr(GuidedObjective, "_classification", fade)
    spent = {}
    for budget in (None, 0.5):
        setup = set_up(with_(spoilt, guidance={"psnr_budget": budget}))
        images = torch.stack([setup.feed.tests[i][0] for i in range(12)])

        def fidelity(setup=setup, images=images) -> float:
            with torch.no_grad():
                return psnr(render(setup.task.model.encode(images), 16, 16), images).mean().item()

        first, last = setup.schedule.steps_of("guide").start, setup.schedule.total
        for parts, step in zip(setup.feed.batches(0, last, workers=0), range(last), strict=True):
            plan = setup.schedule.plan(step)
            if plan.classify and not plan.guided:
                continue  # which needs a loss to learn from
            if step == first:
                setup.task.begin("guide")
                before = fidelity()
            setup.task.step(step, parts, plan, setup.rates(step))
        spent[budget] = before - fidelity()
    assert spent[None] > 1.5
    assert spent[0.5] < 0.8


@kinds
def test_the_budget_counts_what_the_same_images_have_lost(kind):
    setup = set_up(with_(model=kind, guidance={"psnr_budget": 1.0}))
    take_steps(setup, 0, GUIDE)
    (parts,) = setup.feed.batches(GUIDE, GUIDE + 1, workers=0)
    plan, task = setup.schedule.plan(GUIDE), setup.task
    task.begin("guide")
    with torch.no_grad():
        for parameter in task.model.encoder.parameters():
            parameter.mul_(0.9)
    raw = []
    handle = task.model.classifier.register_forward_pre_hook(lambda _, inputs: raw.append(inputs[0].detach()))
    measures = task.step(GUIDE, parts, plan, setup.rates(GUIDE))
    handle.remove()
    start, images = task.guidance.start, parts[0].inputs
    first, now = (
        psnr(render(start.gaussians(gaussians), 16, 16), images).mean()
        for gaussians in (start(images, parts[0].noise), raw[0])
    )
    assert measures["psnr_spent"] == pytest.approx((first - now).item(), abs=1e-4)
    assert measures["psnr_spent"] != 0
    left = 1.0 - measures["psnr_spent"]
    assert task.guidance.multiplier == pytest.approx(0.1 * min(0.5, left) if left > 0 else 0.5 * left)


def test_what_cannot_be_drawn_is_told_of_with_a_budget_as_without(monkeypatch):
    """A CUDA graph's replay tells nothing itself."""
    for guidance in ({}, {"psnr_budget": 1.0}):
        setup = set_up(with_(model=REFINING, guidance=guidance))
        (parts,) = setup.feed.batches(GUIDE, GUIDE + 1, workers=0)
        task, encoder = setup.task, setup.task.model.encoder
        task.begin("guide")

        def replayed(images, noise, state, task=task, encoder=encoder):
            state = encoder(images, noise, state)
            return state._replace(raw=state.raw * math.nan) if task.turns[0].is_last else state

        monkeypatch.setattr(task.objective, "encoder", replayed)
        with pytest.raises(FloatingPointError):
            task.step(GUIDE, parts, setup.schedule.plan(GUIDE), setup.rates(GUIDE))


def test_a_second_attempt_at_the_phase_knows_nothing_of_the_first():
    setup = set_up(with_(guidance={"psnr_budget": 0.5, "guide_ema": 0.9}))
    task = setup.task
    before = task.state()
    task.begin("guide")
    task.guidance.settle(3.0)
    assert task.guidance.factor < 0.1
    task.begin("guide")
    assert task.guidance.factor == 1
    task.guidance.settle(3.0)
    task.load_state(before)
    assert task.guidance.factor == 1
    assert task.state()["guidance"] == before["guidance"] == {}


# Which steps are guided, and what learns in them.


@pytest.mark.parametrize(
    ("kind", "guided_steps", "every", "added", "classified"),
    [
        (DENOISING, "replacing", 10, 0, 9),
        (DENOISING, "added", 10, 1, 10),
        (DENOISING, "none", 10, 0, 10),
        (DENOISING, "replacing", 1, 0, 0),
        (DENOISING, "added", 1, 10, 10),
        (REFINING, "replacing", 10, 0, 9),
        (REFINING, "added", 1, 10, 10),
    ],
)
def test_how_many_optimizer_steps_ten_batches_take(kind, guided_steps, every, added, classified):
    schedule = {"guided_steps": guided_steps, "guide_every": every}
    setup = set_up(with_(model=kind, schedule=schedule))
    taken = {"encoder": 0, "classifier": 0}
    take_steps(setup, 0, GUIDE)
    for name, optimizer in setup.task.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, name=name: taken.update({name: taken[name] + 1}))
    take_steps(setup, GUIDE, 10)
    turns = setup.task.model.encoder.turns
    assert taken == {"encoder": 10 * turns + added, "classifier": classified}


def test_a_run_that_goes_on_within_the_guided_phase_begins_it(tmp_path):
    """As one does that has fewer images now, whose phases begin earlier."""
    config = with_(guidance={"guide_ema": 0.9, "psnr_budget": 0.5})
    loop = Loop(set_up(config), Run.create(tmp_path / "run", config))
    loop.step = GUIDE + 2
    loop.fit(until=GUIDE + 3)
    task = loop.setup.task
    assert task.guidance.averaged is not None
    assert task.guidance.draw_start is not None
    start = task.motion.start
    loop.fit(until=GUIDE + 4)  # once
    assert task.motion.start is start


def test_what_has_begun_goes_on_where_its_motion_can_be_compared_no_more(tmp_path):
    """Another number of test images can be read by now: the average and the budget are as they were."""
    config = with_(guidance={"guide_ema": 0.9, "psnr_budget": 0.5})
    loop = Loop(set_up(config), Run.create(tmp_path / "run", config))
    loop.fit(until=GUIDE + 2)
    state = loop.setup.task.state()
    averaged = state["guidance"]["averaged"]
    task = set_up(config).task
    task.load_state(state | {"motion": state["motion"][:-1]})
    assert task.motion.start is None
    assert task.has_begun("guide")
    again = task.state()["guidance"]["averaged"]
    once_more = set_up(config).task
    once_more.load_state(task.state())
    assert once_more.has_begun("guide")
    older = {name: value for name, value in state.items() if name not in ("guiding", "motion_averaged")}
    once_more.load_state(older)
    assert once_more.has_begun("guide")
    assert once_more.motion.start is not None
    assert all(torch.equal(again[name], averaged[name]) for name in averaged)
    fresh = set_up(config).task
    assert not fresh.has_begun("guide")
    assert fresh.has_begun("classify")


def test_what_moves_is_of_the_weights_that_are_evaluated():
    task = set_up(with_(optimizer={"ema_decay": 0.9})).task
    assert task.motion.model is task.ema.module


@kinds
def test_an_added_step_comes_after_an_ordinary_one_of_the_same_batch(kind):
    """Without a push it changes the encoder, and with one it changes it in another way; never the classifier."""
    after = {}
    for name, schedule in {
        "none": {"guided_steps": "none"},
        "no push": {"guided_steps": "added", "gamma": 0.0},
        "push": {"guided_steps": "added", "gamma": 10.0},
    }.items():
        setup = set_up(with_(model=kind, schedule=schedule))
        take_steps(setup, 0, GUIDE + 1)
        after[name] = {key: value.clone() for key, value in setup.task.model.state_dict().items()}
    for key in after["none"]:
        if key.startswith("classifier"):
            assert torch.equal(after["none"][key], after["no push"][key])
            assert torch.equal(after["none"][key], after["push"][key])
    moved = [key for key in after["none"] if key.startswith("encoder") and "weight" in key]
    assert any(not torch.equal(after["none"][key], after["no push"][key]) for key in moved)
    assert any(not torch.equal(after["no push"][key], after["push"][key]) for key in moved)


def test_a_phase_without_guided_steps_ends_as_a_longer_classify_phase_and_tells_what_moved(tmp_path):
    large = {"img_size": 32}  # where Gaussians move by more than a pixel
    train(with_(model=large, schedule={"guided_steps": "none"}), tmp_path / "none")
    longer = {"classify_epochs": 2.75, "guide_epochs": 0}
    train(with_(model=large, schedule=longer), tmp_path / "longer")
    assert_same_weights(tmp_path / "longer", tmp_path / "none")
    last, other = (metrics(tmp_path / name)[-1] for name in ("none", "longer"))
    assert 0 < last["moved"] <= 1
    assert "moved" not in other


@kinds
@pytest.mark.parametrize("unit", ["loss", *UNITS])
def test_no_gamma_makes_a_weight_nan(kind, unit, monkeypatch):
    """The paper's own limit: NaNs above gamma 0.1. The first image of a batch has no class gradient at all."""
    classify = GuidedObjective._classification

    def of_the_others(*arguments):
        pull, measures = classify(*arguments)
        if pull is not None:
            pull[0] = 0.0
        return pull, measures

    monkeypatch.setattr(GuidedObjective, "_classification", of_the_others)
    unclipped = with_(model=kind, optimizer={"clip_grad": None}, guidance={"gamma_unit": unit})
    setup = set_up(with_(unclipped, schedule={"gamma": 1e6, "guide_every": 1}))
    take_steps(setup, 0, GUIDE + 4)
    assert all(value.isfinite().all() for value in setup.task.model.state_dict().values())


# The averaged classifier.


def test_the_average_follows_the_classifier_and_guides(monkeypatch):
    setup = set_up(with_(schedule={"guide_every": 3}, guidance={"guide_ema": 0.75}))
    task = setup.task
    take_steps(setup, 0, GUIDE)
    start = [p.detach().clone() for p in task.model.classifier.parameters()]
    take_steps(setup, GUIDE, 1)  # guided: the classifier stands still
    assert all(torch.equal(a, b) for a, b in zip(task.guidance.averaged.parameters(), start, strict=True))
    expected = start
    for step in (1, 2):
        take_steps(setup, GUIDE + step, 1)
        learned = task.model.classifier.parameters()
        expected = [0.75 * a + 0.25 * b.detach() for a, b in zip(expected, learned, strict=True)]
    for found, wanted in zip(task.guidance.averaged.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    (measures,) = take_steps(setup, GUIDE + 3, 1)
    (parts,) = setup.feed.batches(GUIDE + 3, GUIDE + 4, workers=0)
    # measured before the encoder moved
    before = task.turns[0].steered
    loss = F.cross_entropy(task.guidance.averaged(before.raw), parts[0].labels)
    assert measures["class_loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert measures["class_loss"] != pytest.approx(
        F.cross_entropy(task.model.classifier(before.raw), parts[0].labels).item(), rel=1e-3
    )


def test_an_average_that_forgets_everything_is_the_classifier(tmp_path):
    for name, decay in (("plain", None), ("forgetful", 0.0)):
        train(with_(schedule={"guide_every": 3}, guidance={"guide_ema": decay}), tmp_path / name)
    expected, found = weights(tmp_path / "plain"), weights(tmp_path / "forgetful")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


# What is told.


@kinds
def test_what_a_guided_step_did_is_measured_and_predicted(kind):
    """By a step so small that first order is all there is."""
    small = with_(
        model=kind,
        optimizer={"base_lr": 1e-4},
        schedule={"guide_every": 1, "gamma": 100.0},
        compute={"precision": "float64"},
    )
    setup = set_up(small)
    take_steps(setup, 0, GUIDE)
    (measures,) = take_steps(setup, GUIDE, 1)
    assert measures["class_change"] != 0
    assert measures["class_change_predicted"] == pytest.approx(measures["class_change"], rel=0.05)
    assert measures["class_change"] == pytest.approx(measures["class_loss_after"] - measures["class_loss"])
    assert measures["guidance_weight"] == pytest.approx(100.0)
    assert measures["psnr_change"] != 0
    assert "class_change" not in take_steps(set_up(with_(model=kind)), 0, GUIDE)[-1]


def test_what_it_did_is_the_loss_of_the_gaussians_that_the_new_encoder_draws():
    setup = set_up(with_(schedule={"gamma": 10.0}))
    take_steps(setup, 0, GUIDE)
    (parts,) = setup.feed.batches(GUIDE, GUIDE + 1, workers=0)
    (measures,) = take_steps(setup, GUIDE, 1)
    model, batch = setup.task.model, parts[0]
    with torch.no_grad():
        raw = model.encoder(batch.inputs, batch.noise)
        loss = F.cross_entropy(model.classifier(raw), batch.labels)
        before = setup.task.turns[0].steered.raw
        old, new = (
            psnr(render(model.encoder.gaussians(x), 16, 16), batch.inputs).mean() for x in (before, raw)
        )
    assert measures["class_loss_after"] == pytest.approx(loss.item(), rel=1e-5)
    assert measures["psnr_change"] == pytest.approx((new - old).item(), abs=1e-4)


def test_metrics_hold_what_guided_steps_did(tmp_path):
    train(with_(schedule={"guide_every": 5}), tmp_path / "run")
    guided = [line for line in metrics(tmp_path / "run") if line.get("gamma")]
    names = {"class_loss_after", "class_change", "class_change_predicted", "psnr_change", "guidance_weight"}
    assert len(guided) == 2
    assert all(names <= line.keys() for line in guided)


# Runs.

STATEFUL = [
    {"guidance": {"psnr_budget": 0.3}, "schedule": {"guide_every": 2, "guided_steps": "added"}},
    {"guidance": {"guide_ema": 0.9}, "schedule": {"guide_every": 2}},
    {
        "guidance": {"guide_ema": 0.9, "psnr_budget": 0.3, "gamma_unit": "image", "projection": "gaussian"},
        "schedule": {"guide_every": 1, "guided_steps": "added"},
    },
]


@pytest.mark.parametrize(
    ("kind", "changes"),
    # the last holds what the others do
    [*((DENOISING, changes) for changes in STATEFUL), (REFINING, STATEFUL[-1])],
    ids=str,
)
def test_an_interrupted_run_goes_on_to_the_same_result(tmp_path, kind, changes):
    config = with_(CONFIG, model=kind | {"drop_path_rate": 0.1}, **changes)
    train(config, tmp_path / "whole")
    folder, asked = tmp_path / "cut", iter(range(1, 100))
    with pytest.raises(Interrupted):
        train(config, folder, stop=lambda: next(asked) == 5)
    resume(folder)
    assert_same_run(tmp_path / "whole", folder)


@pytest.mark.parametrize("unit", ["image", "gaussian"])
def test_parts_of_a_batch_are_guided_as_the_whole_is(unit):
    ends = []
    for parts in (1, 2):
        setup = set_up(
            with_(
                schedule={"guide_every": 1, "guided_steps": "added"},
                guidance={"gamma_unit": unit, "projection": unit, "guide_ema": 0.5, "psnr_budget": 0.1},
                compute={"precision": "float64", "accumulate": parts},
            )
        )
        take_steps(setup, 0, GUIDE + 3)
        ends.append((setup.task.model.state_dict(), setup.task.guidance.factor))
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-9)
    for name, value in ends[0][0].items():
        torch.testing.assert_close(ends[1][0][name], value, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("fields", [{"guide_ema": 0.9}, {"psnr_budget": 1.0}], ids=str)
def test_what_keeps_a_copy_cannot_be_sharded(fields):
    (name,) = fields
    with pytest.raises(InputError, match=f"{name} needs whole weights"):
        TrainConfig(guidance=GuidanceConfig(**fields), compute=ComputeConfig(fsdp=True))
