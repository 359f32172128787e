"""What a model tells of itself."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

import gvit


def table(model) -> dict[str, str]:
    rows = ElementTree.fromstring(model._repr_html_())  # HTML that is XML, too
    return {str(row[0].text): str(row[1].text) for row in rows}


def test_a_model_is_a_table_in_a_notebook():
    model = gvit.create_model("gvit_tiny_denoising", num_classes=12, num_gaussians=16)
    names = ("<b>", *map(str, range(11)))
    model.card = replace(model.card, class_names=names)
    rows = table(model)
    count = sum(p.numel() for p in model.parameters())
    encoder = sum(p.numel() for p in model.encoder.parameters())
    assert rows == {
        "name": "gvit_tiny_denoising",
        "parameters": f"{count:,} (encoder {encoder:,}, classifier {count - encoder:,})",
        "input": "images [B, 3, 32, 32], values in [0, 1]",
        "Gaussians": "16 an image",
        "classes": "12: <b>, 0, 1, 2, 3, 4, 5, 6, 7, 8, ...",
        "preprocessing": "a centre crop of 0.875, 32 x 32 pixels, bicubic",
    }


@pytest.mark.parametrize(
    ("name", "arguments", "row", "said"),
    [
        ("vit_tiny_patch8", {}, "Gaussians", "none: 16 patches an image"),
        ("gaussian_vit_tiny", {}, "input", "raw Gaussians [B, 32, 9]"),
        ("gvit_tiny", {}, "Gaussians", "32 an image, or any other number"),
        ("gvit_tiny", {"num_classes": 0}, "classes", "none"),
    ],
)
def test_each_kind_of_model_says_what_it_reads_and_gives(name, arguments, row, said):
    assert table(gvit.create_model(name, **arguments))[row] == said
