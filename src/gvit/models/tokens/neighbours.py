"""Any number of Gaussians as tokens: each with what is around it."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gvit.gaussians import NUM_FIELDS, Gaussians, canonical_features, visibility
from gvit.models.tokens.base import Reads, Tokenizer

_NEAREST = 8
_PAIR = 48  # width of what is known of the neighbours
_FREQUENCIES, _PAIR_FREQUENCIES = 6, 3
_GRID = 16  # a side of the learned positions
# What brings log-area, the two numbers of the shape, colour and opacity to about one scale: they begin with very
# different ones, which AdamW at a small rate takes long to make up for.
_MEANS = (-1.6, 0.0, 0.0, 0.5, 0.5, 0.5, 0.9)
_FACTORS = (0.9, 0.9, 2.0, 3.0, 3.0, 3.0, 5.0)
_LOOK = len(_MEANS)


class NeighbourTokens(Tokenizer):
    """One token per Gaussian, of what it and its nearest neighbours draw; any number, in any order.

    Reads raw numbers [B, K, 9] on a square canvas, in units of the spacing of K, or ``Gaussians``. As of canonical
    tokens, a Gaussian that is not drawn tells nothing, and raw numbers that draw the same give the same tokens.

    Neighbours are those whose centres are nearest. Each is seen from the Gaussian: its size, shape, colour and opacity,
    and where it lies, in units of the spacing and in units of the Gaussian's own standard deviations. One MLP reads all
    pairs; the mean and the largest value over the neighbours join the Gaussian's own numbers in a second MLP (as in
    PointNet++, Qi et al. 2017). The position embedding is a learned grid, sampled at the centre.

    Args:
        img_size: height and width, pixels, of the images that the Gaussians stand for.
        num_gaussians: the usual K.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing.
        embed_dim: width of the tokens.
    """

    kind = "neighbours"
    reads: ClassVar[Reads] = "gaussians"
    starts_with_vit = True
    any_number = True
    means: Tensor
    factors: Tensor

    def __init__(
        self, img_size: int = 224, num_gaussians: int = 512, scale_factor: float = 3.0, embed_dim: int = 384
    ) -> None:
        super().__init__()
        self.num_patches = num_gaussians
        self.scale_factor = scale_factor
        self.register_buffer("means", torch.tensor(_MEANS), persistent=False)
        self.register_buffer("factors", torch.tensor(_FACTORS), persistent=False)
        of_a_pair = 2 * _LOOK + 4 + 4 * _PAIR_FREQUENCIES
        self.pairs: nn.Sequential = nn.Sequential(
            nn.Linear(of_a_pair, 2 * _PAIR), nn.GELU(), nn.Linear(2 * _PAIR, _PAIR)
        )
        width = 2 + 4 * _FREQUENCIES + _LOOK + 2 * _PAIR
        self.proj: nn.Sequential = nn.Sequential(
            nn.Linear(width, 2 * embed_dim), nn.GELU(), nn.Linear(2 * embed_dim, embed_dim)
        )
        self.pos_embed: nn.Parameter = nn.Parameter(0.02 * torch.randn(1, embed_dim, _GRID, _GRID))

    @property
    def bounds(self) -> dict[str, Any]:
        return {"scale_factor": self.scale_factor, "nominal_count": self.num_patches}

    def conform(self, gaussians: Gaussians) -> Gaussians:
        """See ``Tokenizer``; nothing is cut."""
        # four times the canvas' side is no bound
        free = 4 * math.sqrt(gaussians.nominal_count)
        return self.in_slots(gaussians.with_bounds(scale_factor=free, aspect=1.0))

    def forward(self, inputs: Float[Tensor, "batch k fields"] | Gaussians) -> Float[Tensor, "batch k d"]:
        """See ``Tokenizer``."""
        raw = inputs.raw if isinstance(inputs, Gaussians) else inputs
        if raw.ndim != 3 or raw.shape[2] != NUM_FIELDS:
            raise ValueError(f"raw Gaussians must have shape [B, K, {NUM_FIELDS}], got {list(raw.shape)}")
        count = max(1, raw.shape[1])
        g = inputs if isinstance(inputs, Gaussians) else Gaussians(raw, self.scale_factor, count)
        visible, centers = visibility(g).unsqueeze(-1), g.centers
        # canonical_features has the visibility as a factor
        look = (canonical_features(g, 0)[..., 2:] - self.means * visible) * self.factors
        place = torch.cat((2 * centers, _waves(math.pi * centers, _FREQUENCIES)), -1) * visible
        tokens = self.proj(torch.cat((place, look, self._around(g, look, visible)), -1))
        grid = self.pos_embed.expand(centers.shape[0], -1, -1, -1)
        # at a place that is NaN, PyTorch's backward pass on the CPU ends the process
        places = centers.nan_to_num().unsqueeze(1)
        found = F.grid_sample(grid, places, align_corners=False, padding_mode="border")
        return tokens + found[:, :, 0].mT * visible

    def example(self) -> Tensor:
        return torch.empty(1, self.num_patches, NUM_FIELDS)

    def geometry(self) -> list[nn.Module]:
        return [self]

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}

    def _around(
        self, g: Gaussians, look: Float[Tensor, "batch k look"], visible: Float[Tensor, "batch k 1"]
    ) -> Float[Tensor, "batch k pair"]:
        """What is around each Gaussian; zeros for one that is alone."""
        centers = g.centers
        count = min(_NEAREST, centers.shape[1] - 1)
        if count < 1:
            return look.new_zeros(*look.shape[:2], 2 * _PAIR)
        far = torch.cdist(centers.detach(), centers.detach()) + 1e3 * (1 - visible.detach()).mT
        itself = torch.eye(centers.shape[1], dtype=torch.bool, device=centers.device)
        nearest = far.masked_fill_(itself, math.inf).topk(count, largest=False).indices  # [B, K, n]
        images = torch.arange(centers.shape[0], device=centers.device)[:, None, None]
        theirs, offsets = look[images, nearest], centers[images, nearest] - centers.unsqueeze(2)
        own = torch.einsum("bkij,bknj->bkni", _whitening(g), offsets).asinh()
        offsets = offsets / g.spacing
        mine = look.unsqueeze(2).expand_as(theirs)
        pair = torch.cat((mine, theirs, offsets, own, _waves(offsets, _PAIR_FREQUENCIES)), -1)
        seen = self.pairs(pair) * visible[images, nearest]
        return torch.cat((seen.mean(2), seen.amax(2)), -1) * visible


def _waves(numbers: Float[Tensor, "*batch n"], octaves: int) -> Float[Tensor, "*batch waves"]:
    """Sine and cosine of each number, of its double, and so on."""
    factors = 2.0 ** torch.arange(octaves, dtype=numbers.dtype, device=numbers.device)
    phases = (numbers.unsqueeze(-1) * factors).flatten(-2)
    return torch.cat((phases.sin(), phases.cos()), -1)


def _whitening(g: Gaussians) -> Float[Tensor, "batch k 2 2"]:
    """The symmetric inverse square root of the covariances, which unlike the axes is unique."""
    least = torch.eye(2, dtype=g.raw.dtype, device=g.raw.device) * (0.1 * g.spacing) ** 2
    covariances = g.covariances + least
    a, b, d = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]
    root = (a * d - b * b).sqrt()
    adjugate = torch.stack((torch.stack((d + root, -b), -1), torch.stack((-b, a + root), -1)), -2)
    return adjugate / (root * (a + d + 2 * root).sqrt())[..., None, None]
