"""Gaussians in a notebook: a small picture of the first few, and never an error."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.gaussians import Gaussians


def read(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def picture_in(html: str) -> bytes:
    (data,) = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
    return base64.b64decode(data, validate=True)


def test_one_image_is_drawn_at_its_aspect():
    gaussians = Gaussians(torch.randn(5, 9, generator=torch.Generator().manual_seed(0)), aspect=0.5)
    html, png = gaussians._repr_html_(), gaussians._repr_png_()
    assert picture_in(html) == png
    drawn = gvit.render(gaussians, 128, 256).clamp(0, 1).permute(1, 2, 0).numpy()
    pixels = read(png)
    assert pixels.shape == (128, 256, 4)
    np.testing.assert_allclose(pixels[..., :3], 255 * drawn, atol=0.51)
    assert "5 Gaussians, aspect 0.5, scale factor 1, nominal count 512" in html


def test_of_a_batch_the_first_few_are_drawn_side_by_side():
    raw = torch.randn(2, 5, 4, 9, generator=torch.Generator().manual_seed(0))
    html = Gaussians(raw)[:, :, [3, 1]]._repr_html_()
    assert "2 x 5 images of 2 Gaussians" in html
    assert html.endswith("(the first 6)</div>")
    pixels = read(picture_in(html))
    assert pixels.shape == (128, 6 * 132 - 4, 4)
    second = gvit.render(Gaussians(raw[0, 1, [3, 1]]), 128, 128).clamp(0, 1).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(pixels[:, 132:260, :3], 255 * second, atol=0.51)
    assert not pixels[:, 128:132, 3].any()
    assert "first" not in Gaussians(raw[0])._repr_html_()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (torch.zeros(0, 9), "<div>0 Gaussians"),
        (torch.zeros(0, 4, 9), "<div>0 images of 4 Gaussians"),
        (torch.full((2, 9), torch.nan), "(cannot be drawn: centers must be finite"),
        (torch.zeros(1, 2, 9, device="meta"), "<div>1 image of 2 Gaussians"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_words(raw, said):
    gaussians = Gaussians(raw)
    assert gaussians._repr_png_() is None
    assert said in gaussians._repr_html_()
    assert "<img" not in gaussians._repr_html_()


def test_many_or_odd_ones_are_drawn_all_the_same():
    assert read(Gaussians(torch.zeros(200_000, 9))._repr_png_()).shape == (256, 256, 4)
    for raw in (torch.zeros(3, 9, dtype=torch.float64, requires_grad=True), torch.zeros(3, 9).half()):
        assert Gaussians(raw)._repr_png_() is not None
    assert read(Gaussians(torch.zeros(2, 9), aspect=1e5)._repr_png_()).shape == (256, 1, 4)
