"""Recipes: one file per data set, each a function that returns a complete configuration."""

from collections.abc import Callable

from gvit.errors import unknown_name
from gvit.recipes.cifar10 import cifar10, cifar10_paper
from gvit.recipes.debug import debug
from gvit.recipes.digits import digits, digits_paper
from gvit.recipes.folder import folder
from gvit.recipes.gaussians import gaussians
from gvit.recipes.imagenet import imagenet1k, imagenet1k_refining, imagenet1k_swap, mini_imagenet
from gvit.recipes.imagenette import imagenette, imagenette_paper
from gvit.recipes.photos import photos
from gvit.recipes.transfer import transfer, transfer_recipes
from gvit.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "cifar10": cifar10,
    "cifar10_paper": cifar10_paper,
    "debug": debug,
    "digits": digits,
    "digits_paper": digits_paper,
    "folder": folder,
    "gaussians": gaussians,
    "imagenet1k": imagenet1k,
    "imagenet1k_refining": imagenet1k_refining,
    "imagenet1k_swap": imagenet1k_swap,
    "imagenette": imagenette,
    "imagenette_paper": imagenette_paper,
    "mini_imagenet": mini_imagenet,
    "photos": photos,
    **transfer_recipes(),
}

__all__ = [
    "RECIPES",
    "cifar10",
    "cifar10_paper",
    "debug",
    "digits",
    "digits_paper",
    "folder",
    "gaussians",
    "imagenet1k",
    "imagenet1k_refining",
    "imagenet1k_swap",
    "imagenette",
    "imagenette_paper",
    "load_recipe",
    "mini_imagenet",
    "photos",
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
