"""The paper's Figures 4 and 5: pictures of what runs have learned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gvit.analysis.attribution import cdam, relevance_of_small_ones
from gvit.data.datasets import load_dataset
from gvit.data.loading import EvaluationImages, eval_transform
from gvit.fitting.optimise import fit
from gvit.models.gvit import GViT
from gvit.models.registry import load_model
from gvit.reproduction.jobs import Training
from gvit.reproduction.targets import Measured, Row, Study, Target
from gvit.viewing.paper import explanation_figure, regimes_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6  # images
_FIT_STEPS = 300


def figure4(study: Study) -> Target:
    """Gaussians of the same images by three ways of making them (paper, Figure 4)."""
    seed = study.seeds[0]
    trainings = {
        "no guidance": study.train(study.unguided, seed),
        "guided": study.train(study.guided, seed),
    }
    rows = [Row(label, training, seed) for label, training in trainings.items()]
    title = "Gaussians by SGD, without and with guidance"
    return Target("figure4", title, rows, (), picture=partial(_draw_regimes, trainings))


def figure5(study: Study) -> Target:
    """Determinants, attribution and reconstruction (paper, Figure 5 and B.1)."""
    rows = [Row("guided", study.train(study.guided, seed), seed) for seed in study.seeds]
    trainings = [row.job for row in rows if isinstance(row.job, Training)]
    title = "Determinants, class-discriminative attention, reconstruction"
    return Target("figure5", title, rows, (), picture=partial(_draw_explanations, trainings))


def _draw_regimes(trainings: dict[str, Training]) -> tuple[Figure, list[Measured]]:
    models = {label: _gvit(training) for label, training in trainings.items()}
    guided = models["guided"]
    images, _ = _test_images(guided, trainings["guided"], _SHOWN)
    fits = fit(images, guided.encoder.num_gaussians, _FIT_STEPS, scale_factor=guided.encoder.scale_factor)
    with torch.no_grad():
        learned = {label: model.encode(images) for label, model in models.items()}
    return regimes_figure(images, {"SGD": fits.gaussians, **learned}), []


def _draw_explanations(trainings: list[Training]) -> tuple[Figure, list[Measured]]:
    correlations = []
    for training in trainings:
        model = _gvit(training)
        images, _ = _test_images(model, training, None)
        with torch.no_grad():
            gaussians = model.encode(images)
        correlations.append(relevance_of_small_ones(cdam(model, gaussians), gaussians).mean().item())
    model = _gvit(trainings[0])
    images, labels = _test_images(model, trainings[0], _SHOWN)
    text = (
        "rank correlation (Spearman) of -det and |CDAM| over an image's Gaussians, mean over all test images "
        "(1: the smaller the more relevant, as the paper says)"
    )
    return explanation_figure(model, images, labels), [Measured(text, tuple(correlations))]


def _gvit(training: Training) -> GViT:
    model = load_model(training.folder)
    assert isinstance(model, GViT)
    return model


def _test_images(model: GViT, training: Training, count: int | None) -> tuple[Tensor, list[int]]:
    """All test images, or some spread over the test set, and their labels."""
    data = training.config.data
    source = load_dataset(data.dataset, "test", data.data_dir)
    images = EvaluationImages(source, eval_transform(model.card.preprocessing))
    chosen = range(0, len(images), 1 if count is None else max(1, len(images) // count))[:count]
    pictures, labels = zip(*(images[row] for row in chosen), strict=True)
    return torch.stack(pictures), [int(label) for label in labels]
