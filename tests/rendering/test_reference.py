"""The definition against a scalar loop written from the formula, known answers, and finite differences."""

import math

import pytest
import torch
from scenes import SCENES, random_scene

from gvit import Gaussians, build_covariances, render
from gvit.rendering import rasterize


def draw_by_loop(scene, height, width, blur=0.3, alpha_max=0.999, alpha_min=1 / 255, minimum=1e-4):
    """One image, lists in, lists out: nothing but the formula."""
    centers, covariances, colors, opacities, background = (tensor[0].tolist() for tensor in scene)
    image = [[[0.0] * width for _ in range(height)] for _ in background]
    alphas = [[0.0] * width for _ in range(height)]
    for row in range(height):
        for column in range(width):
            transmittance, color = 1.0, [0.0] * len(background)
            for k, (cx, cy) in enumerate(centers):
                (a, b), (c, d) = covariances[k]
                a, d, dx, dy = a + blur, d + blur, column + 0.5 - cx, row + 0.5 - cy
                sigma = 0.5 * (d * dx * dx - (b + c) * dx * dy + a * dy * dy) / (a * d - b * c)
                alpha = min(alpha_max, opacities[k] * math.exp(-sigma))
                if alpha < alpha_min:
                    continue
                if transmittance * (1 - alpha) <= minimum:
                    break
                color = [old + transmittance * alpha * new for old, new in zip(color, colors[k], strict=True)]
                transmittance *= 1 - alpha
            for channel, behind in enumerate(background):
                image[channel][row][column] = color[channel] + transmittance * behind
            alphas[row][column] = 1 - transmittance
    return torch.tensor(image).double(), torch.tensor(alphas).double()


@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("constants", [(0.3, 0.999, 1 / 255, 1e-4), (0.0, 0.6, 0.05, 0.2)])
def test_is_the_formula(kind, constants):
    scene = [tensor.double() for tensor in SCENES[kind](1, 12, 9, 7)]
    if constants[0] == 0 and kind == "needles":
        pytest.skip("a needle of float32 numbers may be singular without blur")
    names = ("blur", "alpha_max", "alpha_min", "transmittance_min")
    image, alpha = rasterize(
        *scene[:4], 9, 7, background=scene[4], backend="reference", **dict(zip(names, constants, strict=True))
    )
    wanted_image, wanted_alpha = draw_by_loop(scene, 9, 7, *constants)
    torch.testing.assert_close(image[0], wanted_image, rtol=0, atol=1e-6)
    torch.testing.assert_close(alpha[0], wanted_alpha, rtol=0, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_known_answers(backend):
    """Half opaque red before blue: the opacity at the centre, e^-1/2 of it a standard deviation off."""
    image, alpha = rasterize(
        torch.tensor([[3.5, 2.5], [3.5, 2.5]]),
        torch.eye(2).expand(2, 2, 2) * 4 - 0.3 * torch.eye(2),
        torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([0.5, 0.5]),
        6,
        8,
        backend=backend,
    )
    torch.testing.assert_close(image[:, 2, 3], torch.tensor([0.5, 0.0, 0.25]))
    assert alpha[2, 3].item() == pytest.approx(0.75)
    assert image[0, 2, 5].item() == pytest.approx(0.5 * math.exp(-0.5))
    assert image[0, 4, 3].item() == pytest.approx(0.5 * math.exp(-0.5))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_angles_turn_from_x_towards_y(backend):
    """A needle at 45 degrees goes from the upper left to the lower right, y pointing down."""
    covariances = build_covariances(torch.tensor([[6.0, 0.5]]), torch.tensor([math.pi / 4]))
    one = torch.ones(1)
    image, _ = rasterize(torch.tensor([[8.0, 8.0]]), covariances, one[:, None], one, 16, 16, backend=backend)
    assert image[0, 12, 12] > 0.5
    assert image[0, 12, 3] == 0


def test_gradients_are_finite_differences():
    scene = random_scene(2, 4, 5, 5, channels=2, scales=(1.0, 3.0), opacities=(0.3, 0.8))
    scene = [tensor.double().requires_grad_() for tensor in scene]

    def draw(*tensors):
        # no pixel of a smooth picture is near a threshold
        return rasterize(*tensors[:4], 5, 5, background=tensors[4], alpha_min=0.0, backend="reference")

    assert torch.autograd.gradcheck(draw, scene)


def test_gradients_with_thresholds_are_finite_differences():
    scene = random_scene(1, 6, 5, 4, scales=(0.5, 1.5), opacities=(0.5, 1.0), seed=3)
    scene = [tensor.double().requires_grad_() for tensor in scene]

    def draw(*tensors):
        return rasterize(
            *tensors[:4],
            *(5, 4),
            background=tensors[4],
            alpha_max=0.8,
            transmittance_min=0.1,
            backend="reference",
        )

    assert torch.autograd.gradcheck(draw, scene)


def test_render_is_rasterize_in_pixels():
    gaussians = Gaussians(torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0)), aspect=0.75)
    image, _ = rasterize(*gaussians.in_pixels(12, 16), 12, 16, background=torch.ones(3))
    assert torch.equal(render(gaussians, 12, 16, background=torch.ones(3)), image)
    assert image.shape == (2, 3, 3, 12, 16)
