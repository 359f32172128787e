"""What stands on the page, and the page."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gvit.errors import printable
from gvit.files import replacing
from gvit.gaussians import Gaussians
from gvit.rendering import render
from gvit.viewing.curves import Records
from gvit.viewing.html.charts import find_charts
from gvit.viewing.html.pictures import (
    DEVIATIONS,
    Outline,
    ScoreMap,
    find_outlines,
    is_pixelated,
    picture_uri,
    score_map,
    thumbnail_uri,
)

_MOST_GUESSES = 5  # shown of an image
_MOST_CLASSES = 20  # of a table; of more classes, the pairs that are confused most
_MOST_PAIRS = 9
_LARGE = 240  # pixels of the longer side of a picture that gets more room
_CROWDED = 300  # outlines, above which they are thinner


@dataclass(frozen=True)
class Fact:
    """A number or a word with its name, and what it is of, in small print."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Method:
    """A way to score Gaussians.

    Attributes:
        name: as users give it.
        about: what a score says, in a line.
        signed: scores speak for something or, below 0, against it.
        of_class: that is the class which the model names.
    """

    name: str
    about: str
    signed: bool
    of_class: bool


@dataclass(frozen=True)
class ShownImage:
    """One image, and what the model makes of it.

    Attributes:
        name: of the file, say.
        size: height and width of the image, pixels, in which its Gaussians are told.
        shown_size: those of the pictures on the page.
        image: in [0, 1], of ``shown_size``; None where there are only its Gaussians.
        gaussians: raw [K, 9]; None for a model without.
        scores: by method, one per Gaussian.
        guesses: classes with their probabilities, the most probable first.
        label: its class, where it is known.
        psnr: of the drawing, dB; None where there is nothing to compare it with.
        facts: more about it.
    """

    name: str
    size: tuple[int, int]
    shown_size: tuple[int, int]
    image: Float[Tensor, "3 h w"] | None = None
    gaussians: Gaussians | None = None
    scores: Mapping[str, Tensor] = field(default_factory=dict)
    guesses: Sequence[tuple[str, float]] = ()
    label: str | None = None
    psnr: float | None = None
    facts: Sequence[Fact] = ()

    @property
    def right(self) -> bool | None:
        """Whether the answer is right; None where there is none, or no class to compare it with."""
        return self.guesses[0][0] == self.label if self.guesses and self.label is not None else None


@dataclass(frozen=True)
class Matrix:
    """Counts of predicted (columns) against true classes (rows), and of what images."""

    counts: Sequence[Sequence[int]]
    class_names: Sequence[str]
    about: str


@dataclass(frozen=True)
class Page:
    """Everything on the page.

    Attributes:
        title: what it is about, the name of a model or a run.
        about: the same in a sentence.
        facts: large numbers.
        details: small print: data, commit, files.
        images: one or more.
        about_images: which images they are, in a sentence.
        methods: those that the images have scores of.
        records: what ``metrics.jsonl`` holds.
        matrix: None where nothing is known.
        notes: what a reader should know, a sentence each.
    """

    title: str
    about: str
    facts: Sequence[Fact]
    details: Sequence[Fact]
    images: Sequence[ShownImage]
    about_images: str
    methods: Sequence[Method] = ()
    records: Records = ()
    matrix: Matrix | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class _Guess:
    name: str
    percent: float
    is_label: bool
    is_best: bool


@dataclass(frozen=True)
class _Panels:
    """An image as the template wants it: pictures are data URIs."""

    shown: ShownImage
    height: int
    width: int
    pixelated: bool
    thumbnail: str
    image: str | None
    drawing: str | None
    outlines: Sequence[Outline]
    maps: Sequence[ScoreMap]
    guesses: Sequence[_Guess]

    @property
    def kind(self) -> str:
        """Classes of style."""
        large, crowded = max(self.height, self.width) > _LARGE, len(self.outlines) > _CROWDED
        return f"panels{' large' * large}{' crowded' * crowded}"


def write_page(page: Page, path: str | Path) -> None:
    """Write the page as one file, whole or not at all. It loads nothing, and whatever is in a name stays text.

    Raises:
        InputError: the file cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("gvit.viewing.html", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # names of files may be no text, and control characters would turn what follows around
    environment.filters["shown"] = printable
    style, script = (
        (files("gvit.viewing.html") / name).read_text("utf-8") for name in ("style.css", "script.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = environment.get_template("page.html.jinja").render(
        page=page,
        images=[_panels(image, page.methods) for image in page.images],
        charts=find_charts(page.records),
        deviations=DEVIATIONS,
        rows=_rows(page.matrix),
        pairs=_pairs(page.matrix),
        style=Markup(style),
        script=Markup(script),
        script_digest=digest,
    )
    with replacing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))


def _panels(shown: ShownImage, methods: Sequence[Method]) -> _Panels:
    height, width = shown.shown_size
    gaussians, drawn = shown.gaussians, None
    outlines: Sequence[Outline] = ()
    maps: Sequence[ScoreMap] = ()
    if gaussians is not None:
        with torch.inference_mode():
            drawn = render(gaussians, height, width)
            scores = [shown.scores[method.name] for method in methods]
            outlines = find_outlines(gaussians, scores, *shown.size)
            maps = [
                score_map(values, gaussians, height, width, method.signed)
                for values, method in zip(scores, methods, strict=True)
            ]
    best = drawn if shown.image is None else shown.image
    return _Panels(
        shown,
        height,
        width,
        is_pixelated(height, width),
        "" if best is None else thumbnail_uri(best),
        None if shown.image is None else picture_uri(shown.image),
        None if drawn is None else picture_uri(drawn),
        outlines,
        maps,
        _guesses(shown),
    )


def _guesses(shown: ShownImage) -> list[_Guess]:
    """The most probable, and the true class if it isn't among them."""
    kept = [
        (rank, name, share)
        for rank, (name, share) in enumerate(shown.guesses)
        if rank < _MOST_GUESSES or name == shown.label
    ]
    return [_Guess(name, 100 * share, name == shown.label, rank == 0) for rank, name, share in kept]


def _rows(matrix: Matrix | None) -> list[tuple[str, list[tuple[int, float]]]] | None:
    """Each class with its counts and their shares of the row; None for a list of pairs instead."""
    if matrix is None or len(matrix.class_names) > _MOST_CLASSES:
        return None
    return [
        (name, [(count, count / max(1, sum(counts))) for count in counts])
        for name, counts in zip(matrix.class_names, matrix.counts, strict=True)
    ]


def _pairs(matrix: Matrix | None) -> list[tuple[str, str, int, float]]:
    """True class, what it is taken for, how often, and the share of its images; the most frequent first."""
    if matrix is None:
        return []
    names = matrix.class_names
    found = [
        (names[row], names[column], count, count / sum(counts))
        for row, counts in enumerate(matrix.counts)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(found, key=lambda pair: -pair[2])[:_MOST_PAIRS]
