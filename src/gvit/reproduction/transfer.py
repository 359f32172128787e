"""The paper's Table 2: models of all sizes, and their transfer to other data with the encoder frozen."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from gvit.recipes import load_recipe
from gvit.recipes.transfer import TRANSFER_DATA
from gvit.reproduction.jobs import Training
from gvit.reproduction.study import Claim, Row, Study, Target, change
from gvit.training.config import TrainConfig

Size = Literal["s", "b"]

# by model: ImageNet-1k, then what it is transferred to; the patch ViTs are those of Steiner et al. (2022)
_PAPER: dict[str, dict[str, float]] = {
    "vit_small_patch32": {
        "": 69.2, "cifar100": 86.4, "cub": 92.7, "sun397": 72.9, "flowers": 93.6, "pets": 91.2, "dtd": 70.7,
    },
    "vit_base_patch32": {
        "": 71.4, "cifar100": 87.6, "cub": 92.6, "sun397": 73.8, "flowers": 94.4, "pets": 92.2, "dtd": 72.7,
    },
    "vit_small_patch16": {
        "": 77.5, "cifar10": 97.9, "cifar100": 86.9, "cub": 93.1, "sun397": 74.3, "flowers": 95.7, "pets": 93.8,
        "dtd": 72.8,
    },
    "vit_base_patch16": {
        "": 78.7, "cifar10": 98.1, "cifar100": 87.8, "cub": 93.0, "sun397": 75.3, "flowers": 97.6, "pets": 93.2,
        "dtd": 77.8,
    },
    "GViT-S, no guidance": {
        "": 68.3, "cifar10": 92.3, "cifar100": 79.4, "cub": 86.3, "sun397": 63.9, "flowers": 89.3, "pets": 86.4,
        "dtd": 71.4,
    },
    "GViT-B, no guidance": {
        "": 73.6, "cifar10": 96.6, "cifar100": 85.7, "cub": 88.3, "sun397": 67.1, "flowers": 92.3, "pets": 92.2,
        "dtd": 71.9,
    },
    "GViT-S, guided": {
        "": 72.4, "cifar10": 95.3, "cifar100": 80.2, "cub": 88.5, "sun397": 65.9, "flowers": 94.8, "pets": 89.0,
        "dtd": 72.9,
    },
    "GViT-B, guided": {
        "": 76.9, "cifar10": 98.6, "cifar100": 87.7, "cub": 91.2, "sun397": 68.3, "flowers": 96.0, "pets": 94.5,
        "dtd": 73.4,
    },
}  # fmt: skip

_SMALL, _BASE = "gvit_small", "gvit_base"
# beside them, each with its size: whether it is transferred by the recipes of ViT-S or of ViT-B
_PATCH_MODELS: dict[str, Size] = {
    "vit_small_patch16": "s", "vit_small_patch32": "s", "vit_base_patch16": "b", "vit_base_patch32": "b"
}  # fmt: skip


def table2(study: Study) -> Target:
    """Models and their transfer (paper, Table 2).

    On digits, models learn 0 to 4 and are transferred to 5 to 9; elsewhere, to the data sets in ``transfer_dir``.
    """
    first = "0 to 4" if study.base.data.dataset == "digits" else ""
    rows: list[Row] = []
    for seed in study.seeds:
        for label, (training, size) in _models(study, seed).items():
            paper = _PAPER.get(label, {})
            rows.append(Row(f"{label}{first and ': '}{first}", training, seed, paper.get("")))
            for name, config in _transfers(study, training, size).items():
                rows.append(
                    Row(f"{label}: {name}", study.train(config, seed, training), seed, paper.get(name))
                )
    labels = list(dict.fromkeys(row.label for row in rows))
    claims = [
        Claim(
            f"guidance helps, {label.replace(', guided', '')}", label, label.replace("guided", "no guidance")
        )
        for label in labels
        if "guided" in label
    ]
    title = "Models and their transfer, encoder frozen"
    return Target("table2", title, rows, claims, "ImageNet-1k and transfer")


def _models(study: Study, seed: int) -> dict[str, tuple[Training, Size]]:
    """Patch ViTs and GViTs; ViT-B takes over the encoder that was trained with ViT-S (paper, Section 4)."""
    if study.base.data.dataset == "digits":
        study = replace(study, base=change(study.base, data={"dataset": "digits_0_4"}))
    kinds = {"no guidance": study.unguided, "guided": study.guided}
    if study.base.model.model != _SMALL:
        single = {str(study.patches.model.model): study.patches}
        single |= {f"GViT, {kind}": config for kind, config in kinds.items()}
        return {label: (study.train(config, seed), "s") for label, config in single.items()}
    found = {
        name: (study.train(change(study.patches, model={"model": name}), seed), size)
        for name, size in _PATCH_MODELS.items()
    }
    for kind, config in kinds.items():
        training = study.train(config, seed)
        found[f"GViT-S, {kind}"] = (training, "s")
        *_, classify, guide = config.schedule.phase_epochs()
        schedule = {
            "epochs": None,
            "reconstruct_epochs": 0.0,
            "perceptual_epochs": 0.0,
            "classify_epochs": classify,
            "guide_epochs": guide,
            "gamma": 0.05,
        }
        swapped = change(config, model={"model": _BASE, "init": training.folder}, schedule=schedule)
        found[f"GViT-B, {kind}"] = (study.train(swapped, seed, training), "b")
    return found


def _transfers(study: Study, training: Training, size: Size) -> dict[str, TrainConfig]:
    """What a trained model is fine-tuned on, by name."""
    base = study.base
    model = {
        "model": None,  # that of the training
        "init": training.folder,
        "num_gaussians": None,
        "scale_factor": None,
        "img_size": None,
    }
    if base.data.dataset == "digits":
        schedule = {
            # as many as the first training has; its phases alone would be fewer, and others for every kind
            "epochs": base.schedule.epochs or sum(base.schedule.phase_epochs()),
            "reconstruct_epochs": 0.0,
            "perceptual_epochs": 0.0,
            "guide_epochs": 0.0,
            "freeze_encoder": True,
        }
        return {"5 to 9": change(base, data={"dataset": "digits_5_9"}, model=model, schedule=schedule)}
    if study.transfer_dir is None:
        return {}
    found = {}
    for name in TRANSFER_DATA:
        if (study.transfer_dir / name).is_dir():
            config = replace(load_recipe(f"transfer_{name}_{size}"), compute=base.compute)
            found[name] = change(config, data={"data_dir": study.transfer_dir / name}, model=model)
    return found
