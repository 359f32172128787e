"""From a configuration to a model and its optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.card import ModelCard, Preprocessing
from gvit.models.encoder import GaussianEncoder
from gvit.models.gvit import GViT
from gvit.models.registry import ImageClassifier, create_model, list_models, load_model
from gvit.training.config import OptimizerConfig, TrainConfig

_ENCODER = {"encoder", "noise_std"}
_GAUSSIAN = _ENCODER | {"num_gaussians", "scale_factor", "tokens"}


def build_model(
    config: TrainConfig, class_names: list[str], initialize: bool = True, example: Gaussians | None = None
) -> tuple[ImageClassifier, list[str]]:
    """The configured model, seeded, with its preprocessing and class names on its card.

    Args:
        config: the run's.
        class_names: of its data.
        initialize: take over the weights of ``config.model.init``, too; a checkpoint makes that superfluous.
        example: Gaussians of one image of its data, where that holds Gaussians: a model that reads them has their
            number and their bound on the scales unless the configuration has others.

    Returns:
        The model, and a line for each part of it that did not start from random numbers, or that does not hold all
        of the data.

    Raises:
        InputError: unusable configuration, or ``init`` has another encoder.
    """
    source = config.model.init
    if config.model.model is None and source is None:
        raise InputError("no model: give --init RUN to start from that run's, or --model NAME")
    kwargs = config.model.kwargs()
    initial = None if source is None else load_model(source)
    name = config.model.model
    if name is None:
        assert initial is not None
        name, kwargs = initial.card.name, initial.card.kwargs | kwargs
    notes = []
    if name in list_models("vit_*"):
        kwargs = {key: value for key, value in kwargs.items() if key not in _GAUSSIAN}
        notes.append(
            f"{name} reads pixels: what is set of Gaussians, their losses and guidance has no effect"
        )
    if name in list_models("gvit_*") and isinstance(initial, GViT):
        notes += _keep_meaning(kwargs, initial.encoder, source)
    if name in list_models("gaussian_vit_*"):
        kwargs = {key: value for key, value in kwargs.items() if key not in _ENCODER}
        if example is not None:
            kwargs = {"num_gaussians": len(example), "scale_factor": example.scale_factor} | kwargs
            if kwargs["scale_factor"] < example.scale_factor:
                notes.append(
                    f"scales are cut to {kwargs['scale_factor']:g} spacings, the data's reach to "
                    f"{example.scale_factor:g}; --scale-factor {example.scale_factor:g} keeps them"
                )
    kwargs["num_classes"] = len(class_names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = create_model(name, **kwargs)
    preprocessing = Preprocessing(model.img_size, config.data.crop_mode, config.data.crop_pct)
    model.card = ModelCard(name, kwargs, preprocessing, class_names)
    if source is not None and initial is not None and initialize:
        notes += start_from(model, initial, source)
    return model, notes


def _keep_meaning(kwargs: dict[str, Any], encoder: GaussianEncoder, source: Path | None) -> list[str]:
    """Settings that no weight has the shape of, but that an encoder learned with: its own unless others are given."""
    notes = []
    for name in ("scale_factor", "noise_std"):
        theirs = getattr(encoder, name)
        if kwargs.setdefault(name, theirs) != theirs:
            flag = name.replace("_", "-")
            notes.append(f"the encoder of {source} learned with --{flag} {theirs:g}, not {kwargs[name]:g}")
    return notes


def start_from(model: ImageClassifier, initial: ImageClassifier, source: Path) -> list[str]:
    """Copy the encoder, and the classifier where it has the same size; its head where it has the same classes, too.

    The exchange of ViT-S for ViT-B with the encoder kept, and the transfer to other classes (GViT paper, Section 3
    and Appendix A). Returns a line for each network.

    Raises:
        InputError: another kind of model or encoder.
    """
    same_classes = list(model.card.class_names) == list(initial.card.class_names)
    if not isinstance(model, GViT) or not isinstance(initial, GViT):
        if type(model) is not type(initial):
            raise InputError(
                f"--init {source}: is {initial.card.name}, which {model.card.name} cannot start from"
            )
        return [_start_classifier(model, initial, source, model.card.name, same_classes)]
    ours, theirs = model.encoder.state_dict(), initial.encoder.state_dict()
    if {n: t.shape for n, t in ours.items()} != {n: t.shape for n, t in theirs.items()}:
        raise InputError(
            f"--init {source}: its encoder ({_size(initial)}) does not fit this model's ({_size(model)})"
        )
    model.encoder.load_state_dict(theirs)
    return [
        f"encoder from {source}",
        _start_classifier(model.classifier, initial.classifier, source, "classifier", same_classes),
    ]


def _size(model: GViT) -> str:
    encoder = model.encoder
    width = encoder.norm.normalized_shape[0]
    return f"{model.img_size} px, {encoder.num_gaussians} Gaussians, {encoder.kind}, width {width}"


def _start_classifier(
    network: nn.Module, initial: nn.Module, source: Path, name: str, same_classes: bool
) -> str:
    ours, theirs = network.state_dict(), initial.state_dict()
    body = {n for n in ours if not n.startswith("head.")}
    if not all(n in theirs and theirs[n].shape == ours[n].shape for n in body) or len(theirs) != len(ours):
        return f"{name} new: that of {source} has another size"
    same_head = same_classes and all(theirs[n].shape == ours[n].shape for n in ours)
    network.load_state_dict(theirs if same_head else {n: theirs[n] for n in body}, strict=same_head)
    return f"{name} from {source}" + ("" if same_head else ", its head new for other classes")


def build_optimizer(network: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over one network; the learning rate is set step by step, times a group's ``lr_scale``.

    The layer-wise decay is the classifier's: what the encoder learned to draw is not to be forgotten by layers.
    """
    spared = list(network.no_weight_decay())  # type: ignore[operator]
    if config.layer_decay is None or isinstance(network, GaussianEncoder):
        groups = param_groups_weight_decay(network, config.weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(
            network, config.weight_decay, no_weight_decay_list=spared, layer_decay=config.layer_decay
        )
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2))
