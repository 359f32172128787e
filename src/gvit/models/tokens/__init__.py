"""What a transformer can read: one file per family of tokens."""

from gvit.models.tokens.base import Reads, Tokenizer
from gvit.models.tokens.gaussians import CanonicalTokens, GaussianTokens, RawTokens
from gvit.models.tokens.neighbours import NeighbourTokens
from gvit.models.tokens.patches import PatchTokens

TOKENIZERS: dict[str, type[Tokenizer]] = {
    cls.kind: cls for cls in (PatchTokens, CanonicalTokens, RawTokens, NeighbourTokens)
}

__all__ = [
    "TOKENIZERS",
    "CanonicalTokens",
    "GaussianTokens",
    "NeighbourTokens",
    "PatchTokens",
    "RawTokens",
    "Reads",
    "Tokenizer",
]
