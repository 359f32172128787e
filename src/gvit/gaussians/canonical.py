"""What is drawn of Gaussians, as numbers for a network."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gvit.gaussians.batch import Gaussians
from gvit.gaussians.fields import SCALE, VISIBLE_OPACITY

_THINNEST = 0.01  # spacings: what is much thinner looks like it, at any size that is drawn


def num_canonical_features(num_frequencies: int) -> int:
    """Width of ``canonical_features``."""
    return 9 + 4 * num_frequencies


def visibility(gaussians: Gaussians) -> Float[Tensor, "*batch k"]:
    """1 where a Gaussian is drawn, falling to 0 as its opacity falls from 2/255 to the 1/255 below which it is not."""
    return (gaussians.opacities / VISIBLE_OPACITY - 1).clamp(0, 1)


def canonical_features(gaussians: Gaussians, num_frequencies: int = 4) -> Float[Tensor, "*batch k features"]:
    """What is drawn, and nothing else, as numbers for a network.

    Per Gaussian: centre, its Fourier features (sine and cosine of ``pi 2^f`` times each coordinate), log-area in
    units of the spacing, ``log(s1/s2) * (cos 2a, sin 2a)``, colour, opacity. The raw numbers can hide things from
    the renderer (an angle plus pi, a swap of the axes with a quarter turn, the colour of an invisible Gaussian, by
    how much one is thinner than a pixel); these can't: raw vectors that draw the same picture give the same features,
    and all features of a Gaussian fade to zero as its opacity falls from 2/255 to the 1/255 below which it is not
    drawn. The standard deviations s1 and s2 have a hundredth of the spacing added, as squares, so that the features
    end where the picture does.
    """
    raw = gaussians.raw
    centers, opacities = gaussians.centers, gaussians.opacities
    # logsigmoid instead of log(sigmoid): finite for every raw number
    log_scales = F.logsigmoid(raw[..., SCALE]) + math.log(gaussians.scale_factor)
    least = math.log(_THINNEST)
    log_scales = least + F.softplus(2 * (log_scales - least)) / 2
    log_ratio = log_scales[..., 0] - log_scales[..., 1]
    doubled = 2 * gaussians.angles
    octaves = math.pi * 2.0 ** torch.arange(num_frequencies, dtype=raw.dtype, device=raw.device)
    phases = (centers.unsqueeze(-1) * octaves).flatten(-2)
    features = torch.cat(
        (
            centers,
            phases.sin(),
            phases.cos(),
            log_scales.sum(-1, keepdim=True),
            (log_ratio * doubled.cos()).unsqueeze(-1),
            (log_ratio * doubled.sin()).unsqueeze(-1),
            gaussians.colors,
            opacities.unsqueeze(-1),
        ),
        -1,
    )
    return features * visibility(gaussians).unsqueeze(-1)
