import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import gvit
from gvit.gaussians import Gaussians
from gvit.viewing.figures import (
    confusion_figure,
    determinant_map,
    draw_ellipses,
    fit_figure,
    mistakes_figure,
    report_figure,
    save_figure,
)


def one_gaussian(angle: float, opacity: float = 0.99) -> Gaussians:
    return Gaussians.from_values(
        *(torch.tensor([[0.25, -0.25]]), torch.tensor([[0.3, 0.1]]), torch.tensor([angle])),
        *(torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([opacity])),
        scale_factor=1.0,
        nominal_count=4,
    )


def filled_ellipses(gaussians: Gaussians, height: int, width: int, pixels: int) -> np.ndarray:
    """How much of each of ``pixels`` x ``pixels`` of a canvas that shows the whole image lies in an ellipse, to 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 2), dpi=pixels / 2)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(np.zeros((height, width, 3)), aspect="auto")
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.axis("off")
    draw_ellipses(axes, gaussians, height, width)
    (ellipses,) = axes.collections
    ellipses.set(facecolors="white", linewidths=0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., 0].astype(float)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, 2.5])
def test_the_ellipse_encloses_two_standard_deviations(angle):
    """Drawn filled and compared pixel by pixel with the quadratic form of the covariance."""
    size = 200
    gaussians = one_gaussian(angle)
    drawn = filled_ellipses(gaussians, size, size, size) > 128

    centers, covariances, _, _ = gaussians.in_pixels(size, size)
    y, x = np.mgrid[:size, :size] + 0.5
    offset = np.stack((x, y), -1) - centers[0].numpy()
    form = np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(covariances[0].numpy()), offset)
    expected = form <= 4
    # matplotlib snaps to pixels, half a pixel around the edge; 5 % more or fewer deviations would give 0.90
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.94


def blob(center, covariance, size):
    """A Gaussian bump on black, [1, 3, size, size], from its formula and not by the renderer."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    offset = torch.stack((x, y), -1) - center
    form = torch.einsum("hwi,ij,hwj->hw", offset, torch.linalg.inv(covariance), offset)
    return (0.9 * (-form / 2).exp()).expand(1, 3, -1, -1)


def test_the_ellipse_of_a_fitted_blob_has_its_covariance():
    """On the pixels of the figure: a filled ellipse of 2 standard deviations has the covariance as its moments."""
    size, zoom = 40, 8
    # 5 px and 2 px, the long axis at 35 degrees from +x towards +y, down
    center = torch.tensor([22.0, 18.0])
    covariance = gvit.build_covariances(torch.tensor([5.0, 2.0]), torch.tensor(math.radians(35)))
    found = gvit.fit(blob(center, covariance, size), num_gaussians=1, steps=400)
    assert found.psnr.item() > 60

    weights = filled_ellipses(found.gaussians[0], size, size, size * zoom)
    y, x = (np.mgrid[: size * zoom, : size * zoom] + 0.5) / zoom
    points = np.stack((x.ravel(), y.ravel()))
    assert weights.shape == x.shape
    np.testing.assert_allclose(np.average(points, axis=1, weights=weights.ravel()), center, atol=0.1)
    moments = np.cov(points, aweights=weights.ravel())
    # what the renderer adds to a Gaussian isn't in its ellipse: 0.3 square pixels
    expected = covariance.numpy() - 0.3 * np.eye(2)
    np.testing.assert_allclose(moments, expected, atol=0.01 * expected.max())


def test_determinant_map_of_one_gaussian_is_its_determinant():
    gaussians = one_gaussian(0.4)
    found = determinant_map(gaussians, 64, 64)
    expected = torch.linalg.det(gaussians.in_pixels(64, 64)[1][0]).log10()
    inside = found.isfinite()
    assert 0.02 < inside.float().mean() < 0.6
    torch.testing.assert_close(found[inside], expected.expand(int(inside.sum())), rtol=1e-3, atol=1e-3)


def test_determinants_of_thin_gaussians_keep_their_digits():
    """In float32, a covariance of 60 x 0.01 pixels has no digits left for the width."""
    gaussians = Gaussians.from_values(
        *(torch.zeros(1, 2), torch.tensor([[0.6, 1e-4]]), torch.tensor([0.6])),
        *(torch.ones(1, 3), torch.tensor([0.99])),
    )
    found = determinant_map(gaussians, 200, 200)
    expected = 2 * math.log10(60 * 0.01)
    torch.testing.assert_close(found.nanmean(), torch.tensor(expected), rtol=0, atol=1e-3)


def test_determinant_map_is_empty_where_nothing_is_drawn():
    assert determinant_map(one_gaussian(0.0, opacity=1e-3), 16, 16).isnan().all()


def test_report_has_four_pictures_per_image(tmp_path):
    model = gvit.create_model("gvit_tiny_denoising", num_classes=3).eval()
    model.card = replace(model.card, class_names=("cat", "dog", "$0_$10"))  # the last is no formula
    figure = report_figure(model, torch.rand(3, 3, 32, 32), [0, 1, 2])
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title.startswith("is ")] == ["is cat", "is dog", "is $0_$10"]
    assert sum(bool(axes.images) for axes in figure.axes) == 12
    save_figure(figure, tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 5000
    assert not list(tmp_path.glob("*.partial"))


def test_a_fit_stands_beside_its_image_and_its_ellipses():
    gaussians = Gaussians(torch.randn(4, 9, generator=torch.Generator().manual_seed(0)), 1.0, 4)
    image, drawn = torch.rand(2, 3, 10, 14, generator=torch.Generator().manual_seed(1))
    figure = fit_figure(image, gaussians, drawn)
    for axes, shown in zip(figure.axes, (image, drawn, drawn * 0.35), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), shown.permute(1, 2, 0).numpy())
    assert [len(axes.collections) for axes in figure.axes] == [0, 0, 1]
    (ellipses,) = figure.axes[2].collections
    centers = gaussians.in_pixels(10, 14)[0].numpy() - 0.5
    np.testing.assert_allclose(ellipses.get_offsets(), centers, rtol=1e-5)
    assert figure.axes[1].get_title() == f"drawn, {gvit.losses.psnr(drawn, image):.1f} dB"


def test_confusion_figure_counts():
    figure = confusion_figure([[3, 1], [0, 2]], ["a", "b"])
    axes = figure.axes[0]
    # what is predicted lies along x
    counts = {text.get_position(): text.get_text() for text in axes.texts}
    assert counts == {(0, 0): "3", (1, 0): "1", (1, 1): "2"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


def test_names_of_files_that_are_no_text_are_shown_as_they_can_be(tmp_path):
    name = b"\xff".decode("utf-8", "surrogateescape")
    figure = confusion_figure([[2, 1], [0, 3]], [name, "b"])
    save_figure(figure, tmp_path / "confusion.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [r"\udcff", "b"]
    save_figure(mistakes_figure([torch.zeros(3, 8, 8)], [f"{name}\nis b"]), tmp_path / "mistakes.png")


def test_confusion_of_a_thousand_classes_is_no_endless_figure():
    figure = confusion_figure([[0] * 1000] * 1000, ["class"] * 1000)
    assert figure.get_size_inches().max() <= 40


@pytest.mark.filterwarnings("error")
def test_names_in_other_scripts_warn_of_nothing(tmp_path):
    save_figure(confusion_figure([[3, 0], [1, 2]], ["\u732b", "dog"]), tmp_path / "a.png")
