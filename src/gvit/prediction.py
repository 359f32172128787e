"""Using a trained model on images."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gvit.data.convert import Color, ImageLike, as_rgb, list_images
from gvit.data.inputs import read_gaussians
from gvit.data.transforms import eval_transform
from gvit.errors import InputError, option
from gvit.models.base import ImageClassifier, evaluating


@dataclass(frozen=True)
class Guess:
    """One class with its probability in [0, 1]."""

    class_index: int
    class_name: str
    probability: float


def load_images(
    images: ImageLike | Iterable[ImageLike], model: ImageClassifier, background: Color = "black"
) -> Float[Tensor, "n ..."]:
    """Images as the model wants them: [N, 3, H, W] in [0, 1], resized and cropped as in its evaluation.

    For a model of given Gaussians, files of those: raw [N, K, 9].

    Args:
        images: one Pillow image, array or tensor of any size, see ``gvit.data.convert``; a batch in one array or
            tensor; or a list, or any other iterable, of such images and of files.
        model: what they are for.
        background: what transparent pixels lie over: a colour's name, its code, or three numbers in [0, 1].

    Raises:
        InputError: a file is missing, is not an image (or holds no fitting Gaussians), or is damaged; an array has a
            shape or numbers that are no image's; or there are no images.
    """
    if isinstance(images, (str, Path)):
        raise InputError(f"paths must be a list of files: [{str(images)!r}]")
    listed = list_images(images)
    if model.reads == "gaussians":
        found = [read_gaussians(_path(image, model), model) for image in listed]
        if len({len(raw) for raw in found}) > 1:
            raise InputError(
                "the files hold different numbers of Gaussians: load those of one number at a time"
            )
        return torch.stack(found)
    transform = eval_transform(model.card.preprocessing)
    return torch.stack([transform(as_rgb(image, background)) for image in listed])


def _path(image: ImageLike, model: ImageClassifier) -> str | Path:
    if not isinstance(image, (str, Path)):
        raise InputError(
            f"{model.card.name} reads Gaussians: give files of those, or a tensor of raw numbers [N, K, 9]"
        )
    return image


def _inputs(
    images: ImageLike | Sequence[ImageLike], model: ImageClassifier, background: Color
) -> Float[Tensor, "n ..."]:
    """What is an input of the model stays so; whatever else is an image becomes one."""
    if isinstance(images, np.ndarray) and images.dtype.kind == "f":
        images = torch.from_numpy(np.ascontiguousarray(images))
    if isinstance(images, Tensor) and images.is_floating_point():
        side = model.img_size
        if model.reads == "gaussians" or images.shape[1:] == (3, side, side):
            return images
    return load_images(list_images(images), model, background)  # a path alone will do here


def check_classifies(model: ImageClassifier) -> None:
    """Refuse a model whose answers would mean nothing.

    Raises:
        InputError: it is an encoder alone, has no classes (``num_classes=0``), or is a name.
    """
    if isinstance(model, str):
        raise InputError(f"model must be a model, as gvit.load_model({model!r}) gives one, got str")
    if model.num_classes and not model.card.encoder_only:
        return
    if model.encoder is None:
        raise InputError("the model has no classes, only features (num_classes=0): nothing to predict")
    raise InputError(
        "an encoder alone, without a classifier: 'gvit encode' draws with it, 'gvit train folder --init RUN' trains "
        "a classifier above it"
    )


def class_names(model: ImageClassifier) -> list[str]:
    """Names of the model's classes; their numbers where it has none, or those of a head that was replaced by hand."""
    names = list(model.card.class_names)
    return names if len(names) == model.num_classes else [str(index) for index in range(model.num_classes)]


def find_class(model: ImageClassifier, text: str) -> int:
    """A class by its name, or else by its number.

    Raises:
        InputError: the model has no such class.
    """
    names = class_names(model)
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.4)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise InputError(
        f"unknown class {text!r}: {option('target')} takes a class's name, or its number, 0 to {len(names) - 1}{hint}"
    )


@torch.inference_mode()
def predict(
    model: ImageClassifier,
    images: ImageLike | Sequence[ImageLike],
    top_k: int = 3,
    *,
    num_gaussians: int | None = None,
    looks: int | None = None,
    background: Color = "black",
) -> list[list[Guess]]:
    """The most probable classes of each image, best first; fewer where the model has fewer classes.

    Args:
        model: with classes.
        images: as ``load_images`` gives them, which are classified as they are; or one image or several: files, Pillow
            images, arrays or tensors as in ``gvit.data.convert``, which are resized and cropped as in its evaluation.
        top_k: how many classes, at least 1.
        num_gaussians: see ``GViT.encode``; None for the model's own number.
        looks: see ``GViT.encode``; None for as many as in training.
        background: what transparent pixels lie over: a colour's name, its code, or three numbers in [0, 1].

    Raises:
        InputError: an image can't be read, see ``load_images``; the model has no classes (``num_classes=0``) or no
            trained classifier; it draws no other number of Gaussians, or does not look at its picture; or ``top_k`` is
            below 1.
    """
    check_classifies(model)
    if top_k < 1:
        raise InputError(f"{option('top_k')} must be at least 1, got {top_k}")
    weights = next(model.parameters())
    inputs = _inputs(images, model, background).to(weights.device, weights.dtype)
    with evaluating(model):
        logits, _ = model.forward_with_gaussians(inputs, num_gaussians=num_gaussians, looks=looks)
        probabilities = logits.float().softmax(-1).cpu()
    best = probabilities.topk(min(top_k, probabilities.shape[1]))
    names = class_names(model)
    return [
        [Guess(i, names[i], p) for p, i in zip(values, indices, strict=True)]
        for values, indices in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def predict_files(
    model: ImageClassifier,
    paths: Sequence[Path],
    top_k: int = 3,
    batch_size: int = 32,
    background: Color = "black",
    **drawing: Any,
) -> Iterator[tuple[Path, list[Guess] | InputError]]:
    """Each path, in order, with its most probable classes, or with what is wrong with the file; see ``predict``."""
    for first in range(0, len(paths), batch_size):
        answers: dict[Path, list[Guess] | InputError] = {}
        readable: dict[Path, Tensor] = {}
        for path in paths[first : first + batch_size]:
            try:
                readable[path] = load_images([path], model, background)
            except InputError as error:
                answers[path] = error
        # files of Gaussians may hold different numbers, where a model reads any
        for shape in {inputs.shape for inputs in readable.values()}:
            alike = {path: inputs for path, inputs in readable.items() if inputs.shape == shape}
            guesses = predict(model, torch.cat(list(alike.values())), top_k, **drawing)
            answers |= dict(zip(alike, guesses, strict=True))
        yield from ((path, answers[path]) for path in paths[first : first + batch_size])
