"""From what a data set holds to what a model reads: the one place that knows which of them go together.

=====================  =============================  ==================================================
a set of               is for a model that reads      which gets
=====================  =============================  ==================================================
images                 images                         pixels
Gaussians              Gaussians                      raw numbers, in the model's bounds
Gaussians              images, without an encoder     the picture that they draw (the paper's control)
=====================  =============================  ==================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gvit.data.sources import Source
from gvit.data.sources.gaussians import open_gaussians
from gvit.data.transforms import (
    AffineMap,
    Augmentation,
    Transform,
    eval_map,
    eval_transform,
    random_map,
    train_transform,
)
from gvit.errors import InputError, option
from gvit.gaussians import Gaussians, transform_gaussians
from gvit.models.base import ImageClassifier, without_weights
from gvit.models.tokens import Tokenizer
from gvit.rendering import render


def eval_input(model: ImageClassifier, source: Source) -> Transform:
    """The fixed way from what ``source.load`` gives to one input of the model.

    Raises:
        InputError: the model can't read what the data set holds.
    """
    preprocessing = model.card.preprocessing
    _check_fit(model, source)
    if source.example is None:
        return eval_transform(preprocessing)
    return _gaussian_input(model, partial(eval_map, preprocessing))


def train_input(model: ImageClassifier, source: Source, augmentation: Augmentation) -> Transform:
    """The random way; draws from torch's global generator.

    Raises:
        InputError: the model can't read what the data set holds.
    """
    preprocessing = model.card.preprocessing
    _check_fit(model, source)
    if source.example is None:
        return train_transform(preprocessing, augmentation)
    if augmentation.of_pixels:
        raise InputError(
            f"{option(augmentation.of_pixels[0])} is for images, but the data set holds Gaussians"
        )
    return _gaussian_input(model, partial(random_map, preprocessing, augmentation))


def read_gaussians(path: str | Path, model: ImageClassifier) -> Tensor:
    """A file of Gaussians as the input of a model that reads them, raw [K, 9], as in its evaluation.

    Raises:
        InputError: the file is damaged, or holds more Gaussians than the model reads.
    """
    gaussians = open_gaussians(path)
    try:
        model.tokens.check_number(len(gaussians))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return _gaussian_input(model, partial(eval_map, model.card.preprocessing))(gaussians)


def _check_fit(model: ImageClassifier, source: Source) -> None:
    name = model.card.name
    if source.example is None:
        if model.reads != "images":
            raise InputError(
                f"{name} reads {model.reads.capitalize()}, but the data set holds images; take "
                f"{option('dataset', 'gaussians')}, or a model gvit_*"
            )
        return
    if model.encoder is not None:
        raise InputError(
            f"{name} reads images, but the data set holds Gaussians; take {option('model', 'gaussian_vit_*')}, or a "
            "patch model vit_* for the pictures that they draw"
        )
    count, read = len(source.example), model.tokens.num_patches
    if model.reads == "gaussians" and read != count and not model.tokens.any_number:
        raise InputError(
            f"{name} reads {read} Gaussians an image, but the data set holds {count}; take "
            f"{option('num_gaussians', count)}"
        )


_DrawMap = Callable[[tuple[float, float]], AffineMap]


def _gaussian_input(model: ImageClassifier, draw_map: _DrawMap) -> Transform:
    """Moved by a map onto the square canvas, then as numbers, or as pixels for a model that reads images."""
    if model.reads == "gaussians":
        return partial(_as_numbers, draw_map, without_weights(model.tokens))
    return partial(_as_picture, draw_map, model.img_size)


def _as_numbers(draw_map: _DrawMap, tokens: Tokenizer, gaussians: Gaussians) -> Tensor:
    return tokens.in_slots(_place(draw_map, gaussians, **tokens.bounds_of(gaussians))).raw


def _as_picture(draw_map: _DrawMap, side: int, gaussians: Gaussians) -> Tensor:
    # a picture has no bound on the scales: four times the canvas's side is none
    placed = _place(draw_map, gaussians, scale_factor=4 * math.sqrt(gaussians.nominal_count))
    return render(placed, side, side).clamp(0, 1)


def _place(draw_map: _DrawMap, gaussians: Gaussians, **bounds: Any) -> Gaussians:
    drawn = draw_map(gaussians.extent)
    return transform_gaussians(gaussians, drawn.matrix, drawn.shift, aspect=1.0, **bounds)
