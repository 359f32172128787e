"""CUDA graphs: hundreds of small kernels started at once, where a GPU would wait for the CPU to start each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gvit.models.encoder import Drawing, GaussianEncoder

_MOST = 4  # graphs; each keeps the memory of its forward and backward pass


class GraphedTurns(nn.Module):
    """An encoder's turns, replayed as CUDA graphs: one for each size of the batch and number of Gaussians.

    The first sizes that come are recorded, and all others computed as ever, as is what comes without gradients. A
    replay is not told of numbers that can't be drawn: the objective looks at the Gaussians first.

    Args:
        encoder: on a GPU, of a kind that draws in turns.
    """

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.recorded: dict[Any, Any] = {}
        # a recording runs on a stream of its own, which later versions of PyTorch warn of
        silence = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if silence is not None:
            silence(False)

    def forward(
        self, images: Tensor, noise: Tensor | None = None, state: Drawing | None = None, **drawing: int | None
    ) -> Tensor | Drawing:
        """As the encoder's own."""
        if state is None or not torch.is_grad_enabled():
            return self.encoder(images, noise, state, **drawing)
        key = (images.shape, state.raw.shape)
        if key not in self.recorded:
            if len(self.recorded) == _MOST:
                return self.encoder(images, noise, state, **drawing)
            # its inputs become the graph's own memory: none may be another's
            inputs = tuple(tensor.detach().clone() for tensor in (images, *state))
            self.recorded[key] = torch.cuda.make_graphed_callables(_Turn(self.encoder), inputs)
        raw, *seen = self.recorded[key](images, *state)
        # what comes back is the graph's own memory, which the next turn overwrites; all of it claims to have a gradient
        return Drawing(raw.clone(), *(tensor.detach().clone() for tensor in seen))


class _Turn(nn.Module):
    """A turn of tensors alone; the graph needs to know whose parameters get gradients."""

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        drawing: Drawing = self.encoder(images, None, Drawing(*state))
        return tuple(drawing)
