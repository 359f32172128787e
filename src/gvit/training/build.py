"""From a configuration to a model and its optimizers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from gvit.errors import InputError, option, wording
from gvit.gaussians import Gaussians
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier
from gvit.models.card import Preprocessing
from gvit.models.pretrained import find_pretrained, general_start, is_on_hub
from gvit.models.registry import architecture, build, with_arguments
from gvit.models.weights import load_model
from gvit.training.config import AUTO, ModelConfig, OptimizerConfig, TrainConfig

Known = tuple[str, Architecture]


def build_model(
    config: TrainConfig,
    class_names: list[str],
    example: Gaussians | None = None,
    known: Known | None = None,
    initialize: bool = True,
) -> tuple[ImageClassifier, list[str]]:
    """The configured model, seeded, with its preprocessing and class names on its card.

    Args:
        config: the run's.
        class_names: of its data.
        example: Gaussians of one image of its data, where that holds Gaussians: a model that reads them has their
            number and their bound on the scales unless the configuration has others.
        known: name and architecture of the model, where the run has begun already.
        initialize: take over the weights of ``config.model.init``, too; a checkpoint makes that superfluous.

    Returns:
        The model, and a line for each setting without effect, for each part of it that did not start from random
        numbers, and for what it does not hold of the data.

    Raises:
        InputError: unusable configuration, or ``init`` has another encoder.
    """
    source = config.model.init
    initial = load_model(source) if source is not None and (initialize or known is None) else None
    notes: list[str] = []
    if known is not None:
        name, parts = known
    else:
        name, parts = _named(config.model, initial)
        parts, wanted, notes = _settings(config.model, name, parts)
        if initial is not None and initial.encoder is not None and parts.encoder is not None:
            notes += _keep_meaning(wanted, parts, Architecture.of(initial), source)
        if example is not None and parts.encoder is None and "num_gaussians" in parts.tokens:
            notes += _keep_bounds(wanted, example)
        parts = with_arguments(name, parts, **wanted)
    parts = parts.with_arguments(num_classes=len(class_names))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = build(name, parts)
    preprocessing = Preprocessing(model.img_size, config.data.crop_mode, config.data.crop_pct)
    model.card = replace(model.card, preprocessing=preprocessing, class_names=class_names)
    if source is not None and initial is not None and initialize:
        notes += start_from(model, initial, source)
    return model, notes


def settle_start(config: ModelConfig) -> tuple[ModelConfig, list[str]]:
    """The configuration with ``init`` as the name of one file, for good, where it names pretrained weights.

    Returns:
        It, and a line where ``auto`` found weights, or some that do not fit.

    Raises:
        InputError: a name with a checksum that is another file's now.
    """
    if config.init is None:
        return config, []
    if config.init != AUTO:
        name = config.init.as_posix()
        entry = None if config.init.is_absolute() or is_on_hub(name) else find_pretrained(name)
        return (config if entry is None else replace(config, init=Path(entry.pinned))), []
    scratch, entry = replace(config, init=None), general_start(config.model)
    if entry is None:
        return scratch, []
    if not _fits(scratch, load_model(entry.pinned)):
        return scratch, [f"{entry.name} does not fit this encoder, which starts from random numbers"]
    off = wording("init=None", "--init None")
    return replace(config, init=Path(entry.pinned)), [
        f"starts from {entry.name} ({off}: from random numbers)"
    ]


def _fits(config: ModelConfig, initial: ImageClassifier) -> bool:
    """Whether the configured model's encoder can take over another's weights."""
    name, parts = _named(config, None)
    parts, wanted, _ = _settings(config, name, parts)
    with torch.random.fork_rng(devices=[]):
        model = build(name, with_arguments(name, parts, **wanted))
    return _shapes(model.encoder) == _shapes(initial.encoder)


def _shapes(network: nn.Module | None) -> dict[str, torch.Size] | None:
    return None if network is None else {name: value.shape for name, value in network.state_dict().items()}


def _named(config: ModelConfig, initial: ImageClassifier | None) -> tuple[str, Architecture]:
    if config.model is not None:
        return config.model, architecture(config.model)
    if initial is not None:
        return initial.card.name, Architecture.of(initial)
    run, named = option("init", "RUN"), option("model", "NAME")
    raise InputError(f"no model: give {run} to start from that run's, or {named}")


def resolved(config: TrainConfig, model: ImageClassifier) -> TrainConfig:
    """The configuration with what it left to the named model, and to its phases, written out."""
    parts = Architecture.of(model)
    flat, name = parts.flat, config.model.model or model.card.name
    settings = {name: flat.get(name, value) for name, value in config.model.settings().items()}
    return replace(
        config,
        model=replace(config.model, model=name or None, **settings),
        # where they are given, phases are stretched from what they are: anything else would round otherwise
        schedule=replace(
            config.schedule,
            epochs=config.schedule.epochs or sum(config.schedule.phase_epochs()),
            min_steps=None,  # the epochs are as many as it takes
        ),
    )


def _settings(
    config: ModelConfig, name: str, parts: Architecture
) -> tuple[Architecture, dict[str, Any], list[str]]:
    """The architecture with the kinds that are set, the other settings that it has a use for, and notes on the rest."""
    given = {key: value for key, value in config.settings().items() if value is not None}
    if parts.encoder is None:  # nothing draws Gaussians
        unread = f"{name} reads pixels: what is set of Gaussians, their losses and guidance has no effect"
        used = {key: value for key, value in given.items() if parts.accepts(key, value)}
        return parts, used, [] if "num_gaussians" in parts.tokens else [unread]
    kinds = {key: given.pop(key) for key in ("encoder", "tokens") if key in given}
    parts = with_arguments(name, parts, **kinds)
    notes = [f"{option(key)} has no effect on {name} as it is set" for key in given if key not in parts.flat]
    return parts, {key: value for key, value in given.items() if key in parts.flat}, notes


def _keep_meaning(
    wanted: dict[str, Any], parts: Architecture, initial: Architecture, source: Path | None
) -> list[str]:
    """Settings that no weight has the shape of, but that an encoder learned with: its own unless others are given."""
    assert parts.encoder is not None
    assert initial.encoder is not None
    notes = []
    for name in ("scale_factor", "noise_std"):
        if name not in initial.encoder or name not in parts.encoder:
            continue
        theirs = initial.encoder[name]
        if wanted.setdefault(name, theirs) != theirs:
            notes.append(f"the encoder of {source} learned with {option(name, theirs)}, not {wanted[name]:g}")
    return notes


def _keep_bounds(wanted: dict[str, Any], example: Gaussians) -> list[str]:
    """The data's number of Gaussians and bound on their scales, unless others are given."""
    wanted.setdefault("num_gaussians", len(example))
    if wanted.setdefault("scale_factor", example.scale_factor) >= example.scale_factor:
        return []
    return [
        f"scales are cut to {wanted['scale_factor']:g} spacings, the data's reach to "
        f"{example.scale_factor:g}; {option('scale_factor', example.scale_factor)} keeps them"
    ]


def start_from(model: ImageClassifier, initial: ImageClassifier, source: Path) -> list[str]:
    """Copy the encoder, and the classifier where it has the same size; its head where it has the same classes, too.

    The exchange of ViT-S for ViT-B with the encoder kept, and the transfer to other classes (GViT paper, Section 3
    and Appendix A). Returns a line for each network.

    Raises:
        InputError: another kind of model or encoder.
    """
    same_classes = list(model.card.class_names) == list(initial.card.class_names)
    start = option("init", source)
    if (model.encoder is None) != (initial.encoder is None) or model.tokens.reads != initial.tokens.reads:
        raise InputError(f"{start}: is {initial.card.name}, which {model.card.name} cannot start from")
    if model.encoder is None or initial.encoder is None:
        return [_start_classifier(model, initial, source, model.card.name, same_classes)]
    if _shapes(model.encoder) != _shapes(initial.encoder):
        raise InputError(
            f"{start}: its encoder ({_size(initial)}) does not fit this model's ({_size(model)})"
        )
    model.encoder.load_state_dict(initial.encoder.state_dict())
    if initial.card.encoder_only:
        return [f"encoder from {source}, classifier new"]
    return [
        f"encoder from {source}",
        _start_classifier(model.classifier, initial.classifier, source, "classifier", same_classes),
    ]


def _size(model: ImageClassifier) -> str:
    encoder = model.encoder
    assert encoder is not None
    width = encoder.arguments["embed_dim"]
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


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, layer_decay: float | None
) -> torch.optim.AdamW:
    """AdamW over one network; the learning rate is set step by step, times a group's ``lr_scale``."""
    spared = list(network.no_weight_decay())  # type: ignore[operator]
    if layer_decay is None:
        groups = param_groups_weight_decay(network, config.weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(
            network, config.weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay
        )
    on_gpu = all(parameter.is_cuda for parameter in network.parameters())
    # one kernel instead of a dozen for each of many small tensors
    return torch.optim.AdamW(groups, lr=0.0, betas=(config.beta1, config.beta2), fused=on_gpu or None)
