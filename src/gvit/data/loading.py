"""From a source to batches. What is random is a pure function of (seed, epoch, sample index)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gvit.data.processes import Loader, loading_processes
from gvit.data.sources import Source
from gvit.data.transforms import ImageTransform, Mixing, Transform, seeded_elsewhere
from gvit.errors import InputError

# what is drawn for a sample beside its augmentation has streams of its own, with keys of their own
_SUBSTITUTES, _MIXING, _NOISE = 1, 2, 3

_MOST_SUBSTITUTES = 100


class Broken(NamedTuple):
    """A sample that cannot be read.

    Attributes:
        row: in its source.
        error: what is wrong, with its name; as the argument of an ``InputError``.
    """

    row: int
    error: str


class Batch(NamedTuple):
    """What a training step reads.

    Attributes:
        inputs: images [B, 3, H, W] in [0, 1], square where a GViT trains on them, or raw Gaussians [B, K, 9].
        labels: class indices [B], or, where images are mixed, the share of each class [B, classes].
        noise: for each sample what ``draw_noise`` of ``TrainingSamples`` drew; None where that is nothing.
        broken: samples that could not be read, in whose place others are.
    """

    inputs: Tensor
    labels: Tensor
    noise: Tensor | None
    broken: Sequence[Broken] = ()


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


class TrainingSamples(Dataset[Batch]):
    """Augmented samples with their noise, indexed by (epoch, sample index).

    In the place of a sample that cannot be read is another one, which its key decides. A batch keeps its size: a
    smaller one would weigh its images more, and processes that share batches would no longer have equal parts.

    Args:
        source: images or Gaussians.
        transform: the random way from what the source loads to one input; draws from torch's global generator.
        draw_noise: what a model wants drawn for each sample (an encoder its g0); draws from torch's global generator.
            None where it wants nothing.
        seed: of all that is random.
        mix: mixes the first and the second sample of a batch, the third and the fourth, and so on; None for nothing.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        draw_noise: Callable[[], Tensor] | None,
        seed: int,
        mix: Mixing | None = None,
    ) -> None:
        self.source = source
        self.transform = transform
        self.draw_noise = draw_noise
        self.seed = seed
        self.mix = mix

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        """One sample, not mixed.

        Raises:
            InputError: it cannot be read, nor can a hundred others.
        """
        epoch, index = key
        loaded, row, broken = self._load(epoch, index)
        with seeded(derive_seed(self.seed, epoch, index)):
            inputs = self.transform(loaded)
            noise = None
            if self.draw_noise is not None:
                # a stream of its own: how much noise a model wants changes no augmentation, and the other way round
                torch.default_generator.manual_seed(derive_seed(self.seed, epoch, index, _NOISE))
                noise = self.draw_noise()
        return Batch(inputs, torch.tensor(self.source.labels[row]), noise, broken)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Batch:
        """A batch; what a ``DataLoader`` calls."""
        inputs, labels, noise, broken = zip(*(self[key] for key in keys), strict=True)
        stacked = torch.stack(inputs), torch.stack(labels)
        if self.mix is not None:
            stacked = self._mixed(*stacked, keys)
        drawn = None if self.draw_noise is None else torch.stack(noise)
        return Batch(*stacked, drawn, tuple(one for some in broken for one in some))

    def _load(self, epoch: int, index: int) -> tuple[Any, int, list[Broken]]:
        """What the source holds, where, and what could not be read before it."""
        broken: list[Broken] = []
        for row in self._rows(epoch, index):
            try:
                return self.source.load(row), row, broken
            except InputError as error:
                broken.append(Broken(row, error.args[0]))
        raise InputError(f"{broken[0].error}; nor can {_MOST_SUBSTITUTES} others be read, drawn in its place")

    def _rows(self, epoch: int, index: int) -> Iterator[int]:
        yield index
        draw = np.random.default_rng(derive_seed(self.seed, epoch, index, _SUBSTITUTES))
        yield from map(int, draw.integers(len(self), size=_MOST_SUBSTITUTES))

    def _mixed(
        self, inputs: Tensor, labels: Tensor, keys: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Neighbours: they stay together however a batch is split over processes and parts."""
        assert self.mix is not None
        pairs = []
        for first in range(0, len(keys), 2):
            pair = slice(first, first + 2)
            with seeded_elsewhere(derive_seed(self.seed, *keys[first], _MIXING) % 2**32):
                pairs.append(self.mix(inputs[pair], labels[pair]))
        mixed, shares = zip(*pairs, strict=True)
        return torch.cat(mixed), torch.cat(shares)


class EvaluationSamples(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and labels, nothing random.

    Args:
        source: images or Gaussians.
        transform: the fixed way from what the source loads to one input.
        mark_broken: the input of a sample that cannot be read is NaN; otherwise it is an ``InputError``.
    """

    def __init__(self, source: Source, transform: Transform, mark_broken: bool = False) -> None:
        self.source = source
        self.transform = transform
        self.mark_broken = mark_broken

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        try:
            inputs = self.transform(self.source.load(index))
        except InputError:
            if not self.mark_broken:
                raise
            inputs = torch.full_like(self._example, math.nan)
        return inputs, torch.tensor(self.source.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """A batch; what a ``DataLoader`` calls."""
        labels = torch.tensor([self.source.labels[index] for index in indices])
        if not isinstance(self.transform, ImageTransform):
            return torch.stack([self[index][0] for index in indices]), labels
        inputs = np.empty((len(indices), 3, self.transform.side, self.transform.side), np.float32)
        for index, into in zip(indices, inputs, strict=True):
            try:
                self.transform.write(cast(Image.Image, self.source.load(index)), into)
            except InputError:
                if not self.mark_broken:
                    raise
                into.fill(np.nan)
        return torch.from_numpy(inputs), labels

    def errors(self, indices: Iterable[int]) -> list[Broken]:
        """What is wrong with those of the samples that cannot be read."""
        found = []
        for index in indices:
            try:
                self.source.load(index)
            except InputError as error:
                found.append(Broken(index, error.args[0]))
        return found

    def readable(self, indices: Iterable[int]) -> list[tuple[Tensor, Tensor]]:
        """Those of the samples that can be read.

        Raises:
            InputError: none can.
        """
        found, broken = [], InputError("no samples are asked for")
        for index in indices:
            try:
                loaded = self.source.load(index)
            except InputError as error:
                broken = error
                continue
            found.append((self.transform(loaded), torch.tensor(self.source.labels[index])))
        if not found:
            raise broken
        return found

    @functools.cached_property
    def _example(self) -> Tensor:
        """An input, whatever is in it."""
        example = self.source.example
        return self.transform(Image.new("RGB", (8, 8)) if example is None else example)


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
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.stop = stop
        self.rank = rank
        self.world_size = world_size
        self.parts = parts

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
        self.num_samples = num_samples
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-self.num_samples // self.world_size)

    def __iter__(self) -> Iterator[int]:
        return ((self.rank + i * self.world_size) % self.num_samples for i in range(len(self)))


def training_loader(
    samples: TrainingSamples, sampler: StepSampler, workers: int = 0, pin: bool = True
) -> DataLoader[Batch]:
    """The sampler's batches; ``pin``: where there is a GPU, in memory that it reads by itself."""
    pin = pin and torch.cuda.is_available()
    return Loader(
        samples, batch_sampler=sampler, pin_memory=pin, collate_fn=_as_it_is, **loading_processes(workers)
    )


def evaluation_loader(
    samples: EvaluationSamples, batch_size: int, workers: int = 0, *, rank: int = 0, world_size: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """All samples in their order, or a process's share of them."""
    sampler = EverySampler(len(samples), rank, world_size)
    return Loader(
        samples, batch_size=batch_size, sampler=sampler, collate_fn=_as_it_is, **loading_processes(workers)
    )


def _as_it_is(batch: Any) -> Any:
    """What samples give is a batch already."""
    return batch
