"""SVG files against the renderer, by whatever on this machine can rasterise them."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.gaussians import Gaussians
from gvit.losses import psnr
from gvit.viewing.ellipses import find_ellipses, to_rows
from gvit.viewing.svg import to_svg

HEIGHT, WIDTH = 90, 120


def by_librsvg(file: Path) -> bytes:
    return subprocess.run(["rsvg-convert", file], capture_output=True, check=True).stdout


def by_resvg(file: Path) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=file.read_text()))


def by_chromium(file: Path) -> bytes:
    shot, page = file.with_suffix(".png"), file.with_suffix(".html")
    page.write_text(f'<body style="margin:0">{file.read_text()}</body>')
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
    ]
    window = [f"--user-data-dir={file.parent}", "--window-size=600,500", f"--screenshot={shot}"]
    subprocess.run(["chromium", *flags, *window, page.as_uri()], capture_output=True, check=True, timeout=120)
    return shot.read_bytes()


def rasterisers() -> list:
    found = [by_librsvg] if shutil.which("rsvg-convert") else []
    found += [by_chromium] if shutil.which("chromium") else []
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        return found
    return [*found, by_resvg]


def some(count: int = 150, seed: int = 0) -> Gaussians:
    """Of all shapes, over each other, some of them faint, some beyond the edge."""
    raw = 1.2 * torch.randn(count, 9, generator=torch.Generator().manual_seed(seed))
    raw[:, 3] -= 1.5  # long ones
    return Gaussians(raw, scale_factor=3.0, nominal_count=count, aspect=HEIGHT / WIDTH)


@pytest.mark.skipif(
    not rasterisers(), reason="nothing here rasterises SVG: librsvg2-bin, chromium or resvg-py would"
)
def test_an_svg_is_what_the_renderer_draws(tmp_path):
    gaussians = some()
    file = tmp_path / "a.svg"
    file.write_text(to_svg(gaussians, HEIGHT, WIDTH))
    picture = gvit.render(gaussians, HEIGHT, WIDTH).clamp(0, 1)
    for rasterise in rasterisers():
        drawn = np.array(Image.open(io.BytesIO(rasterise(file))).convert("RGB"))[:HEIGHT, :WIDTH]
        found = psnr(torch.from_numpy(drawn).permute(2, 0, 1) / 255, picture)
        assert found > 30, f"{rasterise.__name__}: {found:.1f} dB"


def test_the_first_gaussian_lies_on_top_and_what_is_not_seen_is_left_out():
    gaussians = some(4)
    gaussians = gaussians.replace(opacities=torch.tensor([0.9, 0.5, 1e-4, 0.5]))
    lines = to_svg(gaussians, HEIGHT, WIDTH).splitlines()
    drawn = [line for line in lines if line.startswith("<circle")]
    assert [line.split('fill="')[1].split('"')[0] for line in drawn] == ["url(#g3)", "url(#g1)", "url(#g0)"]


def test_what_is_below_is_a_rectangle_of_its_colour():
    assert f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#000000"/>' in to_svg(some(1), HEIGHT, WIDTH)
    assert 'fill="#ff8000"/>' in to_svg(some(1), HEIGHT, WIDTH, (1.0, 128 / 255, 0.0))


def test_numbers_in_pixels_say_what_is_drawn():
    """Gaussians put together again from the rows have the covariances that the renderer draws."""
    gaussians = some(20)
    rows = torch.tensor(to_rows(gaussians, HEIGHT, WIDTH), dtype=torch.float64)
    centers, covariances, colors, opacities = gaussians.in_pixels(HEIGHT, WIDTH)
    again = gvit.build_covariances(rows[:, 2:4], rows[:, 4].deg2rad())
    torch.testing.assert_close(again, covariances.double(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rows[:, :2], centers.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        rows[:, 5:], torch.cat((colors, opacities[:, None]), 1).double(), rtol=1e-4, atol=1e-6
    )
    assert (find_ellipses(gaussians, HEIGHT, WIDTH).scales.diff(dim=1) <= 0).all()


def test_thin_gaussians_keep_their_widths_on_a_large_picture():
    gaussians = Gaussians.from_values(
        *(torch.zeros(1, 2), torch.tensor([[300.0, 0.05]]) / 1920, torch.tensor([0.6])),
        *(torch.ones(1, 3), torch.tensor([0.9])),
    )
    scales = find_ellipses(gaussians, 3840, 3840).scales[0]
    assert scales.tolist() == pytest.approx([300, 0.05], rel=1e-3)
