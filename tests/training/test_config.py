"""A configuration holds what it may hold, says in one line what it may not, and survives being written down."""

import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gvit.cli.messages import describe
from gvit.errors import InputError
from gvit.training.config import (
    BrokenConfig,
    ComputeConfig,
    DataConfig,
    GuidanceConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PixelConfig,
    SavingConfig,
    ScheduleConfig,
    TrainConfig,
)

GROUPS = {field.name: get_type_hints(TrainConfig)[field.name] for field in dataclasses.fields(TrainConfig)}
BIG = 10**6
TINY = 1e-9

# class, field, the range in words, the smallest and the largest value to try, values beyond the range
RANGES = [
    (ModelConfig, "img_size", "at least 11", 11, BIG, [10, 0, -224]),
    (ModelConfig, "num_gaussians", "at least 1", 1, BIG, [0, -1]),
    (ModelConfig, "scale_factor", "above 0", TINY, BIG, [0.0, -1.0]),
    (ModelConfig, "noise_std", "at least 0", 0.0, BIG, [-0.1]),
    (ModelConfig, "drop_path_rate", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (ModelConfig, "looks", "at least 1", 1, BIG, [0, -1]),
    (DataConfig, "batch_size", "at least 1", 1, BIG, [0, -1]),
    (DataConfig, "workers", "at least 0", 0, BIG, [-1]),
    (DataConfig, "crop_pct", "above 0 and at most 1", TINY, 1.0, [0.0, -0.5, 1.01]),
    (DataConfig, "min_crop", "above 0 and at most 1", TINY, 1.0, [0.0, -0.5, 1.01]),
    (DataConfig, "rotate", "at least 0 and at most 180", 0.0, 180.0, [-1.0, 180.5]),
    (DataConfig, "translate", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (DataConfig, "zoom", "at least 0 and at most 0.99", 0.0, 0.99, [-0.1, 1.0]),
    (PixelConfig, "randaugment", "at least 0 and at most 10", 0, 10, [-1, 11]),
    (PixelConfig, "random_erase", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (PixelConfig, "mixup", "at least 0", 0.0, BIG, [-0.1]),
    (PixelConfig, "cutmix", "at least 0", 0.0, BIG, [-0.1]),
    (BrokenConfig, "max_broken", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (ScheduleConfig, "epochs", "above 0 and at most 1000000.0", TINY, 1e6, [0.0, -1.0, 1e7]),
    (ScheduleConfig, "reconstruct_epochs", "at least 0", 0.0, BIG, [-1.0]),
    (ScheduleConfig, "perceptual_epochs", "at least 0", 0.0, BIG, [-1.0]),
    (ScheduleConfig, "classify_epochs", "at least 0", 0.0, BIG, [-1.0]),
    (ScheduleConfig, "guide_epochs", "at least 0", 0.0, BIG, [-1.0]),
    (ScheduleConfig, "guide_every", "at least 1", 1, BIG, [0, -1]),
    (ScheduleConfig, "gamma", "at least 0", 0.0, BIG, [-0.1]),
    (ScheduleConfig, "min_steps", "at least 1", 1, BIG, [0, -1]),
    (ScheduleConfig, "guide_lr", "above 0", TINY, BIG, [0.0, -1.0]),
    (ScheduleConfig, "eval_every", "above 0", TINY, BIG, [0.0, -1.0]),
    (ObjectiveConfig, "perceptual_weight", "at least 0", 0.0, BIG, [-0.1]),
    (GuidanceConfig, "guide_ema", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (GuidanceConfig, "psnr_budget", "at least 0", 0.0, BIG, [-0.1]),
    (OptimizerConfig, "base_lr", "above 0", TINY, BIG, [0.0, -1.0]),
    (OptimizerConfig, "warmup_epochs", "at least 0 and at most 1000000.0", 0.0, 1e6, [-1.0, 1e7]),
    (OptimizerConfig, "weight_decay", "at least 0", 0.0, BIG, [-0.1]),
    (OptimizerConfig, "layer_decay", "above 0 and at most 1", TINY, 1.0, [0.0, 1.1]),
    (OptimizerConfig, "beta1", "at least 0 and below 1", 0.0, math.nextafter(1, 0), [-0.1, 1.0, 1.5]),
    (OptimizerConfig, "beta2", "at least 0 and below 1", 0.0, math.nextafter(1, 0), [-0.1, 1.0, 1.5]),
    (OptimizerConfig, "clip_grad", "above 0", TINY, BIG, [0.0, -1.0]),
    (OptimizerConfig, "ema_decay", "at least 0 and at most 1", 0.0, 1.0, [-0.1, 1.1]),
    (OptimizerConfig, "max_skipped", "at least 0", 0, BIG, [-1]),
    (SavingConfig, "keep_checkpoints", "at least 1", 1, BIG, [0, -1]),
    (ComputeConfig, "accumulate", "at least 1", 1, BIG, [0, -1]),
    (TrainConfig, "seed", "at least 0 and at most 9223372036854775807", 0, 2**63 - 1, [-1, 2**63, 10**20]),
]
by_field = pytest.mark.parametrize(
    ("kind", "name", "words", "low", "high", "beyond"), RANGES, ids=[row[1] for row in RANGES]
)


def nested(kind: type, name: str, value: object) -> str:
    """The JSON of a training configuration of defaults, but for one field of one group."""
    (group,) = [group for group, held in GROUPS.items() if held is kind] or [None]
    return json.dumps({name: value} if group is None else {group: {name: value}})


def refused(kind: type, name: str, value: object) -> InputError:
    """The error of a value, which has to be the same from Python and from a file."""
    with pytest.raises(InputError) as python:
        kind(**{name: value})
    with pytest.raises(InputError) as file:
        TrainConfig.from_json(nested(kind, name, value))
    assert str(python.value) == str(file.value)
    assert "\n" not in str(python.value)
    return python.value


def test_every_number_has_a_range():
    """Of a field that is added, too."""
    numbers = {
        (kind, name)
        for kind in (TrainConfig, *GROUPS.values())
        if dataclasses.is_dataclass(kind)
        for name, hint in get_type_hints(kind).items()
        if {int, float} & {hint, *get_args(hint)}
    }
    assert numbers == {row[:2] for row in RANGES}


@by_field
def test_a_value_beyond_the_range_is_refused_with_the_whole_range(kind, name, words, low, high, beyond):
    for value in beyond:
        error = refused(kind, name, value)
        shown = f"{value:g}" if isinstance(value, float) else value
        assert str(error) == f"{name} must be {words}, got {shown}"
        assert error.for_command_line() == f"--{name.replace('_', '-')}{str(error).removeprefix(name)}"


@by_field
def test_both_ends_of_the_range_are_taken(kind, name, words, low, high, beyond):
    for value in (low, high):
        assert getattr(kind(**{name: value}), name) == value


@by_field
def test_only_finite_numbers_are_numbers(kind, name, words, low, high, beyond):
    whole, strange = isinstance(low, int), (math.inf, -math.inf, math.nan)
    for value in ("3", True, [1], *((1.5, 2.0, *strange) if whole else ())):
        wanted = "a valid integer" if whole else "a valid number"
        assert str(refused(kind, name, value)).startswith(f"{name} must be {wanted}, got ")
    for value in () if whole else strange:
        assert str(refused(kind, name, value)) == f"{name} must be {words} and finite, got {value}"


def test_a_whole_number_stands_for_a_float_and_makes_the_same_configuration():
    whole, real = DataConfig(rotate=5), DataConfig(rotate=5.0)
    assert isinstance(whole.rotate, float)
    assert whole == real
    # the names of folders are made from the text: defaults, replaced and read values have to be alike
    config = TrainConfig()
    again = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, eval_every=5))
    assert again.to_json() == config.to_json() == TrainConfig.from_json(config.to_json()).to_json()


@pytest.mark.parametrize(
    ("kind", "name", "value", "message"),
    [
        (DataConfig, "crop_mode", "centre", "crop_mode must be 'center' or 'squash', got 'centre'"),
        (ModelConfig, "pool", "max", "pool must be 'token' or 'avg', got 'max'"),
        (ObjectiveConfig, "pixel_loss", "l2", "pixel_loss must be 'bce', 'mse' or 'psnr', got 'l2'"),
        (ComputeConfig, "compile", 1, "compile must be a valid boolean, got 1"),
        (DataConfig, "hflip", "no", "hflip must be a valid boolean, got 'no'"),
        (DataConfig, "dataset", 3, "dataset must be a valid string, got 3"),
        (DataConfig, "data_dir", 3, "data_dir must be a path, got 3"),
        (ScheduleConfig, "guide_every", None, "guide_every must be a valid integer, got None"),
        (DataConfig, "bacht_size", 3, "unknown field 'bacht_size'; nearest: batch_size"),
    ],
)
def test_a_value_of_another_type_names_its_field(kind, name, value, message):
    assert str(refused(kind, name, value)).startswith(message)


def test_fields_given_by_position_are_named():
    with pytest.raises(InputError, match=r"^batch_size must be at least 1, got 0$"):
        DataConfig("digits", None, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sched', "not a training configuration (Invalid JSON: EOF"),
        ("[]", "not a training configuration (Input should be an object)"),
        ('{"colour": 1}', "unknown field 'colour'; "),
        ('{"model": null}', "model must be an object, got None"),
        ('{"data": [3]}', "data must be an object, got [3]"),
    ],
)
def test_what_is_no_configuration_is_refused(text, message):
    with pytest.raises(InputError) as caught:
        TrainConfig.from_json(text)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_printed_are_the_phases_that_are_run():
    config = TrainConfig(schedule=ScheduleConfig(6.0, 1.0, 0.0, 24.0, 5.0))
    (line,) = [line for line in describe(config).splitlines() if line.startswith("schedule")]
    assert " reconstruct_epochs=0.2 perceptual_epochs=0.0 classify_epochs=4.8 guide_epochs=1.0 " in line


def test_no_phase_at_all_is_refused():
    none = {f"{phase}_epochs": 0 for phase in ("reconstruct", "perceptual", "classify", "guide")}
    for build in (
        lambda: ScheduleConfig(**none),
        lambda: TrainConfig.from_json(json.dumps({"schedule": none})),
    ):
        with pytest.raises(InputError) as caught:
            build()
        assert str(caught.value).startswith("the phases have no epochs: set reconstruct_epochs, ")
        assert "--reconstruct-epochs" in caught.value.for_command_line()


def test_an_average_of_weights_needs_them_whole():
    with pytest.raises(InputError) as caught:
        TrainConfig(optimizer=OptimizerConfig(ema_decay=0.99), compute=ComputeConfig(fsdp=True))
    assert caught.value.for_command_line() == (
        "--ema-decay needs whole weights: leave --fsdp or --ema-decay out"
    )


def test_folders_stay_the_same_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(ModelConfig(init="runs/a"), DataConfig(data_dir=Path("images")))
    assert (config.model.init, config.data.data_dir) == (tmp_path / "runs" / "a", tmp_path / "images")
    text = config.to_json()
    monkeypatch.chdir("/")
    assert TrainConfig.from_json(text) == config


def test_what_was_written_with_whole_numbers_and_fewer_fields_is_read():
    text = '{"schedule": {"epochs": 7, "eval_every": 5}, "model": {"encoder": null, "scale_factor": 1}}'
    assert TrainConfig.from_json(text) == TrainConfig(
        schedule=ScheduleConfig(epochs=7.0), model=ModelConfig(scale_factor=1.0)
    )


def test_a_configuration_is_a_frozen_value():
    config = TrainConfig(seed=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4
    assert {config: 1}[TrainConfig(seed=3)] == 1
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.asdict(config)["data"]["dataset"] == "digits"
    with pytest.raises(InputError, match="guide_every must be at least 1"):
        dataclasses.replace(config.schedule, guide_every=0)


def group(kind: type, **others: st.SearchStrategy) -> st.SearchStrategy:
    """Any configuration of a class: its numbers from ``RANGES``, its flags, and what is given."""
    drawn = dict(others)
    for owner, name, _, low, high, _ in RANGES:
        if owner is kind:
            number = st.integers(low, high) if isinstance(low, int) else st.floats(low, high)
            optional = type(None) in get_args(get_type_hints(kind)[name])
            drawn[name] = st.none() | number if optional else number
    for name, hint in get_type_hints(kind).items():
        if hint is bool:
            drawn.setdefault(name, st.booleans())
    return st.fixed_dictionaries(drawn)


FOLDERS = st.none() | st.sampled_from(["some/images", "/an absolute/one", "ünï"])
CONFIGS = {
    "model": group(
        ModelConfig, init=FOLDERS, model=st.none() | st.text(), pool=st.sampled_from([None, "avg"])
    ),
    "data": group(DataConfig, data_dir=FOLDERS, crop_mode=st.sampled_from(["center", "squash"])),
    "schedule": group(ScheduleConfig, guided_steps=st.sampled_from(["replacing", "added", "none"])),
    "objective": group(ObjectiveConfig, gradient=st.sampled_from(["cut", "joint"])),
    "guidance": group(
        GuidanceConfig,
        gamma_unit=st.sampled_from(["loss", "batch", "image", "gaussian"]),
        projection=st.sampled_from(["none", "image", "gaussian"]),
    ),
    "optimizer": group(OptimizerConfig),
    "compute": group(
        ComputeConfig, fsdp=st.just(False), precision=st.sampled_from(["float32", "bf16", "float64"])
    ),
}


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries(CONFIGS), st.integers(0, 2**63 - 1))
def test_any_configuration_survives_json(values, seed):
    assume(sum(value for name, value in values["schedule"].items() if name.endswith("_epochs")) > 0)
    config = TrainConfig(**{name: GROUPS[name](**fields) for name, fields in values.items()}, seed=seed)
    assert TrainConfig.from_json(config.to_json()) == config
    for name, fields in values.items():
        for field, value in fields.items():
            held = getattr(getattr(config, name), field)
            assert held == (Path(value).absolute() if value and field in ("init", "data_dir") else value)
