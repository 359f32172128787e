"""The named models, as plain data: what timm is told of them must not wait for torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Named:
    """A named model; see ``gvit.models.registry.register_model``.

    Attributes:
        about: what it is, in a line.
        tokens: kind of what its transformer reads.
        encoder: kind of the encoder before it; None for none.
        patches: name of the patch ViT with the same transformer, which it is to be compared with.
        frozen: name of its classifier alone, over Gaussians that stand still.
        arguments: of its parts that differ from their defaults.
    """

    about: str
    tokens: str
    encoder: str | None = None
    patches: str | None = None
    frozen: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


_TINY: dict[str, Any] = {"img_size": 32, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
_TINY_ENCODER: dict[str, Any] = {"encoder_dim": 96, "encoder_depth": 3, "encoder_heads": 3}
_BASE: dict[str, Any] = {"embed_dim": 768, "num_heads": 12}

NAMED: dict[str, Named] = {
    "gvit_tiny": Named(
        "for 32 px images on a laptop: 32 Gaussians by twelve looks, or any number; width 96, depth 3",
        "neighbours",
        "refining",
        patches="vit_tiny_patch8",
        frozen="gaussian_vit_tiny_any",
        arguments=_TINY | {"num_gaussians": 32, "scale_factor": 3.0, "encoder_dim": 64},
    ),
    "gvit_tiny_denoising": Named(
        "gvit_tiny with the paper's encoder: 32 Gaussians at once",
        "canonical",
        "denoising",
        patches="vit_tiny_patch8",
        frozen="gaussian_vit_tiny",
        arguments=_TINY | _TINY_ENCODER | {"patch_size": 8, "num_gaussians": 32},
    ),
    "gvit_small": Named(
        "GViT-S: ViT-S encoder and ViT-S classifier, 512 Gaussians at 224 px (paper, Section 3)",
        "canonical",
        "denoising",
        patches="vit_small_patch16",
        frozen="gaussian_vit_small",
    ),
    "gvit_small_refining": Named(
        "GViT-S with an encoder that looks at its own picture, for any number of Gaussians",
        "neighbours",
        "refining",
        patches="vit_small_patch16",
        frozen="gaussian_vit_small_any",
        arguments={"scale_factor": 3.0, "encoder_dim": 96},
    ),
    "gvit_base": Named(
        "GViT-B: ViT-S encoder and ViT-B classifier, 512 Gaussians at 224 px (paper, Section 3)",
        "canonical",
        "denoising",
        patches="vit_base_patch16",
        frozen="gaussian_vit_base",
        arguments=_BASE,
    ),
    "gaussian_vit_tiny": Named(
        "the classifier of gvit_tiny_denoising over given Gaussians",
        "canonical",
        arguments=_TINY | {"num_gaussians": 32},
    ),
    "gaussian_vit_tiny_any": Named(
        "the classifier of gvit_tiny over given Gaussians",
        "neighbours",
        arguments=_TINY | {"num_gaussians": 32, "scale_factor": 3.0},
    ),
    "gaussian_vit_small": Named(
        "the classifier of gvit_small over given Gaussians",
        "canonical",
    ),
    "gaussian_vit_small_any": Named(
        "the classifier of gvit_small_refining over given Gaussians",
        "neighbours",
        arguments={"scale_factor": 3.0},
    ),
    "gaussian_vit_base": Named(
        "the classifier of gvit_base over given Gaussians",
        "canonical",
        arguments=_BASE,
    ),
    "vit_tiny_patch4": Named(
        "the classifier of gvit_tiny over the 64 patches of a 32 px image",
        "patches",
        arguments=_TINY | {"patch_size": 4},
    ),
    "vit_tiny_patch8": Named(
        "the classifier of gvit_tiny over the 16 patches of a 32 px image",
        "patches",
        arguments=_TINY | {"patch_size": 8},
    ),
    "vit_small_patch16": Named(
        "ViT-S/16 at 224 px",
        "patches",
    ),
    "vit_small_patch32": Named(
        "ViT-S/32 at 224 px",
        "patches",
        arguments={"patch_size": 32},
    ),
    "vit_base_patch16": Named(
        "ViT-B/16 at 224 px",
        "patches",
        arguments=_BASE,
    ),
    "vit_base_patch32": Named(
        "ViT-B/32 at 224 px",
        "patches",
        arguments=_BASE | {"patch_size": 32},
    ),
}
