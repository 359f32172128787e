"""What the backends have in common: one ``torch.library`` operator each, with one signature and one backward.

Both have fake kernels, so ``torch.compile`` and ``torch.export`` go through them without looking inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gvit.rendering.values import explain

_SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


class Constants(NamedTuple):
    """The constants of ``gvit.rendering.rasterize``, described there."""

    blur: float = 0.3
    alpha_max: float = 0.999
    alpha_min: float = 1 / 255
    transmittance_min: float = 1e-4

    def for_float32(self) -> Constants:
        """The same, with a transmittance of 1.2e-38 at the least: float32 numbers below it have fewer digits.

        A backward pass that recovers the transmittance by division would make much of what they lack.
        """
        return self._replace(transmittance_min=max(self.transmittance_min, _SMALLEST_NORMAL))


# image [B, C, H, W]; alpha [B, H, W]; for the backward pass transmittance [B, H, W], what is left of the
# background, and index [B, H, W] of the Gaussian that stopped the pixel, K if none did
Rendered = tuple[Tensor, Tensor, Tensor, Tensor]
# for centres, covariances, colours, opacities, background
Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]

_INPUTS = "Tensor centers, Tensor covariances, Tensor colors, Tensor opacities, Tensor background"
_CONSTANTS = ", ".join(f"float {name}" for name in Constants._fields)


def _flatten(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One batch dimension for the five tensors of ``rasterize``, also for a background that images share."""
    *others, background = inputs
    *batch, _, channels = others[2].shape
    inputs = (*others, background.expand(*batch, channels))
    return tuple(
        tensor.reshape(math.prod(tensor.shape[: tensor.ndim - kept]), *tensor.shape[tensor.ndim - kept :])
        for tensor, kept in zip(inputs, (2, 3, 2, 1, 1), strict=True)
    )


def register(
    name: str, forward: Callable[..., Rendered | None], backward: Callable[..., Gradients]
) -> Callable[..., Rendered]:
    """Make a backend an operator, ``gvit::rasterize_{name}``.

    Args:
        name: of the backend.
        forward: takes centres [B, K, 2], covariances [B, K, 2, 2], colours [B, K, C], opacities [B, K],
            background [B, C] (perhaps of stride 0), height, width and ``Constants``; gives None when some number
            can't be drawn.
        backward: takes the gradients of image and alpha (None: zeros), the five tensors, the transmittance,
            the stops and ``Constants``.

    Returns:
        The operator: it takes what ``forward`` takes, with the constants one by one, any number of batch
        dimensions, and a background that may be [C], shared. It raises a ValueError for numbers that can't be
        drawn, with the index in the tensor that it was given, also from within a compiled model.
    """

    @torch.library.custom_op(
        f"gvit::rasterize_{name}",
        mutates_args=(),
        schema=f"({_INPUTS}, int height, int width, {_CONSTANTS}) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    def operator(*arguments: Any) -> Rendered:
        constants = Constants(*arguments[7:])
        batch = arguments[2].shape[:-2]
        rendered = forward(*_flatten(arguments[:5]), *arguments[5:7], constants)
        if rendered is None:
            raise explain(arguments[:5], constants.blur)
        # not as views, into which nobody may write where there are gradients
        return tuple(tensor.reshape(*batch, *tensor.shape[1:]).data for tensor in rendered)  # type: ignore[return-value]

    @torch.library.custom_op(
        f"gvit::rasterize_{name}_backward",
        mutates_args=(),
        schema=f"(Tensor? grad_image, Tensor? grad_alpha, {_INPUTS}, "
        f"Tensor transmittance, Tensor stops, {_CONSTANTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    )
    def backward_operator(*arguments: Any) -> Gradients:
        inputs, dims = arguments[2:7], arguments[4].ndim - 2
        grad_image, grad_alpha, transmittance, stops = (
            None if tensor is None else tensor.reshape(math.prod(tensor.shape[:dims]), *tensor.shape[dims:])
            for tensor in (*arguments[:2], *arguments[7:9])
        )
        gradients = backward(
            grad_image, grad_alpha, *_flatten(inputs), transmittance, stops, Constants(*arguments[9:])
        )
        *others, behind = gradients
        if inputs[4].ndim == 1:
            behind = behind.sum(0)
        shaped = (
            gradient.reshape(like.shape) for gradient, like in zip((*others, behind), inputs, strict=True)
        )
        return tuple(shaped)  # type: ignore[return-value]

    @operator.register_fake
    def _(*arguments: Any) -> Rendered:
        colors, (height, width) = arguments[2], arguments[5:7]
        *batch, _, channels = colors.shape
        return (
            colors.new_empty(*batch, channels, height, width),
            colors.new_empty(*batch, height, width),
            colors.new_empty(*batch, height, width),
            colors.new_empty(*batch, height, width, dtype=torch.int32),
        )

    @backward_operator.register_fake
    def _(*arguments: Any) -> Gradients:
        like = (tensor.new_empty(tensor.shape) for tensor in arguments[2:7])
        return tuple(like)

    def set_up(ctx: Any, inputs: tuple[Any, ...], output: Rendered) -> None:
        _, _, transmittance, stops = output
        # an output that the loss does not use costs nothing
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[:5], transmittance, stops)
        ctx.constants = inputs[7:]

    def differentiate(
        ctx: Any, grad_image: Tensor | None, grad_alpha: Tensor | None, *_: Any
    ) -> tuple[Tensor | None, ...]:
        gradients = backward_operator(grad_image, grad_alpha, *ctx.saved_tensors, *ctx.constants)
        return *gradients, *(None,) * (2 + len(Constants._fields))

    def refuse(*_: Any) -> None:
        raise RuntimeError(
            "gvit's renderers have first derivatives only: take their gradient without create_graph=True, or detach it"
        )

    operator.register_autograd(differentiate, setup_context=set_up)
    backward_operator.register_autograd(refuse)
    return operator
