"""Reconstruction losses and the measures of fidelity that are reported: PSNR, SSIM and MS-SSIM.

Images are float tensors [..., C, H, W] with values in [0, 1], two of the same shape. All raise a ValueError for what is
no tensor, of another dtype or of another shape; values are not looked at, but by the cross-entropy.
What comes of them is float32 or more, also of images of fewer bits, under autocast, and where matrix products are
computed in TF32 or bfloat16; these are left to the caller's choice on the way back, in gradients.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from gvit.gaussians.precision import at_least_float32, full_precision

PixelLoss = Literal["bce", "mse", "psnr"]
MOST_PSNR = 100.0  # dB; one image redrawn without error must not make a mean infinite

_WINDOW, _SIGMA = 11, 1.5
_WINDOW_SUM = sum(math.exp(-0.5 * ((i - _WINDOW // 2) / _SIGMA) ** 2) for i in range(_WINDOW))
_SCALES_SIDE = _WINDOW * 2**4  # MS-SSIM halves the image four times
_C1, _C2 = 0.01**2, 0.03**2
# Half a grey level of an 8-bit image: keeps the cross-entropy's gradient below 512 where nothing is drawn.
_BCE_MARGIN = 0.5 / 255
# Beyond 40 dB there is little left to win: an empty image must not outweigh the others.
_PSNR_MARGIN = 1e-4


def pixel_loss(
    rendered: Float[Tensor, "*batch c h w"], target: Float[Tensor, "*batch c h w"], kind: str = "bce"
) -> Float[Tensor, ""]:
    """Mean over all pixels of the binary cross-entropy or of the squared error (GViT paper, Sections 2.2 and 3.1).

    For ``bce`` the rendered values are squeezed from [0, 1] into [1/510, 1 - 1/510], which leaves the gradient
    alive at both ends and slightly beyond, where rounding may take a picture, unlike a clamp, and finite, unlike the
    logarithm. For ``psnr`` it is ``psnr_loss`` of each image's mean squared error.

    Raises:
        ValueError: an unknown ``kind``; images that differ in shape or are not floating point.
        RuntimeError: ``bce`` of a target that is not in [0, 1], or of a rendered value more than 1/508 beyond.
    """
    rendered, target = _alike(rendered, target)
    if kind == "mse":
        return F.mse_loss(rendered, target)
    if kind == "bce":
        inside = rendered * (1 - 2 * _BCE_MARGIN) + _BCE_MARGIN
        with full_precision(rendered.device):  # autocast refuses it
            return F.binary_cross_entropy(inside, target)
    if kind == "psnr":
        return psnr_loss((rendered - target).square().mean((-3, -2, -1)))
    raise ValueError(f"pixel loss must be 'bce', 'mse' or 'psnr', got {kind!r}")


def psnr_loss(squared_errors: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """Minus the mean PSNR, dB, of images with these mean squared errors, to each of which 1e-4 is added.

    Every image counts alike, well drawn or not; one with more than 40 dB hardly counts.
    """
    return 10 * (squared_errors + _PSNR_MARGIN).log10().mean()


def _alike(image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """Both in one dtype of 32 bits or more."""
    for tensor in (image, target):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"images must be tensors, got {type(tensor).__name__}")
    if image.shape != target.shape or image.ndim < 3:
        raise ValueError(
            f"two images must have the same shape [..., C, H, W], got {list(image.shape)} and {list(target.shape)}"
        )
    for tensor in (image, target):
        if not tensor.is_floating_point():
            raise ValueError(f"images must be floating point, values in [0, 1], got {tensor.dtype}")
    return at_least_float32(image, target)


def _window_matrix(size: int, like: Tensor) -> Tensor:
    """[size, size - 10]: right-multiplying by it filters rows with the Gaussian window, without padding.

    As a banded matrix product the filter runs at matrix-product speed on every device; depthwise convolutions
    of one channel don't. It is not kept: a tensor that is made while a model is traced is of no use later.
    """
    pixels = torch.arange(size, device=like.device)
    offsets = pixels.unsqueeze(1) - pixels[: size - _WINDOW + 1] - _WINDOW // 2
    weights = torch.exp(offsets.to(like.dtype).square() * (-0.5 / _SIGMA**2)) / _WINDOW_SUM
    return torch.where(offsets.abs() <= _WINDOW // 2, weights, 0)


def ssim(
    image: Float[Tensor, "*batch c h w"], target: Float[Tensor, "*batch c h w"]
) -> Float[Tensor, "*batch"]:
    """Structural similarity, one number per image, the mean over channels and windows (Wang et al. 2004).

    Gaussian window of 11x11 with sigma 1.5, data range 1, only windows that lie fully inside the image
    (as scikit-image with ``gaussian_weights=True, use_sample_covariance=False``).

    Raises:
        ValueError: an image side is shorter than 11 pixels; images that differ in shape or are not floating point.
    """
    image, target = _alike(image, target)
    height, width = image.shape[-2:]
    if min(height, width) < _WINDOW:
        raise ValueError(f"SSIM needs images of at least {_WINDOW}x{_WINDOW} pixels, got {height}x{width}")
    rows, columns = _window_matrix(height, image).mT, _window_matrix(width, image)

    def smooth(x: Tensor) -> Tensor:
        return rows @ (x @ columns)

    with full_precision(image.device):
        mean_x, mean_y, square_x, square_y, product = smooth(
            torch.stack((image, target, image * image, target * target, image * target))
        )
    variance_x = square_x - mean_x * mean_x
    variance_y = square_y - mean_y * mean_y
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x * mean_x + mean_y * mean_y + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    return (luminance * structure).mean((-3, -2, -1))


def ms_ssim(
    image: Float[Tensor, "*batch c h w"], target: Float[Tensor, "*batch c h w"]
) -> Float[Tensor, "*batch"] | None:
    """Multi-scale structural similarity, one number per image, by torchmetrics (Wang et al. 2003; five scales).

    Windows lie fully inside the image, as in ``ssim``, but for those of the coarsest scale, which is mirrored at its
    edges.

    None where a side is shorter than 176 pixels, which leaves the coarsest scale no window.
    """
    image, target = _alike(image, target)
    batch = image.shape[:-3]
    if min(image.shape[-2:]) < _SCALES_SIDE:
        return None
    if not image.numel():
        return image.new_zeros(batch)
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure  # slow to import

    with full_precision(image.device):
        found = multiscale_structural_similarity_index_measure(
            image.flatten(0, -4) if batch else image[None],
            target.flatten(0, -4) if batch else target[None],
            reduction="none",
            data_range=1.0,
        )
    return found.reshape(batch)


def psnr(
    image: Float[Tensor, "*batch c h w"], target: Float[Tensor, "*batch c h w"]
) -> Float[Tensor, "*batch"]:
    """Peak signal-to-noise ratio in dB, one number per image, data range 1; infinite for equal images."""
    image, target = _alike(image, target)
    return -10 * (image - target).square().mean((-3, -2, -1)).log10()
