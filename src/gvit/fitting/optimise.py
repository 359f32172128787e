"""``fit``: Gaussians that draw given images, by gradient descent through the renderer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.data.convert import Color, ImageLike, as_pixels, composite, in_range, list_images, parse_color
from gvit.errors import InputError, option, unknown_name
from gvit.fitting.blobs import Blobs, draw_pixels, mean_spacing, round_blobs, scatter_within
from gvit.fitting.felzenszwalb import felzenszwalb_blobs
from gvit.fitting.gradient import gradient_blobs
from gvit.fitting.grid import grid_blobs
from gvit.fitting.kanezaki import kanezaki_blobs
from gvit.fitting.kmeans import kmeans_blobs
from gvit.fitting.random import random_blobs
from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.gaussians.bounds import MOST_GAUSSIANS
from gvit.gaussians.fields import COLOR
from gvit.gaussians.packing import MAX_PACKED
from gvit.gaussians.quantisation import check_bits
from gvit.losses import PixelLoss, pixel_loss, psnr, ssim
from gvit.rendering import rasterize, render

INITIALISERS: dict[str, Callable[[Tensor, int, torch.Generator], Blobs]] = {
    "random": random_blobs,
    "grid": grid_blobs,
    "kmeans": kmeans_blobs,
    "felzenszwalb": felzenszwalb_blobs,
    "kanezaki": kanezaki_blobs,
    "gradient": gradient_blobs,
}
START_OPACITY = 0.7
_USUAL_NUMBER = 1000

# How far Adam moves a raw number in a step, about. Centres are counted in spacings; with `default_scale_factor` the
# raw scales are logarithms, but for the largest Gaussians.
_RATES = {"center": 0.1, "scale": 0.15, "angle": 0.1, "color": 0.1, "opacity": 0.1}
# What the cosine decay leaves of them: fits are stopped long before they have converged.
_LAST_RATE = 0.2
# Without noise from mini-batches, shorter averages than Adam's usual ones converge faster.
_BETAS = (0.8, 0.99)

# Adaptive fits begin with this share of the Gaussians; the others come in equal parts after these shares of the steps,
# or before the first step where what they begin with is given, as by an encoder.
FIRST_SHARE = 0.5
_GROWTH = (0.1, 0.2, 0.3, 0.4)
# From given Gaussians the rates rise over so many steps: Adam's first ones are as long for a coordinate that is right
# as for one that is wrong, and at the full rates they would undo what was given.
_GIVEN_WARMUP = 5
# Growth forgets Adam's averages; where there is none, a shorter one of the squares must forget the first gradients.
_GIVEN_BETAS = (0.8, 0.9)
# Where the result is quantised, all but colours and opacities are so after these steps, and those make up for it in the
# last tenth. Gradients through rounding (straight-through) were tried, and lost to rounding at the end.
_COLORS_SHARE = 0.1
_SHAPES = COLOR.start  # numbers that come before the colours
# Size of the new ones, as SPREAD for the first ones: they are for details.
_NEW_SPREAD = 0.2
# Fewer steps than this leave new Gaussians no time to settle.
_MIN_ADAPTIVE_STEPS = 20
# A Gaussian that paints less than this many pixels, all in all, draws nothing.
_DEAD = 0.05


@dataclass(frozen=True)
class Fit:
    """What ``fit`` found.

    Attributes:
        gaussians: raw [B, N, 9], on the images' device; ``gvit.render(fit.gaussians, H, W)`` draws the images.
        psnr: [B], dB, of that drawing.
    """

    gaussians: Gaussians
    psnr: Float[Tensor, " b"]


def default_scale_factor(num_gaussians: int) -> float:
    """The bound on the scales that stops nobody: half the side of the canvas, as its area's square root.

    ``Gaussians`` bounds standard deviations by ``scale_factor * spacing``, which for a thousand Gaussians and a factor
    of 1 would be a thirtieth of the side: background would be made of many. ``spacing * sqrt(N)`` is the side.
    """
    return math.sqrt(num_gaussians) / 2


@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    images: ImageLike | Sequence[ImageLike],
    num_gaussians: int | None = None,
    steps: int = 500,
    init: str | Gaussians = "gradient",
    seed: int = 0,
    *,
    adaptive: bool = True,
    loss: str = "mse",
    ssim_weight: float = 0.0,
    scale_factor: float | None = None,
    background: Color = "black",
    bits: int | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Fit:
    """Fit Gaussians to each of a batch of images with Adam and a cosine decay of its rate.

    Each image is fitted as if it were alone: the batch only saves time. The same arguments give the same result.

    Args:
        images: a batch [B, 3, H, W], or with alpha [B, 4, H, W], in [0, 1], which is fitted on the device it is on;
            or one image or several of one size: file, Pillow image, array or tensor as in ``gvit.data.convert``.
        num_gaussians: N, per image; None for as many as ``init`` has, or 1000 where it is a name.
        steps: of Adam; with 0, the result is where the fit would start (for a name, without ``adaptive``).
        init: a name in ``INITIALISERS``, or raw Gaussians [B, n, 9] of any bounds, n at most N, front to back: those
            of ``GViT.encode``, or of another fit. Those of another aspect are stretched onto the images.
        seed: of everything that is random.
        adaptive: start with half of the Gaussians and put the others, and those that draw nothing, where the error
            is largest (Image-GS, Zhang et al. 2025); from 20 steps on. Of a given start, what is missing or draws
            nothing is put there before the first step.
        loss: ``"mse"``, ``"bce"`` or ``"psnr"``, as in ``gvit.losses.pixel_loss``.
        ssim_weight: of ``1 - SSIM``, added to the loss.
        scale_factor: of the ``Gaussians``; ``default_scale_factor`` when None, or what cuts no scale of ``init``.
        background: what transparent pixels lie over, and the Gaussians are drawn over: a colour's name, its code, or
            three numbers in [0, 1]. An adaptive fit leaves no Gaussian where nothing but transparency is.
        bits: what the result is quantised to, as by ``Gaussians.quantised``: 2 to 12. In the last tenth of the steps
            centres, scales and angles are so already, and colours and opacities make up for it. None keeps all bits.
        progress: is called after each step with the number of steps done and the mean PSNR before the step.

    Raises:
        InputError: an argument is out of its range, or an image can't be fitted.
    """
    if not isinstance(init, (str, Gaussians)):
        raise InputError(
            f"init must be a name or gvit.Gaussians, got {type(init).__name__}; raw numbers become Gaussians by "
            "gvit.Gaussians(raw)"
        )
    if num_gaussians is None:
        num_gaussians = _USUAL_NUMBER if isinstance(init, str) else len(init)
    named = init if isinstance(init, str) else None
    check_settings(num_gaussians, steps, named, loss, ssim_weight, seed, bits)
    if scale_factor is not None and not 0 < scale_factor < math.inf:
        raise InputError(f"scale_factor must be a finite number above 0, got {scale_factor}")
    pixels = stack_pixels(images)
    _check_images(pixels, ssim_weight)
    pixels = pixels.clone()  # a tensor made in inference mode can't be fitted to
    images, alpha = composite(pixels, background), pixels[:, 3] if pixels.shape[1] == 4 else None
    below = torch.tensor(parse_color(background), device=images.device)
    canvas = _Canvas(images, alpha, below if below.any() else None)
    generators = [torch.Generator().manual_seed(int(seed)) for _ in images]  # NumPy's, too
    growth: dict[int, int] = {}
    if isinstance(init, str):
        factor = default_scale_factor(num_gaussians) if scale_factor is None else scale_factor
        adaptive = adaptive and steps >= _MIN_ADAPTIVE_STEPS and num_gaussians > 1
        first = round(FIRST_SHARE * num_gaussians) if adaptive else num_gaussians
        growth = _growth_plan(steps, first, num_gaussians) if adaptive else {}
        gaussians = _named_start(init, images, first, generators, factor, num_gaussians)
    else:
        gaussians = _given_start(init, images, num_gaussians, adaptive, scale_factor)
        if adaptive:
            gaussians = _grow(gaussians, canvas, num_gaussians, generators)
    warmup, betas = (1, _BETAS) if isinstance(init, str) else (_GIVEN_WARMUP, _GIVEN_BETAS)
    rates = _rates(gaussians).to(images.device)

    shapes: Tensor | None = None
    # Adam steps about as far in every coordinate: in units of the rates, each field goes at its own
    scaled = (gaussians.raw / rates).requires_grad_()
    optimizer = _adam(scaled, betas)
    for step in range(steps):
        if step in growth:
            gaussians = _grow(
                gaussians.replace_raw(scaled.detach() * rates), canvas, growth[step], generators
            )
            scaled = (gaussians.raw / rates).requires_grad_()
            optimizer = _adam(scaled, betas)
        rate = _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * step / steps)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / warmup)
        current = gaussians.replace_raw(scaled * rates)
        if bits is not None and step == round((1 - _COLORS_SHARE) * steps):
            shapes = current.detach().quantised(bits).raw[..., :_SHAPES]
        drawn = canvas.draw(current if shapes is None else _with_shapes(current, shapes))
        # a sum over images, each by itself: what one gets doesn't depend on the others
        total = torch.stack([pixel_loss(a, b, loss) for a, b in zip(drawn, images, strict=True)]).sum()
        if ssim_weight:
            total = total + ssim_weight * (1 - ssim(drawn, images)).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, psnr(drawn.detach(), images).mean().item())
    result = gaussians.replace_raw(scaled.detach() * rates)
    if bits is not None:
        result = (result if shapes is None else _with_shapes(result, shapes)).quantised(bits)
    with torch.no_grad():
        return Fit(result, psnr(canvas.draw(result), images))


def stack_pixels(images: ImageLike | Sequence[ImageLike]) -> Tensor:
    """What ``fit`` takes as one batch, [B, 3, H, W], or [B, 4, H, W] where an image has transparency.

    Raises:
        InputError: images of different sizes, or as ``gvit.data.convert.as_pixels``.
    """
    if (
        isinstance(images, Tensor)
        and (images.ndim == 4 and images.is_floating_point())
        and (images.shape[1] in (3, 4) or (images.shape[1] != 1 and images.shape[-1] not in (1, 3, 4)))
    ):
        return in_range(images)
    pixels = [as_pixels(image) for image in list_images(images)]
    sizes = {tuple(image.shape[-2:]) for image in pixels}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise InputError(f"images of different sizes ({shown}): fit those of one size at a time")
    if any(len(image) == 4 for image in pixels):
        pixels = [
            torch.cat((image, torch.ones_like(image[:1]))) if len(image) == 3 else image for image in pixels
        ]
    return torch.stack(pixels)


@dataclass(frozen=True)
class _Canvas:
    """What is fitted to.

    Attributes:
        images: [B, 3, H, W] in [0, 1], over the background.
        alpha: [B, H, W]; None where all is opaque.
        background: [3]; None for black.
    """

    images: Tensor
    alpha: Tensor | None
    background: Tensor | None

    def draw(self, gaussians: Gaussians) -> Tensor:
        return render(gaussians, *self.images.shape[-2:], background=self.background)


def check_settings(
    num_gaussians: int,
    steps: int,
    init: str | None,
    loss: str,
    ssim_weight: float,
    seed: int,
    bits: int | None,
) -> None:
    """What can be known before there is an image; ``init`` is None where it is no name.

    Raises:
        InputError: an argument of ``fit`` is out of its range.
    """
    whole = isinstance(num_gaussians, Integral) and isinstance(steps, Integral)
    if not whole or not 1 <= num_gaussians <= MOST_GAUSSIANS or steps < 0:
        raise InputError(
            f"{option('num_gaussians')} must be a whole number, at least 1 and at most {MOST_GAUSSIANS:,}, and "
            f"{option('steps')} one of at least 0, got {num_gaussians} and {steps}"
        )
    if bits is not None:
        check_bits(bits)
        if num_gaussians > MAX_PACKED:  # a file that is quantised holds no more
            raise InputError(
                f"{option('bits')} is for at most {MAX_PACKED:,} Gaussians an image, got "
                f"{option('num_gaussians', num_gaussians)}"
            )
    if not isinstance(seed, Integral) or not 0 <= seed < 2**63:
        raise InputError(f"{option('seed')} must be a whole number, at least 0 and below 2**63, got {seed}")
    if init is not None and init not in INITIALISERS:
        raise unknown_name("initialiser", init, INITIALISERS)
    if loss not in get_args(PixelLoss):
        raise unknown_name("loss", loss, get_args(PixelLoss))
    if not 0 <= ssim_weight < math.inf:
        raise InputError(f"{option('ssim_weight')} must be a finite number, at least 0, got {ssim_weight}")


def _check_images(images: Tensor, ssim_weight: float) -> None:
    if images.shape[1] not in (3, 4) or 0 in images.shape:
        raise InputError(f"images must have shape [B, 3, H, W], got {list(images.shape)}")
    height, width = images.shape[-2:]
    if ssim_weight and min(height, width) < 11:
        raise InputError(
            f"{option('ssim_weight')} above 0 needs images of at least 11x11 pixels, got {height}x{width}"
        )


def _named_start(
    init: str,
    images: Float[Tensor, "b 3 h w"],
    count: int,
    generators: list[torch.Generator],
    scale_factor: float,
    nominal_count: int,
) -> Gaussians:
    starts = [
        INITIALISERS[init](image.cpu(), count, generator).to_gaussians(
            image.shape[-2], image.shape[-1], START_OPACITY, scale_factor, nominal_count
        )
        for image, generator in zip(images, generators, strict=True)
    ]
    return starts[0].replace_raw(torch.stack([start.raw for start in starts]).to(images.device))


def _given_start(
    given: Gaussians,
    images: Float[Tensor, "b 3 h w"],
    count: int,
    adaptive: bool,
    scale_factor: float | None,
) -> Gaussians:
    """The same picture under the bounds of a fit with ``count`` Gaussians."""
    batch, _, height, width = images.shape
    if given.raw.ndim != 3 or len(given.raw) != batch or not 0 < len(given) <= count:
        raise InputError(
            f"{option('init')} must have shape [{batch}, n, {NUM_FIELDS}] with n from 1 to {option('num_gaussians')}="
            f"{count}, got {list(given.raw.shape)}"
        )
    if len(given) < count and not adaptive:
        raise InputError(
            f"{option('init')} has {len(given)} of {count} Gaussians; {option('adaptive', True)} adds the others"
        )
    if not given.raw.isfinite().all():
        raise InputError(f"{option('init')} must have finite raw numbers")
    raw = given.raw.detach().clone().to(images)  # the clone: what was made in inference mode can't be fitted
    start = Gaussians(raw, given.scale_factor, given.nominal_count, given.aspect)
    if scale_factor is None:
        canvas = Gaussians(raw, 1.0, count, height / width)
        stretch = max(to / of for to, of in zip(canvas.extent, start.extent, strict=True))
        largest = start.scale_factor * start.spacing * stretch
        scale_factor = max(default_scale_factor(count), largest / canvas.spacing)
    return start.with_bounds(scale_factor=scale_factor, nominal_count=count, aspect=height / width)


def _with_shapes(gaussians: Gaussians, shapes: Float[Tensor, "b n 5"]) -> Gaussians:
    return gaussians.replace_raw(torch.cat((shapes, gaussians.raw[..., _SHAPES:]), -1))


def _adam(parameter: Tensor, betas: tuple[float, float]) -> torch.optim.Adam:
    # gradients are as small as one over the number of pixels, and squared: the usual epsilon would drown them
    return torch.optim.Adam([parameter], lr=1.0, betas=betas, eps=1e-15)


def _rates(like: Gaussians) -> Float[Tensor, " 9"]:
    center = _RATES["center"] * like.spacing
    extent_x, extent_y = like.extent
    return torch.tensor(
        [
            *(center / extent_x, center / extent_y),
            *(2 * [_RATES["scale"]]),
            _RATES["angle"],
            *(3 * [_RATES["color"]]),
            _RATES["opacity"],
        ]
    )


def _growth_plan(steps: int, first: int, last: int) -> dict[int, int]:
    """At which step there are to be how many Gaussians."""
    parts = len(_GROWTH)
    return {
        round(share * steps): first + (last - first) * (part + 1) // parts
        for part, share in enumerate(_GROWTH)
    }


def painted_pixels(
    gaussians: Gaussians, height: int, width: int, weights: Float[Tensor, "*batch h w"] | None = None
) -> Float[Tensor, "*batch k"]:
    """How many pixels each Gaussian paints, counted by its share in them: the sum of ``T*a`` of the renderer.

    ``weights``: what a pixel counts; 1 when None.
    """
    centers, covariances, colors, opacities = (t.detach() for t in gaussians.in_pixels(height, width))
    # the image is linear in the colours: its derivative is the share
    with torch.enable_grad():
        ones = torch.ones_like(colors[..., :1]).requires_grad_()
        image, _ = rasterize(centers, covariances, ones, opacities, height, width)
        painted = image.sum() if weights is None else (image * weights.unsqueeze(-3)).sum()
        (shares,) = torch.autograd.grad(painted, ones)
    return shares.squeeze(-1)


def _grow(gaussians: Gaussians, canvas: _Canvas, count: int, generators: list[torch.Generator]) -> Gaussians:
    """``count`` Gaussians: those that draw something, and before them new ones where the squared error is largest.

    A new Gaussian is in front, so that it is seen; in the image's colour, so that it helps; and small. What is drawn
    where the image is transparent counts as nothing.
    """
    images = canvas.images
    height, width = images.shape[-2:]
    alive = painted_pixels(gaussians, height, width, canvas.alpha) > _DEAD
    with torch.no_grad():
        errors = (canvas.draw(gaussians) - images).square().mean(1).cpu()
    size = _NEW_SPREAD * mean_spacing(height, width, gaussians.nominal_count)
    grown = []
    for raw, keep, error, image, generator in zip(
        gaussians.raw, alive, errors, images, generators, strict=True
    ):
        missing = count - int(keep.sum())
        # an image that is drawn without an error has no place that is better than another
        weights = error if error.sum() > 0 else torch.ones_like(error)
        rows, columns = draw_pixels(weights, missing, generator)
        new = round_blobs(image.cpu(), scatter_within(rows, columns, generator), size).to_gaussians(
            height, width, START_OPACITY, gaussians.scale_factor, gaussians.nominal_count
        )
        grown.append(torch.cat((new.raw.to(raw.device), raw[keep])))
    return gaussians.replace_raw(torch.stack(grown))
