"""A run's images: each step's share of this process, and the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

from torch import Tensor
from torch.utils.data import DataLoader

from gvit.data.inputs import eval_input, train_input
from gvit.data.loading import (
    Batch,
    EvaluationSamples,
    StepSampler,
    TrainingSamples,
    evaluation_loader,
    training_loader,
)
from gvit.data.sources import Source
from gvit.data.splits import Record, load_splits, record_splits
from gvit.data.transforms import Augmentation, mixing
from gvit.errors import InputError, option
from gvit.models.base import ImageClassifier
from gvit.training.config import TrainConfig
from gvit.training.distributed import World
from gvit.training.scaling import fitting_batch


def augmentation_of(config: TrainConfig) -> Augmentation:
    """What is random of a training image."""
    data = config.data
    geometry = data.hflip, data.min_crop, data.rotate, data.translate, data.zoom
    return Augmentation(*geometry, **asdict(config.pixels))


class Feed:
    """Sources of a run's images, and, after ``connect``, what its model reads of them.

    Args:
        config: the run's.
        world: the processes that share each batch.
        recorded: which images are which split's, where the run has written it down.

    Attributes:
        batch_size: images a step, over all processes.
        steps_per_epoch: whole batches in the training images.
        train: source of the training images.
        test: source of the test images.
        recorded: which images are which split's, where the data don't say so themselves.
        notes: lines that the user should read.

    Raises:
        InputError: there are no such data, or a batch can't be split evenly.
    """

    samples: TrainingSamples
    tests: EvaluationSamples
    test_loader: DataLoader[tuple[Tensor, Tensor]]
    train: Source
    test: Source

    def __init__(self, config: TrainConfig, world: World, recorded: Record | None = None) -> None:
        data = config.data
        self.config = config
        self.world = world
        self.train, self.test = load_splits(data.dataset, data.data_dir, recorded)
        for source, use in ((self.train, "train on"), (self.test, "test with")):
            if not len(source):
                raise InputError(f"data set {data.dataset!r} has no images to {use}")
        if list(self.train.class_names) != list(self.test.class_names):
            raise InputError(
                f"data set {data.dataset!r} has other classes, or another order, to test than to train"
            )
        self.recorded: Record | None = record_splits(self.train, self.test)
        self.notes: list[str] = list(dict.fromkeys([*self.train.notes, *self.test.notes]))
        if self.recorded is not None and recorded is None:
            self.notes.append(
                f"the data have no test images of their own: {len(self.test)} of {len(self.train) + len(self.test)}, a "
                "fifth of each class, are kept for the test; which ones is written down in the run's split.json"
            )
        parts = world.size * config.compute.accumulate
        mixed = next((option(name) for name in ("mixup", "cutmix") if getattr(config.pixels, name)), None)
        self.batch_size: int = data.batch_size or fitting_batch(len(self.train))
        if self.batch_size > len(self.train):  # as many as there are, in equal parts
            unit = parts if mixed is None else 2 * parts
            self.batch_size = len(self.train) // unit * unit or len(self.train)
        if self.batch_size % parts:
            raise InputError(
                f"a batch of {self.batch_size} images has no {parts} equal parts "
                f"({option('accumulate', config.compute.accumulate)}, processes: {world.size}); choose another "
                f"{option('accumulate')}, or a batch size that is a multiple of {parts}"
            )
        if mixed is not None and self.batch_size // parts % 2:
            raise InputError(
                f"{mixed} mixes images in pairs, but a batch of {self.batch_size}"
                f"{f', in {parts} parts,' if parts > 1 else ''} has an odd number of them; make {option('batch_size')} "
                f"a multiple of {2 * parts}"
            )
        self.steps_per_epoch: int = len(self.train) // self.batch_size

    def connect(self, model: ImageClassifier, draw_noise: Callable[[], Tensor] | None) -> None:
        """Turn what the sources hold into what a model reads.

        Args:
            model: with its preprocessing on its card.
            draw_noise: what a training sample needs of chance beside its augmentation; None for nothing.

        Raises:
            InputError: the model can't read what the sources hold.
        """
        data, world = self.config.data, self.world
        augmentation = augmentation_of(self.config)
        transform = train_input(model, self.train, augmentation)
        mix = mixing(augmentation, len(self.train.class_names))
        self.samples = TrainingSamples(self.train, transform, draw_noise, self.config.seed, mix)
        self.tests = EvaluationSamples(self.test, eval_input(model, self.test), mark_broken=True)
        size = max(1, self.batch_size // (world.size * self.config.compute.accumulate))
        self.test_loader = evaluation_loader(
            self.tests, size, data.workers, rank=world.rank, world_size=world.size
        )

    def batches(self, start: int, stop: int, workers: int) -> Iterator[Sequence[Batch]]:
        """This process's share of the batches of steps ``start`` to ``stop``, each in parts."""
        parts = self.config.compute.accumulate
        sampler = StepSampler(
            len(self.samples),
            self.batch_size,
            self.config.seed,
            start,
            stop,
            rank=self.world.rank,
            world_size=self.world.size,
            parts=parts,
        )
        # a thread that pins memory would disturb the recording of a graph
        loader = iter(training_loader(self.samples, sampler, workers, pin=not self.config.compute.graphs))
        return zip(*[loader] * parts, strict=True)
