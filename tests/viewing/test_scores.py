import numpy as np
import pytest
import torch

import gvit
from gvit.analysis.attribution import project_on_grid
from gvit.analysis.scoremap import splat_scores
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.viewing.scores import scores_figure

HEIGHT, WIDTH = 20, 30


@pytest.fixture
def gaussians():
    raw = torch.randn(7, 9, generator=torch.Generator().manual_seed(0))
    return Gaussians(raw, nominal_count=7, aspect=HEIGHT / WIDTH)


def panels_of(figure):
    """By title."""
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_each_method_has_its_two_maps_beside_image_and_drawing(gaussians):
    image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    scores = torch.linspace(-1, 3, 7)
    figure = scores_figure(
        gaussians, {"cdam": scores, "det": scores + 2}, HEIGHT, WIDTH, image, "$ is no formula"
    )
    assert figure.get_suptitle() == "$ is no formula"
    panels = panels_of(figure)
    assert len(panels) == 6
    np.testing.assert_array_equal(panels["image"].images[0].get_array(), image.permute(1, 2, 0).numpy())
    (drawn,) = (axes for title, axes in panels.items() if title.startswith("drawn, 7 Gaussians, "))
    picture = gvit.render(gaussians, HEIGHT, WIDTH).clamp(0, 1).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(drawn.images[0].get_array(), picture)
    for name, values, least in (
        ("cdam", scores, 0.0),
        ("det", scores - scores.min(), scores.min().item() + 2),
    ):
        cells, pixels = panels[f"{name}, 16 x 16"].images[1], panels[f"{name}, drawn"].images[1]
        np.testing.assert_allclose(cells.get_array(), project_on_grid(values, gaussians).numpy() + least)
        splat = splat_scores(values[None], gaussians[None], HEIGHT, WIDTH)[0].numpy()
        np.testing.assert_allclose(pixels.get_array(), splat + least, rtol=1e-6)
        for shown in (cells, pixels):
            low, high = shown.get_clim()
            assert shown.get_extent() == [-0.5, WIDTH - 0.5, HEIGHT - 0.5, -0.5]
            if name == "cdam":  # for and against, 0 in the middle
                assert -low == high == pytest.approx(abs(shown.get_array()).max())
            else:
                assert (low, high) == pytest.approx((shown.get_array().min(), shown.get_array().max()))


def test_nothing_is_darker_than_the_least_score_without_a_sign(gaussians):
    scores = torch.linspace(-9, -3, 7)
    panels = panels_of(scores_figure(gaussians, {"det": scores}, HEIGHT, WIDTH))
    for shown in ("16 x 16", "drawn"):
        assert panels[f"det, {shown}"].images[1].get_array().min() >= -9.001
    # and where nothing is, is as dark
    assert panels["det, 16 x 16"].images[1].get_array().min() == -9


def test_many_methods_go_into_further_rows(gaussians):
    names = ["cdam", "det", "opacity", "attention", "ixg", "ig", "shap"]
    few, many = (
        scores_figure(gaussians, dict.fromkeys(some, torch.ones(7)), HEIGHT, WIDTH)
        for some in (names[:5], names)
    )
    assert few.get_figwidth() == many.get_figwidth()
    assert few.get_figheight() < many.get_figheight()
    assert len([title for title in panels_of(many) if title.endswith("16 x 16")]) == 7


def test_without_an_image_or_anything_that_differs_it_is_drawn_as_well(gaussians, tmp_path):
    figure = scores_figure(gaussians, {"det": torch.zeros(7), "ig": torch.zeros(7)}, HEIGHT, WIDTH)
    assert "image" not in panels_of(figure)
    figure.savefig(tmp_path / "zeros.png")


def test_unusable_scores_are_refused(gaussians):
    with pytest.raises(InputError, match="scores of a method to show"):
        scores_figure(gaussians, {}, HEIGHT, WIDTH)
    with pytest.raises(InputError, match="one score per Gaussian"):
        scores_figure(gaussians, {"ig": torch.zeros(6)}, HEIGHT, WIDTH)
