"""``report.html``: what a model makes of images, in one page. (``report.png`` is drawn by ``gvit.training.report``.)"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torchvision.transforms import v2

from gvit import __version__
from gvit.analysis.explanation import METHODS, attribute
from gvit.data.convert import Color, ImageLike, as_rgb, list_images, parse_color
from gvit.data.images import EXTENSIONS, find_images
from gvit.data.inputs import read_gaussians
from gvit.data.loading import EvaluationSamples, evaluation_loader
from gvit.data.sources.gaussians import GAUSSIAN_EXTENSIONS
from gvit.data.transforms import eval_transform
from gvit.encoding import ImageEncoder
from gvit.errors import InputError, option, unknown_name
from gvit.evaluation import Evaluation, measure, summarize
from gvit.files import check_writable
from gvit.gaussians import VISIBLE_OPACITY, Gaussians
from gvit.models.base import ImageClassifier, evaluating
from gvit.models.gvit import GViT
from gvit.models.pretrained import find_pretrained, is_pretrained_name
from gvit.models.weights import load_model
from gvit.provenance import provenance
from gvit.training.report import class_names_of, find_run, load_with_images, read_records
from gvit.training.run import MEASURED, Run
from gvit.viewing.html import Fact, Matrix, Method, Page, ShownImage, write_page

_METHODS = ("cdam", "occlusion", "det")
_METHODS_WITHOUT_CLASSES = ("det", "opacity")
_POOL = 500  # test images that are looked at, where there are more: a matter of seconds
_BATCH = 32
_WHOLE_SIDE, _WHOLE_COUNT = 768, 1000  # of photographs for an encoder alone, as in ``gvit encode``
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
class _Sample:
    """One input of the model: an image [3, H, W], or raw Gaussians [K, 9]."""

    name: str
    inputs: Tensor
    label: str | None = None


@dataclass
class _Contents:
    """What the images are of, as it becomes known.

    Attributes:
        samples: to be shown.
        about: which they are, in a sentence.
        data: what they are out of.
        evaluation: measures on test images.
        measured_on: which those are.
        counts: of predicted against true classes.
        counted: of how many images.
        unread: see ``HtmlReport``.
        notes: see ``Page``.
    """

    samples: list[_Sample] = field(default_factory=list)
    about: str = ""
    data: str = ""
    measures: dict[str, float] = field(default_factory=dict)
    measured_on: str = ""
    counts: list[list[int]] = field(default_factory=list)
    counted: str = ""
    unread: list[InputError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


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
    background: Color = "black",
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
        background: what transparent pixels of ``images`` lie over.
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
    _check(out, given, num_images, data_dir, dataset, {"num_gaussians": num_gaussians, "looks": looks})
    parse_color(background)
    methods = [method] if isinstance(method, str) else method
    run, weights = None, None
    if isinstance(place, (str, Path)):
        run, weights = find_run(Path(place)), place
    if given:
        model = load_model(place) if isinstance(place, (str, Path)) else place
        way = _find_way(model, methods, num_gaussians, looks, whole=True)
        contents = _named(way, given, num_images, background)
    else:
        model, contents = _labelled(place, run, data_dir, dataset, num_images, device)
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
    drawing: dict[str, int | None],
) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{option('out', out)}: the report is a page; name a file that ends in .html")
    if out.is_dir():
        raise InputError(f"{option('out', out)} is a folder; name a file in it")
    check_writable(out.parent)
    if not out.parent.exists():
        raise InputError(f"{option('out', out)}: no folder {out.parent}")
    if num_images < 1:
        raise InputError(f"{option('num_images')} must be at least 1, got {num_images}")
    if given and (data_dir is not None or dataset is not None):
        raise InputError(
            f"images and {option('data_dir' if dataset is None else 'dataset')}: give one of them; of labelled images "
            "some are chosen"
        )
    for name, number in drawing.items():
        if number is not None and not given:
            raise InputError(
                f"{option(name)} is for images that are named: what is chosen has the model's own"
            )


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
        if not answers and (METHODS[name].of_class or name == "attention"):
            raise InputError(
                f"{option('method', name)} asks a classifier, and there is none; an encoder alone has "
                f"{', '.join(known for known, one in METHODS.items() if not one.of_class and known != 'attention')}"
            )
    if model.tokens.reads == "gaussians" and not methods:
        methods = _METHODS if answers else _METHODS_WITHOUT_CLASSES
    encoder = None
    if model.encoder is not None:
        as_it_is = whole and not answers and model.encoder.any_number
        encoder = ImageEncoder(
            cast(GViT, model),
            _WHOLE_COUNT if as_it_is and num_gaussians is None else num_gaussians,
            looks,
            _WHOLE_SIDE if as_it_is else None,
        )
    elif num_gaussians is not None or looks is not None:
        name = "looks" if num_gaussians is None else "num_gaussians"
        raise InputError(f"{model.card.name} makes no Gaussians: {option(name)} has no meaning for it")
    return _Way(model, encoder, tuple(dict.fromkeys(methods)), answers)


def _named(way: _Way, given: Sequence[ImageLike], num_images: int, background: Color) -> _Contents:
    """Images that were named, spread evenly where there are too many."""
    extensions = GAUSSIAN_EXTENSIONS if way.model.reads == "gaussians" else EXTENSIONS
    named = dict(_names(given, extensions))
    kept = _spread(list(named), num_images)
    contents = _Contents(data=f"{len(kept)} that were named")
    for name in kept:
        try:
            contents.samples.append(_Sample(name, _read(way, named[name], background)))
        except InputError as error:
            contents.unread.append(error)
    if not contents.samples:
        raise contents.unread[0]
    contents.about = "In the order in which they were named."
    if len(kept) < len(named):
        contents.about = f"{len(kept)} of {len(named)} that were named, spread evenly over their order."
    if contents.unread:
        contents.notes.append(f"Could not be read: {'; '.join(map(str, contents.unread))}")
    return contents


def _names(given: Sequence[ImageLike], extensions: frozenset[str]) -> Iterator[tuple[str, ImageLike]]:
    """What each image is called: its file's name, or its path where two have one name."""
    files = find_images([image for image in given if isinstance(image, (str, Path))], extensions)
    names = [file.name for file in files]
    yield from ((file.name if names.count(file.name) == 1 else str(file), file) for file in files)
    others = [image for image in given if not isinstance(image, (str, Path))]
    yield from ((f"image {number}", image) for number, image in enumerate(others, 1))


def _read(way: _Way, image: ImageLike, background: Color) -> Tensor:
    model = way.model
    if model.reads == "gaussians":
        if not isinstance(image, (str, Path)):
            raise InputError(f"{model.card.name} reads Gaussians: give files of those")
        return read_gaussians(image, model)
    transform = eval_transform(model.card.preprocessing) if way.encoder is None else way.encoder.transform
    return transform(as_rgb(image, background))


def _labelled(
    place: str | Path | ImageClassifier,
    run: Run | None,
    data_dir: str | Path | None,
    dataset: str | None,
    num_images: int,
    device: str,
) -> tuple[ImageClassifier, _Contents]:
    """Labelled images, right and wrong ones, and what is known of all of them."""
    if not isinstance(place, (str, Path)):
        raise InputError("a model has no test images of its own: give images, or the folder of a run instead")
    own = data_dir is None and dataset is None
    if own and run is None and _is_name(place):
        raise InputError(
            f"{place}: pretrained weights have no test images of their own: name image files after it, or give "
            f"labelled ones by {option('data_dir', 'FOLDER')} or {option('dataset', 'digits')}"
        )
    folder = None if data_dir is None else Path(data_dir)
    model, samples = load_with_images(place, folder, dataset)
    total = len(samples)
    samples = EvaluationSamples(samples.source.take(_spread(range(total), _POOL)), samples.transform, True)
    measured = measure(model.to(device), evaluation_loader(samples, _BATCH))
    answers = bool(model.num_classes) and not model.card.encoder_only
    found = summarize(measured, model.num_classes if answers else 0)
    names = class_names_of(model) if answers else list(samples.source.class_names)
    rows, about = (_right_and_wrong if answers else _good_and_poor)(measured, num_images)
    contents = _Contents(about=about, data=_data_name(run if own else None, folder, dataset))
    contents.samples = [
        _Sample(
            _key_name(samples.source.keys[row]),
            samples[row][0],
            names[samples.source.labels[row]] if names else None,
        )
        for row in rows
    ]
    _measure(contents, found, total, run if own and run and _is_last(place, run) else None)
    broken = int(measured["broken"].sum())
    if broken:
        contents.notes.append(f"{broken} of {len(samples)} test images cannot be read, and are not shown.")
    return model, contents


def _key_name(key: str) -> str:
    return f"image {key}" if key.isdigit() else key


def _is_name(place: str | Path) -> bool:
    return is_pretrained_name(place if isinstance(place, str) else place.as_posix())


def _is_last(place: str | Path, run: Run) -> bool:
    """Whether a run's last weights are meant, of which it has written down measures."""
    return Path(place) in (run.folder, run.weights_file)


def _measure(contents: _Contents, found: Evaluation, total: int, run: Run | None) -> None:
    """What is known of all test images, from the run's own files, or of those that were looked at."""
    counted = f"{found.num_images:,} test images"
    if found.num_images < total:
        counted = f"{found.num_images:,} of {total:,} test images, spread evenly"
    measures, measured_on = vars(found), counted
    contents.counts, contents.counted = found.confusion, counted
    if run is not None and found.num_images < total:
        whole = _evaluated(run)
        if whole is not None:
            measures, measured_on = whole, f"all {whole['num_images']:,} test images"
            contents.counts, contents.counted = whole["confusion"], measured_on
        else:
            last = next((r for r in reversed(read_records(run)) if r.get("kind") == "evaluation"), None)
            if last is not None and last.get("num_images") == total:
                measures, measured_on = last, f"all {total:,} test images"
    contents.measured_on = measured_on
    contents.measures = {
        name: float(value)
        for name in ("top1", "top5", "psnr", "ssim")
        if isinstance(value := measures.get(name), (int, float))
    }


def _evaluated(run: Run) -> dict[str, Any] | None:
    """What ``gvit evaluate`` has written, if that is whole."""
    try:
        kept = json.loads((run.folder / MEASURED[0]).read_text())
        rows = kept["confusion"]
        square = all(len(row) == len(rows) and all(isinstance(n, int) for n in row) for row in rows)
        return dict(kept) if square and isinstance(kept["num_images"], int) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _data_name(run: Run | None, folder: Path | None, dataset: str | None) -> str:
    """A folder by its last name: a page that is passed on tells nothing of the machine."""
    if run is not None:
        data = run.load_config().data
        folder, dataset = None if data.data_dir is None else Path(data.data_dir), data.dataset
    parts = [part for part in (dataset, None if folder is None else folder.resolve().name) if part]
    return f"{' · '.join(parts)}, test images"


def _right_and_wrong(measured: dict[str, Tensor], count: int) -> tuple[list[int], str]:
    """Half of them wrong, if there are as many; the most confident ones. Right ones class by class."""
    labels, read = measured["label"], measured["broken"] == 0
    right = read & (measured["predicted"] == labels)
    wrong = (read & ~right).nonzero()[:, 0]
    wrong = wrong[measured["confidence"][wrong].argsort(descending=True, stable=True)]
    by_class = [(right & (labels == label)).nonzero()[:, 0].tolist() for label in labels.unique().tolist()]
    rights = [rows[turn] for turn in range(count) for rows in by_class if turn < len(rows)]
    few = min(len(wrong), max(count // 2, count - len(rights)))
    rights, wrongs = rights[: count - few], wrong[:few].tolist()
    parts = []
    if rights:
        parts.append(f"{len(rights)} of {int(right.sum())} right answers, class by class")
    if wrongs:
        parts.append(f"{len(wrongs)} of {len(wrong)} wrong ones, those that the model is surest of")
    return [*rights, *wrongs], f"{', and '.join(parts)}, out of {int(read.sum())} test images."


def _good_and_poor(measured: dict[str, Tensor], count: int) -> tuple[list[int], str]:
    """Spread over their PSNR; of a model without any, over their order."""
    rows = (measured["broken"] == 0).nonzero()[:, 0]
    about = f"Spread evenly over {len(rows)} test images."
    if "psnr" in measured:
        rows = rows[measured["psnr"][rows].argsort(stable=True)]
        about = f"From the one that is drawn worst to the best of {len(rows)} test images, spread evenly."
    return [int(row) for row in _spread(rows.tolist(), count)], about


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """``count`` of them at most, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / max(1, count - 1))] for i in range(count)]


@torch.no_grad()
def _show(way: _Way, sample: _Sample) -> ShownImage:
    model, side = way.model, way.model.img_size
    device = next(model.parameters()).device
    image, gaussians, quality, encoded = None, None, None, None
    if way.encoder is not None:
        (encoded,) = way.encoder([sample.inputs])
        gaussians, quality, image = encoded.gaussians, encoded.psnr, sample.inputs
    elif model.reads == "gaussians":
        gaussians = Gaussians(sample.inputs)
        gaussians = replace(gaussians, **model.tokens.bounds_of(gaussians))
    else:
        image = sample.inputs
    batch = None if gaussians is None else gaussians[None].to(device)
    guesses: list[tuple[str, float]] = []
    if way.answers:
        logits = model(sample.inputs[None].to(device)) if batch is None else model.classifier.classify(batch)
        shares = logits.float().softmax(-1)[0].cpu()
        names = class_names_of(model)
        guesses = [
            (names[i], shares[i].item()) for i in shares.argsort(descending=True, stable=True).tolist()
        ]
    scores = (
        {name: attribute(model, batch, name)[0].cpu() for name in way.methods} if batch is not None else {}
    )
    height, width = (side, side) if image is None else (image.shape[-2], image.shape[-1])
    facts = [Fact("size", f"{width} × {height} px")]
    if gaussians is not None:
        drawn = int((gaussians.opacities >= VISIBLE_OPACITY).sum())
        facts.append(Fact("Gaussians drawn", f"{drawn} of {len(gaussians)}"))
    if encoded is not None and encoded.encoded_size != (height, width):
        facts.append(Fact("encoder saw", f"{encoded.encoded_size[1]} × {encoded.encoded_size[0]} px"))
    if max(height, width) > _SHOWN_SIDE:
        factor = _SHOWN_SIDE / max(height, width)
        height, width = (max(1, round(factor * length)) for length in (height, width))
        facts.append(Fact("shown at", f"{width} × {height} px"))
        if image is not None:
            image = v2.functional.resize(image, [height, width], antialias=True)
    return ShownImage(
        sample.name, (height, width), image, gaussians, scores, guesses, sample.label, quality, facts
    )


def _page(
    way: _Way,
    run: Run | None,
    place: str | Path | None,
    contents: _Contents,
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
        matrix = Matrix(contents.counts, class_names_of(model), f"Of {contents.counted}.")
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
    entry = find_pretrained(str(place)) if run is None and _is_name(place) else None
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


def _facts(way: _Way, contents: _Contents, shown: Sequence[ShownImage]) -> list[Fact]:
    model, measures, facts = way.model, contents.measures, []
    if "top1" in measures:
        facts.append(Fact("Top-1", f"{100 * measures['top1']:.2f} %", f"of {contents.measured_on}"))
    if "top5" in measures:
        facts.append(Fact("Top-5", f"{100 * measures['top5']:.2f} %", "the true class is among five"))
    if "psnr" in measures:
        facts.append(Fact("PSNR", f"{measures['psnr']:.2f} dB", f"SSIM {measures.get('ssim', 0):.3f}, mean"))
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
