"""What a run shows of itself: pictures of test images, curves, and what its model is on labelled images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor

from gvit.data.inputs import eval_input
from gvit.data.labelled import labelled_set, with_classes
from gvit.data.loading import Broken, EvaluationSamples, evaluation_loader
from gvit.data.splits import load_test
from gvit.errors import InputError, for_python, option
from gvit.evaluation import Evaluation, Mistake, measure, mistakes, summarize
from gvit.files import check_writable, write_text
from gvit.gaussians import Gaussians
from gvit.models.base import ImageClassifier
from gvit.models.gvit import GViT
from gvit.models.pretrained import holds_weights, is_pretrained_name, locate, weights_checksum
from gvit.models.weights import load_model
from gvit.prediction import check_classifies, class_names
from gvit.rendering import render
from gvit.training.run import EVALUATION, MEASURED, Run
from gvit.viewing.figures import (
    confusion_figure,
    curves_figure,
    mistakes_figure,
    report_figure,
    save_figure,
)
from gvit.viewing.replaceable import check_replaceable

_COLUMNS = 12  # images of the report
_SHOWN = 24  # mistakes
_LONGEST = 20  # letters of a class in a caption
_NAMED = 5  # broken images, in a message


@dataclass(frozen=True)
class Assessment:
    """What is known of a model after it has been shown labelled images.

    Attributes:
        evaluation: the measures.
        class_names: of the model.
        mistakes: images taken for another class, the most confident first.
        keys: what each image is called.
        folder: where the files are.
        model: its name.
        num_gaussians: of each image; None where the model draws none.
        looks: of the encoder at its own picture; None where it has none.
        images: where they lie; None for the run's own.
        weights: SHA-256 of the file with the model's weights.
    """

    evaluation: Evaluation
    class_names: list[str]
    mistakes: list[Mistake]
    keys: list[str]
    folder: Path
    model: str
    num_gaussians: int | None
    looks: int | None
    images: str | None
    weights: str

    @property
    def files(self) -> list[Path]:
        """Those that were written."""
        return [file for name in MEASURED if (file := self.folder / name).exists()]

    def to_dict(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds."""
        per_class = self.evaluation.per_class(self.class_names)
        return self.evaluation.to_dict() | {
            "model": self.model,
            "num_gaussians": self.num_gaussians,
            "looks": self.looks,
            "images": self.images,
            "weights": self.weights,
            "class_names": self.class_names,
            "per_class": [asdict(result) for result in per_class],
        }

    def table(self) -> str:
        """Every mistake as CSV: the image, its class, the class that it was taken for, and the probability of that."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("image", "true", "predicted", "confidence"))
        for wrong in self.mistakes:
            names = self.keys[wrong.index], self.class_names[wrong.label], self.class_names[wrong.predicted]
            writer.writerow((*names, f"{wrong.confidence:.4f}"))
        # a file's name need not be text
        return text.getvalue().encode("utf-8", "backslashreplace").decode()


def load_with_test_images(run: Run, weights: Path | None = None) -> tuple[ImageClassifier, EvaluationSamples]:
    """A run's model, in evaluation mode, and the test images of its data as that reads them.

    ``weights``: a file of other weights than the run's last.

    Raises:
        InputError: there is no model yet, or the data have other classes now.
    """
    data = run.load_config().data
    model = load_model(weights or run.folder)
    source = load_test(data.dataset, data.data_dir, run.load_split())
    run.check_classes(model.card.class_names, source.class_names)
    return model, EvaluationSamples(source, eval_input(model, source))


def write_report(run: Run) -> Path | None:
    """``report.png``: a dozen test images, spread over the test set; None for a model that draws nothing.

    Raises:
        InputError: as ``load_with_test_images``.
    """
    model, images = load_with_test_images(run)
    if model.encoder is None:
        return None
    count = min(_COLUMNS, len(images))
    rows = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    pictures, labels = zip(*images.readable(rows), strict=True)
    figure = report_figure(cast(GViT, model), torch.stack(pictures), [int(label) for label in labels])
    save_figure(figure, run.report_file)
    return run.report_file


def unreadable(broken: Sequence[Broken], total: int) -> InputError:
    """An error for test images that cannot be read."""
    return InputError(
        f"{len(broken)} of {total} test images cannot be read, and {option('broken_test_images', 'wrong')} would count "
        f"them as wrong answers: {'; '.join(one.error for one in broken[:_NAMED])}"
        f"{'; ...' if len(broken) > _NAMED else ''}"
    )


def read_records(run: Run) -> list[dict[str, Any]]:
    """What ``metrics.jsonl`` holds, as far as it is whole."""
    records = []
    for line in run.metrics_file.read_text().splitlines() if run.metrics_file.exists() else []:
        with suppress(ValueError):  # cut off by a power failure
            records.append(json.loads(line))
    return records


def write_curves(run: Run) -> Path | None:
    """``curves.png``: losses, accuracies, PSNR and learning rates over the epochs; None where nothing is known of them.

    Raises:
        InputError: it cannot be written.
    """
    records = read_records(run)
    if not records:
        return None
    save_figure(curves_figure(records), run.curves_file)
    return run.curves_file


def assess(
    place: str | Path,
    batch_size: int = 64,
    device: str = "cpu",
    *,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    out: str | Path | None = None,
    broken_test_images: Literal["fail", "wrong"] | None = None,
    num_gaussians: int | None = None,
    looks: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> Assessment:
    """Measure a model on labelled images, and write down what was found.

    ``evaluation.json`` holds the measures, among them precision and recall of each class; ``confusion.png`` is the
    confusion matrix; ``mistakes.csv`` lists every image that was taken for another class, the most confident first, and
    ``mistakes.png`` shows the first of them. Of an encoder alone there is PSNR and SSIM, in ``evaluation.json``.

    Args:
        place: run folder, weights file (of a run: ``best.safetensors``), or name of pretrained weights.
        batch_size: images at a time.
        device: where it is computed.
        data_dir: folder with the images; the run's own test images when neither this nor ``dataset`` is given.
        dataset: how they lie there, see ``gvit.data.labelled``; for models that read Gaussians, ``gaussians``.
        out: folder for the files; the run's own, or one in it for other images, weights, or numbers. Earlier results
            in it are replaced, other files of these names never.
        broken_test_images: fail: an image that cannot be read is an error; wrong: it counts as a wrong answer; None:
            as in the run, and fail without one.
        num_gaussians: see ``GViT.encode``; None for the model's own number.
        looks: see ``GViT.encode``; None for as many as in training.
        progress: is called after each batch with the share of the images that have been measured.

    Raises:
        InputError: there is no model, no images, one that cannot be read, or images of classes that the model does not
            know (by their names); the model can't make that number of Gaussians or of looks; or the files cannot be
            written, or would replace somebody else's, or, without ``out``, those of other images, or of other weights
            that are no run's.
    """
    place, data_dir = Path(place), None if data_dir is None else Path(data_dir)
    run = find_run(place)
    numbers = {"gaussians": num_gaussians, "looks": looks}
    folder = _results_folder(place, run, data_dir, dataset, numbers) if out is None else Path(out)
    check_writable(folder)
    # after measuring would be late; figures of an older gvit do not say whose they are, the file beside them does
    for name in MEASURED[:1] if "confusion" in _earlier(folder) else MEASURED:
        check_replaceable(folder / name)
    where = [] if data_dir is None else [str(data_dir.resolve())]
    images = " in ".join([*([] if dataset is None else [dataset]), *where]) or None
    if out is None:
        _check_same_images(folder, images)
    model, samples = load_with_images(place, data_dir, dataset)
    weights = weights_checksum(place)
    if out is None and run is None:
        _check_same_weights(folder, place, weights)
    if not model.card.encoder_only:
        check_classifies(model)
    usual = "fail" if run is None else run.load_config().broken.broken_test_images
    samples.mark_broken = (broken_test_images or usual) == "wrong"
    batches: Iterable[tuple[Tensor, Tensor]] = evaluation_loader(samples, batch_size)
    if progress is not None:
        batches = _told(batches, len(samples), progress)
    measured = measure(model.to(device), batches, num_gaussians=num_gaussians, looks=looks)
    broken = samples.errors(measured["broken"].nonzero().flatten().tolist())
    classes = 0 if model.card.encoder_only else model.num_classes
    encoder = model.encoder
    result = replace(summarize(measured, classes), broken=[for_python(one.error) for one in broken])
    assessed = Assessment(
        result,
        class_names(model),
        mistakes(measured) if classes else [],
        list(samples.source.keys),
        folder,
        model.card.name,
        None if encoder is None else num_gaussians or encoder.num_gaussians,
        None if encoder is None or not encoder.any_number else looks or encoder.turns,
        images,
        weights,
    )
    _write(assessed, samples, model)
    return assessed


def _told(
    batches: Iterable[tuple[Tensor, Tensor]], total: int, progress: Callable[[float], None]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same batches; of each is told when the next is asked for."""
    done = 0
    for inputs, labels in batches:
        yield inputs, labels
        done += len(labels)
        progress(done / total)


def find_run(place: Path) -> Run | None:
    """The run that a run folder, or a weights file in one, is of; None for other weights, and for names."""
    run = next((r for r in map(Run, (place, place.parent)) if r.exists), None)
    return None if run is not None and run.folder != place and not place.is_file() else run


def load_with_images(
    place: str | Path, data_dir: str | Path | None = None, dataset: str | None = None
) -> tuple[ImageClassifier, EvaluationSamples]:
    """A model, in evaluation mode, and labelled images as it reads them.

    Args:
        place: as of ``assess``.
        data_dir: as of ``assess``.
        dataset: as of ``assess``.

    Raises:
        InputError: there is no model, no images, or images of classes that the model does not know.
    """
    place, data_dir = Path(place), None if data_dir is None else Path(data_dir)
    run = find_run(place)
    if data_dir is None and dataset is None:
        return _own(place, run)
    return _others(place, run, data_dir, dataset)


def _own(place: Path, run: Run | None) -> tuple[ImageClassifier, EvaluationSamples]:
    if run is not None:
        return load_with_test_images(run, place)
    others = f"{option('data_dir', 'FOLDER')} or {option('dataset', 'NAME')} measures them on labelled images"
    if is_pretrained_name(place.as_posix()):
        raise InputError(
            f"{place}: pretrained weights, not a run with test images of its own: {others}, 'gvit train folder "
            f"--init {place} --data-dir FOLDER' makes a run, 'gvit predict' needs no classes"
        )
    if holds_weights(place):
        raise InputError(f"{place}: weights without a run, so without test images of their own: {others}")
    locate(place)  # says what there is
    return load_with_test_images(Run.open(place))


def _others(
    place: Path, run: Run | None, data_dir: Path | None, dataset: str | None
) -> tuple[ImageClassifier, EvaluationSamples]:
    model = load_model(place)
    if dataset is None and (
        model.reads == "gaussians" or (run and run.load_config().data.dataset == "gaussians")
    ):
        dataset = "gaussians"
    names = class_names(model)
    source = labelled_set(data_dir, dataset, names)
    if not model.card.encoder_only:
        check_classifies(model)
        source = with_classes(source, names)
    return model, EvaluationSamples(source, eval_input(model, source))


def _results_folder(
    place: Path,
    run: Run | None,
    data_dir: Path | None,
    dataset: str | None,
    numbers: Mapping[str, int | None],
) -> Path:
    """The run's own for its weights, images and numbers; ``evaluation-WEIGHTS-IMAGES-NUMBERS`` in it, or here."""
    parts = (
        []
        if run is not None and place in (run.folder, run.weights_file)
        else [place.stem if run else place.name]
    )
    if data_dir is not None:
        parts.append(data_dir.resolve().name)
    elif dataset is not None:
        parts.append(dataset.replace("/", "-"))
    parts += [f"{number}-{what}" for what, number in numbers.items() if number is not None]
    base = Path() if run is None else run.folder
    return base / "-".join([EVALUATION, *parts]) if parts else base


def _check_same_images(folder: Path, images: str | None) -> None:
    """Folders of images may be called alike, and so are those of their results then."""
    other = _earlier(folder).get("images", images)
    if other != images:
        raise InputError(
            f"{folder} holds the results of {other}, not of {images}: {option('out', 'FOLDER')} writes elsewhere"
        )


def _check_same_weights(folder: Path, place: Path, weights: str) -> None:
    """So may weights; those of a run have its own folder, where newer results take the place of older ones."""
    other = _earlier(folder).get("weights", weights)  # an older gvit did not write them down
    if other != weights:
        raise InputError(
            f"{folder} holds the results of other weights (SHA-256 {str(other)[:12]}) than those of {place} "
            f"({weights[:12]}): {option('out', 'FOLDER')} writes elsewhere"
        )


def _earlier(folder: Path) -> dict[str, Any]:
    """What an evaluation has left in a folder; nothing where there is none, or it is damaged."""
    try:
        found = json.loads((folder / MEASURED[0]).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(assessed: Assessment, samples: EvaluationSamples, model: ImageClassifier) -> None:
    folder, result, names = assessed.folder, assessed.evaluation, assessed.class_names
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot write results here ({error.strerror})") from error
    for name in MEASURED:  # an encoder alone has one of them
        (folder / name).unlink(missing_ok=True)
    # numbers first: whatever becomes of the figures, what was measured is there
    write_text(folder / MEASURED[0], json.dumps(assessed.to_dict()) + "\n")
    if result.confusion:
        write_text(folder / MEASURED[2], assessed.table())
        count, share = len(assessed.mistakes), 100 * cast(float, result.top1)
        title = f"{model.card.name} on {result.num_images} images: {share:.2f} % right"
        save_figure(confusion_figure(result.confusion, names, title), folder / MEASURED[1])
        shown = assessed.mistakes[:_SHOWN]
        pictures = [_picture(samples, wrong.index, model) for wrong in shown]
        captions = [
            f"is {names[wrong.label][:_LONGEST]}\n{names[wrong.predicted][:_LONGEST]}: {100 * wrong.confidence:.0f} %"
            for wrong in shown
        ]
        title = f"{count} of {result.num_images} images taken for another class, the most confident first"
        save_figure(mistakes_figure(pictures, captions, title), folder / MEASURED[3])


def _picture(samples: EvaluationSamples, index: int, model: ImageClassifier) -> Tensor:
    """What the model was shown, or what its Gaussians draw."""
    if model.reads == "images":
        return samples[index][0]
    with torch.inference_mode():
        gaussians = cast(Gaussians, samples.source.load(index))
        return render(gaussians, model.img_size, model.img_size).clamp(0, 1)
