"""The pictures of docs/how_it_works.md, by the models that come with gvit: python docs/pictures.py

Seconds on a CPU; the same files on every machine but for the last bits.
"""

from io import BytesIO
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from skimage.data import chelsea
from torch import Tensor
from torch.nn import functional as F

import gvit
from gvit.analysis.explanation import attribute
from gvit.analysis.scoremap import splat_scores
from gvit.data.sources import digits
from gvit.gaussians import Gaussians
from gvit.viewing.figures import as_picture, draw_ellipses

OUT = Path(__file__).parent / "pictures"


def panels(titles: list[str], width: float = 11.0, aspect: float = 1.0) -> tuple[Figure, list]:
    figure = Figure((width, width / len(titles) * aspect + 0.35), layout="constrained")
    axes = list(figure.subplots(1, len(titles)))
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=11)
        axis.set_axis_off()
    return figure, axes


def save(figure: Figure, name: str) -> None:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=110)
    Image.open(buffer).convert("RGB").save(OUT / f"{name}.webp", quality=82)


def show_ellipses(axis, gaussians: Gaussians, height: int, width: int) -> None:
    draw_ellipses(axis, gaussians, height, width)
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")


def photograph() -> Tensor:
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None].float() / 255
    return F.interpolate(image[..., :300, 60:360], (192, 192), mode="area")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    image = photograph()
    encoder = gvit.load_model("gvit_tiny.photos")
    gaussians = encoder.encode(image, num_gaussians=1000)

    figure, axes = panels(["a photograph", "its 1,000 Gaussians, as ellipses", "what they draw"])
    axes[0].imshow(as_picture(image[0]))
    show_ellipses(axes[1], gaussians[0], 192, 192)
    axes[2].imshow(as_picture(gvit.render(gaussians, 384, 384)[0].detach()))
    save(figure, "gaussians")

    looks = (1, 2, 4, 8, 24)
    figure, axes = panels([f"{n} look{'s' * (n > 1)}" for n in looks])
    for axis, n in zip(axes, looks, strict=True):
        drawn = encoder.encode(image, num_gaussians=1000, looks=n)
        axis.imshow(as_picture(gvit.render(drawn, 192, 192)[0].detach()))
    save(figure, "looks")

    model = gvit.load_model("gvit_tiny.digits")
    test = digits.source("test")
    digit = gvit.load_images([test.load(test.labels.index(8))], model)
    read = model.encode(digit)
    scores = attribute(model, digit, "occlusion")
    heat = splat_scores(scores, read, 128, 128)[0].detach()
    x, y = read.centers[0].unbind(-1)
    edited = read.drop((x < 0) & (y > 0))
    guesses = [model.classify(given).softmax(-1)[0] for given in (read, edited)]
    said = [f"{float(p.max()):.0%} a {int(p.argmax())}" for p in guesses]
    titles = [
        "a digit",
        "32 Gaussians",
        f"drawn: {said[0]}",
        "what speaks for it (red)",
        f"edited: {said[1]}",
    ]
    figure, axes = panels(titles)
    axes[0].imshow(as_picture(digit[0]))
    axes[1].imshow(torch.zeros(32, 32, 3).numpy())  # the renderer's background
    show_ellipses(axes[1], read[0], 32, 32)
    axes[2].imshow(as_picture(gvit.render(read, 128, 128)[0].detach()))
    limit = float(heat.abs().max())
    axes[3].imshow(heat.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[4].imshow(as_picture(gvit.render(edited, 128, 128)[0].detach()))
    save(figure, "decision")


if __name__ == "__main__":
    with torch.no_grad():
        main()
