"""The paper's Figures 4 and 5: pictures of what runs have learned."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gvit.analysis.attribution import cdam, determinant_relevance
from gvit.data.inputs import eval_input
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.splits import load_test
from gvit.fitting.optimise import fit
from gvit.models.gvit import GViT
from gvit.reproduction.jobs import BATCH, Training, load_gvit
from gvit.reproduction.study import Measured, Row, Study, Target
from gvit.training.run import Run
from gvit.viewing.paper import explain_figure, regimes_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHOWN = 6  # images
_FIT_STEPS = 300


def figure4(study: Study) -> Target:
    """Gaussians of the same images by three ways of making them (paper, Figure 4)."""
    seed = study.seeds[0]
    trainings = {
        "No guidance": study.train(study.unguided, seed),
        "Gradient guidance": study.train(study.guided, seed),
    }
    rows = [Row(label, training, seed) for label, training in trainings.items()]
    title = "Gaussians by SGD, without and with guidance"
    return Target("figure4", title, rows, (), picture=partial(_draw_regimes, trainings))


def figure5(study: Study) -> Target:
    """Determinants, attribution and reconstruction (paper, Figure 5 and B.1)."""
    settings = {"guided": study.guided, "no guidance": study.unguided}
    rows = [row for label, config in settings.items() for row in study.rows(label, config)]
    title = "Determinants, class-discriminative attention, reconstruction"
    return Target("figure5", title, rows, (), picture=partial(_draw_explanations, rows))


def _draw_regimes(trainings: dict[str, Training], device: str) -> tuple[Figure, list[Measured]]:
    models = {label: load_gvit(training) for label, training in trainings.items()}
    guided = models["Gradient guidance"]
    images, _ = _test_images(guided, trainings["Gradient guidance"], _SHOWN)
    images = images.to(device)
    for model in models.values():
        model.to(device)
    fits = fit(images, guided.encoder.num_gaussians, _FIT_STEPS, scale_factor=guided.encoder.scale_factor)
    with torch.no_grad():
        learned = {label: model.encode(images) for label, model in models.items()}
    shown = {
        label: gaussians.to("cpu")
        for label, gaussians in {"SGD Gaussians": fits.gaussians, **learned}.items()
    }
    return regimes_figure(images.cpu(), shown), []


def _draw_explanations(rows: list[Row], device: str) -> tuple[Figure, list[Measured]]:
    correlations: dict[str, list[float]] = {}
    for row in rows:
        assert isinstance(row.job, Training)
        model = load_gvit(row.job).to(device)
        raw, scores = [], []
        for images, _ in evaluation_loader(_prepared(model, row.job), BATCH):
            with torch.no_grad():
                gaussians = model.encode(images.to(device))
            raw.append(gaussians.raw)
            scores.append(cdam(model, gaussians))
        relevance = determinant_relevance(gaussians.replace_raw(torch.cat(raw)), torch.cat(scores))
        correlations.setdefault(row.label, []).append(relevance.mean)
    assert isinstance(rows[0].job, Training)
    model = load_gvit(rows[0].job)
    images, labels = _test_images(model, rows[0].job, _SHOWN)
    text = (
        "rank correlation (Spearman) of -log det and |CDAM| over an image's Gaussians, mean over all test images "
        "(1: the smaller the more relevant, as the paper says; 0: one has nothing to do with the other)"
    )
    measured = [Measured(f"{label}: {text}", tuple(values)) for label, values in correlations.items()]
    return explain_figure(model, images, labels), measured


def _prepared(model: GViT, training: Training) -> EvaluationSamples:
    data = training.config.data
    source = load_test(data.dataset, data.data_dir, Run(training.folder).load_split())
    return EvaluationSamples(source, eval_input(model, source))


def _test_images(model: GViT, training: Training, count: int) -> tuple[Tensor, list[int]]:
    """Some images spread over the test set, and their labels."""
    images = _prepared(model, training)
    chosen = range(0, len(images), max(1, len(images) // count))[:count]
    pictures, labels = zip(*(images[row] for row in chosen), strict=True)
    return torch.stack(pictures), [int(label) for label in labels]
