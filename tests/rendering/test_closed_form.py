"""The written-out derivative against that of autograd, through the renderer's own backward pass."""

import pytest
import torch

from gvit import Gaussians, render
from gvit.rendering.closed_form import picture, squared_error


@pytest.mark.parametrize(("height", "width"), [(12, 12), (7, 15)])
def test_picture_and_gradient_are_those_of_the_renderer(height, width):
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 20, 9, generator=generator, dtype=torch.float64)
    raw[0, :4, 8] = 12.0  # so opaque that alpha is clipped, and what lies behind is never reached
    raw[0, :4, :2] = 0.0
    raw[1, :5, 8] = -7.0  # not drawn
    raw.requires_grad_()
    gaussians = Gaussians(raw, 3.0, 20, height / width)
    images = torch.rand(3, 3, height, width, generator=generator, dtype=torch.float64)
    drawn = render(gaussians, height, width, backend="reference")
    drawn.sub(images).square().mean((1, 2, 3)).sum().backward()
    error, gradient = squared_error(gaussians.detach(), images)
    torch.testing.assert_close(picture(gaussians, height, width), drawn)
    torch.testing.assert_close(error, drawn.detach() - images)
    torch.testing.assert_close(gradient, raw.grad, rtol=1e-9, atol=1e-14)
    assert gradient[0].abs().max() > 0
    assert not gradient[1, :5].any()
