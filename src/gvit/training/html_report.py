"""``report.html``: what a model makes of images, in one page. (``report.png`` is drawn by ``gvit.training.report``.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms import v2

from gvit import __version__
from gvit.analysis.explanation import METHODS, attribute, read_gaussians
from gvit.data.convert import Color, ImageLike, as_rgb, list_images, parse_color
from gvit.data.images import EXTENSIONS
from gvit.data.inputs import read_gaussians as read_file
from gvit.data.sources.gaussians import GAUSSIAN_EXTENSIONS
from gvit.data.transforms import eval_transform
from gvit.encoding import PHOTOGRAPH_COUNT, PHOTOGRAPH_SIDE, ImageEncoder
from gvit.errors import InputError, option, unknown_name
from gvit.files import check_writable
from gvit.gaussians import VISIBLE_OPACITY
from gvit.models.base import ImageClassifier, evaluating
from gvit.models.gvit import GViT
from gvit.models.pretrained import find_pretrained, is_pretrained_name
from gvit.models.weights import load_model
from gvit.prediction import class_names
from gvit.provenance import provenance
from gvit.training.report import find_run, read_records
from gvit.training.report_images import Contents, Sample, labelled_images, named_images
from gvit.training.run import Run
from gvit.viewing.html import Fact, Matrix, Method, Page, ShownImage, write_page
from gvit.viewing.replaceable import check_replaceable

_METHODS = ("cdam", "occlusion", "det")
_METHODS_WITHOUT_CLASSES = ("det", "opacity")
_SHOWN_SIDE = 480  # pixels of the longer side of a picture, at most


@dataclass(frozen=True)
class HtmlReport:
    """What was written.

    Attributes:
        file: the page.
        num_images: that are on it.
        unread: what is wrong with images that are not, for they could not be read.
    """

    file: Path
    num_images: int
    unread: list[InputError]


@dataclass(frozen=True)
class _Way:
    """How an image becomes Gaussians, scores and answers.

    Attributes:
        model: in evaluation mode, on its device.
        encoder: its own, as it is asked; None for a model without.
        methods: names of those that score.
        answers: whether it classifies.
    """

    model: ImageClassifier
    encoder: ImageEncoder | None
    methods: Sequence[str]
    answers: bool


def write_html_report(
    place: str | Path | ImageClassifier,
    images: ImageLike | Sequence[ImageLike] = (),
    out: str | Path = "report.html",
    *,
    method: str | Sequence[str] = (),
    num_images: int = 12,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    background: Color | None = None,
    num_gaussians: int | None = None,
    looks: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> HtmlReport:
    """Write one HTML file, which needs nothing else: images, what is drawn of them, scores, answers, curves, confusion.

    Of a model that reads pixels there are no Gaussians to show; of an encoder alone, no answers. An encoder alone that
    draws any number draws images that are named as they are, by 1000 Gaussians, as ``gvit encode`` does.

    Args:
        place: run folder, weights file or name of pretrained weights; or a model.
        images: files, folders, patterns, or images as in ``gvit.data.convert``; for a model that reads Gaussians, files
            of those. Without any, labelled ones are chosen, right and wrong answers: of the run's own test images, or
            of ``data_dir`` and ``dataset``.
        out: the file, replaced if it is there; its name ends in ``.html``.
        method: name or names in ``gvit.analysis.explanation.METHODS``; cdam, occlusion and det when none are given,
            and det and opacity for an encoder alone.
        num_images: that are shown, at most.
        data_dir: see ``gvit.training.report.assess``.
        dataset: the same.
        background: what transparent pixels of ``images`` lie over; black when None.
        num_gaussians: of ``images``, see ``GViT.encode``.
        looks: the same.
        device: where it is computed.
        progress: is called with the number of images that are done, and of all.

    Raises:
        InputError: there is no model, no image that can be read, or an unknown method; the file cannot be written; or
            arguments that don't go together. Nothing is written then.
    """
    out = Path(out)
    given = list_images(images) if not isinstance(images, (list, tuple)) else list(images)
    of_named = {"num_gaussians": num_gaussians, "looks": looks, "background": background}
    _check(out, given, num_images, data_dir, dataset, of_named)
    background = "black" if background is None else background
    parse_color(background)
    methods = [method] if isinstance(method, str) else method
    run, weights = None, None
    if isinstance(place, (str, Path)):
        run, weights = find_run(Path(place)), place
    if given:
        model = load_model(place) if isinstance(place, (str, Path)) else place
        way = _find_way(model, methods, num_gaussians, looks, whole=True)
        extensions = GAUSSIAN_EXTENSIONS if model.reads == "gaussians" else EXTENSIONS
        contents = named_images(given, extensions, partial(_read, way, background), num_images)
    else:
        model, contents = labelled_images(place, run, data_dir, dataset, num_images, device)
        way = _find_way(model, methods, None, None, whole=False)
    model.to(device)
    shown = []
    with evaluating(model):
        for number, sample in enumerate(contents.samples):
            shown.append(_show(way, sample))
            if progress is not None:
                progress(number + 1, len(contents.samples))
    write_page(_page(way, run, weights, contents, shown), out)
    return HtmlReport(out, len(shown), contents.unread)


def _check(
    out: Path,
    given: Sequence[ImageLike],
    num_images: int,
    data_dir: str | Path | None,
    dataset: str | None,
    of_named: dict[str, Any],
) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{option('out', out)}: the report is a page; name a file that ends in .html")
    if out.is_dir():
        raise InputError(f"{option('out', out)} is a folder; name a file in it")
    check_writable(out.parent)
    check_replaceable(out)
    if not out.parent.exists():
        raise InputError(f"{option('out', out)}: no folder {out.parent}")
    if num_images < 1:
        raise InputError(f"{option('num_images')} must be at least 1, got {num_images}")
    if given and (data_dir is not None or dataset is not None):
        raise InputError(
            f"images and {option('data_dir' if dataset is None else 'dataset')}: give one of them; of labelled images "
            "some are chosen"
        )
    for name, value in of_named.items():
        if value is not None and not given:
            own = "is read as in training" if name == "background" else "has the model's own"
            raise InputError(f"{option(name)} is for images that are named: what is chosen {own}")


def _find_way(
    model: ImageClassifier, methods: Sequence[str], num_gaussians: int | None, looks: int | None, whole: bool
) -> _Way:
    """Raises ``InputError`` for what the model cannot do."""
    answers = bool(model.num_classes) and not model.card.encoder_only
    for name in methods:
        if name not in METHODS:
            raise unknown_name("method", name, METHODS)
        if model.tokens.reads != "gaussians":
            raise InputError(
                f"{model.card.name or 'the model'} reads {model.tokens.kind} and has no Gaussians to score: "
                f"{option('method')} is for models that have"
            )
        if not answers and METHODS[name].asks_classifier:
            raise InputError(
                f"{option('method', name)} asks a classifier, and there is none; an encoder alone has "
                f"{', '.join(known for known, one in METHODS.items() if not one.asks_classifier)}"
            )
    if model.tokens.reads == "gaussians" and not methods:
        methods = _METHODS if answers else _METHODS_WITHOUT_CLASSES
    encoder = None
    if model.encoder is not None:
        as_it_is = whole and not answers and model.encoder.any_number
        encoder = ImageEncoder(
            cast(GViT, model),
            PHOTOGRAPH_COUNT if as_it_is and num_gaussians is None else num_gaussians,
            looks,
            PHOTOGRAPH_SIDE if as_it_is else None,
        )
    elif num_gaussians is not None or looks is not None:
        name = "looks" if num_gaussians is None else "num_gaussians"
        raise InputError(f"{model.card.name} makes no Gaussians: {option(name)} has no meaning for it")
    return _Way(model, encoder, tuple(dict.fromkeys(methods)), answers)


def _read(way: _Way, background: Color, image: ImageLike) -> Tensor:
    model = way.model
    if model.reads == "gaussians":
        if not isinstance(image, (str, Path)):
            raise InputError(f"{model.card.name} reads Gaussians: give files of those")
        return read_file(image, model)
    transform = eval_transform(model.card.preprocessing) if way.encoder is None else way.encoder.transform
    return transform(as_rgb(image, background))


@torch.no_grad()
def _show(way: _Way, sample: Sample) -> ShownImage:
    model, side = way.model, way.model.img_size
    device = next(model.parameters()).device
    image, gaussians, quality, encoded = None, None, None, None
    if way.encoder is not None:
        (encoded,) = way.encoder([sample.inputs])
        gaussians, quality, image = encoded.gaussians, encoded.psnr, sample.inputs
    elif model.reads == "gaussians":
        gaussians = read_gaussians(model, sample.inputs[None])[0]
    else:
        image = sample.inputs
    batch = None if gaussians is None else gaussians[None].to(device)
    guesses: list[tuple[str, float]] = []
    if way.answers:
        logits = model(sample.inputs[None].to(device)) if batch is None else model.classifier.classify(batch)
        shares = logits.float().softmax(-1)[0].cpu()
        names = class_names(model)
        guesses = [
            (names[i], shares[i].item()) for i in shares.argsort(descending=True, stable=True).tolist()
        ]
    # a single row or column of pixels has no edges
    whole = None if image is None or min(image.shape[-2:]) < 2 else image[None].to(device)
    scores = (
        {name: attribute(model, batch, name, image=whole)[0].cpu() for name in way.methods}
        if batch is not None
        else {}
    )
    size = height, width = (side, side) if image is None else (image.shape[-2], image.shape[-1])
    facts = [Fact("size", f"{width} × {height} px")]
    if gaussians is not None:
        drawn = int((gaussians.opacities >= VISIBLE_OPACITY).sum())
        facts.append(Fact("Gaussians drawn", f"{drawn} of {len(gaussians)}"))
    if encoded is not None and encoded.encoded_size != size:
        facts.append(Fact("encoder saw", f"{encoded.encoded_size[1]} × {encoded.encoded_size[0]} px"))
    shown_size = size
    if max(size) > _SHOWN_SIDE:
        factor = _SHOWN_SIDE / max(size)
        shown_size = height, width = max(1, round(factor * height)), max(1, round(factor * width))
        facts.append(Fact("shown at", f"{width} × {height} px"))
        if image is not None:
            image = v2.functional.resize(image, [height, width], antialias=True)
    return ShownImage(
        sample.name, size, shown_size, image, gaussians, scores, guesses, sample.label, quality, facts
    )


def _page(
    way: _Way,
    run: Run | None,
    place: str | Path | None,
    contents: Contents,
    shown: Sequence[ShownImage],
) -> Page:
    model = way.model
    name = model.card.name or type(model).__name__
    title = name
    if run is not None:
        title = run.folder.resolve().name
    elif place is not None:
        title = _weights_name(None, place).partition("@")[0]
    methods = [
        Method(name, METHODS[name].about, METHODS[name].signed, METHODS[name].of_class)
        for name in way.methods
    ]
    matrix = None
    if contents.counts:
        matrix = Matrix(contents.counts, class_names(model), f"Of {contents.counted}.")
    commit = provenance()["commit"]
    details = [
        Fact("Model", name),
        Fact("Weights", _weights_name(run, place)),
        Fact("Images", contents.data),
        Fact("Code", f"gvit {__version__}" + ("" if commit == "unknown" else f", commit {commit}")),
    ]
    return Page(
        title=title,
        about=_about(way),
        facts=_facts(way, contents, shown),
        details=details,
        images=shown,
        about_images=contents.about,
        methods=methods,
        records=[] if run is None else read_records(run),
        matrix=matrix,
        notes=contents.notes,
    )


def _weights_name(run: Run | None, place: str | Path | None) -> str:
    if place is None:
        return "in memory"
    entry = (
        find_pretrained(str(place)) if run is None and is_pretrained_name(Path(place).as_posix()) else None
    )
    if entry is not None:
        return entry.pinned
    return Path(place).name if run is None or Path(place).is_file() else run.weights_file.name


def _about(way: _Way) -> str:
    model = way.model
    if model.tokens.reads != "gaussians":
        return f"A vision transformer over {model.tokens.kind}: it reads pixels, so there are no Gaussians to show."
    if model.encoder is None:
        return "A vision transformer that classifies images from their Gaussians alone."
    if not way.answers:
        return (
            "An encoder that draws images as 2D Gaussians. It has no classifier, so there are no predictions."
        )
    return "Images as 2D Gaussians, and a vision transformer that classifies from those alone."


def _facts(way: _Way, contents: Contents, shown: Sequence[ShownImage]) -> list[Fact]:
    model, measures, facts = way.model, contents.measures, []
    if "top1" in measures:
        facts.append(Fact("Top-1", f"{100 * measures['top1']:.2f} %", f"of {contents.measured_on}"))
    if "top5" in measures:
        facts.append(Fact("Top-5", f"{100 * measures['top5']:.2f} %", "the true class is among five"))
    if "psnr" in measures:
        ssim = "" if measures.get("ssim") is None else f"SSIM {measures['ssim']:.3f}, "
        facts.append(Fact("PSNR", f"{measures['psnr']:.2f} dB", f"{ssim}mean"))
    if not contents.measured_on:
        known = [image.psnr for image in shown if image.psnr is not None]
        if known:
            which = f"mean of these {len(known)} images" if len(known) > 1 else "of this image"
            facts.append(Fact("PSNR", f"{sum(known) / len(known):.2f} dB", which))
    counts = sorted({len(image.gaussians) for image in shown if image.gaussians is not None})
    if counts:
        number = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        facts.append(Fact("Gaussians", number, "an image, nine numbers each"))
    if way.answers:
        facts.append(
            Fact("Classes", f"{model.num_classes:,}", f"from {model.img_size} × {model.img_size} px")
        )
    parts = {"encoder": model.encoder, "classifier": model.classifier if way.answers else None}
    sizes = {
        name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None
    }
    note = ", ".join(f"{name} {_millions(size)}" for name, size in sizes.items())
    facts.append(Fact("Parameters", _millions(sum(sizes.values())), note))
    return facts


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"
