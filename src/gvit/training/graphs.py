"""CUDA graphs: hundreds of small kernels started at once, where a GPU would wait for the CPU to start each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gvit.models.encoder import Drawing, GaussianEncoder

_MOST = 4  # graphs; each keeps the memory of its forward and backward pass


class GraphedTurns(nn.Module):
    """An encoder's turns, replayed as CUDA graphs: one for each size of the batch and number of Gaussians.

    The first sizes that come are recorded, and all others computed as ever. What comes without gradients is replayed
    where it has been recorded; only an encoder that learns nothing is recorded for that. A replay is not told of
    numbers that can't be drawn: who calls it looks at the Gaussians. What a turn's backward pass needs lies where the
    next turn of the same size writes, with gradients or without.

    Args:
        encoder: on a GPU, of a kind that draws in turns.
    """

    def __init__(self, encoder: GaussianEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen: bool = not any(parameter.requires_grad for parameter in encoder.parameters())
        self.recorded: dict[Any, Any] = {}
        # a recording runs on a stream of its own, which later versions of PyTorch warn of
        silence = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
        if silence is not None:
            silence(False)

    def forward(
        self, images: Tensor, noise: Tensor | None = None, state: Drawing | None = None, **drawing: int | None
    ) -> Tensor | Drawing:
        """As the encoder's own."""
        if state is not None:
            return self._turn(images, noise, state)
        if not self.frozen:
            return self.encoder(images, noise, **drawing)
        state = self.encoder.begin(images, noise, drawing.get("num_gaussians"))
        turns = drawing.get("turns")
        for _ in range(self.encoder.turns if turns is None else turns):
            state = self._turn(images, noise, state)
        return state.raw

    def _turn(self, images: Tensor, noise: Tensor | None, state: Drawing) -> Drawing:
        key = (images.shape, state.raw.shape)
        recordable = len(self.recorded) < _MOST and (self.frozen or torch.is_grad_enabled())
        if key not in self.recorded and not recordable:
            return self.encoder(images, noise, state)
        if key not in self.recorded:
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
