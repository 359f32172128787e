"""The paper's pictures show what they say."""

import numpy as np
import pytest
import torch

import gvit
from gvit.analysis.attribution import cdam, project_on_grid
from gvit.gaussians import Gaussians
from gvit.viewing.figures import determinant_map
from gvit.viewing.paper import explanation_figure, regimes_figure


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny", num_classes=3, num_gaussians=5, img_size=16).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def shown(axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.asarray(image.get_array())


def test_regimes_stand_side_by_side_with_their_ellipses(model, images):
    learned = model.encode(images)
    fitted = Gaussians(torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(1)), 1.0, 3)
    figure = regimes_figure(images, {"SGD": fitted, "guided": learned})
    axes = np.array(figure.axes).reshape(2, 3)
    assert [a.get_title() for a in axes[0]] == ["original", "SGD", "guided"]
    for row in range(2):
        np.testing.assert_array_equal(shown(axes[row, 0]), images[row].permute(1, 2, 0))
        for column, gaussians in ((1, fitted), (2, learned)):
            (ellipses,) = axes[row, column].collections
            centers = gaussians[row].in_pixels(16, 16)[0].detach()
            np.testing.assert_allclose(ellipses.get_offsets(), centers - 0.5, rtol=1e-5, atol=1e-5)


def test_explanations_show_determinants_attribution_and_drawing(model, images):
    figure = explanation_figure(model, images, [0, 2], cells=8)
    axes = np.array(figure.axes).reshape(4, 2)
    with torch.no_grad():
        gaussians = model.encode(images)
        predicted = model.classify(gaussians).argmax(-1)
        drawn = gvit.render(gaussians, 16, 16).clamp(0, 1)
    scores = project_on_grid(cdam(model, gaussians), gaussians, 8)
    determinants = determinant_map(gaussians, 16, 16)
    for column in range(2):
        np.testing.assert_array_equal(shown(axes[0, column]), images[column].permute(1, 2, 0))
        np.testing.assert_allclose(shown(axes[1, column]), determinants[column])
        np.testing.assert_allclose(shown(axes[2, column]), scores[column], rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(shown(axes[3, column]), drawn[column].permute(1, 2, 0), atol=1e-6)
        (attribution,) = axes[2, column].get_images()
        assert attribution.norm.vmin == -attribution.norm.vmax  # 0 has the colour of neither sign
        assert axes[2, column].get_title() == f"for {predicted[column]}"
    assert [a.get_title() for a in axes[0]] == ["is 0", "is 2"]
