"""What a run's records hold that goes into curves, whoever draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Records = Sequence[Mapping[str, Any]]

_WORDS = {"top1": "test top-1", "accuracy": "training batches"}


class Line(NamedTuple):
    """One curve.

    Attributes:
        label: what it is called.
        points: epoch and value.
        of_tests: whether the points are evaluations, of which there are few.
    """

    label: str
    points: Sequence[tuple[float, float]]
    of_tests: bool


class Panel(NamedTuple):
    """Curves that share an axis; ``label`` is that of the axis, with its unit."""

    label: str
    lines: Sequence[Line]


class Span(NamedTuple):
    """A phase of training, from one epoch to another."""

    name: str
    start: float
    end: float


def find_panels(records: Records) -> list[Panel]:
    """Training losses, accuracies, pictures' PSNR and learning rates over the epochs, those there are.

    Args:
        records: what ``metrics.jsonl`` holds.
    """
    steps, tests = _of_kind(records, "train"), _of_kind(records, "evaluation")
    wanted: list[tuple[str, Records, tuple[str, ...], int]] = [
        ("class loss", steps, ("class_loss",), 1),
        ("pixel loss", steps, ("pixel_loss",), 1),
        ("perceptual loss", steps, ("perceptual_loss",), 1),
        ("accuracy %", [*steps, *tests], ("accuracy", "top1"), 100),
        ("PSNR dB", tests, ("psnr",), 1),
        ("learning rate", steps, ("lr_encoder", "lr_classifier"), 1),
    ]
    panels = []
    for label, of, names, scale in wanted:
        lines = []
        for name in names:
            points = [(float(r["epoch"]), scale * float(r[name])) for r in of if r.get(name) is not None]
            if points:
                lines.append(Line(_WORDS.get(name, name), points, name in ("top1", "psnr")))
        if lines:
            panels.append(Panel(label, lines))
    return panels


def find_phases(records: Records) -> list[Span]:
    """The phases of training, in turn; see ``find_panels``."""
    steps = _of_kind(records, "train")
    begun = [n for n, step in enumerate(steps) if not n or step["phase"] != steps[n - 1]["phase"]]
    spans = []
    for number, first in enumerate(begun):
        left = 0.0 if not number else steps[first - 1]["epoch"]
        after = begun[number + 1] if number + 1 < len(begun) else len(steps)
        spans.append(Span(str(steps[first]["phase"]), left, steps[after - 1]["epoch"]))
    return spans


def _of_kind(records: Records, kind: str) -> Records:
    return [record for record in records if record["kind"] == kind]
