"""What a transformer can read: one file per family of tokens."""

from gvit.models.tokens.base import Reads, Tokenizer
from gvit.models.tokens.gaussians import CanonicalTokens, GaussianTokens, PlacedTokens, RawTokens
from gvit.models.tokens.patches import PatchTokens

TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (PatchTokens, CanonicalTokens, RawTokens, PlacedTokens)
}

__all__ = [
    "TOKENIZERS",
    "CanonicalTokens",
    "GaussianTokens",
    "PatchTokens",
    "PlacedTokens",
    "RawTokens",
    "Reads",
    "Tokenizer",
]
