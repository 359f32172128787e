"""From labelled images to batches. What is random is a pure function of (seed, epoch, sample index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import InterpolationMode, v2

from gvit.data.datasets import LabelledImages
from gvit.models.card import Preprocessing

# from what LabelledImages.load gives, an image or its Gaussians
Transform = Callable[[Any], Tensor]


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
    """Images [B, 3, H, W] in [0, 1] or raw Gaussians [B, K, 9], labels [B], and for each a draw of g0 [B, K, 9]."""

    images: Tensor
    labels: Tensor
    noise: Tensor


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """The fixed way from an RGB image to [3, H, W] in [0, 1]."""
    size, mode = preprocessing.img_size, InterpolationMode(preprocessing.interpolation)
    if preprocessing.crop_mode == "squash":
        geometry: list[torch.nn.Module] = [v2.Resize((size, size), mode, antialias=True)]
    else:
        shorter = round(size / preprocessing.crop_pct)
        geometry = [v2.Resize(shorter, mode, antialias=True), v2.CenterCrop(size)]
    return v2.Compose([*geometry, *_to_tensor()])


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """The random way from an RGB image to [3, H, W] in [0, 1]; draws from torch's global generator."""
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
    if augmentation.rotate or augmentation.translate or augmentation.zoom:
        geometry.append(
            v2.RandomAffine(
                augmentation.rotate,
                (augmentation.translate, augmentation.translate),
                (1 - augmentation.zoom, 1 + augmentation.zoom),
                interpolation=InterpolationMode.BILINEAR,
            )
        )
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
    """Augmented images (or Gaussians) and their g0, indexed by (epoch, sample index)."""

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
    """Images (or Gaussians) and labels, nothing random."""

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
