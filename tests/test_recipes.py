"""Recipes are complete, typed configurations that mean what the paper says."""

import pytest

from gvit.errors import InputError
from gvit.recipes import RECIPES, load_recipe
from gvit.training.config import TrainConfig
from gvit.training.schedule import Schedule


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_being_saved(name):
    config = load_recipe(name)
    assert TrainConfig.from_json(config.to_json()) == config
    assert Schedule.from_config(config.schedule, steps_per_epoch=100).total > 0


def test_imagenet_is_the_papers_table():
    config = load_recipe("imagenet1k")
    assert config.schedule.phase_epochs() == (150, 50, 150, 50)
    assert (config.data.batch_size, config.data.hflip, config.data.min_crop) == (4096, True, 0.5)
    optimizer = config.optimizer
    assert (optimizer.base_lr, optimizer.warmup_epochs, optimizer.weight_decay) == (1e-4, 10, 0.05)
    assert (optimizer.beta1, optimizer.beta2, optimizer.clip_grad) == (0.9, 0.95, None)
    assert (config.schedule.gamma, config.schedule.guide_every) == (0.1, 10)
    assert config.compute.precision == "bf16"


def test_the_exchange_of_the_classifier_goes_on_with_half_the_guidance():
    config = load_recipe("imagenet1k_swap")
    assert config.model.model == "gvit_base"
    assert config.model.init is not None
    assert config.schedule.phase_epochs() == (0, 0, 150, 50)
    assert config.schedule.gamma == 0.05


@pytest.mark.parametrize(
    ("name", "rate", "epochs", "decay", "batch"),
    [
        ("transfer_cifar10_s", 1e-3, 60, 0.65, 1024),
        ("transfer_cifar100_b", 3e-3, 50, 0.75, 768),
        ("transfer_sun397_s", 3.4e-3, 100, 0.65, 1024),
        ("transfer_pets_b", 1e-3, 50, 0.75, 768),
        ("transfer_dtd_b", 3e-3, 50, 0.75, 768),
    ],
)
def test_transfer_is_the_papers_table(name, rate, epochs, decay, batch):
    config = load_recipe(name)
    assert (config.optimizer.base_lr, config.optimizer.layer_decay) == (rate, decay)
    assert (config.schedule.phase_epochs(), config.schedule.freeze_encoder) == ((0, 0, epochs, 0), True)
    assert (config.data.batch_size, config.optimizer.beta2) == (batch, 0.999)


def test_an_unknown_recipe_gets_the_nearest_names():
    with pytest.raises(InputError, match="unknown recipe 'imagnet'; nearest: imagenet"):
        load_recipe("imagnet")
