"""A run's images: each step's share of this process, and the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

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
from gvit.data.sources import load_source
from gvit.data.transforms import Augmentation
from gvit.errors import InputError, option
from gvit.models.base import ImageClassifier
from gvit.training.config import DataConfig, TrainConfig
from gvit.training.distributed import World
from gvit.training.scaling import fitting_batch


def augmentation_of(data: DataConfig) -> Augmentation:
    """What is random of a training image."""
    return Augmentation(data.hflip, data.min_crop, data.rotate, data.translate, data.zoom)


class Feed:
    """Sources of a run's images, and, after ``connect``, what its model reads of them.

    Args:
        config: the run's.
        world: the processes that share each batch.

    Attributes:
        batch_size: images a step, over all processes.
        steps_per_epoch: whole batches in the training images.
        train: source of the training images.
        test: source of the test images.

    Raises:
        InputError: there are no such data, or a batch can't be split evenly.
    """

    samples: TrainingSamples
    tests: EvaluationSamples
    test_loader: DataLoader[tuple[Tensor, Tensor]]

    def __init__(self, config: TrainConfig, world: World) -> None:
        data = config.data
        self.config, self.world = config, world
        self.train, self.test = (
            load_source(data.dataset, split, data.data_dir) for split in ("train", "test")
        )
        for source, use in ((self.train, "train on"), (self.test, "test with")):
            if not len(source):
                raise InputError(f"data set {data.dataset!r} has no images to {use}")
        if list(self.train.class_names) != list(self.test.class_names):
            raise InputError(
                f"data set {data.dataset!r} has other classes, or another order, to test than to train"
            )
        self.batch_size = min(data.batch_size or fitting_batch(len(self.train)), len(self.train))
        parts = world.size * config.compute.accumulate
        if self.batch_size % parts:
            raise InputError(
                f"a batch of {self.batch_size} images cannot be split evenly over {world.size} processes "
                f"times {option('accumulate', config.compute.accumulate)}; make {option('batch_size')} a multiple of "
                f"{parts}"
            )
        self.steps_per_epoch = len(self.train) // self.batch_size

    def connect(self, model: ImageClassifier, draw_noise: Callable[[], Tensor]) -> None:
        """Turn what the sources hold into what a model reads.

        Args:
            model: with its preprocessing on its card.
            draw_noise: what a training sample needs of chance beside its augmentation.

        Raises:
            InputError: the model can't read what the sources hold.
        """
        data, world = self.config.data, self.world
        transform = train_input(model, self.train, augmentation_of(data))
        self.samples = TrainingSamples(self.train, transform, draw_noise, self.config.seed)
        self.tests = EvaluationSamples(self.test, eval_input(model, self.test))
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
