"""The page, as text and, where Chromium and Playwright are, as a browser shows it."""

import base64
import io
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from gvit.analysis.scoremap import splat_scores
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.viewing.html import Fact, Matrix, Method, Page, ShownImage, write_page
from gvit.viewing.html.charts import find_charts
from gvit.viewing.html.pictures import find_outlines, picture_uri, score_map

HOSTILE = "\"><img src=x onerror='window.hacked=1'></script><script>window.hacked=1</script>{{ 7*7 }}"
METHODS = [
    Method("cdam", "a slope", True, True),
    Method("occlusion", "a loss", True, True),
    Method("det", "a size", False, False),
]


def shown(name: str, side: int, count: int, seed: int, answer: str) -> ShownImage:
    generator = torch.Generator().manual_seed(seed)
    gaussians = Gaussians(torch.randn(count, 9, generator=generator), 3.0, count)
    image = (render(gaussians, side, side) + 0.1 * torch.rand(3, side, side, generator=generator)).clamp(0, 1)
    scores = {method.name: torch.randn(count, generator=generator) for method in METHODS}
    scores["occlusion"] = 1 + 1e-4 * scores["occlusion"]  # which three digits don't tell apart
    guesses = [(answer, 0.7), ("dog", 0.2), *((f"class {n}", 0.02) for n in range(4)), (HOSTILE, 0.01)]
    return ShownImage(
        name,
        (side, side),
        (side, side),
        image,
        gaussians,
        scores,
        guesses,
        HOSTILE,
        21.5,
        [Fact("size", "128")],
    )


def records() -> list[dict]:
    steps = [
        {
            "kind": "train",
            "epoch": n / 100,
            "phase": "a" if n < 300 else "b",
            "class_loss": 600 - n,
            "accuracy": n / 600,
        }
        for n in range(600)
    ]
    return [*steps, {"kind": "evaluation", "epoch": 6.0, "top1": 0.75, "psnr": float("nan")}]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """As large as the bound is for: 12 images of 128 px, 128 Gaussians each, and every name hostile."""
    images = [shown(f"{n} {HOSTILE}", 128, 128, n, HOSTILE if n % 2 else "cat") for n in range(12)]
    file = tmp_path_factory.mktemp("page") / "report.html"
    matrix = Matrix([[5, 2], [0, 3]], [HOSTILE, "cat"], "Of 10 test images.")
    facts = [Fact("Top-1", "80.00 %", "of 10 test images"), Fact("PSNR", "21.50 dB")]
    write_page(
        Page(HOSTILE, "about", facts, facts, images, "all", METHODS, records(), matrix, [f"note {HOSTILE}"]),
        file,
    )
    return file


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_the_file_is_small_and_refers_to_nothing(page):
    assert page.stat().st_size < 3e6
    tags = Tags(page.read_text()).found
    assert [tag for tag, _ in tags].count("script") == 1
    for tag, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, name)
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert "url(" not in attributes.get("style", "").replace("url(data:image/", "")
    style = re.search(r"<style>(.*?)</style>", page.read_text(), re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_have_texts_or_say_that_they_are_none(page):
    assert all("alt" in attributes for tag, attributes in Tags(page.read_text()).found if tag == "img")


def test_the_same_page_has_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        write_page(Page("t", "", [], [], [shown("x", 16, 4, 0, "cat")], "", METHODS), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_names_that_are_no_text_or_turn_the_text_around_are_escaped(tmp_path):
    write_page(
        Page("bad\udcff\u202egnp", "", [], [], [shown("x", 16, 4, 0, "cat")], "", METHODS),
        tmp_path / "a.html",
    )
    text = (tmp_path / "a.html").read_text()
    assert "bad\\udcff\\u202egnp" in text
    assert "\u202e" not in text


@pytest.mark.parametrize("classes", [3, 21])
def test_true_classes_are_rows_and_what_they_are_taken_for_columns(classes, tmp_path):
    """Beside the table, or in its place where there are many classes, stand the pairs that are confused."""
    counts = [[0] * classes for _ in range(classes)]
    counts[0][:2], counts[2][0] = (3, 1), 2
    matrix = Matrix(counts, [f"c{number}" for number in range(classes)], "")
    images = [shown("x", 16, 4, 0, "cat")]
    write_page(Page("t", "", [], [], images, "", METHODS, matrix=matrix), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    tables, pairs = ([row for row in rows if len(row) == width] for width in (classes + 1, 4))
    if classes == 3:
        header, *tables = tables[:4]
        assert header[0] == "true ↓<br>predicted →"
        assert header[1:] == ["<span>c0</span>", "<span>c1</span>", "<span>c2</span>"]
        assert tables == [["c0", "3", "1", ""], ["c1", "", "", ""], ["c2", "2", "", ""]]
        assert 'title="c0 taken for c1: 1 (25.0 %)"' in text
    else:
        assert tables == []
    assert pairs[-3:] == [
        ["is", "taken for", "images", "of its class"],
        ["c2", "c0", "2", "100.0 %"],
        ["c0", "c1", "1", "25.0 %"],
    ]


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def two_apart() -> Gaussians:
    """The first on the left, the second on the right."""
    return Gaussians.from_values(
        torch.tensor([[-0.5, 0.0], [0.5, 0.0]]),
        torch.full((2, 2), 0.1),
        torch.zeros(2),
        torch.ones(2, 3),
        torch.full((2,), 0.9),
    )


def test_score_maps_have_the_colour_of_the_sign_where_the_gaussian_is():
    drawn = score_map(torch.tensor([2.0, -1.0]), two_apart(), 64, 64, signed=True)
    assert (drawn.low, drawn.high) == pytest.approx((-1.8, 1.8), rel=0.01)
    picture = decode(drawn.uri)
    (red, _, blue, opaque), (red2, _, blue2, half) = (
        picture.getpixel((round(x * picture.width), picture.height // 2)) for x in (0.25, 0.75)
    )
    assert red > blue
    assert opaque > 240
    assert blue2 > red2
    assert half == pytest.approx(opaque / 2, abs=12)
    assert picture.getpixel((0, 0))[3] == 0


def test_scores_of_no_class_begin_at_the_smallest():
    drawn = score_map(torch.tensor([12.0, 10.0]), two_apart(), 64, 64, signed=False)
    assert (drawn.low, drawn.high) == pytest.approx((10.0, 11.8), rel=0.01)
    picture = decode(drawn.uri)
    left, right = (picture.getpixel((round(x * picture.width), picture.height // 2))[3] for x in (0.25, 0.75))
    assert left > 240
    assert right < 5


@pytest.mark.parametrize("signed", [True, False])
def test_the_scale_under_a_map_says_what_its_colours_mean(signed):
    """The highest score is that of a Gaussian that hardly shows."""
    gaussians = two_apart().replace(opacities=torch.tensor([0.9, 0.05]))
    scores = torch.tensor([1.5, 3.0])
    drawn = score_map(scores, gaussians, 160, 160, signed)
    assert drawn.high == pytest.approx(0.9 * 1.5 if signed else 1.5 + 0.05 * 1.5, rel=0.01)
    clear = 0.0 if signed else drawn.low
    told = clear + (drawn.high - clear) * np.asarray(decode(drawn.uri))[..., 3] / 255
    expected = clear + splat_scores(scores[None] - clear, gaussians[None], 160, 160)[0].numpy()
    np.testing.assert_allclose(told, expected, atol=drawn.high / 255)


def test_small_pictures_are_kept_without_loss():
    image = torch.rand(3, 20, 30)
    kept = torch.tensor(np.asarray(decode(picture_uri(image)))).permute(2, 0, 1)
    assert torch.equal(kept, (image * 255).round().byte())


def test_outlines_are_those_of_what_is_drawn_and_small_ones_come_last():
    gaussians = Gaussians.from_values(
        torch.tensor([[-0.5, 0.0], [0.5, 0.25], [0.0, 0.0]]),
        torch.tensor([[0.05, 0.05], [0.2, 0.1], [0.1, 0.1]]),
        torch.tensor([0.0, 0.5, 0.0]),
        torch.full((3, 3), 0.5),
        torch.tensor([0.9, 0.5, 0.001]),
    )
    large, small = find_outlines(gaussians, [torch.tensor([1.0, -2.0, 3.0])], 100, 100)
    assert (large.number, small.number) == (1, 0)
    numbers = [float(text) for text in (large.cx, large.cy, large.rx, large.ry, large.turn)]
    assert numbers == pytest.approx([75, 62.5, 20, 10, 28.65], abs=0.4)
    assert (large.scores, large.opacity) == ("-2", "0.50")
    again = find_outlines(gaussians, [torch.tensor([0.1234567, 0.1234568, 0.0])], 100, 100)
    assert [outline.scores for outline in again] == ["0.1234568", "0.1234567"]


def test_charts_hold_the_records():
    charts = {chart.title: chart for chart in find_charts(records())}
    assert list(charts) == ["class loss", "accuracy %"]  # the PSNR is NaN
    (loss,) = charts["class loss"].curves
    points = [tuple(map(float, pair.split(","))) for pair in loss.points.split()]
    assert loss.last == "1"
    assert 100 < len(points) <= 240
    # falls evenly: a straight line downwards from left to right
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(points[::40], points[40::40], strict=False)]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=0.05)
    assert slopes[0] > 0
    (dot,) = charts["accuracy %"].curves[1].dots
    assert dot.text == "epoch 6: 75"
    assert [band.name for band in loss_bands(charts)] == ["a", "b"]
    assert find_charts([]) == []


def loss_bands(charts):
    return charts["class loss"].bands


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page):
    """Opens the page; afterwards, it must have asked for nothing and complained of nothing."""
    contexts, asked, said = [], [], []

    def watch(request):
        if not request.url.startswith("data:") and request.url != page.as_uri():
            asked.append(request.url)

    def open_page(width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", watch)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.goto(page.as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert (asked, said) == ([], [])


def background(tab) -> list[int]:
    text = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    return [int(number) for number in re.findall(r"\d+", text)[:3]]


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_the_window_in_light_and_dark(opened, width):
    for scheme, dark in (("light", False), ("dark", True)):
        tab = opened(width, color_scheme=scheme)
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert (max(background(tab)) < 60) is dark
        tab.get_by_role("button", name="Dark colours").click()
        assert (max(background(tab)) < 60) is not dark


def test_the_keyboard_reaches_methods_images_and_gaussians(opened):
    tab = opened()
    visible = ".image.current .map:visible"
    for _ in range(12):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.name") == "method":
            break
    assert tab.locator(visible).get_attribute("alt").startswith("Scores by cdam")
    tab.keyboard.press("ArrowRight")
    assert tab.locator(visible).count() == 1
    assert tab.locator(visible).get_attribute("alt").startswith("Scores by occlusion")
    tab.keyboard.press("Tab")
    tab.keyboard.press("ArrowRight")
    assert tab.locator(".image:visible").get_attribute("id") == "image-1"
    tab.keyboard.press("Tab")
    focused = "document.activeElement.dataset.g"
    scores = [
        abs(float(text.split()[5]))
        for text in tab.eval_on_selector_all(
            "#image-1 .ellipses ellipse", "all => all.map(one => one.dataset.g)"
        )
    ]
    for rank in range(3):  # from the highest score of the chosen method down
        number, *_, occlusion, _det = tab.evaluate(focused).split()
        assert abs(float(occlusion)) == sorted(scores, reverse=True)[rank]
        readout = tab.locator("#image-1 .readout").inner_text()
        assert f"{number} of 128" in readout
        assert f"1 (rank {rank + 1})" in readout
        tab.keyboard.press("ArrowRight")


def test_pointing_at_an_ellipse_tells_its_numbers(opened):
    tab = opened()
    smallest = tab.locator("#image-0 .ellipses ellipse").last
    number = smallest.get_attribute("data-g").split()[0]
    smallest.dispatch_event("pointerover")
    assert f"{number} of 128" in tab.locator("#image-0 .readout").inner_text()


def test_hostile_names_stay_text(opened):
    tab = opened()
    assert tab.locator("h1").text_content() == HOSTILE
    assert tab.locator("#image-0 h3").text_content() == f"0 {HOSTILE}"
    assert HOSTILE in tab.locator("#image-1 .bars .best .name").inner_text()
    assert tab.evaluate("window.hacked") is None


def test_on_paper_all_images_are_seen(opened):
    tab = opened(color_scheme="dark")
    assert tab.locator(".image:visible").count() == 1
    tab.emulate_media(media="print")
    assert background(tab) == [255, 255, 255]
    assert tab.locator(".image:visible").count() == 12
    assert not tab.locator("#theme").is_visible()


def test_without_scripts_everything_is_shown(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator(".image:visible").count() == 12
    assert tab.locator("#image-0 .map:visible").count() == 3
