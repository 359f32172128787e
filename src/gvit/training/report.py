"""What a run shows of itself: pictures of test images, and its evaluation on all of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch

from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.splits import load_test
from gvit.errors import InputError
from gvit.evaluation import Evaluation, evaluate
from gvit.files import write_text
from gvit.models.base import ImageClassifier
from gvit.models.gvit import GViT
from gvit.models.pretrained import is_pretrained_name
from gvit.models.weights import load_model
from gvit.prediction import check_classifies
from gvit.training.run import Run
from gvit.viewing.figures import confusion_figure, report_figure, save_figure

_SHOWN = 12  # images


def load_with_test_images(run: Run) -> tuple[ImageClassifier, EvaluationSamples]:
    """A run's model, in evaluation mode, and the test images of its data as that reads them.

    Raises:
        InputError: there is no model yet, or the data have other classes now.
    """
    data = run.load_config().data
    model = load_model(run.folder)
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
    count = min(_SHOWN, len(images))
    rows = [round(i * (len(images) - 1) / max(1, count - 1)) for i in range(count)]
    pictures, labels = zip(*(images[row] for row in rows), strict=True)
    figure = report_figure(cast(GViT, model), torch.stack(pictures), [int(label) for label in labels])
    save_figure(figure, run.report_file)
    return run.report_file


def evaluate_run(folder: str | Path, batch_size: int = 64, device: str = "cpu") -> Evaluation:
    """A run's model on the test images of its data; ``evaluation.json`` and ``confusion.png`` go into its folder.

    Raises:
        InputError: there is no run, it has trained an encoder alone, or as ``load_with_test_images``.
    """
    run = Run(Path(folder))
    if not run.config_file.is_file() and is_pretrained_name(Path(folder).as_posix()):
        raise InputError(
            f"{folder}: pretrained weights, not a run with test images of its own: 'gvit train --init {folder}' makes "
            "one, 'gvit predict' needs none"
        )
    run = Run.open(run.folder)
    model, images = load_with_test_images(run)
    check_classifies(model)
    result = evaluate(model.to(device), evaluation_loader(images, batch_size))
    names = list(model.card.class_names)
    write_text(run.evaluation_file, json.dumps(asdict(result) | {"class_names": names}) + "\n")
    save_figure(confusion_figure(result.confusion, names), run.confusion_file)
    return result
