"""The tables of what ``gvit.analysis.faithfulness`` measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gvit.analysis.faithfulness import CONTROLS, PATCHES, PIXELS, UNITS, Estimate
from gvit.analysis.units import CENTER, MODEL_FREE, RANDOM

_CHANCE = "chance"


def tables(content: Mapping[str, Any]) -> str:
    """Of every model a table for each measure and, where there are two models, their differences.

    By pixels a method is judged against 0, which is chance: the order of random Gaussians, in which a pixel without
    any comes last, is not.

    Args:
        content: what ``gvit faithfulness`` writes.
    """
    parts = []
    for result in content["results"]:
        for taken in result["measures"]:
            parts += [f"**{_title(result, taken)}**", _table(result, taken), *_told(result, taken)]
    if len(content["results"]) > 1:
        parts += _comparison(content)
    return "\n\n".join(parts)


def _title(result: Mapping[str, Any], taken: str) -> str:
    what = f"{result['units']} ({result['count']} an image)" if taken == UNITS else "pixels"
    return f"{result['model']}, taking out {what}"


def _table(result: Mapping[str, Any], taken: str) -> str:
    methods = result["measures"][taken]["methods"]
    controls = [_label(control, taken) for control in CONTROLS]
    head = ["", "insertion", "deletion", f"insertion - deletion{', chance is 0' if taken == PIXELS else ''}"]
    head += [f"against {control}" for control in controls]
    head += ["random weights", "seconds an image"] if taken == UNITS else []
    rows = []
    for name, method in methods.items():
        against = _against(method, taken)
        gap = _difference(against[_CHANCE]) if taken == PIXELS else _estimate(method["gap"])
        row = [_label(name, taken), _estimate(method["insertion"]), _estimate(method["deletion"]), gap]
        row += [_difference(against[control]) if control in against else "–" for control in controls]
        if taken == UNITS:
            row += [_sanity(result, name), _seconds(result["seconds"].get(name))]
        rows.append(row)
    return markdown([head, *rows])


def _label(name: str, taken: str) -> str:
    return f"{RANDOM} Gaussians" if (name, taken) == (RANDOM, PIXELS) else name


def _against(method: Mapping[str, Any], taken: str) -> dict[str, Mapping[str, Any]]:
    """How far a method is ahead of the controls, and by pixels of chance: a random order of them has a gap of 0."""
    gap = method["gap"]
    chance = {_CHANCE: gap | {"verdict": Estimate(**gap).verdict}} if taken == PIXELS else {}
    return chance | {_label(control, taken): of for control, of in method["against"].items()}


def _told(result: Mapping[str, Any], taken: str) -> list[str]:
    """In words: who beats chance and centre, and whether Gaussians order the pixels better than patches do."""
    measure = result["measures"][taken]
    judges = (_CHANCE if taken == PIXELS else RANDOM, CENTER)
    by_verdict: dict[str, list[str]] = {}
    for name, method in measure["methods"].items():
        if name in CONTROLS:
            continue
        against = _against(method, taken)
        verdicts = {against[judge]["verdict"] for judge in judges}
        if len(verdicts) == 1:
            by_verdict.setdefault(verdicts.pop(), []).append(name)
    lines = [
        f"{said} both {' and '.join(judges)}: {', '.join(by_verdict.get(verdict, [])) or 'none'}."
        for verdict, said in (("better", "Better than"), ("worse", "Worse than"))
    ]
    told = [" ".join(lines)]
    if "det" in measure["methods"]:
        against = _against(measure["methods"]["det"], taken)
        said = "; ".join(f"{name} {_difference(of)}" for name, of in against.items())
        told.append(f"det, small Gaussians first, against {said}.")
    if "gaussians_against_patches" in measure:
        told.append(
            f"By the same measure of the same model, the occlusion of Gaussians against the {PATCHES}: "
            f"{_difference(measure['gaussians_against_patches'])}."
        )
    return told


def _comparison(content: Mapping[str, Any]) -> list[str]:
    one, other = content["results"][:2]
    compared = content["comparison"]
    head = ["", *("by units" if taken == UNITS else "by pixels" for taken in compared)]
    names = list(dict.fromkeys(name for differences in compared.values() for name in differences))
    rows = [
        [name, *(_difference(by[name]) if name in by else "–" for by in compared.values())] for name in names
    ]
    title = f"**{one['model']} ({one['units']}) against {other['model']} ({other['units']})**"
    told = []
    for taken, by in compared.items():
        ahead = []
        for model, verdict in ((one, "better"), (other, "worse")):
            of_it = [name for name in by if by[name]["verdict"] == verdict and name not in CONTROLS]
            ahead.append(f"{model['model']} is ahead with {', '.join(of_it) or 'none'}")
        told.append(f"By {taken}, {'; '.join(ahead)}.")
    return [
        f"{title}: insertion - deletion, paired over the images",
        markdown([head, *rows]),
        " ".join(told),
    ]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, the first row of which is its head, with columns of equal width."""
    widths = [max(3, *map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in rows
    ]
    return "\n".join([lines[0], f"| {' | '.join('-' * width for width in widths)} |", *lines[1:]])


def _estimate(of: Mapping[str, Any], sign: str = "") -> str:
    if of["mean"] is None:
        return "–"
    margin = "" if of["margin"] is None else f" ± {of['margin']:.3f}"
    return f"{of['mean']:{sign}.3f}{margin}"


def _difference(of: Mapping[str, Any]) -> str:
    return f"{_estimate(of, '+')}, {of['verdict']}"


def _sanity(result: Mapping[str, Any], name: str) -> str:
    if name in MODEL_FREE:
        return "does not read them"
    return _estimate(result["random_weights"][name])


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:.1g}" if seconds >= 5e-4 else "under 0.001"
