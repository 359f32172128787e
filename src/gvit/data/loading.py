"""From labelled images to batches. What is random is a pure function of (seed, epoch, sample index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import InterpolationMode, v2

from gvit.data.datasets import LabelledImages
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.card import Preprocessing
from gvit.rendering import render

# to what a model reads: [3, H, W] in [0, 1], or the raw numbers of Gaussians [K, 9]
Transform = Callable[[Image.Image | Gaussians], Tensor]


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image.

    Attributes:
        hflip: mirror half of the images.
        min_crop: smallest share of the area that a random crop keeps; 1 turns cropping off.
        rotate: largest rotation, degrees.
        translate: largest shift, share of the side.
        zoom: largest relative change of size.
    """

    hflip: bool = True
    min_crop: float = 0.5
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0


class Batch(NamedTuple):
    """Images [B, 3, H, W] in [0, 1] or Gaussians [B, K, 9], labels [B], for each image a draw of g0 [B, K, 9]."""

    images: Tensor
    labels: Tensor
    noise: Tensor


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """The fixed way from an RGB image, or from Gaussians, to what a model reads."""
    return _Transform(preprocessing, _eval_pixels(preprocessing), None)


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """The random way from an RGB image, or from Gaussians; draws from torch's global generator."""
    return _Transform(preprocessing, _train_pixels(preprocessing, augmentation), augmentation)


class _Transform:
    """Images become pixels. Gaussians become raw numbers for a model that reads them, their drawing for another."""

    def __init__(
        self, preprocessing: Preprocessing, pixels: v2.Compose, augmentation: Augmentation | None
    ) -> None:
        self.preprocessing, self.pixels, self.augmentation = preprocessing, pixels, augmentation

    def __call__(self, source: Image.Image | Gaussians) -> Tensor:
        wanted = self.preprocessing.num_gaussians
        if isinstance(source, Image.Image):
            if wanted is not None:
                raise InputError("the model reads Gaussians, not images: train it with --dataset gaussians")
            return self.pixels(source)
        if wanted not in (None, len(source)):
            raise InputError(
                f"the model reads {wanted} Gaussians, the data have {len(source)}: --num-gaussians {len(source)}"
            )
        size = self.preprocessing.img_size
        source = transform_gaussians(source, size, self.augmentation)
        if wanted is None:
            return render(source, size, size).clamp(0, 1)
        return source.rebound(self.preprocessing.scale_factor, wanted).raw


def transform_gaussians(gaussians: Gaussians, size: int, augmentation: Augmentation | None) -> Gaussians:
    """What an augmentation would do to an image of ``size`` x ``size`` pixels, done to its Gaussians.

    Exact, where pixels would be interpolated; see ``Gaussians.transform``. None changes nothing but the order of axes.
    Draws from torch's global generator, by the ranges that torchvision draws from for images.
    """
    canvas = [torch.empty(3, size, size, device="meta")]
    matrix, shift = torch.eye(2), torch.zeros(2)

    def then(linear: Tensor, offset: Tensor) -> None:
        nonlocal matrix, shift
        matrix, shift = linear @ matrix, linear @ shift + offset

    if augmentation is not None:
        if augmentation.min_crop < 1:
            box = v2.RandomResizedCrop((size, size), (augmentation.min_crop, 1.0)).make_params(canvas)
            zoom = size / torch.tensor([box["width"], box["height"]])
            middle = torch.tensor([box["left"], box["top"]]) * 2 / size - 1 + 1 / zoom
            then(zoom.diag(), -zoom * middle)
        if augmentation.hflip and torch.rand(()) < 0.5:
            then(torch.tensor([-1.0, 1.0]).diag(), torch.zeros(2))
        if affine := _random_affine(augmentation):
            drawn = affine.make_params(canvas)
            angle = torch.deg2rad(torch.tensor(drawn["angle"]))
            turn = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos())).view(2, 2)
            then(drawn["scale"] * turn, torch.tensor(drawn["translate"]) * 2 / size)
    return gaussians.transform(matrix.to(gaussians.raw), shift.to(gaussians.raw))


def _random_affine(augmentation: Augmentation) -> v2.RandomAffine | None:
    if not (augmentation.rotate or augmentation.translate or augmentation.zoom):
        return None
    return v2.RandomAffine(
        augmentation.rotate,
        (augmentation.translate, augmentation.translate),
        (1 - augmentation.zoom, 1 + augmentation.zoom),
        interpolation=InterpolationMode.BILINEAR,
    )


def _eval_pixels(preprocessing: Preprocessing) -> v2.Compose:
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        geometry: list[torch.nn.Module] = [v2.Resize((size, size), mode, antialias=True)]
    else:
        shorter = round(size / preprocessing.crop_pct)
        geometry = [v2.Resize(shorter, mode, antialias=True), v2.CenterCrop(size)]
    return v2.Compose([*geometry, *_to_tensor()])


def _train_pixels(preprocessing: Preprocessing, augmentation: Augmentation) -> v2.Compose:
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    geometry: list[torch.nn.Module] = []
    if augmentation.min_crop < 1:
        scale = (augmentation.min_crop, 1.0)
        geometry.append(v2.RandomResizedCrop((size, size), scale, interpolation=mode, antialias=True))
    elif preprocessing.crop_mode == "squash":
        geometry.append(v2.Resize((size, size), mode, antialias=True))
    else:
        geometry += [v2.Resize(size, mode, antialias=True), v2.CenterCrop(size)]
    if augmentation.hflip:
        geometry.append(v2.RandomHorizontalFlip())
    if affine := _random_affine(augmentation):
        geometry.append(affine)
    return v2.Compose([*geometry, *_to_tensor()])


def _to_tensor() -> list[torch.nn.Module]:
    return [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]


def derive_seed(*key: int) -> int:
    """A 64-bit seed that depends on every number of the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global CPU generator starts from ``seed`` inside and goes on as if nothing had happened after."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


class TrainingImages(Dataset[Batch]):
    """Augmented images and their g0, indexed by (epoch, sample index)."""

    def __init__(
        self, source: LabelledImages, transform: Transform, noise_shape: tuple[int, ...], seed: int
    ) -> None:
        self.source, self.transform, self.noise_shape, self.seed = source, transform, noise_shape, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        with seeded(derive_seed(self.seed, epoch, index)):
            noise = torch.randn(self.noise_shape)
            image = self.transform(self.source.load(index))
        return Batch(image, torch.tensor(self.source.labels[index]), noise)


class EvaluationImages(Dataset[tuple[Tensor, Tensor]]):
    """Images and labels, nothing random."""

    def __init__(self, source: LabelledImages, transform: Transform) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.source.load(index)), torch.tensor(self.source.labels[index])


class StepSampler(Sampler[list[tuple[int, int]]]):
    """The (epoch, sample index) pairs of each training step from ``start`` on: a pure function of seed and step.

    Every epoch is a new permutation; images that don't fill a batch at its end are left out of that epoch. A batch
    may be split over processes, and a process's share into parts that come one after the other.

    Args:
        num_samples: images in the data set.
        batch_size: images per step, a multiple of ``world_size * parts``.
        seed: of the permutations.
        start: first step.
        stop: the step after the last.
        rank: which process this is.
        world_size: number of processes.
        parts: into which a process's share is split.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        seed: int,
        start: int,
        stop: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        parts: int = 1,
    ) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self.start, self.stop = start, stop
        self.rank, self.world_size, self.parts = rank, world_size, parts

    def __len__(self) -> int:
        return (self.stop - self.start) * self.parts

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        steps_per_epoch = self.num_samples // self.batch_size
        size = self.batch_size // (self.world_size * self.parts)
        order, drawn = np.empty(0, np.int64), -1
        for step in range(self.start, self.stop):
            epoch, position = divmod(step, steps_per_epoch)
            if epoch != drawn:
                order, drawn = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples), epoch
            share = position * self.batch_size + self.rank * self.parts * size
            for first in range(share, share + self.parts * size, size):
                yield [(epoch, int(row)) for row in order[first : first + size]]


class EverySampler(Sampler[int]):
    """Every ``world_size``-th image from ``rank`` on, filled up from the start to the same length in each process."""

    def __init__(self, num_samples: int, rank: int, world_size: int) -> None:
        self.num_samples, self.rank, self.world_size = num_samples, rank, world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        return ((self.rank + i * self.world_size) % self.num_samples for i in range(len(self)))


def training_loader(images: TrainingImages, sampler: StepSampler, workers: int = 0) -> DataLoader[Batch]:
    """The sampler's batches."""
    return DataLoader(
        images, batch_sampler=sampler, num_workers=workers, pin_memory=torch.cuda.is_available()
    )


def evaluation_loader(
    images: EvaluationImages, batch_size: int, workers: int = 0, *, rank: int = 0, world_size: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """All images in their order, or a process's share of them."""
    sampler = EverySampler(len(images), rank, world_size)
    return DataLoader(images, batch_size=batch_size, sampler=sampler, num_workers=workers)
