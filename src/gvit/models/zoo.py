"""The models that have a name."""

from gvit.models.registry import register_model
from gvit.models.tokens import CanonicalTokens, PatchTokens

_TINY = {"img_size": 32, "embed_dim": 96, "depth": 3, "num_heads": 3, "mlp_ratio": 2.0}
_TINY_ENCODER = {"encoder_dim": 96, "encoder_depth": 3, "encoder_heads": 3}
_BASE = {"embed_dim": 768, "num_heads": 12}

register_model(
    "gvit_tiny",
    "for 32 px images on a laptop: 32 Gaussians, width 96, depth 3",
    CanonicalTokens,
    "denoising",
    patches="vit_tiny_patch8",
    frozen="gaussian_vit_tiny",
    patch_size=8,
    num_gaussians=32,
    **_TINY,
    **_TINY_ENCODER,
)
register_model(
    "gvit_small",
    "GViT-S: ViT-S encoder and ViT-S classifier, 512 Gaussians at 224 px (paper, Section 3)",
    CanonicalTokens,
    "denoising",
    patches="vit_small_patch16",
    frozen="gaussian_vit_small",
)
register_model(
    "gvit_base",
    "GViT-B: ViT-S encoder and ViT-B classifier, 512 Gaussians at 224 px (paper, Section 3)",
    CanonicalTokens,
    "denoising",
    patches="vit_base_patch16",
    frozen="gaussian_vit_base",
    **_BASE,
)

register_model(
    "gaussian_vit_tiny",
    "the classifier of gvit_tiny over given Gaussians",
    CanonicalTokens,
    num_gaussians=32,
    **_TINY,
)
register_model(
    "gaussian_vit_small", "the classifier of gvit_small over given Gaussians", CanonicalTokens
)
register_model(
    "gaussian_vit_base", "the classifier of gvit_base over given Gaussians", CanonicalTokens, **_BASE
)

register_model(
    "vit_tiny_patch8",
    "the classifier of gvit_tiny over the 16 patches of a 32 px image",
    PatchTokens,
    patch_size=8,
    **_TINY,
)
register_model("vit_small_patch16", "ViT-S/16 at 224 px", PatchTokens)
register_model("vit_small_patch32", "ViT-S/32 at 224 px", PatchTokens, patch_size=32)
register_model("vit_base_patch16", "ViT-B/16 at 224 px", PatchTokens, **_BASE)
register_model("vit_base_patch32", "ViT-B/32 at 224 px", PatchTokens, patch_size=32, **_BASE)
