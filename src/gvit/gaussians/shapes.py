"""The shape of a Gaussian: its covariance, and its axes under a linear map."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.gaussians.precision import full_precision


def build_covariances(
    scales: Float[Tensor, "*batch 2"], angles: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 2 2"]:
    """Covariance matrices ``R S S^T R^T`` (GViT paper, Section 2.1).

    Args:
        scales: standard deviations along the two axes, in any length unit, positive.
        angles: radians from +x towards +y of the first axis.

    Returns:
        Symmetric matrices in the unit of the scales, squared.
    """
    cos, sin = angles.cos(), angles.sin()
    first, second = scales.square().unbind(-1)
    xx = first * cos * cos + second * sin * sin
    yy = first * sin * sin + second * cos * cos
    xy = (first - second) * sin * cos
    return torch.stack((xx, xy, xy, yy), -1).unflatten(-1, (2, 2))


def map_axes(
    covariances: Float[Tensor, "*batch k 2 2"],
    scales: Float[Tensor, "*batch k 2"],
    angles: Float[Tensor, "*batch k"],
    matrix: Float[Tensor, "*#batch 2 2"],
) -> tuple[Float[Tensor, "*batch k 2"], Float[Tensor, "*batch k"]]:
    """Standard deviations and angles after a linear map, whatever the bounds.

    Args:
        covariances: of the scales and angles.
        scales: standard deviations along the two axes, in any length unit.
        angles: radians from +x towards +y of the first axis.
        matrix: invertible; one for all images, or one for each.

    Returns:
        The first axis is the one nearest to where the map takes it, and its angle moves by no more than a quarter turn.
        What becomes round keeps where the map takes it.
    """
    each = matrix.unsqueeze(-3)  # the same map for all Gaussians of an image
    with full_precision(covariances.device):
        covariances = each @ covariances @ each.mT
        first = torch.stack((angles.cos(), angles.sin()), -1) @ matrix.mT
    xx, xy, yy = covariances[..., 0, 0], covariances[..., 0, 1], covariances[..., 1, 1]
    half = (xx - yy) / 2
    # no axis is longer, and none has a direction: neither has a derivative
    is_round = torch.hypot(half, xy).detach() <= 4 * torch.finfo(xx.dtype).eps * (xx + yy)
    half = torch.where(is_round, 1, half)
    long = ((xx + yy) / 2 + torch.where(is_round, 0, torch.hypot(half, xy))).sqrt()
    # from the determinant: in a difference of eigenvalues, the width of a thin Gaussian would drown
    short = scales.prod(-1) * torch.linalg.det(matrix).abs().unsqueeze(-1) / long
    long_angle = torch.where(is_round, torch.atan2(first[..., 1], first[..., 0]), torch.atan2(xy, half) / 2)
    along = (first[..., 0] * long_angle.cos() + first[..., 1] * long_angle.sin()).square()
    stays_long = along >= first.square().sum(-1) / 2
    mapped = torch.where(stays_long, long_angle, long_angle + math.pi / 2)
    mapped = mapped + math.pi * ((angles - mapped) / math.pi).round()
    in_order = torch.stack((long, short), -1), torch.stack((short, long), -1)
    return torch.where(stays_long.unsqueeze(-1), *in_order), mapped
