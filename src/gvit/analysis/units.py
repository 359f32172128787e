"""What an explanation gives scores to, and can be taken out: a model's Gaussians, or patches of its image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gvit.analysis.explanation import METHODS, attribute, read_gaussians
from gvit.analysis.patches import PATCH_METHODS, attribute_patches, patch_map, without_pixels
from gvit.analysis.scoremap import splat_scores
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.base import ImageClassifier

RANDOM, CENTER = "random", "centre"
# these give the same scores whatever the classifier has learned
MODEL_FREE = (*(name for name, method in METHODS.items() if not method.asks_classifier), CENTER)


class Units(ABC):
    """The units of a batch.

    Attributes:
        kind: what they are, in a word.
        methods: names of those that score them.
        model: in evaluation mode.
        images: [B, C, H, W] in [0, 1], that the model was shown; None for a model that reads Gaussians.
        classes: [B], the model's most probable one of each image as a whole, for which all scores are.
        count: N, units an image.
    """

    kind: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    model: ImageClassifier
    images: Tensor | None
    classes: Tensor
    count: int

    @abstractmethod
    def probability(self, keep: Bool[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
        """Of ``classes``, where the other units are taken out."""

    @abstractmethod
    def scores(
        self, method: str, model: ImageClassifier, samples: int, seed: int
    ) -> Float[Tensor, "batch n"]:
        """Signed scores that a method gives them for ``classes``, by this model or another one."""

    @abstractmethod
    def nearness(self) -> Float[Tensor, "batch n"]:
        """Minus the distance of each unit from the middle of the image."""

    @abstractmethod
    def score_map(self, scores: Float[Tensor, "batch n"]) -> Float[Tensor, "batch h w"]:
        """Scores of units as scores of pixels."""


class GaussianUnits(Units):
    """A model's Gaussians; one that is taken out is not drawn."""

    kind = "Gaussians"
    methods: ClassVar[tuple[str, ...]] = tuple(name for name in METHODS if name != RANDOM)

    def __init__(self, model: ImageClassifier, inputs: Tensor) -> None:
        self.model = model
        self.images: Tensor | None = None if model.encoder is None else inputs
        self.gaussians: Gaussians = read_gaussians(model, inputs)
        self.classes: Tensor = model.classifier.classify(self.gaussians).argmax(1)
        self.count: int = len(self.gaussians)

    def probability(self, keep: Tensor) -> Tensor:
        return _probability(self.model.classifier.classify(self.gaussians.drop(~keep)), self.classes)

    def scores(self, method: str, model: ImageClassifier, samples: int, seed: int) -> Tensor:
        return attribute(model, self.gaussians, method, self.classes, seed=seed, samples=samples)

    def nearness(self) -> Tensor:
        return -self.gaussians.centers.norm(dim=-1)

    def score_map(self, scores: Tensor) -> Tensor:
        assert self.images is not None
        return splat_scores(scores, self.gaussians, *self.images.shape[-2:])


class PatchUnits(Units):
    """Square patches of an image; one that is taken out has the image's mean colour.

    Args:
        model: it reads images.
        images: [B, C, H, W] in [0, 1].
        grid: rows and columns; the model's own patches when None.

    Raises:
        InputError: the model has no patches of its own, and no grid is given.
    """

    kind = "patches"
    methods: ClassVar[tuple[str, ...]] = tuple(PATCH_METHODS)
    images: Tensor

    def __init__(self, model: ImageClassifier, images: Tensor, grid: tuple[int, int] | None = None) -> None:
        self.model = model
        self.images = images
        if grid is None:
            grid = model.tokens.grid_size
        if grid is None:
            raise InputError(
                f"{model.card.name or 'the model'} reads {model.tokens.kind}: there are neither Gaussians nor patches "
                "to take out"
            )
        self.grid = grid
        self.patches: Tensor = patch_map(grid, *images.shape[-2:]).to(images.device)
        self.classes: Tensor = model(images).argmax(1)
        self.count: int = grid[0] * grid[1]

    def probability(self, keep: Tensor) -> Tensor:
        return pixel_probability(self, keep[:, self.patches])

    def scores(self, method: str, model: ImageClassifier, samples: int, seed: int) -> Tensor:
        return attribute_patches(
            model, self.images, method, self.classes, self.grid, samples=samples, seed=seed
        )

    def nearness(self) -> Tensor:
        return pixel_nearness(*self.grid).flatten().to(self.images).expand(len(self.images), -1)

    def score_map(self, scores: Tensor) -> Tensor:
        return scores[:, self.patches]


def kind_of_units(model: ImageClassifier) -> type[GaussianUnits | PatchUnits]:
    """Gaussians where a model reads or makes any, else its patches."""
    return GaussianUnits if model.tokens.reads == "gaussians" else PatchUnits


def units_of(model: ImageClassifier, inputs: Tensor) -> Units:
    """The units that a model has, see ``kind_of_units``.

    Args:
        model: in evaluation mode, with classes.
        inputs: on its device: what it reads.

    Raises:
        InputError: it has neither.
    """
    return kind_of_units(model)(model, inputs)


def pixel_probability(units: Units, keep: Bool[Tensor, "batch h w"]) -> Float[Tensor, " batch"]:
    """Of the units' classes, where all pixels but those to keep have the image's mean colour."""
    assert units.images is not None
    return _probability(units.model(without_pixels(units.images, keep)), units.classes)


def pixel_nearness(height: int, width: int) -> Float[Tensor, "h w"]:
    """Minus the distance of each pixel from the middle of the image."""
    down, right = (torch.arange(size) - (size - 1) / 2 for size in (height, width))
    return -torch.hypot(down.unsqueeze(1), right)


def _probability(
    logits: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    return logits.float().softmax(1).gather(1, classes.unsqueeze(1))[:, 0]
