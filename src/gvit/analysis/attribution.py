"""Which Gaussians a class is decided by."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gvit.gaussians import Gaussians
from gvit.models.gvit import GViT


def cdam(
    model: GViT, gaussians: Gaussians, classes: Int[Tensor, " batch"] | None = None
) -> Float[Tensor, "batch k"]:
    """Class-discriminative attention maps (Brocki et al. 2023), a signed score for each Gaussian.

    ``S_i = sum_j t_ij * d f_c / d t_ij`` with t the tokens that go into the last block's attention, after its first
    norm (GViT paper, Section 4); the class token has no score.

    Args:
        model: stays as it is, its mode included.
        gaussians: raw [B, K, 9], as ``model.encode`` gives them.
        classes: c of each image; the most probable class when None.
    """
    classifier = model.classifier
    tokens: list[Tensor] = []

    def start_here(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        tokens.append(output.detach().requires_grad_())
        return tokens[0]

    was_training = classifier.training
    classifier.eval()
    handle = classifier.blocks[-1].get_submodule("norm1").register_forward_hook(start_here)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = classifier(gaussians.raw.detach().clone())
            chosen = logits.argmax(-1) if classes is None else classes.to(logits.device)
            (slopes,) = torch.autograd.grad(logits.gather(-1, chosen.unsqueeze(-1)).sum(), tokens[0])
    finally:
        handle.remove()
        classifier.train(was_training)
    scores = (tokens[0].detach() * slopes).sum(-1)
    return scores[:, classifier.num_prefix_tokens :]


def project_on_grid(
    scores: Float[Tensor, "batch k"], gaussians: Gaussians, size: int = 16
) -> Float[Tensor, "batch size size"]:
    """The sum of the scores of the Gaussians with their centre in a cell, 0 where there is none (paper, Section 4).

    Args:
        scores: one a Gaussian.
        gaussians: raw [B, K, 9].
        size: cells along each side of the canvas.
    """
    extent = gaussians.raw.new_tensor(gaussians.extent)
    cells = ((gaussians.centers / extent + 1) / 2 * size).long().clamp(0, size - 1)
    grid = scores.new_zeros(len(scores), size * size)
    return grid.scatter_add(1, cells[..., 1] * size + cells[..., 0], scores).unflatten(1, (size, size))


def relevance_of_small_ones(
    scores: Float[Tensor, "batch k"], gaussians: Gaussians
) -> Float[Tensor, " batch"]:
    """Spearman's rank correlation, over each image's Gaussians, of ``-det(Sigma)`` and ``|score|``.

    The paper takes a small determinant for a sign of importance (Section 4): 1 where that holds without exception, 0
    where the one says nothing about the other.
    """
    from scipy.stats import spearmanr

    pairs = zip(-gaussians.determinants.detach().cpu(), scores.abs().cpu(), strict=True)
    return torch.tensor([spearmanr(small.numpy(), score.numpy()).statistic for small, score in pairs])
