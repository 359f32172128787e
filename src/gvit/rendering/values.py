"""Which numbers can't be drawn, and how to say so."""

from __future__ import annotations

import math

from torch import Tensor


def degenerate(covariances: Tensor, blur: float) -> Tensor:
    """True where a covariance [..., 2, 2] is not positive semi-definite, or is still singular after the blur.

    A negative determinant within the rounding of float32 numbers, of a needle's or of ones near 0, is let through where
    the blur makes it positive.
    """
    xx, yy = covariances[..., 0, 0].double(), covariances[..., 1, 1].double()
    xy = (covariances[..., 0, 1].double() + covariances[..., 1, 0].double()) / 2
    product = xx * yy
    semidefinite = (
        (xx >= 0)
        & (yy >= 0)
        & (product - xy * xy >= -1e-6 * product - 1e-43 * (xx + yy) - 1e-60)
        & (product < math.inf)
    )
    return ~(semidefinite & ((xx + blur) * (yy + blur) - xy * xy > 0))


def can_be_drawn(
    centers: Tensor, covariances: Tensor, colors: Tensor, opacities: Tensor, background: Tensor, blur: float
) -> bool:
    """One yes or no, with a single synchronisation on a GPU."""
    # 0 while all numbers are finite: NaN and infinity times 0 are NaN
    poison = sum((tensor * 0).sum() for tensor in (centers, colors, opacities, background))
    return not bool((degenerate(covariances, blur).any() | (poison != 0)).item())


def explain(inputs: tuple[Tensor, ...], blur: float) -> ValueError:
    """The error for the first number that can't be drawn, in the order of ``can_be_drawn``'s arguments."""
    names = ("centers", "covariances", "colors", "opacities", "background")
    covariances = inputs[1]
    for name, tensor in zip(names, inputs, strict=True):
        bad = (~tensor.isfinite()).nonzero()
        if len(bad):
            index = bad[0].tolist()
            return ValueError(f"{name} must be finite, got {tensor[tuple(index)].item()} at index {index}")
    bad = degenerate(covariances, blur).nonzero()
    if not len(bad):  # within the rounding of a kernel
        return ValueError(
            f"covariances cannot be drawn with a blur of {blur} added: a determinant is not above 0"
        )
    index = bad[0].tolist()
    return ValueError(
        f"covariances must be positive semi-definite, and definite with a blur of {blur} added, "
        f"got {covariances[tuple(index)].tolist()} at index {index}"
    )
