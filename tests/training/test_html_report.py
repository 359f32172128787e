"""What goes onto the page: for every kind of model, and which images."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.analysis.explanation import attribute
from gvit.encoding import PHOTOGRAPH_SIDE, ImageEncoder
from gvit.errors import InputError
from gvit.losses import psnr
from gvit.training.html_report import write_html_report
from gvit.training.report_images import _good_and_poor, _right_and_wrong
from gvit.viewing.ellipses import find_ellipses


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    rows, columns = np.mgrid[:48, :64]
    return Image.fromarray(np.stack((4 * columns, 5 * rows, 2 * (rows + columns)), -1).astype(np.uint8))


def write(tmp_path, model, images, **options) -> str:
    written = write_html_report(model, images, tmp_path / "report.html", **options)
    assert not written.unread
    return written.file.read_text()


def test_the_numbers_are_those_of_the_library(tmp_path, photo):
    model = gvit.load_model("gvit_tiny.digits")
    methods = ("occlusion", "det", "edges")
    text = write(tmp_path, model, [photo], method=methods)
    images = gvit.load_images([photo], model)
    with torch.no_grad():
        gaussians = model.encode(images)
        quality = psnr(gvit.render(gaussians, 32, 32).clamp(0, 1), images)
    assert f"<dd>{quality.item():.2f} dB</dd>" in text
    (best, *_) = gvit.predict(model, images)[0]
    assert f"<b>{best.class_name}</b>" in text
    assert f"{100 * best.probability:.1f} %" in text
    scores = [attribute(model, images, method)[0].tolist() for method in methods]
    shown = {int(row.split()[0]): row.split()[4:] for row in re.findall(r'data-g="([^"]+)"', text)}
    drawn = (gaussians.opacities[0] >= 1 / 255).nonzero()[:, 0].tolist()
    assert sorted(shown) == drawn
    for k, row in shown.items():
        assert list(map(float, row)) == pytest.approx([values[k] for values in scores], rel=1e-4, abs=1e-6)


def test_an_encoder_alone_draws_whole_images_and_answers_nothing(tmp_path, photo):
    text = write(tmp_path, "gvit_tiny.photos", [photo], num_gaussians=40)
    assert "64 × 48 px" in text
    assert text.count("data-g=") <= 40
    assert "Predictions" not in text
    assert 'value="1"' in text  # two methods, which ask no class
    for method in ("cdam", "attention"):
        with pytest.raises(InputError, match="an encoder alone has det, opacity, random, edges"):
            write_html_report("gvit_tiny.photos", [photo], tmp_path / "b.html", method=(method,))


def test_numbers_are_in_pixels_of_the_image_and_not_of_what_is_shown(tmp_path, photo):
    large = photo.resize((600, 450))
    text = write(tmp_path, "gvit_tiny.photos", [large], num_gaussians=9, looks=1)
    assert "600 × 450 px" in text
    assert "480 × 360 px" in text
    assert text.count('viewBox="0 0 600 450"') == 2
    encoder = ImageEncoder(gvit.load_model("gvit_tiny.photos"), 9, 1, PHOTOGRAPH_SIDE)
    (encoded,) = encoder([encoder.transform(large)])
    found = find_ellipses(encoded.gaussians, 450, 600)
    for ellipse in re.findall(r"<ellipse (cx=.*?)/>", text.partition("<main>")[2]):
        values = dict(re.findall(r'([\w-]+)="(.*?)"', ellipse))
        number = int(values["data-g"].split()[0])
        told = [float(values[name]) for name in ("cx", "cy", "rx", "ry")]
        expected = [*found.centers[number].tolist(), *(2 * found.scales[number]).tolist()]
        assert told == pytest.approx(expected, abs=0.05)


def test_an_image_of_one_row_has_no_edges_and_is_shown(tmp_path):
    line = Image.new("RGB", (5, 1), "orange")
    assert "5 × 1 px" in write(tmp_path, "gvit_tiny.photos", [line], num_gaussians=5, looks=1, method="edges")


def test_a_patch_vit_has_answers_and_no_gaussians(tmp_path, photo):
    model = gvit.create_model("vit_tiny_patch8", num_classes=3)
    text = write(tmp_path, model, [photo])
    assert "Predictions" in text
    assert "<ellipse cx" not in text.partition("<main>")[2]
    assert "Scores by" not in text
    with pytest.raises(InputError, match="reads patches and has no Gaussians to score"):
        write_html_report(model, [photo], tmp_path / "b.html", method="det")


def test_a_model_that_reads_gaussians_shows_what_they_draw(tmp_path, photo):
    gaussians = gvit.fit(photo, 12, 2).gaussians
    gaussians[0].save(tmp_path / "a.safetensors")
    model = gvit.create_model("gaussian_vit_tiny", num_classes=3, num_gaussians=12)
    text = write(tmp_path, model, [tmp_path / "a.safetensors"])
    assert "<h3>a.safetensors</h3>" in text
    assert "The image" not in text
    assert "What the Gaussians draw" in text
    assert "Predictions" in text


def test_files_that_cannot_be_read_are_told_and_cost_nothing(tmp_path, photo):
    photo.save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_text("no image")
    written = write_html_report("gvit_tiny.digits", [tmp_path], tmp_path / "report.html", method="det")
    assert [str(error) for error in written.unread] == [f"{tmp_path / 'bad.png'}: not an image file"]
    assert "bad.png: not an image file" in written.file.read_text()
    (tmp_path / "good.png").unlink()
    written.file.unlink()
    with pytest.raises(InputError, match=r"bad\.png: not an image file"):
        write_html_report("gvit_tiny.digits", [tmp_path], tmp_path / "report.html")
    assert not written.file.exists()


def test_many_images_are_thinned_and_the_page_says_so(tmp_path, photo):
    for number in range(9):
        photo.save(tmp_path / f"{number}.png")
    text = write(tmp_path, "gvit_tiny.photos", [tmp_path], num_images=3, num_gaussians=9)
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["0.png", "4.png", "8.png"]
    assert "3 of 9 that were named" in text


@pytest.fixture
def measured() -> dict:
    """Classes 0 and 1; images 2 and 5 are wrong, 5 with more confidence; 7 cannot be read."""
    return {
        "label": torch.tensor([0, 0, 0, 1, 1, 1, 0, 1]),
        "predicted": torch.tensor([0, 0, 1, 1, 1, 0, 0, 1]),
        "confidence": torch.tensor([0.9, 0.8, 0.5, 0.9, 0.6, 0.7, 0.9, 0.9]),
        "broken": torch.tensor([0, 0, 0, 0, 0, 0, 0, 1]),
        "psnr": torch.tensor([5.0, 1, 4, 3, 2, 0, 6, 99]),
    }


def test_right_ones_are_taken_class_by_class_and_wrong_ones_by_confidence(measured):
    assert _right_and_wrong(measured, 4)[0] == [0, 3, 5, 2]
    rows, about = _right_and_wrong(measured, 3)
    assert rows == [0, 3, 5]
    assert about == (
        "2 of 5 right answers, class by class, and 1 of 2 wrong ones, those that the model is surest of, "
        "out of 7 test images."
    )
    assert sorted(_right_and_wrong(measured, 99)[0]) == [0, 1, 2, 3, 4, 5, 6]
    measured["predicted"] = measured["label"]
    assert _right_and_wrong(measured, 3)[0] == [0, 3, 1]


def test_of_an_encoder_alone_they_are_spread_over_the_quality(measured):
    assert _good_and_poor(measured, 3)[0] == [5, 3, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": "photo.png"}, r"ends in \.html"),
        ({"out": "no/such/folder.html"}, "no folder no/such"),
        ({"method": ("cdm",)}, "unknown method 'cdm'; nearest: cdam"),
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"dataset": "digits"}, "images and dataset: give one of them"),
        ({"background": "nonsense"}, "background must be"),
        ({"images": ()}, "name image files after it, or give labelled ones by data_dir"),
        ({"images": (), "looks": 2}, "looks is for images that are named"),
        ({"images": (), "background": "black"}, "background is for images that are named: .* as in training"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, photo, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        write_html_report("gvit_tiny.digits", **{"images": [photo]} | options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
