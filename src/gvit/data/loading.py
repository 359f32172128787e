"""From a source to batches. What is random is a pure function of (seed, epoch, sample index)."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from gvit.data.sources import Source
from gvit.data.transforms import Transform


class Batch(NamedTuple):
    """What a training step reads.

    Attributes:
        inputs: images [B, 3, H, W] in [0, 1], or raw Gaussians [B, K, 9].
        labels: class indices [B].
        noise: for each sample what ``draw_noise`` of ``TrainingSamples`` drew.
    """

    inputs: Tensor
    labels: Tensor
    noise: Tensor


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

    Args:
        source: images or Gaussians.
        transform: the random way from what the source loads to one input; draws from torch's global generator.
        draw_noise: what a model wants drawn for each sample (an encoder its g0); draws from torch's global generator.
        seed: of all that is random.
    """

    def __init__(
        self, source: Source, transform: Transform, draw_noise: Callable[[], Tensor], seed: int
    ) -> None:
        self.source, self.transform, self.draw_noise, self.seed = source, transform, draw_noise, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        # one stream for a sample, the noise first: another order would train earlier configurations otherwise
        with seeded(derive_seed(self.seed, epoch, index)):
            noise = self.draw_noise()
            inputs = self.transform(self.source.load(index))
        return Batch(inputs, torch.tensor(self.source.labels[index]), noise)


class EvaluationSamples(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and labels, nothing random.

    Args:
        source: images or Gaussians.
        transform: the fixed way from what the source loads to one input.
    """

    def __init__(self, source: Source, transform: Transform) -> None:
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


def training_loader(
    samples: TrainingSamples, sampler: StepSampler, workers: int = 0, pin: bool = True
) -> DataLoader[Batch]:
    """The sampler's batches; ``pin``: where there is a GPU, in memory that it reads by itself."""
    pin = pin and torch.cuda.is_available()
    return DataLoader(samples, batch_sampler=sampler, pin_memory=pin, **_processes(workers))


def evaluation_loader(
    samples: EvaluationSamples, batch_size: int, workers: int = 0, *, rank: int = 0, world_size: int = 1
) -> DataLoader[tuple[Tensor, Tensor]]:
    """All samples in their order, or a process's share of them."""
    sampler = EverySampler(len(samples), rank, world_size)
    return DataLoader(samples, batch_size=batch_size, sampler=sampler, **_processes(workers))


def _processes(workers: int) -> dict[str, Any]:
    """Processes that load, and leave it to the main one to answer an interruption.

    Forked on Linux, as they are by default unless the main process was itself spawned, or by Python 3.14.
    """
    if not workers:
        return {}
    context = "fork" if sys.platform == "linux" else None
    return {
        "num_workers": workers,
        "multiprocessing_context": context,
        "worker_init_fn": _ignore_interruption,
    }


def _ignore_interruption(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
