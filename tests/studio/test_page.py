"""The page in a browser: what is seen, what a hand does, and what Python makes of the same."""

import base64
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import gvit
from gvit.analysis.explanation import attribute
from gvit.data.sources import digits
from gvit.gaussians.storage import read_size

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def opened(browser):
    """A page, and what its console told of errors."""
    page, wrong = browser.new_page(has_touch=True), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page, wrong


@pytest.fixture
def page(opened, url):
    """The page with its first digit; a test fails where the console tells of an error."""
    page, wrong = opened
    wrong.clear()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.goto(url)
    ready(page)
    yield page
    assert not wrong


def ready(page) -> None:
    page.wait_for_selector("html[data-state=ready]")


def canvas(page, name="picture") -> np.ndarray:
    url = page.evaluate(f"document.getElementById('{name}').toDataURL('image/png')")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")).astype(
        int
    )


def logits(page) -> torch.Tensor:
    return torch.tensor(page.evaluate("studio.view.logits"))


def choose(page, *indices) -> None:
    page.evaluate(f"studio.stage.select({json.dumps(indices)})")


def place(page, index) -> tuple[float, float]:
    """Of a Gaussian's centre, CSS pixels of the page."""
    x, y = page.evaluate(f"Array.from(studio.stage.ellipse({index}).slice(0, 2))")
    box = page.locator("#overlay").bounding_box()
    scale = box["width"] / page.evaluate("studio.doc.width")
    return round(box["x"] + x * scale), round(box["y"] + y * scale)


def save(page, suffix, folder):
    page.click("#save")
    with page.expect_download() as download:
        page.click(f"[data-format={suffix}]")
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    ready(page)
    return file


@pytest.fixture(scope="module")
def model():
    return gvit.load_model("digits")


@pytest.fixture(scope="module")
def gaussians(model):
    """Of the page's first image, as Python makes them."""
    source = digits.source("test")
    with torch.inference_mode():
        return model.encode(gvit.load_images([source.load(source.labels.index(0))], model))


def test_the_canvas_is_the_renderers_picture(page, gaussians, tmp_path):
    drawn = (gvit.render(gaussians, 512, 512)[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
    assert np.abs(canvas(page) - drawn).max() <= 2
    file = save(page, "png", tmp_path)
    assert np.abs(canvas(page) - np.array(Image.open(file)).astype(int)).max() <= 2
    assert drawn.std() > 50  # and is no blank


def test_without_any_gaussian_there_is_the_background(page):
    page.keyboard.press("Control+a")
    page.keyboard.press("x")
    ready(page)
    assert not canvas(page).any()
    page.keyboard.press("x")
    ready(page)
    assert canvas(page).any()


def test_a_dragged_gaussian_moves_the_prediction_as_in_python(page, model, gaussians):
    before, picture = logits(page), canvas(page)
    torch.testing.assert_close(before, model.classify(gaussians)[0].detach(), atol=1e-6, rtol=1e-6)
    index = 11
    x, y = place(page, index)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 5):
        page.mouse.move(x + 20 * step, y + 10 * step)
    page.mouse.up()
    ready(page)
    assert page.evaluate("studio.chosen") == [index]

    shift = 512 / page.locator("#overlay").bounding_box()["width"] * torch.tensor([80.0, 40.0])
    moved = gaussians.centers[:, index] + shift * 2 / 512
    raw = gaussians.raw.clone()
    raw[:, index] = gaussians.replace(centers=moved.unsqueeze(1).expand(gaussians.centers.shape)).raw[
        :, index
    ]
    expected = model.classify(gaussians.replace_raw(raw))[0].detach()
    after = logits(page)
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-6)
    assert (after - before).abs().max() > 1e-3
    drawn = gvit.render(gaussians.replace_raw(raw), 512, 512)[0].clamp(0, 1).permute(1, 2, 0).numpy()
    assert np.abs(canvas(page) - 255 * drawn).max() <= 2

    page.keyboard.press("Control+z")
    ready(page)
    assert torch.equal(logits(page), before)
    assert np.array_equal(canvas(page), picture)
    page.keyboard.press("Control+Shift+Z")
    ready(page)
    assert torch.equal(logits(page), after)


def test_a_lasso_chooses_what_lies_in_it(page):
    box = page.locator("#overlay").bounding_box()
    page.click("#tool-lasso")
    left, top, middle = box["x"] + 2, box["y"] + 2, box["x"] + box["width"] / 2
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((middle, top), (middle, top + box["height"] - 4), (left, top + box["height"] - 4)):
        page.mouse.move(x, y, steps=3)
    page.mouse.up()
    centers = page.evaluate("Array.from({length: 32}, (_, index) => studio.stage.ellipse(index)[0])")
    assert sorted(page.evaluate("studio.chosen")) == [index for index, x in enumerate(centers) if x < 256]


def test_what_is_saved_loads_again(page, gaussians, tmp_path):
    choose(page, 3, 4)
    page.keyboard.press("]")
    ready(page)
    choose(page, 9)
    page.keyboard.press("x")
    ready(page)
    saved = gvit.Gaussians.load(save(page, "safetensors", tmp_path))
    assert len(saved) == 32
    assert saved.opacities[9] < 1e-6
    others = [index for index in range(32) if index not in (3, 4, 9)]
    assert torch.equal(saved.raw[others], gaussians.raw[0, others])
    assert (saved.scales[3] / gaussians.scales[0, 3] > 1.05).all()
    assert save(page, "svg", tmp_path).read_text().startswith("<svg")


def test_the_best_by_a_score_are_kept(page, gaussians):
    page.select_option("#method", "det")
    page.evaluate("document.getElementById('keep').value = 25")
    page.dispatch_event("#keep", "change")
    page.wait_for_function("() => document.getElementById('keep-out').textContent === '8 of 32'")
    ready(page)
    off = torch.tensor(page.evaluate("Array.from(studio.doc.off)"), dtype=torch.bool)
    smallest = gaussians.determinants[0].argsort()[:8]
    assert sorted((~off).nonzero().flatten().tolist()) == sorted(smallest.tolist())


def test_what_is_switched_at_once_is_switched_one_after_the_other(page):
    page.evaluate("studio.switch([3]); studio.switch([9]); studio.switch([3])")
    ready(page)
    off = page.evaluate("Array.from(studio.doc.off)")
    assert [index for index, value in enumerate(off) if value] == [9]


def test_scores_for_the_prediction_are_for_the_class_on_the_page(page, model):
    """An 8 that is read as a 9 without its lower left, as in docs/studio.md."""
    page.click("[data-name='digit 8.png']")
    ready(page)
    source = digits.source("test")
    with torch.inference_mode():
        eight = model.encode(gvit.load_images([source.load(source.labels.index(8))], model))
    x, y = eight.centers[0].unbind(-1)
    page.select_option("#method", "ixg")
    page.check("#by-score")
    ready(page)
    lower_left = ((x < 0) & (y > 0)).nonzero().flatten().tolist()
    for predicted in (8, 9, 8):
        assert page.locator("#answer").inner_text() == str(predicted)
        scores = torch.tensor(page.evaluate("studio.scored().then((values) => Array.from(values))"))
        torch.testing.assert_close(scores, attribute(model, eight, "ixg", predicted)[0], atol=1e-5, rtol=1e-4)
        page.evaluate(f"studio.switch({lower_left})")
        ready(page)


def test_two_images_stand_side_by_side(page):
    page.click("#compare")
    first = canvas(page)
    page.click("[data-name='digit 7.png']")
    ready(page)
    assert page.locator("#kept").is_visible()
    assert page.locator("#answer").inner_text() == "7"
    kept = page.evaluate("document.querySelector('#kept canvas').toDataURL()")
    assert np.array_equal(
        np.array(Image.open(io.BytesIO(base64.b64decode(kept.partition(",")[2]))).convert("RGB")), first
    )
    page.click("#swap")
    ready(page)
    assert np.array_equal(canvas(page), first)


def test_names_of_files_are_text(page):
    name = "<img src=x onerror=alert(1)>.png"
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "orange").save(content, format="png")
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content.getvalue()})
    ready(page)
    assert name in page.locator("#facts").inner_text()
    assert page.locator("img[onerror]").count() == 0


def test_it_fits_a_small_screen_in_both_themes(page):
    page.set_viewport_size({"width": 390, "height": 844})
    for scheme, ground in (("light", "rgb(244, 244, 241)"), ("dark", "rgb(15, 16, 20)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.touchscreen.tap(*place(page, 11))
    assert page.evaluate("studio.chosen") == [11]
    assert page.locator("#edits").is_visible()


def test_everything_that_can_be_used_has_a_name(page):
    nameless = """[...document.querySelectorAll("button, input, select, canvas, dialog")].filter((one) =>
        !(one.ariaLabel || one.textContent.trim() || one.labels?.length || one.getAttribute("aria-labelledby")))"""
    assert page.evaluate(f"{nameless}.map((one) => one.outerHTML)") == []
    page.keyboard.press("?")
    assert page.locator("#shortcuts").is_visible()


def test_screen_readers_are_told_what_keys_do(page):
    def spoken() -> str:
        ready(page)
        return page.locator("#spoken[role=status]").text_content()

    page.keyboard.press("n")
    x, y = page.evaluate("Array.from(studio.stage.ellipse(0).slice(0, 2), Math.round)")
    assert spoken().startswith(f"#0 at {x}, {y}, selected. 0, ")
    page.keyboard.press("Shift+ArrowRight")
    assert spoken().startswith(f"#0 at {x + 20}, {y}, selected. ")
    page.keyboard.press("x")
    assert spoken().startswith(f"#0 at {x + 20}, {y}, selected, off. ")
    before = spoken()
    page.evaluate("studio.preview([studio.edit('fade', {opacity: 0.1})])")
    page.mouse.move(*place(page, 11))
    assert spoken() == before
    page.keyboard.press("Control+a")
    assert spoken().startswith("32 selected, 1 off. ")


def test_the_model_that_is_open_is_a_pressed_button(page):
    pressed = page.get_by_role("group", name="Model").get_by_role("button", pressed=True)
    assert pressed.all_inner_texts() == ["digits"]


def test_it_starts_where_nothing_can_be_stored(browser, url):
    page = browser.new_page()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
    )
    page.goto(url)
    ready(page)
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") in ("light", "dark")
    page.close()


def drag(page, index, dx, dy) -> None:
    x, y = place(page, index)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=3)
    page.mouse.up()
    ready(page)


def test_an_edit_that_fails_is_not_left_on_the_page(page):
    before, picture = place(page, 11), canvas(page)
    page.evaluate("void (globalThis.fetch = () => Promise.reject(new Error()))")
    drag(page, 11, 80, 40)
    assert page.locator(".toast").all_inner_texts() == [
        "The server does not answer. Is 'gvit studio' still running?"
    ]
    assert place(page, 11) == before
    assert np.array_equal(canvas(page), picture)


def test_an_undo_that_fails_is_not_taken(page):
    drag(page, 11, 80, 40)
    after, picture = place(page, 11), canvas(page)
    page.evaluate("void (globalThis.fetch = () => Promise.reject(new Error()))")
    page.evaluate("studio.step('undo')")
    ready(page)
    assert page.locator(".toast").count() == 1
    assert place(page, 11) == after
    assert np.array_equal(canvas(page), picture)
    # what is edited or saved next is what is shown
    assert page.evaluate("studio.history.canUndo && !studio.history.canRedo")


def test_a_hand_may_go_far(page):
    page.evaluate("studio.stage.select([11]); studio.commit([studio.move({dx: 5000, dy: -5000})])")
    ready(page)
    assert page.locator(".toast").count() == 0
    assert page.evaluate("Array.from(studio.stage.ellipse(11).slice(0, 2))") == pytest.approx(
        [512, 0], abs=0.1
    )


def test_a_swap_to_another_image_keeps_no_selection(page):
    page.click("#compare")
    page.click("[data-name='digit 7.png']")
    ready(page)
    choose(page, 3)
    page.click("#swap")
    ready(page)
    assert page.evaluate("studio.chosen") == []


def test_the_page_saves_the_size_of_the_image(page, tmp_path):
    assert page.evaluate("studio.doc.width") == 512
    assert read_size(save(page, "safetensors", tmp_path)) == (32, 32)
