"""Which images a ``report.html`` shows, and what is known of all that they are out of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from gvit.data.convert import ImageLike
from gvit.data.images import find_images
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.errors import InputError, option
from gvit.evaluation import Evaluation, measure, summarize
from gvit.models.base import ImageClassifier
from gvit.models.pretrained import is_pretrained_name
from gvit.prediction import class_names
from gvit.training.report import load_with_images, read_records
from gvit.training.run import MEASURED, Run

_POOL = 500  # test images that are looked at, where there are more: a matter of seconds
_BATCH = 32


@dataclass(frozen=True)
class Sample:
    """One input of the model: an image [3, H, W], or raw Gaussians [K, 9]."""

    name: str
    inputs: Tensor
    label: str | None = None


@dataclass
class Contents:
    """What the images are of, as it becomes known.

    Attributes:
        samples: to be shown.
        about: which they are, in a sentence.
        data: what they are out of.
        measures: on test images, by name.
        measured_on: which those are.
        counts: of predicted against true classes.
        counted: of how many images.
        unread: see ``HtmlReport``.
        notes: see ``Page``.
    """

    samples: list[Sample] = field(default_factory=list)
    about: str = ""
    data: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    measured_on: str = ""
    counts: list[list[int]] = field(default_factory=list)
    counted: str = ""
    unread: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def named_images(
    given: Sequence[ImageLike],
    extensions: frozenset[str],
    read: Callable[[ImageLike], Tensor],
    num_images: int,
) -> Contents:
    """Images that were named, spread evenly where there are too many."""
    named = dict(_names(given, extensions))
    kept = _spread(list(named), num_images)
    contents = Contents(data=f"{len(kept)} that were named")
    for name in kept:
        try:
            contents.samples.append(Sample(name, read(named[name])))
        except InputError as error:
            contents.unread.append(error)
    if not contents.samples:
        raise contents.unread[0]
    contents.about = "In the order in which they were named."
    if len(kept) < len(named):
        contents.about = f"{len(kept)} of {len(named)} that were named, spread evenly over their order."
    if contents.unread:
        contents.notes.append(f"Could not be read: {'; '.join(map(str, contents.unread))}")
    return contents


def _names(given: Sequence[ImageLike], extensions: frozenset[str]) -> Iterator[tuple[str, ImageLike]]:
    """What each image is called: its file's name, or its path where two have one name."""
    files = find_images([image for image in given if isinstance(image, (str, Path))], extensions)
    names = [file.name for file in files]
    yield from ((file.name if names.count(file.name) == 1 else str(file), file) for file in files)
    others = [image for image in given if not isinstance(image, (str, Path))]
    yield from ((f"image {number}", image) for number, image in enumerate(others, 1))


def labelled_images(
    place: str | Path | ImageClassifier,
    run: Run | None,
    data_dir: str | Path | None,
    dataset: str | None,
    num_images: int,
    device: str,
) -> tuple[ImageClassifier, Contents]:
    """Labelled images, right and wrong ones, and what is known of all of them."""
    if not isinstance(place, (str, Path)):
        raise InputError("a model has no test images of its own: give images, or the folder of a run instead")
    own = data_dir is None and dataset is None
    if own and run is None and is_pretrained_name(Path(place).as_posix()):
        raise InputError(
            f"{place}: pretrained weights have no test images of their own: name image files after it, or give "
            f"labelled ones by {option('data_dir', 'FOLDER')} or {option('dataset', 'digits')}"
        )
    folder = None if data_dir is None else Path(data_dir)
    model, samples = load_with_images(place, folder, dataset)
    total = len(samples)
    samples = EvaluationSamples(samples.source.take(_spread(range(total), _POOL)), samples.transform, True)
    measured = measure(model.to(device), evaluation_loader(samples, _BATCH))
    answers = bool(model.num_classes) and not model.card.encoder_only
    found = summarize(measured, model.num_classes if answers else 0)
    names = class_names(model) if answers else list(samples.source.class_names)
    rows, about = (_right_and_wrong if answers else _good_and_poor)(measured, num_images)
    contents = Contents(about=about, data=_data_name(run if own else None, folder, dataset))
    contents.samples = [
        Sample(
            _key_name(samples.source.keys[row]),
            samples[row][0],
            names[samples.source.labels[row]] if names else None,
        )
        for row in rows
    ]
    _measure(contents, found, total, run if own and run and _is_last(place, run) else None)
    broken = int(measured["broken"].sum())
    if broken:
        contents.notes.append(f"{broken} of {len(samples)} test images cannot be read, and are not shown.")
    return model, contents


def _key_name(key: str) -> str:
    return f"image {key}" if key.isdigit() else key


def _is_last(place: str | Path, run: Run) -> bool:
    """Whether a run's last weights are meant, of which it has written down measures."""
    return Path(place) in (run.folder, run.weights_file)


def _measure(contents: Contents, found: Evaluation, total: int, run: Run | None) -> None:
    """What is known of all test images, from the run's own files, or of those that were looked at."""
    counted = f"{found.num_images:,} test images"
    if found.num_images < total:
        counted = f"{found.num_images:,} of {total:,} test images, spread evenly"
    measures, measured_on = vars(found), counted
    contents.counts, contents.counted = found.confusion, counted
    if run is not None and found.num_images < total:
        whole = _evaluated(run)
        if whole is not None:
            measures, measured_on = whole, f"all {whole['num_images']:,} test images"
            contents.counts, contents.counted = whole["confusion"], measured_on
        else:
            last = next((r for r in reversed(read_records(run)) if r.get("kind") == "evaluation"), None)
            # a run that was interrupted has later weights than its last evaluation
            if (
                last is not None
                and last.get("num_images") == total
                and _step_of(run) in (None, last.get("step"))
            ):
                measures, measured_on = last, f"all {total:,} test images"
    contents.measured_on = measured_on
    contents.measures = {
        name: float(value)
        for name in ("top1", "top5", "psnr", "ssim")
        if isinstance(value := measures.get(name), (int, float))
    }


def _step_of(run: Run) -> int | None:
    """Of its weights; None where it has no checkpoint any more that tells."""
    try:
        state = run.load_checkpoint()
    except InputError:
        return None
    return None if state is None else state.get("step")


def _evaluated(run: Run) -> dict[str, Any] | None:
    """What ``gvit evaluate`` has written, if that is whole."""
    try:
        kept = json.loads((run.folder / MEASURED[0]).read_text())
        rows = kept["confusion"]
        square = all(len(row) == len(rows) and all(isinstance(n, int) for n in row) for row in rows)
        return dict(kept) if square and isinstance(kept["num_images"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _data_name(run: Run | None, folder: Path | None, dataset: str | None) -> str:
    """A folder by its last name: a page that is passed on tells nothing of the machine."""
    if run is not None:
        data = run.load_config().data
        folder, dataset = None if data.data_dir is None else Path(data.data_dir), data.dataset
    parts = [part for part in (dataset, None if folder is None else folder.resolve().name) if part]
    return f"{' · '.join(parts)}, test images"


def _right_and_wrong(measured: dict[str, Tensor], count: int) -> tuple[list[int], str]:
    """Half of them wrong, if there are as many; the most confident ones. Right ones class by class."""
    labels, read = measured["label"], measured["broken"] == 0
    right = read & (measured["predicted"] == labels)
    wrong = (read & ~right).nonzero()[:, 0]
    wrong = wrong[measured["confidence"][wrong].argsort(descending=True, stable=True)]
    by_class = [(right & (labels == label)).nonzero()[:, 0].tolist() for label in labels.unique().tolist()]
    rights = [rows[turn] for turn in range(count) for rows in by_class if turn < len(rows)]
    few = min(len(wrong), max(count // 2, count - len(rights)))
    rights, wrongs = rights[: count - few], wrong[:few].tolist()
    parts = []
    if rights:
        parts.append(f"{len(rights)} of {int(right.sum())} right answers, class by class")
    if wrongs:
        parts.append(f"{len(wrongs)} of {len(wrong)} wrong ones, those that the model is surest of")
    return [*rights, *wrongs], f"{', and '.join(parts)}, out of {int(read.sum())} test images."


def _good_and_poor(measured: dict[str, Tensor], count: int) -> tuple[list[int], str]:
    """Spread over their PSNR; of a model without any, over their order."""
    rows = (measured["broken"] == 0).nonzero()[:, 0]
    about = f"Spread evenly over {len(rows)} test images."
    if "psnr" in measured:
        rows = rows[measured["psnr"][rows].argsort(stable=True)]
        about = f"From the one that is drawn worst to the best of {len(rows)} test images, spread evenly."
    return [int(row) for row in _spread(rows.tolist(), count)], about


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them at most, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]
