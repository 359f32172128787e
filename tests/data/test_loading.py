import gc
import multiprocessing
import os
import signal
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from gvit.data.loading import (
    EvaluationSamples,
    EverySampler,
    StepSampler,
    TrainingSamples,
    derive_seed,
    evaluation_loader,
    seeded,
    training_loader,
)
from gvit.data.sources import Source
from gvit.data.transforms import Augmentation, eval_transform, mixing, train_transform
from gvit.errors import InputError
from gvit.models.card import Preprocessing


@pytest.fixture(scope="module")
def source() -> Source:
    pixels = np.random.default_rng(0).integers(0, 255, (10, 20, 30, 3), np.uint8)
    return Source(lambda i: Image.fromarray(pixels[i]), [i % 3 for i in range(10)], ("a", "b", "c"))


def draw_noise() -> torch.Tensor:
    return torch.randn(5, 9)


def samples(source: Source, seed: int = 0) -> TrainingSamples:
    transform = train_transform(Preprocessing(16), Augmentation(rotate=10, translate=0.1, zoom=0.1))
    return TrainingSamples(source, transform, draw_noise, seed)


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_a_sample_depends_on_seed_epoch_and_index_alone(source):
    sample = samples(source)[(3, 4)]
    assert sample.inputs.shape == (3, 16, 16)
    assert sample.noise.shape == (5, 9)
    torch.manual_seed(123)
    assert same(samples(source)[(3, 4)], sample)
    for other in (samples(source)[(3, 5)], samples(source)[(2, 4)], samples(source, seed=1)[(3, 4)]):
        assert not torch.equal(other.noise, sample.noise)
        assert not torch.equal(other.inputs, sample.inputs)


def test_augmentation_and_noise_are_drawn_from_a_stream_each(source):
    """Other streams would train the runs of before otherwise."""
    made = samples(source, seed=7)
    sample = made[(2, 5)]
    with seeded(derive_seed(7, 2, 5)):
        inputs = made.transform(source.load(5))
    with seeded(derive_seed(7, 2, 5, 3)):
        noise = torch.randn(5, 9)
    assert same(sample, (inputs, torch.tensor(2), noise))
    # whatever number of Gaussians wants noise, images are augmented alike
    made.draw_noise = lambda: torch.randn(40, 9)
    assert torch.equal(made[(2, 5)].inputs, sample.inputs)
    made.draw_noise = None
    assert torch.equal(made[(2, 5)].inputs, sample.inputs)
    batch = made.__getitems__([(2, 5), (2, 6)])
    assert (len(batch.inputs), batch.noise) == (2, None)
    # the number that SeedSequence has always given for this key
    assert derive_seed(7, 2, 5) == 12774480154638343109


def test_sampling_leaves_the_global_generator_alone(source):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    samples(source)[(0, 0)]
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_a_pure_function_of_the_step(source, workers):
    whole = list(training_loader(samples(source), StepSampler(10, 3, seed=0, start=0, stop=8)))
    rest = list(training_loader(samples(source), StepSampler(10, 3, seed=0, start=5, stop=8), workers))
    assert len(rest) == 3
    for expected, batch in zip(whole[5:], rest, strict=True):
        assert same(batch, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="processes inherit nothing where they are spawned")
def test_loading_processes_collect_nothing_that_their_parent_threw_away(source, tmp_path):
    class Circle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            (tmp_path / str(os.getpid())).touch()

    def collect() -> torch.Tensor:
        gc.collect()
        return draw_noise()

    gc.disable()
    try:
        Circle()
        transform = train_transform(Preprocessing(16), Augmentation())
        made = TrainingSamples(source, transform, collect, 0)
        assert len(list(training_loader(made, StepSampler(10, 3, 0, 0, 2), workers=1))) == 2
    finally:
        gc.enable()
    assert not list(tmp_path.iterdir())
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_an_interruption_of_the_whole_group_leaves_loading_alone(source):
    batches = iter(training_loader(samples(source), StepSampler(10, 3, seed=0, start=0, stop=40), workers=1))
    next(batches)
    processes = multiprocessing.active_children()
    assert processes
    for process in processes:
        os.kill(process.pid, signal.SIGINT)
    assert len(list(batches)) == 39


def test_an_evaluation_batch_is_its_samples_one_by_one():
    pixels = np.random.default_rng(3).integers(0, 256, (5, 20, 30, 3), np.uint8)

    def load(row: int) -> Image.Image:
        if row == 3:
            raise InputError("row 3: not an image file")
        return Image.fromarray(pixels[row])

    tests = EvaluationSamples(
        Source(load, [0, 1, 0, 1, 1], ("a", "b")), eval_transform(Preprocessing(16)), mark_broken=True
    )
    inputs, labels = zip(*evaluation_loader(tests, batch_size=2), strict=True)
    assert [len(batch) for batch in inputs] == [2, 2, 1]
    assert torch.cat(labels).tolist() == [0, 1, 0, 1, 1]
    one_by_one = torch.stack([tests[row][0] for row in range(5)])
    assert torch.equal(torch.cat(inputs).nan_to_num(-1), one_by_one.nan_to_num(-1))
    assert torch.cat(inputs).isnan().flatten(1).all(1).tolist() == [row == 3 for row in range(5)]


def test_an_epoch_shows_each_image_at_most_once_and_the_next_in_another_order():
    steps = list(StepSampler(10, 3, seed=0, start=0, stop=6))
    epochs = [[index for batch in steps[i : i + 3] for _, index in batch] for i in (0, 3)]
    assert [{epoch for epoch, _ in batch} for batch in steps] == [{0}] * 3 + [{1}] * 3
    for order in epochs:
        assert len(set(order)) == 9
    assert epochs[0] != epochs[1]
    assert steps != list(StepSampler(10, 3, seed=1, start=0, stop=6))


def test_processes_and_parts_share_a_batch_without_overlap():
    whole = list(StepSampler(40, 12, seed=3, start=1, stop=5))
    shares = [
        list(StepSampler(40, 12, seed=3, start=1, stop=5, rank=rank, world_size=2, parts=3))
        for rank in range(2)
    ]
    assert [len(part) for share in shares for part in share] == [2] * 24
    for step, batch in enumerate(whole):
        assert [pair for share in shares for part in share[3 * step : 3 * step + 3] for pair in part] == batch


@pytest.mark.parametrize("count", [7, 8, 2])
def test_evaluation_shares_are_of_equal_length_and_cover_every_image(count):
    shares = [list(EverySampler(count, rank, 3)) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1
    interleaved = [index for column in zip(*shares, strict=True) for index in column]
    assert interleaved[:count] == list(range(count))


def damaged(source: Source, *rows: int) -> Source:
    """Some of its images cannot be read."""

    def load(row: int) -> Image.Image:
        if row in rows:
            raise InputError(f"{row}.png: not an image file")
        return source.load(row)

    return Source(load, source.labels, source.class_names)


def test_in_place_of_a_broken_sample_is_another_one_that_its_key_decides(source):
    whole, broken = samples(source), samples(damaged(source, 4, 7))
    taken = Counter()
    for epoch in range(60):
        sample = broken[(epoch, 4)]
        assert sample.inputs.shape == (3, 16, 16)
        assert same(sample, samples(damaged(source, 4, 7))[(epoch, 4)])
        # what is drawn for the key is as ever
        assert torch.equal(sample.noise, whole[(epoch, 4)].noise)
        assert sample.broken[0] == (4, "4.png: not an image file")
        rows = {one.row for one in sample.broken}
        assert rows in ({4}, {4, 7})
        taken[int(sample.labels)] += 1
        # others are as they were
        assert same(broken[(epoch, 5)], whole[(epoch, 5)])
        assert not broken[(epoch, 5)].broken
    assert len(taken) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_keeps_its_size_and_tells_what_was_broken_in_it(source, workers):
    steps = StepSampler(10, 5, seed=0, start=0, stop=2)
    alone = list(training_loader(samples(damaged(source, 3)), steps))
    batches = list(training_loader(samples(damaged(source, 3)), steps, workers))
    assert [len(batch.inputs) for batch in batches] == [5, 5]
    assert {one.row for batch in batches for one in batch.broken} == {3}
    for one, other in zip(alone, batches, strict=True):
        assert same(one, other)
        assert list(one.broken) == list(other.broken)


def test_where_nothing_can_be_read_the_first_is_named(source):
    with pytest.raises(InputError, match=r"^4\.png: not an image file; nor can 100 others"):
        samples(damaged(source, *range(10)))[(0, 4)]


def test_mixing_does_not_depend_on_how_a_batch_is_split(source):
    mixed = samples(source)
    mixed.mix = mixing(Augmentation(mixup=0.8, cutmix=1.0), 3)
    (whole,) = training_loader(mixed, StepSampler(10, 8, seed=0, start=0, stop=1))
    parts = [
        part
        for rank in range(2)
        for part in training_loader(
            mixed, StepSampler(10, 8, 0, 0, 1, rank=rank, world_size=2, parts=2), workers=rank
        )
    ]
    assert [len(part.inputs) for part in parts] == [2] * 4
    for name in ("inputs", "labels", "noise"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))
    assert whole.labels.shape == (8, 3)
    assert len(whole.labels.unique(dim=0)) > 4
    (plain,) = training_loader(samples(source), StepSampler(10, 8, seed=0, start=0, stop=1))
    assert not torch.equal(plain.inputs, whole.inputs)
    assert torch.equal(plain.noise, whole.noise)


def test_a_broken_test_sample_is_an_error_or_marked(source):
    transform = eval_transform(Preprocessing(16))
    with pytest.raises(InputError, match=r"^4\.png"):
        EvaluationSamples(damaged(source, 4), transform)[4]
    marked = EvaluationSamples(damaged(source, 4), transform, mark_broken=True)
    inputs, label = marked[4]
    assert inputs.shape == (3, 16, 16)
    assert inputs.isnan().all()
    assert label == 1
    assert not marked[3][0].isnan().any()
    assert marked.errors([3, 4]) == [(4, "4.png: not an image file")]
    assert len(marked.readable([3, 4, 5])) == 2
    with pytest.raises(InputError, match=r"^4\.png"):
        marked.readable([4])
