"""One image, in whatever form, is the same image."""

import numpy as np
import pytest
import torch
from PIL import Image

from gvit import Gaussians, render
from gvit.data.convert import as_pixels, as_rgb, composite, parse_color
from gvit.data.images import open_image
from gvit.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
GREY = RGB[..., 0]
HALF = np.dstack((RGB, np.full((7, 9), 128, np.uint8)))
EXPECTED = torch.from_numpy(RGB).permute(2, 0, 1) / 255


def forms(tmp_path) -> dict[str, object]:
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path)
    tensor = torch.from_numpy(RGB).permute(2, 0, 1)
    return {
        "path": path,
        "text": str(path),
        "pillow": Image.fromarray(RGB),
        "array": RGB,
        "turned": RGB[::-1][::-1],  # neither of its axes runs as torch wants it
        "read-only": np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape),
        "channels first": np.moveaxis(RGB, 2, 0),
        "uint16": RGB.astype(np.uint16) * 257,
        "float64": RGB / 255,
        "float32": (RGB / 255).astype(np.float32),
        "tensor": tensor,
        "uint16 tensor": torch.from_numpy(np.moveaxis(RGB, 2, 0).astype(np.uint16) * 257),
        "channels last": torch.from_numpy(RGB),
        "floats": tensor / 255,
        "big endian": (RGB / 255).astype(">f4"),
        "big endian, 16 bits": (RGB * np.uint16(257)).astype(">u2"),
        "opaque": np.dstack((RGB, np.full((7, 9), 255, np.uint8))),
    }


def test_every_form_gives_the_same_pixels(tmp_path):
    for name, image in forms(tmp_path).items():
        torch.testing.assert_close(as_pixels(image), EXPECTED, atol=1e-6, rtol=0, msg=name)
        assert np.array_equal(np.asarray(as_rgb(image)), RGB), name


def test_a_photograph_of_a_turned_camera_is_upright_as_a_file_and_as_a_pillow_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = tmp_path / "a.png"
    Image.fromarray(np.rot90(RGB)).save(path, exif=exif)
    with Image.open(path) as opened:
        for image in (path, opened, open_image(path)):
            assert np.array_equal(np.asarray(as_rgb(image)), RGB)
            torch.testing.assert_close(as_pixels(image), EXPECTED)
        assert opened.size == (7, 9)  # the caller's own is left alone


@pytest.mark.parametrize("image", [GREY, GREY[None], GREY[..., None], GREY / 255, Image.fromarray(GREY)])
def test_grey_becomes_three_equal_channels(image):
    expected = (torch.from_numpy(GREY) / 255).expand(3, -1, -1)
    torch.testing.assert_close(as_pixels(image).float(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        as_pixels(GREY > 100), (torch.from_numpy(GREY) > 100).float().expand(3, -1, -1)
    )


@pytest.mark.parametrize(
    ("background", "below"), [("black", 0), ("white", 255), ("#0000ff", (0, 0, 255)), ((1, 1, 1), 255)]
)
def test_transparency_lies_over_the_background(tmp_path, background, below):
    expected = (128.0 * RGB + 127.0 * np.broadcast_to(below, RGB.shape)) / 255
    path = tmp_path / "a.webp"
    Image.fromarray(HALF).save(path, lossless=True, exact=True)
    for image in (HALF, Image.fromarray(HALF), path, torch.from_numpy(HALF).permute(2, 0, 1)):
        pixels = as_pixels(image)
        assert pixels.shape == (4, 7, 9)
        over = composite(pixels, background).permute(1, 2, 0) * 255
        np.testing.assert_allclose(over, expected, atol=1e-3)
        np.testing.assert_allclose(np.asarray(as_rgb(image, background)), expected, atol=1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 3), np.uint8), r"\[3, 8, 3\] may be \[H, W, C\] or \[C, H, W\]"),
        (np.zeros((60, 28, 28), np.uint8), r"got \[60, 28, 28\]; several images go in a list"),
        (np.zeros((8, 8, 2), np.uint8), r"got \[8, 8, 2\]"),
        (np.zeros(8, np.uint8), r"got \[8\]"),
        (np.zeros((0, 8, 3), np.uint8), "has no pixels"),
        (np.full((8, 8, 3), 2.0), r"values in \[0, 1\], got 2 to 2; of numbers from 0 to 255, divide by 255"),
        (np.full((8, 8, 3), -0.1), r"values in \[0, 1\], got -0.1 to -0.1$"),
        (np.full((8, 8, 3), np.inf), r"values in \[0, 1\]"),
        (torch.full((3, 8, 8), torch.nan), "NaN"),
        (np.zeros((8, 8, 3), np.int64), "an image of int64: give uint8 or uint16, or floats"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), "an image of int64"),
        (None, "expected an image .*, got NoneType"),
    ],
)
def test_what_is_no_image_says_what_would_be(image, message):
    with pytest.raises(InputError, match=message):
        as_pixels(image)


def test_a_rendered_picture_is_an_image():
    raw = torch.randn(200, 9, generator=torch.Generator().manual_seed(0))
    raw[:, 5:8] = 40  # white
    picture = render(Gaussians(raw, nominal_count=50), 24, 24, background=torch.ones(3))
    assert picture.max() > 1  # by rounding
    assert torch.equal(as_pixels(picture), picture.clamp(0, 1))


@pytest.mark.parametrize("color", ["whit", (1, 2, 3), (1, 1), "", "#ff88", "#ff880080", 0, ("a", 0, 0)])
def test_what_is_no_colour(color):
    with pytest.raises(InputError, match="must be a colour's name"):
        parse_color(color)


def test_the_command_line_is_offered_what_it_takes():
    with pytest.raises(InputError) as error:
        parse_color("whit")
    assert "three numbers" in str(error.value)
    assert "three numbers" not in error.value.for_command_line()
