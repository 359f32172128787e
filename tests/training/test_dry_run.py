"""A dry run tells what a run will take, and writes nothing."""

import time
from dataclasses import replace

import pytest
import torch

from gvit.training.config import GuidanceConfig
from gvit.training.dry_run import dry_run
from gvit.training.setup import set_up
from small_runs import CONFIG, with_

pytestmark = pytest.mark.usefixtures("few_digits")


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path):
    setup = set_up(CONFIG)
    before = torch.get_rng_state()
    plan = dry_run(setup)
    assert torch.equal(torch.get_rng_state(), before)
    assert [(cost.phase, cost.steps) for cost in plan.phases] == [
        *[("reconstruct", 4), ("perceptual", 4), ("classify", 6), ("guide", 6)]
    ]
    assert [set(cost.learning_rates) for cost in plan.phases] == [{"encoder"}] * 2 + [
        {"encoder", "classifier"}
    ] * 2
    assert all(cost.step_seconds > 0 for cost in plan.phases)
    assert plan.evaluations == 3
    assert plan.seconds >= sum(cost.steps * cost.step_seconds for cost in plan.phases)
    assert 1e8 < plan.peak_memory < 1e11  # bytes, of a process with PyTorch
    assert not (tmp_path / "run").exists()
    assert "guide" in str(plan)


def test_a_dry_run_pays_for_what_the_guided_phase_begins_with():
    setup = set_up(replace(CONFIG, guidance=GuidanceConfig(guide_ema=0.9, psnr_budget=1.0)))
    dry_run(setup)
    guidance = setup.task.guidance
    assert guidance.averaged is not None
    assert guidance.multiplier > 0  # a guided step was measured against the encoder that the phase began with


@pytest.mark.parametrize("once", ["compiling", "recording"])
def test_a_dry_run_does_not_count_what_happens_once_as_a_step(once, monkeypatch):
    seen = set()

    def timed(trainer, step):
        first = step not in seen
        seen.add(step)
        return 100.0 if first else 1.0

    monkeypatch.setattr("gvit.training.dry_run._timed_step", timed)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda *_, **__: None)  # which takes its time
    setup = set_up(with_(compute={"compile": once == "compiling"}))
    if once == "recording":  # as on a GPU
        setup.task.graphs = {"encoder": setup.task.networks["encoder"]}
    plan = dry_run(setup)
    assert [cost.step_seconds for cost in plan.phases] == [1.0] * 4


@pytest.mark.parametrize("guided_steps", ["replacing", "none"])
def test_steps_of_different_numbers_of_gaussians_are_timed_at_their_mean(guided_steps, monkeypatch):
    """And tried with the most, which need the most memory."""
    taken = []

    def timed(setup, step):
        taken.append(step)
        return setup.task.draw_count(step) * (10 if setup.schedule.plan(step).guided else 1)

    monkeypatch.setattr("gvit.training.dry_run._timed_step", timed)
    schedule = {"reconstruct_epochs": 50, "guide_epochs": 50, "guided_steps": guided_steps}
    setup = set_up(
        with_(
            model={"model": "gvit_tiny"},
            objective={"gaussians_range": (4, 256)},
            schedule=schedule,
        )
    )
    for cost in dry_run(setup).phases:
        steps = setup.schedule.steps_of(cost.phase)
        if len(steps) < 100:
            continue
        counts = {step: setup.task.draw_count(step) for step in steps}
        all_steps = sum(
            count * (10 if setup.schedule.plan(step).guided else 1) for step, count in counts.items()
        )
        assert cost.step_seconds * cost.steps == pytest.approx(all_steps, rel=0.15)
        assert max(counts[step] for step in taken if step in steps) == max(counts.values())


def test_a_dry_run_does_not_count_what_happens_once_for_each_batch_of_an_evaluation(monkeypatch):
    """Imports, and compiling for evaluation."""
    setup = set_up(CONFIG)
    measure, begun = setup.task.measure, []

    def first_slow(batches):
        if not begun:
            time.sleep(2)
        begun.append(1)
        return measure(batches)

    monkeypatch.setattr(setup.task, "measure", first_slow)
    assert dry_run(setup).evaluation_seconds < 2
