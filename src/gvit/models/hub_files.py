"""What stands beside the weights in a folder or on the Hub: the model card, and timm's ``config.json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gvit.errors import InputError, first_line, printable, wording

CARD_NAME, CONFIG_NAME, EVALUATION_NAME = "README.md", "config.json", "evaluation.json"
_MARK = "<!-- Written by gvit, and written again with the model; without this line it stays as it is. -->"
_MEASURES = {
    "top1": ("top-1", "%", 100),
    "top5": ("top-5", "%", 100),
    "psnr": ("PSNR", "dB", 1),
    "ssim": ("SSIM", "", 1),
}
_DRAWN = {"num_gaussians": "Gaussians", "looks": "looks"}


@dataclass(frozen=True)
class Told:
    """What a model card says that the model does not know.

    Attributes:
        title: of the page.
        place: what ``gvit.load_model`` is given.
        about: Markdown.
        license: by the Hub's name of it.
        evaluation: an ``evaluation.json``, or its folder.
    """

    title: str
    place: str
    about: str = ""
    license: str | None = None
    evaluation: str | Path | None = None

    def card(self, model: Any) -> str:
        """Markdown, with what the Hub reads at its beginning.

        Raises:
            InputError: the evaluation is not there, is damaged, or is another model's.
        """
        from huggingface_hub import ModelCardData

        alone = model.card.encoder_only or not model.num_classes
        task = "image-feature-extraction" if alone else "image-classification"
        front = ModelCardData(
            library_name="gvit",
            license=self.license,
            pipeline_tag=task,
            tags=[
                "gvit",
                "gaussian-splatting",
                *(["timm"] if model.encoder is not None and model.card.name else []),
            ],
        )
        facts = "\n".join(f"| {name} | {_cell(value)} |" for name, value in model.facts().items())
        parts = [
            f"---\n{front.to_yaml()}\n---",
            _MARK,
            f"# {printable(self.title)}",
            self.about.strip(),
            f"| | |\n| --- | --- |\n{facts}",
            f"## Use\n\n```python\n{self._example(model)}\n```",
            _numbers(model, self.evaluation),
            f"## Licence\n\n{self.license}" if self.license else "",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _example(self, model: Any) -> str:
        lines = ["import gvit", "", f"model = gvit.load_model({json.dumps(self.place)})"]
        if model.reads == "gaussians":
            lines += ['logits = model.classify(gvit.Gaussians.load("image.safetensors")[None])']
        elif model.card.encoder_only or not model.num_classes:
            side = model.img_size
            lines = ["import torch", *lines, f"images = torch.rand(1, 3, {side}, {side})  # values in [0, 1]"]
            lines += [f"features = model{'.encode' if model.encoder is not None else ''}(images)"]
        else:
            lines += ['print(gvit.predict(model, "image.jpg")[0][0])']
        return "\n".join(lines)


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")


def _numbers(model: Any, place: str | Path | None) -> str:
    """The measures of an ``evaluation.json`` as a table."""
    if place is None:
        return ""
    file = Path(place) / EVALUATION_NAME if Path(place).is_dir() else Path(place)
    try:
        found = json.loads(file.read_text())
        names = [str(name) for name in found["class_names"]]
        rows = [
            f"| {called} | {factor * float(found[key]):.{2 if factor > 1 else 3}f} {unit}".rstrip() + " |"
            for key, (called, unit, factor) in _MEASURES.items()
            if found[key] is not None
        ]
        count = int(found["num_images"])
        drawn = [f"{int(found[key])} {what}" for key, what in _DRAWN.items() if found.get(key) is not None]
    except FileNotFoundError:
        writes = wording("gvit.training.report.assess", "'gvit evaluate'")
        raise InputError(f"{file}: not found; {writes} writes it") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: damaged, or no evaluation of gvit's ({first_line(error)})") from error
    known = list(model.card.class_names) or names
    if not model.card.encoder_only and (known != names or len(names) != model.num_classes):
        raise InputError(f"{file}: is of a model with other classes")
    told = f", with {' and '.join(drawn)}" if drawn else ""
    return f"## Numbers\n\nOn {count} test images{told}.\n\n| | |\n| --- | --- |\n" + "\n".join(rows)


def config(model: Any) -> str:
    """``config.json`` as timm reads it, so that ``timm.create_model("hf-hub:OWNER/NAME")`` builds the same model."""
    architecture = import_module("gvit.models.architecture").Architecture.of(model).flat
    cfg = dict(model.pretrained_cfg)
    name, num_classes = cfg.pop("architecture"), cfg.pop("num_classes")
    registry = import_module("gvit.models.registry")
    named = registry.registered(name).architecture.flat if name in registry.list_models() else {}
    names = cfg.pop("label_names", None)
    # what a classifier that has learned nothing answers gets no name
    labels = {} if names is None or model.card.encoder_only else {"label_names": names}
    described = {
        "architecture": name,
        "num_classes": num_classes,
        "num_features": model.classifier.num_features,
        **labels,
        "model_args": {
            key: value for key, value in architecture.items() if key not in named or named[key] != value
        },
        "pretrained_cfg": cfg,
    }
    return json.dumps(described, indent=2) + "\n"


def is_saved_config(file: Path) -> bool:
    """Whether a ``config.json`` is such a one, and not a run's or anybody else's."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"architecture", "pretrained_cfg"} <= found.keys()


def is_generated(file: Path) -> bool:
    """Whether a model card is not there, or is as gvit wrote it, for all that its mark says.

    Raises:
        InputError: it can't be read, or is a folder.
    """
    try:
        return not file.exists() or _MARK in file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
