"""GViT: images as a few hundred 2D Gaussians, and vision transformers that classify from those alone.

The public names below are imported on first use, so that ``import gvit`` stays as fast as ``import torch``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from gvit.models.watch import watch as _watch

if TYPE_CHECKING:
    from gvit.evaluation import evaluate as evaluate
    from gvit.fitting.optimise import fit as fit
    from gvit.gaussians import Gaussians as Gaussians
    from gvit.gaussians import build_covariances as build_covariances
    from gvit.models.registry import create_model as create_model
    from gvit.models.registry import list_models as list_models
    from gvit.models.weights import load_model as load_model
    from gvit.models.weights import save_model as save_model
    from gvit.prediction import load_images as load_images
    from gvit.prediction import predict as predict
    from gvit.rendering import rasterize as rasterize
    from gvit.rendering import render as render

    __version__: str

_HOMES = {
    "Gaussians": "gvit.gaussians",
    "build_covariances": "gvit.gaussians",
    "rasterize": "gvit.rendering",
    "render": "gvit.rendering",
    "create_model": "gvit.models.registry",
    "list_models": "gvit.models.registry",
    "load_model": "gvit.models.weights",
    "save_model": "gvit.models.weights",
    "load_images": "gvit.prediction",
    "predict": "gvit.prediction",
    "evaluate": "gvit.evaluation",
    "fit": "gvit.fitting.optimise",
}
_watch()
__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module 'gvit' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def _version() -> str:
    """Of the installed package; 0+unknown where the source is on the path without having been installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gvit")
    except PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return __all__
