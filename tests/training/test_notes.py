"""What a set-up points out before it trains, or refuses."""

import re
from dataclasses import replace

import pytest

from gvit.data.sources import SOURCES, Source, digits
from gvit.errors import InputError, for_command_line, for_python
from gvit.training.config import ScheduleConfig, TrainConfig
from gvit.training.schedule import Schedule
from gvit.training.setup import set_up
from gvit.training.train import train
from small_runs import CONFIG, Recorder, with_

pytestmark = pytest.mark.usefixtures("few_digits")


def test_a_warm_up_that_leaves_no_time_to_learn_is_pointed_out():
    short = with_(optimizer={"warmup_epochs": 2.0})  # of 5 epochs, 3 of them the classifier's
    assert set_up(CONFIG).notes == ()
    (note,) = set_up(short).notes
    told = "the warm-up, 2 epochs, takes over half of the classifier's 3; {} would be in proportion"
    assert for_python(note) == told.format("warmup_epochs=0.25")
    assert for_command_line(note) == told.format("--warmup-epochs 0.25")


def test_a_phase_that_is_less_than_a_step_is_told():
    notes = map(for_python, set_up(with_(schedule={"guide_epochs": 0.001})).notes)
    assert "guide_epochs=0.001 are less than a step: the phase is left out" in notes


def test_a_batch_of_all_images_has_as_many_as_can_be_split():
    setup = set_up(with_(data={"batch_size": 2048}, compute={"accumulate": 3}))
    count = len(setup.feed.train)
    assert count % 3
    assert setup.feed.batch_size == 3 * (count // 3)
    assert f"{count} images to train on: a batch has {3 * (count // 3)}, not 2048" in map(
        for_python, setup.notes
    )


@pytest.mark.parametrize("epochs", [None, 6.25])
def test_an_average_that_never_forgets_the_first_weights_is_pointed_out(epochs):
    config = with_(schedule={"epochs": epochs})
    total = set_up(config).schedule.total
    (note,) = set_up(replace(config, optimizer=replace(config.optimizer, ema_decay=0.9999))).notes
    told = re.fullmatch(
        rf"ema_decay=0\.9999: of an average over {total} steps, 100 % are the weights before the first; "
        r"ema_decay=(0\.\d+) would be in proportion",
        for_python(note),
    )
    usual = float(told[1])
    assert 0.005 < usual**total < 0.05
    assert set_up(replace(config, optimizer=replace(config.optimizer, ema_decay=usual))).notes == ()


def test_what_a_model_without_gaussians_leaves_unused_is_pointed_out():
    assert set_up(with_(model={"model": "vit_tiny_patch8"})).notes == (
        "vit_tiny_patch8 reads pixels: what is set of Gaussians, their losses and guidance has no effect",
    )


def test_a_rate_of_its_own_for_the_guided_phase():
    setup = set_up(with_(schedule={"guide_lr": 0.02}))
    first = setup.schedule.steps_of("guide").start
    assert setup.rates(first)["encoder"] == pytest.approx(0.02 * setup.feed.batch_size / 256)
    assert setup.rates(first - 1) == set_up(CONFIG).rates(first - 1)


def test_a_rate_for_a_guided_phase_that_there_is_not_is_pointed_out():
    (note,) = set_up(with_(schedule={"guide_lr": 0.02, "guide_epochs": 0.0})).notes
    assert for_python(note) == "guide_lr has no effect: there is no guided phase"


@pytest.mark.parametrize("unguided", [{"guided_steps": "none"}, {"guide_epochs": 0.0}])
@pytest.mark.parametrize(
    "setting", [{"gamma_unit": "image"}, {"projection": "image"}, {"guide_ema": 0.9}, {"psnr_budget": 1.0}]
)
def test_guidance_of_no_step_is_pointed_out(unguided, setting):
    (name,) = setting
    assert set_up(with_(guidance=setting)).notes == ()
    (note,) = set_up(with_(guidance=setting, schedule=unguided)).notes
    assert for_python(note) == f"{name} has no effect: no step is guided"


def test_a_perceptual_phase_without_its_loss_is_pointed_out():
    (note,) = set_up(with_(objective={"perceptual_weight": 0.0})).notes
    assert note == "perceptual_epochs has no effect of its own: perceptual_weight is 0"


def test_what_is_asked_of_a_classifier_that_is_not_trained_is_pointed_out():
    alone = {"classify_epochs": 0.0, "guide_epochs": 0.0}
    asked = with_(schedule={**alone, "freeze_encoder": True}, objective={"class_weights": "balanced"})
    told = "an encoder alone is trained, no classifier: classify_epochs and guide_epochs are 0"
    assert set_up(with_(schedule=alone)).notes == (told,)
    assert set_up(asked).notes == (
        told,
        *(f"{name} has no effect: no classifier is trained" for name in ("class_weights", "freeze_encoder")),
    )


def test_a_least_number_of_steps_beside_epochs_is_pointed_out():
    setup = set_up(with_(schedule={"epochs": 5.0, "min_steps": 600}))
    assert [for_python(note) for note in setup.notes] == ["min_steps has no effect beside epochs"]
    assert set_up(setup.config).notes == ()  # as when it is resumed


def test_a_batch_that_cannot_be_split_is_refused(tmp_path):
    for split, message in (
        (with_(compute={"accumulate": 3}), "multiple of 3"),
        (with_(compute={"fsdp": True}), "torchrun"),
    ):
        with pytest.raises(InputError, match=message):
            train(split, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_observers_are_told_the_notes(tmp_path):
    config = with_(model={"model": "vit_tiny_patch8"}, schedule={"epochs": 0.5})
    recorder = Recorder()
    train(config, tmp_path / "run", [recorder])
    assert recorder.notes == set_up(config).notes
    assert recorder.notes


def test_the_configuration_that_is_written_down_has_the_same_schedule():
    """Epochs that are given stretch the phases as they were given: anything else would round to other steps."""
    schedule = ScheduleConfig(
        epochs=10.0, reconstruct_epochs=150.0, perceptual_epochs=50.0, classify_epochs=10.0, guide_epochs=30.0
    )
    setup = set_up(replace(CONFIG, schedule=schedule))
    written = TrainConfig.from_json(setup.config.to_json())
    assert Schedule.from_config(written.schedule, 22) == Schedule.from_config(schedule, 22)
    assert Schedule.from_config(schedule, 22).ends == (138, 183, 192, 220)


def test_sources_that_cannot_be_trained_on_are_named(monkeypatch):
    def source(split, count, names) -> Source:
        whole = digits.source(split)
        return Source(whole.load, whole.labels[:count], names)

    names = [str(name) for name in range(10)]
    for empty, told in (("train", "no images to train on"), ("test", "no images to test with")):
        monkeypatch.setitem(
            SOURCES, "few_digits", lambda s, d=None, e=empty: source(s, 0 if s == e else 20, names)
        )
        with pytest.raises(InputError, match=told):
            set_up(CONFIG)
    turned = names[::-1]
    monkeypatch.setitem(
        SOURCES, "few_digits", lambda s, d=None: source(s, 20, names if s == "train" else turned)
    )
    with pytest.raises(InputError, match="other classes, or another order"):
        set_up(CONFIG)
