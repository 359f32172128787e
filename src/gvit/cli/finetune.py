"""gvit finetune: a trained model goes on with other images."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from gvit.cli.lengths import with_given_phases, with_its_warmup
from gvit.cli.parsing import flags_of, parse
from gvit.cli.train import Output, start_run
from gvit.errors import InputError, unknown_name
from gvit.recipes.transfer import TRANSFER_DATA, Mode, finetune
from gvit.training.config import TrainConfig

_LARGE = 768  # width of a ViT-B, for which the paper has values of its own


@dataclass(frozen=True)
class Choice:
    """What decides the values that all the other flags begin with.

    Attributes:
        run: run folder, model.safetensors file, or pretrained model to start from.
        mode: classifier: the encoder stands still (the paper's transfer); all: it goes on to learn, too.
        recipe: the paper's values for one of its data sets (cub, flowers, pets, ...); else values that fit the
            number of images.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help_behavior_hint="(required)")]
    mode: Literal["classifier", "all"] = "classifier"
    recipe: str | None = None


@dataclass(frozen=True)
class NewRun:
    """A choice, and what it lets be changed."""

    choice: Choice
    output: Output
    config: TrainConfig


def run(args: list[str]) -> int:
    """Train and print the result."""
    choice = _choose(args)
    helping = "-h" in args or "--help" in args
    config = with_given_phases(_defaults(choice, helping), args)
    new = parse(
        NewRun,
        args,
        "gvit finetune",
        default=NewRun(choice, Output(), config),
        description=(
            "Go on with a trained model on other images.\n\n"
            "Model and preprocessing are those of RUN, but for the crop of --recipe.\n\n"
            "A head for other classes is new.\n\n"
            "Below are the values that RUN, --mode and --recipe lead to; all can be changed.\n\n"
            "Example: gvit finetune cifar10 --data-dir photos --out runs/photos\n\n"
            "Interrupted? Go on with: gvit train --resume runs/photos"
        ),
    )
    if new.choice != choice:  # values of a flag were taken for RUN
        raise InputError(f"give RUN first: gvit finetune {new.choice.run} ...")
    changed = with_its_warmup(new.config, config, args)
    return start_run(changed, new.output, "finetuned" if choice.recipe is None else choice.recipe)


def _choose(args: list[str]) -> Choice:
    """RUN, --mode and --recipe, which have to be known before the other flags' values are."""
    found: dict[str, str] = {}
    known, words = flags_of(NewRun), iter(args)
    for word in words:
        flag, equals, attached = word.partition("=")
        if flag in ("--mode", "--recipe"):
            found[flag[2:]] = attached if equals else next(words, "")
        elif word.startswith("-"):
            switch = flag.replace("_", "-")
            # a switch takes no value
            if not equals and switch in known and f"--no-{switch[2:]}" not in known and "--no-" not in switch:
                next(words, None)
        else:
            found.setdefault("run", word)
    if found.get("recipe") not in (None, *TRANSFER_DATA):
        raise unknown_name("recipe for fine-tuning", found["recipe"], TRANSFER_DATA)
    if found.get("mode", "all") not in ("classifier", "all"):
        raise InputError(f"--mode must be one of all, classifier, got {found['mode']}")
    mode: Mode = "all" if found.get("mode") == "all" else "classifier"
    return Choice(found.get("run", ""), mode, found.get("recipe"))


def _defaults(choice: Choice, helping: bool) -> TrainConfig:
    mode: Mode = choice.mode
    if not choice.run:
        if helping:
            return finetune("RUN", mode, choice.recipe)
        raise InputError("missing RUN; see 'gvit finetune --help'")
    from gvit.models.weights import load_model

    model = load_model(choice.run)
    size: Literal["s", "b"] = "b" if model.classifier.num_features >= _LARGE else "s"
    config = finetune(choice.run, mode, choice.recipe, size)
    if choice.recipe is None:
        seen = model.card.preprocessing
        config = replace(config, data=replace(config.data, crop_mode=seen.crop_mode, crop_pct=seen.crop_pct))
    if model.card.encoder_only:  # its classifier is new: no layer of it has anything to forget
        config = replace(config, optimizer=replace(config.optimizer, layer_decay=None))
    return config
