"""Recipes: one file per data set, each a function that returns a complete configuration."""

from collections.abc import Callable

from gvit.errors import unknown_name
from gvit.recipes.cifar10 import cifar10
from gvit.recipes.digits import digits
from gvit.recipes.folder import folder
from gvit.recipes.imagenette import imagenette
from gvit.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cifar10": cifar10,
    "digits": digits,
    "folder": folder,
    "imagenette": imagenette,
}

__all__ = ["RECIPES", "cifar10", "digits", "folder", "imagenette", "load_recipe"]


def load_recipe(name: str) -> TrainConfig:
    """The configuration of a named recipe.

    Raises:
        InputError: an unknown name; the nearest ones are given.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
