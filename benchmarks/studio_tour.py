"""The pictures of docs/studio.md, made again: the studio is opened in a browser, used by a hand that is a script's, and
photographed at each step.

    python benchmarks/studio_tour.py [--out docs]

Needs Playwright and a Chromium. Leaves ``studio_tour.webp``, ``studio_1280.webp`` and ``studio_390.webp``.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from gvit.studio.bench import Benches
from gvit.studio.server import ADDRESS, listen, make_server

SIZE, WIDTH = (1200, 750), 800  # of the browser, and of what is kept
STEP = 70  # milliseconds from picture to picture


class Tour:
    """A hand on the page, and a picture of each step."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[tuple[Image.Image, int]] = []
        self.at = (600.0, 400.0)

    def shoot(self, milliseconds: int = STEP) -> None:
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        draw = ImageDraw.Draw(picture)
        x, y = self.at
        arrow = [(0, 0), (0, 19), (4.5, 15), (8, 22.5), (11, 21), (7.5, 14), (13.5, 14)]
        draw.polygon([(x + dx, y + dy) for dx, dy in arrow], fill="white", outline="black")
        height = round(WIDTH * picture.height / picture.width)
        self.frames.append((picture.resize((WIDTH, height), Image.Resampling.LANCZOS), milliseconds))

    def settle(self, milliseconds: int = 400) -> None:
        self.page.wait_for_selector("html[data-state=ready]")
        self.page.wait_for_timeout(250)  # bars grow
        self.shoot(milliseconds)

    def glide(self, x: float, y: float, steps: int = 4) -> None:
        x0, y0 = self.at
        for step in range(1, steps + 1):
            share = step / steps
            self.at = (x0 + (x - x0) * share, y0 + (y - y0) * share)
            self.page.mouse.move(*self.at)
            self.page.wait_for_timeout(120)
            self.shoot()

    def click(self, selector: str, milliseconds: int = 400) -> None:
        box = self.page.locator(selector).bounding_box()
        assert box is not None
        self.glide(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, 3)
        self.page.mouse.down()
        self.page.mouse.up()
        self.settle(milliseconds)

    def press(self, key: str, milliseconds: int = 400) -> None:
        self.page.keyboard.press(key)
        self.settle(milliseconds)

    def on_picture(self, x: float, y: float) -> tuple[float, float]:
        """A place in units of the picture's sides."""
        box = self.page.locator("#overlay").bounding_box()
        assert box is not None
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    def draw_along(self, *places: tuple[float, float], steps: int = 2) -> None:
        """With the button held."""
        self.glide(*self.on_picture(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.glide(*self.on_picture(*place), steps)
        self.page.mouse.up()

    def slide(self, name: str, *values: float) -> None:
        box = self.page.locator(f"#{name}").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] / 2
        self.glide(box["x"] + 9 + values[0] * (box["width"] - 18), y, 3)
        self.page.mouse.down()
        for value in values[1:]:
            self.glide(box["x"] + 9 + value * (box["width"] - 18), y, 3)
        self.page.mouse.up()
        self.settle()

    def save(self, file: Path) -> None:
        pictures, times = zip(*self.frames, strict=True)
        pictures[0].save(
            file, save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=72, method=4
        )


def walk(tour: Tour) -> None:
    """An 8 becomes a 9, by a drag and by a mask; what it rests on; a photograph is painted."""
    page = tour.page
    page.click("[data-name='digit 8.png']")
    tour.settle(600)
    page.keyboard.press("l")
    tour.draw_along((0.03, 0.52), (0.47, 0.52), (0.47, 0.97), (0.03, 0.97), (0.03, 0.6))
    tour.settle(250)
    page.keyboard.press("v")
    index = page.evaluate("studio.chosen[0]")
    x, y = page.evaluate(f"Array.from(studio.stage.ellipse({index}).slice(0, 2), (side) => side / 512)")
    tour.draw_along((x, y), (x, y - 0.09), (x, y - 0.18), steps=3)
    tour.settle(800)
    tour.press("Control+z", 400)
    tour.press("x", 800)
    tour.press("Control+z", 300)
    page.keyboard.press("Escape")
    tour.click("#by-score", 600)
    tour.slide("keep", 1.0, 0.7, 0.4)
    tour.press("Control+z", 300)
    tour.click("[data-name='gvit_tiny.photos']", 600)
    page.select_option("#method", "det")
    tour.slide("keep", 1.0, 0.6, 0.25)
    tour.press("Control+z", 300)
    page.keyboard.press("e")
    tour.click("#compare", 500)
    page.keyboard.press("l")
    tour.draw_along((0.2, 0.62), (0.42, 0.5), (0.62, 0.62), (0.62, 0.98), (0.2, 0.98), steps=2)
    page.fill("#color", "#2f7bff")
    page.dispatch_event("#color", "change")
    page.evaluate("studio.stage.select([])")
    tour.settle(1400)


def stills(page: Page, folder: Path) -> None:
    """Dark and light, wide and narrow."""
    for width, height, scheme in ((1280, 800, "dark"), (390, 844, "light")):
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.reload()
        page.wait_for_selector("html[data-state=ready]")
        page.click("[data-name='digit 8.png']")
        page.wait_for_selector("html[data-state=ready]")
        page.click("#tool-lasso")
        page.check("#by-score")
        page.evaluate(
            "studio.stage.select([...studio.doc.off.keys()].filter((index) => {"
            "const [x, y] = studio.stage.ellipse(index); return x < 256 && y > 256; }))"
        )
        page.keyboard.press("x")
        page.evaluate("scrollTo(0, 0)")
        page.wait_for_selector("html[data-state=ready]")
        page.wait_for_timeout(400)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.save(folder / f"studio_{width}.webp", quality=88, method=6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    folder = parser.parse_args().out
    with listen(0) as bound, sync_playwright() as driver:
        server = make_server(Benches("digits"), bound)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="dark")
        page.goto(f"http://{ADDRESS}:{bound.getsockname()[1]}")
        page.wait_for_selector("html[data-state=ready]")
        tour = Tour(page)
        walk(tour)
        tour.save(folder / "studio_tour.webp")
        stills(page, folder)
        browser.close()
        server.should_exit = True
        thread.join()
    print(f"{len(tour.frames)} pictures, {sum(time for _, time in tour.frames) / 1000:.1f} s")


if __name__ == "__main__":
    main()
