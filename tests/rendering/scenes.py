"""Scenes to draw, and what a backend's picture of one is measured against."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gvit import build_covariances
from gvit.rendering import rasterize

ALPHA_MIN, ALPHA_MAX, TRANSMITTANCE_MIN, BLUR = 1 / 255, 0.999, 1e-4, 0.3
CONSTANTS = {
    "blur": BLUR,
    "alpha_max": ALPHA_MAX,
    "alpha_min": ALPHA_MIN,
    "transmittance_min": TRANSMITTANCE_MIN,
}


class Scene(NamedTuple):
    centers: Tensor
    covariances: Tensor
    colors: Tensor
    opacities: Tensor
    background: Tensor


def random_scene(
    batch: int,
    count: int,
    height: int,
    width: int,
    channels: int = 3,
    *,
    scales: tuple[float, float] = (2.0, 12.0),
    opacities: tuple[float, float] = (0.1, 0.9),
    margin: float = 0.0,
    seed: int = 0,
) -> Scene:
    """Centres uniform over the canvas and ``margin`` of it on each side, scales log-uniform."""
    random = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random)

    size = torch.tensor([width, height], dtype=torch.float32)
    low, high = map(math.log, scales)
    return Scene(
        (uniform(batch, count, 2) * (1 + 2 * margin) - margin) * size,
        build_covariances(
            (uniform(batch, count, 2) * (high - low) + low).exp(), math.pi * uniform(batch, count)
        ),
        uniform(batch, count, channels),
        uniform(batch, count) * (opacities[1] - opacities[0]) + opacities[0],
        uniform(batch, channels),
    )


def needles(batch: int, count: int, height: int, width: int) -> Scene:
    """Standard deviations in a ratio of 100, at every angle."""
    scene = random_scene(batch, count, height, width)
    angles = torch.linspace(0, math.pi, batch * count).reshape(batch, count)
    long = 0.3 * max(height, width)
    scales = torch.tensor([long, long / 100]).expand(batch, count, 2)
    return scene._replace(covariances=build_covariances(scales, angles))


def opaque_stack(batch: int, count: int, height: int, width: int) -> Scene:
    """All on top of each other, opacity 0.9 to 1: pixels stop."""
    scene = random_scene(batch, count, height, width, opacities=(0.9, 1.0), scales=(3.0, 6.0))
    middle = torch.tensor([width / 2, height / 2])
    return scene._replace(centers=middle + 0.1 * (scene.centers - middle))


def extreme_opacities(batch: int, count: int, height: int, width: int) -> Scene:
    """In turn 0, 1, and just on either side of the smallest that is drawn."""
    scene = random_scene(batch, count, height, width)
    values = torch.tensor([0.0, 1.0, 0.0038, 0.0041, 0.5])
    return scene._replace(opacities=values[torch.arange(count) % 5].expand(batch, count).clone())


SCENES = {
    "plain": random_scene,
    "off canvas": lambda *size: random_scene(*size, margin=1.5),
    "sub-pixel": lambda *size: random_scene(*size, scales=(1e-3, 0.3)),
    "canvas-filling": lambda *size: random_scene(*size, scales=(200.0, 1000.0), opacities=(0.01, 0.1)),
    "needles": needles,
    "opaque stack": opaque_stack,
    "extreme opacities": extreme_opacities,
}


def near_threshold(
    scene: Scene,
    height: int,
    width: int,
    *,
    blur: float,
    alpha_max: float,
    alpha_min: float,
    transmittance_min: float,
) -> Tensor:
    """[B, H, W]: pixels where rounding may decide whether a Gaussian is drawn, clipped, or stops the pixel.

    Written from the formula with inverses and loops over Gaussians, in float64: nothing of it comes from the
    package.
    """
    centers, covariances, _, opacities, _ = (tensor.double() for tensor in scene)
    precision = torch.linalg.inv(covariances + blur * torch.eye(2, dtype=torch.float64))
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    grid = torch.stack((x, y), -1).double()
    transmittance = torch.ones(len(centers), height, width, dtype=torch.float64)
    near = torch.zeros_like(transmittance, dtype=torch.bool)
    live = ~near
    for k in range(centers.shape[1]):
        d = grid - centers[:, k, None, None]
        sigma = 0.5 * torch.einsum("bhwi,bij,bhwj->bhw", d, precision[:, k], d)
        free = opacities[:, k, None, None] * torch.exp(-sigma)
        alpha = torch.where(free >= alpha_min, free.clamp(max=alpha_max), 0)
        after = transmittance * (1 - alpha)
        near |= live & ((free - alpha_min).abs() < 5e-6 * alpha_min)
        near |= live & ((free - alpha_max).abs() < 5e-6 * alpha_max)
        near |= live & ((after - transmittance_min).abs() < 1e-4 * transmittance_min)
        live &= after > transmittance_min
        transmittance = torch.where(live, after, transmittance)
    return near


def shifted(scene: Scene, top: int) -> Scene:
    """The scene as seen by an image whose first row is row ``top``: bands of a large image, one by one."""
    return scene._replace(centers=scene.centers - torch.tensor([0, top], dtype=scene.centers.dtype))


class Comparison(NamedTuple):
    image_error: float  # largest, at pixels that are clear of the thresholds
    alpha_error: float
    near_error: float  # largest image error at the others
    near_fraction: float
    gradient_errors: dict[str, float]  # relative L2
    gradient_cosines: dict[str, float]


def compare(
    scene: Scene,
    height: int,
    width: int,
    backend: str,
    *,
    bands: list[tuple[int, int]] | None = None,
    **constants: float,
) -> Comparison:
    """A backend against the float64 reference, image and gradients, for a random linear loss.

    ``constants`` are those of ``rasterize`` that are not the usual ones.

    The loss leaves out the pixels near a threshold, and all outside ``bands`` (first row, rows). The
    reference draws the bands one by one, and their gradients add up: also those of a picture that is too
    large for it at once are then exact.
    """
    bands = bands or [(0, height)]
    random = torch.Generator().manual_seed(1)
    batch, channels = scene.background.shape
    grad_image = torch.zeros(batch, channels, height, width)
    grad_alpha = torch.zeros(batch, height, width)
    exact = Scene(*(tensor.double().requires_grad_() for tensor in scene))
    drawn = Scene(*(tensor.clone().requires_grad_() for tensor in scene))

    device = "cuda" if backend == "cuda" and torch.cuda.is_available() else "cpu"
    moved = Scene(*(tensor.to(device) for tensor in drawn))
    outputs = rasterize(*moved[:4], height, width, background=moved.background, backend=backend, **constants)
    image, alpha = (output.cpu() for output in outputs)
    reference_gradients = [torch.zeros_like(tensor) for tensor in exact]
    errors, alpha_errors, near_errors, nears = [], [], [], []
    for top, rows in bands:
        still = shifted(Scene(*(t.detach() for t in exact)), top)
        near = near_threshold(still, rows, width, **(CONSTANTS | constants))
        clear = ~near
        band = (..., slice(top, top + rows), slice(None))
        grad_image[band] = torch.randn(batch, channels, rows, width, generator=random) * clear.unsqueeze(1)
        grad_alpha[band] = torch.randn(batch, rows, width, generator=random) * clear
        view = shifted(exact, top)
        true_image, true_alpha = rasterize(
            *view[:4], rows, width, background=view.background, backend="reference", **constants
        )
        gradients = torch.autograd.grad(
            [true_image, true_alpha], exact, [grad_image[band].double(), grad_alpha[band].double()]
        )
        for total, part in zip(reference_gradients, gradients, strict=True):
            total += part
        error = (image[band] - true_image).detach().abs().amax(1)
        errors.append((error * clear).max().item())
        near_errors.append((error * near).max().item())
        alpha_errors.append(((alpha[band] - true_alpha).detach().abs() * clear).max().item())
        nears.append(near.double().mean().item())

    gradients = torch.autograd.grad([image, alpha], drawn, [grad_image, grad_alpha])
    relative, cosines = {}, {}
    for name, got, wanted in zip(Scene._fields, gradients, reference_gradients, strict=True):
        norm = wanted.norm().item()
        if norm == 0:
            relative[name], cosines[name] = got.double().norm().item(), 1.0
        else:
            relative[name] = (got.double() - wanted).norm().item() / norm
            # cosine_similarity would take short vectors for longer ones
            cosines[name] = (got.double() * wanted).sum().item() / (norm * got.double().norm().item() or 1.0)
    return Comparison(
        max(errors), max(alpha_errors), max(near_errors), sum(nears) / len(nears), relative, cosines
    )
