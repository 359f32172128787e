"""Classes that have few images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from gvit.data.sources import SOURCES, Source, digits
from gvit.training.config import DataConfig, ModelConfig, ObjectiveConfig, ScheduleConfig, TrainConfig
from gvit.training.scaling import balanced_weights
from gvit.training.setup import set_up

LABELS = [0] * 24 + [1] * 6 + [2] * 2


@pytest.fixture(autouse=True)
def few_of_one(monkeypatch):
    def load(split, data_dir=None) -> Source:
        whole = digits.source(split)
        rows = [list(whole.labels).index(label) for label in range(3)]
        return Source(lambda i: whole.load(rows[LABELS[i]]), LABELS, whole.class_names[:3])

    monkeypatch.setitem(SOURCES, "few_of_one", load)


def test_weights_are_scikit_learns():
    labels = np.random.default_rng(0).choice(4, 50, p=(0.6, 0.3, 0.08, 0.02))
    present = np.unique(labels)
    expected = np.zeros(6)
    expected[present] = compute_class_weight("balanced", classes=present, y=labels)
    np.testing.assert_allclose(balanced_weights(labels.tolist(), 6), expected, rtol=1e-6)


@pytest.mark.parametrize("model", ["gvit_tiny_denoising", "vit_tiny_patch8"])
def test_every_class_counts_the_same_in_all(model):
    """By hand: the weighted loss of all images is the mean over classes of their mean losses."""
    config = TrainConfig(
        model=ModelConfig(model, num_gaussians=4 if model.startswith("gvit") else None),
        data=DataConfig("few_of_one", batch_size=32, crop_mode="squash", hflip=False, min_crop=1.0),
        schedule=ScheduleConfig(
            **{"reconstruct_epochs": 0, "perceptual_epochs": 0, "classify_epochs": 1, "guide_epochs": 0}
        ),
        objective=ObjectiveConfig(class_weights="balanced"),
    )
    setup = set_up(config)
    ((batch,),) = setup.feed.batches(0, 1, workers=0)
    network = setup.task.networks["classifier"]
    torch.nn.init.normal_(network.head.weight)
    setup.task.model.eval()
    found = setup.task.objective.backward(batch, setup.schedule.plan(0))["class_loss"]
    gradient = network.head.weight.grad.clone()
    with torch.enable_grad():
        inputs = batch.inputs
        if setup.task.model.encoder is not None:
            inputs = setup.task.model.encoder(inputs, batch.noise).detach()
        losses = F.cross_entropy(network(inputs), batch.labels, reduction="none")
        expected = torch.stack([losses[batch.labels == label].mean() for label in range(3)]).mean()
        network.zero_grad()
        expected.backward()
    torch.testing.assert_close(found, expected.detach())
    torch.testing.assert_close(gradient, network.head.weight.grad, rtol=1e-3, atol=1e-6)
    plain = set_up(replace(config, objective=ObjectiveConfig()))
    assert plain.task.objective.class_weights is None
