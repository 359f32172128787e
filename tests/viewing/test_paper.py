from dataclasses import replace

import numpy as np
import pytest
import torch

import gvit
from gvit.analysis.attribution import cdam, project_on_grid
from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.viewing.figures import determinant_map, save_figure
from gvit.viewing.paper import explain_figure, regimes_figure

NAMES = ("cat", "dog", "$0_$10")  # the last is no formula


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3).eval()
    with torch.no_grad():  # what an image looks like makes no difference to fresh weights
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.card = replace(model.card, class_names=NAMES)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def pixels(picture):
    return picture.permute(1, 2, 0).numpy()


def rows_of(figure, columns):
    panels = [axes for axes in figure.axes if axes.images]
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]


def test_regimes_stand_beside_the_original(model, images):
    with torch.no_grad():
        learned = model.encode(images)
        drawn = gvit.render(learned, 32, 32).clamp(0, 1)
    few = Gaussians(torch.randn(2, 5, 9), nominal_count=5)
    rows = rows_of(regimes_figure(images, {"few": few, "learned": learned}), 3)
    assert len(rows) == 2
    assert [axes.get_title() for axes in rows[0]] == ["Original", "few", "learned"]
    for image, (original, first, second) in enumerate(rows):
        np.testing.assert_array_equal(original.images[0].get_array(), pixels(images[image]))
        assert not original.collections
        np.testing.assert_allclose(second.images[0].get_array(), pixels(drawn[image] * 0.35), atol=1e-6)
        assert first.get_xlabel().startswith("5 Gaussians")
        assert second.get_xlabel() == f"32 Gaussians, {psnr(drawn, images)[image]:.1f} dB"
        for axes, gaussians in ((first, few), (second, learned)):
            (ellipses,) = axes.collections
            centers = gaussians[image].in_pixels(32, 32)[0].numpy() - 0.5
            np.testing.assert_allclose(ellipses.get_offsets(), centers, rtol=1e-5)


def test_regimes_of_other_images_are_refused(images):
    with pytest.raises(InputError, match="few: raw must have shape"):
        regimes_figure(images, {"few": Gaussians(torch.zeros(3, 5, 9))})
    with pytest.raises(InputError, match="a regime to show"):
        regimes_figure(images, {})


def test_an_explanation_has_image_determinants_evidence_and_drawing(model, images):
    rows = rows_of(explain_figure(model, images, [2, 0]), 2)
    assert len(rows) == 4
    with torch.no_grad():
        gaussians = model.encode(images)
        drawn = gvit.render(gaussians, 32, 32).clamp(0, 1)
        probability, predicted = model.classify(gaussians).softmax(-1).max(-1)
        sizes = determinant_map(gaussians, 32, 32)
    evidence = project_on_grid(cdam(model, images), gaussians)
    for i in range(2):
        original, sizes_panel, heat_panel, drawn_panel = (row[i] for row in rows)
        np.testing.assert_array_equal(original.images[0].get_array(), pixels(images[i]))
        assert original.get_title() == NAMES[(2, 0)[i]]
        np.testing.assert_allclose(sizes_panel.images[0].get_array().filled(np.nan), sizes[i], rtol=1e-4)
        backdrop, heat = heat_panel.images
        grey = np.asarray(backdrop.get_array())
        assert grey.shape == (32, 32, 3)
        assert np.ptp(grey, axis=2).max() == 0
        np.testing.assert_allclose(heat.get_array(), evidence[i] / evidence[i].abs().max(), atol=1e-4)
        assert heat.get_clim() == (-1, 1)
        assert heat.get_extent() == [-0.5, 31.5, 31.5, -0.5]
        assert heat_panel.get_title() == f"for {NAMES[predicted[i]]}, {100 * probability[i]:.0f} %"
        np.testing.assert_allclose(drawn_panel.images[0].get_array(), pixels(drawn[i]), atol=1e-6)
        assert drawn_panel.get_title() == f"{psnr(drawn, images)[i]:.1f} dB"


def test_zero_evidence_is_the_middle_of_the_colours_and_shows_the_image(model, images):
    rows = rows_of(explain_figure(model, images, [2, 0]), 2)
    heat = rows[2][0].images[1]
    assert heat.to_rgba(np.zeros((1, 1)))[0, 0, :3] == pytest.approx([1, 1, 1], abs=0.01)
    red, _, blue = heat.to_rgba(np.array([[1.0]]), alpha=1)[0, 0, :3]
    assert red > blue
    empty = np.asarray(heat.get_array()) == 0
    assert empty.any()
    assert not np.asarray(heat.get_alpha())[empty].any()


def test_evidence_for_another_class_can_be_asked_for(model, images):
    heat = rows_of(explain_figure(model, images, [2, 0], classes=[1, 1]), 2)[2]
    expected = project_on_grid(cdam(model, images, 1), model.encode(images).detach())
    for i in range(2):
        assert heat[i].get_title().startswith("for dog")
        np.testing.assert_allclose(
            heat[i].images[1].get_array(), expected[i] / expected[i].abs().max(), atol=1e-4
        )


@pytest.mark.parametrize(("labels", "classes"), [([2, 2], [0, 0]), ([0, 0], [2, 2])])
def test_a_class_may_be_called_what_would_be_a_formula(model, images, tmp_path, labels, classes):
    save_figure(explain_figure(model, images, labels, classes), tmp_path / "a.png")


def test_a_label_per_image_is_asked_for(model, images):
    with pytest.raises(InputError, match="a label per image"):
        explain_figure(model, images, [0])


@pytest.mark.parametrize("name", ["vit_tiny_patch8", "gaussian_vit_tiny"])
def test_a_model_that_makes_no_gaussians_explains_nothing(images, name):
    with pytest.raises(InputError, match=f"{name} makes no Gaussians of images"):
        explain_figure(gvit.create_model(name, num_classes=3).eval(), images, [2, 0])
