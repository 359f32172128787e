"""The face of the renderer: ``rasterize`` on plain tensors in pixels, ``render`` on ``Gaussians``."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from gvit.gaussians import Gaussians
from gvit.gaussians.precision import HALF
from gvit.rendering import cpu, cuda, reference
from gvit.rendering.operators import Constants

_USUAL = Constants()
# these modules are light: Numba and Triton are imported when something is drawn
_OPERATORS = {"reference": reference.rasterize, "cpu": cpu.rasterize, "cuda": cuda.rasterize}
BACKENDS = tuple(_OPERATORS)
MAX_CHANNELS = 32
_MOST_BLUR = 1e30  # square pixels: what numbers may be, see ``rasterize``
_MOST_SIDE = 2**31 - 1  # pixels
_DTYPES = (*HALF, torch.float32, torch.float64)
# there is none of it to compute in on Apple's GPUs
_WITHOUT_FLOAT64 = ("mps",)


class _ToFloat32(torch.autograd.Function):
    """A tensor of half precision in float32; a gradient beyond its range becomes its largest number."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Tensor) -> Tensor:
        return tensor.float()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        largest = torch.finfo(ctx.dtype).max
        return gradient.clamp(-largest, largest).to(ctx.dtype)


# Inputs are annotated without shapes: wrong ones are for ``_check_shapes`` to explain.
def rasterize(
    centers: Tensor,
    covariances: Tensor,
    colors: Tensor,
    opacities: Tensor,
    height: int,
    width: int,
    *,
    background: Tensor | None = None,
    blur: float = _USUAL.blur,
    alpha_max: float = _USUAL.alpha_max,
    alpha_min: float = _USUAL.alpha_min,
    transmittance_min: float = _USUAL.transmittance_min,
    backend: str = "auto",
) -> tuple[Float[Tensor, "*batch channels height width"], Float[Tensor, "*batch height width"]]:
    """Draw 2D Gaussians front to back in index order; everything in pixels, pixel centres at +0.5.

    For each pixel, with ``d = pixel - centre``, ``T`` = 1 and ``C`` = 0 at first, for each Gaussian in turn::

        sigma = 0.5 * d^T (covariance + blur*I)^-1 d
        a = min(alpha_max, opacity * exp(-sigma))       skipped where a < alpha_min
        if T*(1-a) <= transmittance_min: stop, this Gaussian not included
        C += T*a*colour;  T *= 1-a

    and at the end ``image = C + T*background``, ``alpha = 1 - T``. These are the formula and constants of
    gsplat 1.5. Differentiable, once and in reverse mode, in all tensors; where ``alpha_max`` clips, geometry and
    opacity get no gradient.

    Args:
        centers: [..., K, 2], (x, y) in pixels: x in [0, width] and y in [0, height] lie on the image, others
            are welcome.
        covariances: [..., K, 2, 2] in square pixels, symmetric (of others, the symmetric part is drawn) and
            positive semi-definite; ``gvit.build_covariances`` makes them from standard deviations and angles. In
            float32, needles of a standard deviation of more than about 1,000 pixels may round to covariances that are
            refused; float64 holds them.
        colors: [..., K, C], any values, 1 to 32 channels.
        opacities: [..., K]; what is not above 0 draws nothing and gets no gradient.
        height: of the image, in pixels, at least 1.
        width: of the image, in pixels, at least 1.
        background: [C] or [..., C]; zeros when None.
        blur: added to the variances, square pixels, up to 1e30; keeps Gaussians smaller than a pixel differentiable.
        alpha_max: in (0, 1].
        alpha_min: in [0, 1), at most ``alpha_max``.
        transmittance_min: in [0, 1); ``cpu`` and ``cuda`` stop at 1.2e-38 at the latest, where float32 loses digits.
        backend: ``"reference"`` (dense PyTorch, any dtype, on devices with float64), ``"cpu"`` (Numba, float32),
            ``"cuda"`` (Triton, float32), or ``"auto"``: ``reference`` for float64, otherwise ``cuda`` for CUDA
            tensors, ``cpu`` for those on the CPU, else ``reference``.

    Returns:
        image [..., C, H, W] and alpha [..., H, W]: float32 for float16 and bfloat16 inputs, which are lifted
        to it. Both, and all gradients, are finite for numbers of up to 1e30 either way of 0, if the loss's own
        gradient at a pixel, by itself and times a colour, is no larger; of a gradient beyond the dtype's range,
        its largest number.

    Raises:
        InputError: the image needs more main memory than is free.
        ValueError: shapes, dtypes or devices don't fit together; a number is NaN or infinite; a covariance is
            not positive semi-definite (or still singular after the blur); a constant is out of its range; the
            backend is unknown or can't run here.
        RuntimeError: in a second backward pass, for inputs with tangents (forward mode, ``torch.func.jvp``), and
            within ``torch.func.grad``, ``vjp`` or ``jacrev``: there are first derivatives only, in reverse mode, by
            ``backward`` and ``torch.autograd.grad``. (``torch.func.vmap`` draws image by image, and PyTorch warns of
            it: use batch dimensions.)
    """
    inputs = {"centers": centers, "covariances": covariances, "colors": colors, "opacities": opacities}
    if background is not None:
        inputs["background"] = background
    _check_shapes(inputs)
    _check_tangents(inputs)
    _check_size(height, width)
    _check_constants(blur, alpha_max, alpha_min, transmittance_min)
    backend = _resolve_backend(backend, centers)
    if centers.dtype in HALF:
        inputs = {name: _ToFloat32.apply(tensor) for name, tensor in inputs.items()}

    behind = inputs["background"] if background is not None else inputs["colors"].new_zeros(colors.shape[-1])
    try:
        image, alpha, _, _ = _OPERATORS[backend](
            *(inputs[name] for name in ("centers", "covariances", "colors", "opacities")),
            behind,
            *(height, width, blur, alpha_max, alpha_min, transmittance_min),
        )
    except RuntimeError as error:
        if "setup_context" not in str(error):
            raise
        raise RuntimeError(
            "gvit's renderers cannot be differentiated by torch.func (grad, vjp, jacrev): use torch.autograd.grad"
        ) from None
    return image, alpha


def render(
    gaussians: Gaussians,
    height: int,
    width: int,
    *,
    background: Tensor | None = None,
    backend: str = "auto",
) -> Float[Tensor, "*batch 3 height width"]:
    """The picture of ``gaussians`` at any size, values in [0, 1] up to rounding (for a background in [0, 1]).

    White may come out as 1 + 1e-6, which ``F.binary_cross_entropy`` refuses and ``gvit.losses.pixel_loss`` takes. It is
    not cut off here, for that would take the gradient away.

    Args:
        gaussians: any number of batch dimensions.
        height: of the image, in pixels.
        width: of the image, in pixels; another aspect than the Gaussians' own stretches them.
        background: colour behind them, [3] or [..., 3], of the Gaussians' dtype or of the image's; float16 and
            bfloat16 are lifted to float32, their gradients come back in their own dtype. Black when None.
        backend: as in ``rasterize``, which also gives the transparency, other constants and other channels.

    Returns:
        image [..., 3, H, W], float32, or float64 for float64 Gaussians.

    Raises:
        ValueError: as ``rasterize``.
        RuntimeError: as ``rasterize``.
    """
    if not isinstance(gaussians, Gaussians):
        raise ValueError(f"gaussians must be gvit.Gaussians, got {type(gaussians).__name__}")
    _check_size(height, width)
    centers, covariances, colors, opacities = gaussians.in_pixels(height, width)
    # the Gaussians come lifted already
    if colors.dtype == torch.float32 and isinstance(background, Tensor) and background.dtype in HALF:
        background = _ToFloat32.apply(background)
    image, _ = rasterize(
        *(centers, covariances, colors, opacities),
        *(height, width),
        background=background,
        backend=backend,
    )
    return image


def _check_shapes(inputs: dict[str, Tensor]) -> None:
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(tensor).__name__}")
    colors = inputs["colors"]
    if colors.ndim < 2:
        raise ValueError(f"colors must have shape [..., K, C], got {list(colors.shape)}")
    *batch, count, channels = colors.shape
    expected = {
        "centers": [*batch, count, 2],
        "covariances": [*batch, count, 2, 2],
        "opacities": [*batch, count],
    }
    for name, shape in expected.items():
        if list(inputs[name].shape) != shape:
            raise ValueError(
                f"{name} must have shape {shape} to go with colors of shape {list(colors.shape)}, "
                f"got {list(inputs[name].shape)}"
            )
    if not 1 <= channels <= MAX_CHANNELS:
        raise ValueError(f"colors must have 1 to {MAX_CHANNELS} channels, got {channels}")
    background = inputs.get("background")
    shapes = ([channels], [*batch, channels])
    if background is not None and list(background.shape) not in shapes:
        wanted = " or ".join(dict.fromkeys(map(str, shapes)))
        raise ValueError(f"background must have shape {wanted}, got {list(background.shape)}")
    for name, tensor in inputs.items():
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} must have a float dtype of 16, 32 or 64 bits, got {tensor.dtype}")
    for name, tensor in inputs.items():
        if tensor.dtype != colors.dtype:
            raise ValueError(f"{name} is {tensor.dtype}, but colors is {colors.dtype}: use one dtype")
        if tensor.device != colors.device:
            raise ValueError(f"{name} is on {tensor.device}, but colors is on {colors.device}")


def _check_tangents(inputs: dict[str, Tensor]) -> None:
    # PyTorch would take an operator's output for a constant
    for name, tensor in inputs.items():
        if forward_ad.unpack_dual(tensor).tangent is not None:
            raise RuntimeError(
                f"gvit's renderers have no forward-mode derivatives, and {name} has a tangent: "
                "use reverse mode, torch.autograd.grad"
            )


def _check_size(height: int, width: int) -> None:
    for name, size in (("height", height), ("width", width)):
        if not isinstance(size, (Integral, torch.SymInt)):
            raise ValueError(f"{name} must be a whole number of pixels, got {size!r}")
        if isinstance(size, Integral) and size > _MOST_SIDE:
            raise ValueError(f"{name} must be at most {_MOST_SIDE} pixels, got {size}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")


def _check_constants(blur: float, alpha_max: float, alpha_min: float, transmittance_min: float) -> None:
    constants = {
        "blur": blur,
        "alpha_max": alpha_max,
        "alpha_min": alpha_min,
        "transmittance_min": transmittance_min,
    }
    for name, constant in constants.items():
        if isinstance(constant, Tensor) and constant.requires_grad:
            raise ValueError(f"{name} must be a number, got a tensor that requires a gradient: it gets none")
    if not 0 <= blur <= _MOST_BLUR:
        raise ValueError(f"blur must be in [0, {_MOST_BLUR:g}] square pixels, got {blur}")
    if not 0 < alpha_max <= 1:
        raise ValueError(f"alpha_max must be in (0, 1], got {alpha_max}")
    for name, value in (("alpha_min", alpha_min), ("transmittance_min", transmittance_min)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must be in [0, 1), got {value}")
    if alpha_min > alpha_max:
        raise ValueError(f"alpha_min must be at most alpha_max, {alpha_max}, got {alpha_min}")


def _resolve_backend(backend: str, like: Tensor) -> str:
    """The backend's name, ``auto`` resolved as ``rasterize`` says; a ValueError where it can't run."""
    if backend == "auto":
        fast = {"cpu": "cpu", "cuda": "cuda"}.get(like.device.type, "reference")
        backend = "reference" if like.dtype == torch.float64 else fast
    elif backend not in BACKENDS:
        raise ValueError(
            f"backend must be 'auto' or one of {', '.join(map(repr, BACKENDS))}, got {backend!r}"
        )
    elif backend != "reference":
        if like.dtype == torch.float64:
            raise ValueError(f"backend {backend!r} draws in float32: use 'reference' for float64 tensors")
        if backend == "cpu" and like.device.type != "cpu":
            raise ValueError(f"backend 'cpu' needs tensors on the CPU, got {like.device}")
        if backend == "cuda":
            cuda.check_device(like.device)
    if backend == "reference" and like.device.type in _WITHOUT_FLOAT64:
        raise ValueError(
            f"backend 'reference' computes in float64, which {like.device} lacks: move the tensors to the CPU"
        )
    return backend
