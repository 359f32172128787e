"""CUDA graphs: hundreds of small kernels started at once, where a GPU would wait for the CPU to start each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gvit.models.encoder import Drawing, GaussianEncoder

_MOST = 4  # graphs; each keeps the memory of its forward and backward pass


class GraphedTurns(nn.Module):
    """An encoder's turns, replayed as CUDA graphs: one for each size of the batch and number of Gaussians.

    The first sizes that come are recorded, and all others computed as ever, as is what comes under autocast or without
    gradients. A replay is not told of numbers that can't be drawn: the objective looks at the Gaussians first.

    Args:
        encoder: on a GPU, of a kind that draws in turns.
    """

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.recorded: dict[Any, Any] = {}

    def forward(
        self, images: Tensor, noise: Tensor | None = None, state: Drawing | None = None, **drawing: int | None
    ) -> Tensor | Drawing:
        """As the encoder's own."""
        graph = None
        if (
            state is not None
            and torch.is_grad_enabled()
            and not torch.is_autocast_enabled(images.device.type)
        ):
            key = (images.shape, state.raw.shape, images.dtype)
            if key not in self.recorded and len(self.recorded) < _MOST:
                # its inputs become the graph's own memory: none may be another's
                inputs = tuple(tensor.detach().clone() for tensor in (images, *state))
                self.recorded[key] = torch.cuda.make_graphed_callables(_Turn(self.encoder), inputs)
            graph = self.recorded.get(key)
        if graph is None:
            return self.encoder(images, noise, state, **drawing)
        # what comes back is the graph's own memory, which the next turn overwrites
        return Drawing(*(tensor.clone() for tensor in graph(images, *state)))


class _Turn(nn.Module):
    """A turn of tensors alone; the graph needs to know whose parameters get gradients."""

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(images, None, Drawing(*state)))
