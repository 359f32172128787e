"""Recipes: one file per data set, each a function that returns a complete configuration."""

from collections.abc import Callable

from gvit.errors import unknown_name
from gvit.recipes.cifar10 import cifar10
from gvit.recipes.debug import debug
from gvit.recipes.digits import digits
from gvit.recipes.folder import folder
from gvit.recipes.gaussians import gaussians
from gvit.recipes.imagenet import imagenet1k, imagenet1k_swap, mini_imagenet
from gvit.recipes.imagenette import imagenette
from gvit.recipes.transfer import transfer, transfer_recipes
from gvit.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cifar10": cifar10,
    "debug": debug,
    "digits": digits,
    "folder": folder,
    "gaussians": gaussians,
    "imagenet1k": imagenet1k,
    "imagenet1k_swap": imagenet1k_swap,
    "imagenette": imagenette,
    "mini_imagenet": mini_imagenet,
    **transfer_recipes(),
}

__all__ = [
    "RECIPES",
    "cifar10",
    "debug",
    "digits",
    "folder",
    "gaussians",
    "imagenet1k",
    "imagenet1k_swap",
    "imagenette",
    "load_recipe",
    "mini_imagenet",
    "transfer",
]


def load_recipe(name: str) -> TrainConfig:
    """The configuration of a named recipe.

    Raises:
        InputError: an unknown name; the nearest ones are given.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    return RECIPES[name]()
