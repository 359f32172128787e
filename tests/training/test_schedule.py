import dataclasses
import math

import pytest

from gvit.training.config import ScheduleConfig
from gvit.training.schedule import PHASES, Schedule, learning_rate, learning_rates


@pytest.fixture
def schedule() -> Schedule:
    config = ScheduleConfig(
        reconstruct_epochs=2,
        perceptual_epochs=1,
        classify_epochs=3,
        guide_epochs=2.5,
        guide_every=4,
        gamma=0.07,
    )
    return Schedule.from_config(config, steps_per_epoch=10)


def test_phases_follow_each_other(schedule):
    phases = [schedule.plan(step).phase for step in range(schedule.total)]
    assert phases == ["reconstruct"] * 20 + ["perceptual"] * 10 + ["classify"] * 30 + ["guide"] * 25
    assert schedule.classify_start == 30


def test_what_each_phase_does(schedule):
    plans = {phase: schedule.plan(step) for phase, step in zip(PHASES, (0, 20, 30, 61), strict=True)}
    assert [plan.perceptual for plan in plans.values()] == [False, True, True, True]
    assert [plan.classify for plan in plans.values()] == [False, False, True, True]


def test_guidance_is_every_nth_step_of_its_phase_and_nowhere_else(schedule):
    guided = [step for step in range(schedule.total) if schedule.plan(step).guided]
    assert guided == [60, 64, 68, 72, 76, 80, 84]
    assert {schedule.plan(step).gamma for step in guided} == {0.07}
    assert {schedule.plan(step).gamma for step in set(range(schedule.total)) - set(guided)} == {0.0}


def test_a_frozen_encoder_stands_still_in_the_classify_phase_only(schedule):
    frozen = dataclasses.replace(schedule, freeze_encoder=True)
    still = [step for step in range(frozen.total) if not frozen.plan(step).train_encoder]
    assert still == list(frozen.steps_of("classify")) == list(range(30, 60))
    assert all(schedule.plan(step).train_encoder for step in range(schedule.total))


def test_classify_only_has_as_many_steps_and_none_guided(schedule):
    plans = [schedule.classify_only().plan(step) for step in range(schedule.classify_only().total)]
    assert len(plans) == schedule.total
    assert {(plan.phase, plan.classify, plan.guided) for plan in plans} == {("classify", True, False)}
    assert schedule.classify_only().classify_start == 0


def test_the_papers_epochs_are_the_default():
    assert ScheduleConfig().phase_epochs() == (150, 50, 150, 50)


def test_epochs_stretches_in_proportion():
    config = ScheduleConfig(
        epochs=10, reconstruct_epochs=1, perceptual_epochs=0, classify_epochs=3, guide_epochs=1
    )
    assert config.phase_epochs() == (2, 0, 6, 2)
    assert Schedule.from_config(config, 5).ends == (10, 10, 40, 50)


def test_learning_rate_warms_up_and_decays():
    rates = [learning_rate(2.0, step, 10, 110, 20) for step in range(10, 110)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[19] == rates[20] == 2.0
    assert rates == sorted(rates[:20]) + sorted(rates[20:], reverse=True)
    assert rates[60] == pytest.approx(1.0, abs=1e-9)
    assert 0 <= rates[-1] < 0.01


def test_a_guided_phase_with_a_rate_of_its_own_begins_with_it_and_ends_with_nothing(schedule):
    def rates(step, **own):
        return learning_rates(schedule, step, peak=1.0, warmup=5, **own)

    phase = schedule.steps_of("guide")
    for step in range(phase.start):
        assert rates(step, guide_peak=0.5) == rates(step)
    found = [rates(step, guide_peak=0.5)["encoder"] for step in phase]
    expected = [0.25 * (1 + math.cos(math.pi * done / len(phase))) for done in range(len(phase))]
    assert found == pytest.approx(expected)
    ordinary = phase.start + 1
    assert rates(ordinary, guide_peak=0.5)["classifier"] == found[1]
    assert "classifier" not in rates(phase.start, guide_peak=0.5)  # a guided step


def test_what_stands_still_has_no_rate():
    schedule = Schedule((1, 2, 4, 6), 2, 0.1, freeze_encoder=True)
    rates = [set(learning_rates(schedule, step, 1.0, 0)) for step in (1, 2, 4, 5)]
    assert rates == [{"encoder"}, {"classifier"}, {"encoder"}, {"encoder", "classifier"}]
