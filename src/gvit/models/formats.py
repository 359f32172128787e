"""Files of before: gvit's first version wrote down only what differed from its defaults of then."""

from __future__ import annotations

from typing import Any

_VIT = {"num_classes": 1000, "pool": "token", "embed_dim": 384, "depth": 12, "num_heads": 6}
_VIT |= {"mlp_ratio": 4.0, "drop_path_rate": 0.0, "img_size": 224}
_GAUSSIANS = {"num_gaussians": 512, "scale_factor": 1.0, "tokens": "canonical"}
_ENCODER = {"encoder": "denoising", "encoder_dim": 384, "encoder_depth": 12, "encoder_heads": 6}
_ENCODER |= {"patch_size": 16, "in_chans": 3, "noise_std": 0.1, "noise_seed": 0}
_PATCHES = {"tokens": "patches", "patch_size": 16, "in_chans": 3}
_TINY = {"img_size": 32, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
_TINY_ENCODER = {"encoder_dim": 96, "encoder_depth": 3, "encoder_heads": 3, "patch_size": 8}
_BASE = {"embed_dim": 768, "num_heads": 12}

# All arguments of the first version's models. They are history: nothing here follows a change of a default.
_FIRST: dict[str, dict[str, Any]] = {
    "gvit_tiny": _VIT | _GAUSSIANS | _ENCODER | _TINY | _TINY_ENCODER | {"num_gaussians": 32},
    "gvit_small": _VIT | _GAUSSIANS | _ENCODER,
    "gvit_base": _VIT | _GAUSSIANS | _ENCODER | _BASE,
    "gaussian_vit_tiny": _VIT | _GAUSSIANS | _TINY | {"num_gaussians": 32},
    "gaussian_vit_small": _VIT | _GAUSSIANS,
    "gaussian_vit_base": _VIT | _GAUSSIANS | _BASE,
    "vit_tiny_patch8": _VIT | _PATCHES | _TINY | {"patch_size": 8},
    "vit_small_patch16": _VIT | _PATCHES,
    "vit_small_patch32": _VIT | _PATCHES | {"patch_size": 32},
    "vit_base_patch16": _VIT | _PATCHES | _BASE,
    "vit_base_patch32": _VIT | _PATCHES | _BASE | {"patch_size": 32},
}

_TODAY = {"gvit_tiny": "gvit_tiny_denoising"}  # under its old name there is another model now
_TOKENS = ("img_size", "embed_dim")
_VIT_NAMES = ("num_classes", "pool", "depth", "num_heads", "mlp_ratio", "drop_path_rate")


def first_arguments(name: str) -> dict[str, Any]:
    """All arguments of a model of the first version, by the names of ``gvit.create_model``.

    Raises:
        KeyError: it had no such model.
    """
    return _FIRST[name]


def from_first_format(described: dict[str, Any]) -> dict[str, Any]:
    """What a file of the first version says of its model, as one of the second says it.

    Raises:
        KeyError: the first version had no such model.
    """
    arguments = first_arguments(described["name"]) | described["kwargs"]
    encoder = None
    if "encoder" in arguments:
        queries = arguments["encoder"] == "queries"
        shared = ("img_size", "patch_size", "in_chans", "num_gaussians", "scale_factor", "mlp_ratio")
        encoder = {
            "kind": arguments["encoder"],
            "embed_dim": arguments["encoder_dim"],
            "depth": arguments["encoder_depth"],
            "num_heads": arguments["encoder_heads"],
            **{
                name: arguments[name] for name in (*shared, *([] if queries else ("noise_std", "noise_seed")))
            },
        }
    of_tokens = (
        ("patch_size", "in_chans") if arguments["tokens"] == "patches" else ("num_gaussians", "scale_factor")
    )
    tokens = {"kind": arguments["tokens"]} | {name: arguments[name] for name in (*_TOKENS, *of_tokens)}
    return {
        "format": 2,
        "name": _TODAY.get(described["name"], described["name"]),
        "architecture": {
            "encoder": encoder,
            "tokens": tokens,
            "vit": {name: arguments[name] for name in _VIT_NAMES},
        },
        "preprocessing": described["preprocessing"],
        "class_names": described["class_names"],
    }
