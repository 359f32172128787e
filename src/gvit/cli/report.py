"""What is drawn and measured of a finished run: its model on its test images."""

from pathlib import Path

import torch

from gvit.data.datasets import load_dataset
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationImages
from gvit.errors import InputError
from gvit.models.gvit import GViT
from gvit.models.registry import ImageClassifier, load_model
from gvit.training.run import Run
from gvit.viewing.figures import report_figure, save_figure


def write_report(run: Run) -> Path | None:
    """The picture of a dozen test images, spread over the test set; a model without an encoder has none."""
    model, images = load_with_test_images(run)
    if not isinstance(model, GViT):
        return None
    count = min(12, len(images))
    rows = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    pictures, labels = zip(*(images[row] for row in rows), strict=True)
    figure = report_figure(model, torch.stack(pictures), [int(label) for label in labels])
    save_figure(figure, run.report_file)
    return run.report_file


def load_with_test_images(run: Run) -> tuple[ImageClassifier, EvaluationImages]:
    """A run's model, and the test images of its data set as the model reads them.

    Raises:
        InputError: the model or the data cannot be read, or the data has other classes than the run had.
    """
    data = run.load_config().data
    model = load_model(run.folder)
    source = load_dataset(data.dataset, "test", data.data_dir)
    known, found = list(model.card.class_names), list(source.class_names)
    if known != found:
        changed = sorted(set(known) ^ set(found))
        raise InputError(
            f"{run.folder}: trained on {len(known)} classes, but its data set has {len(found)} now "
            f"(differing: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''})"
        )
    return model, EvaluationImages(source, eval_input(model, source))
