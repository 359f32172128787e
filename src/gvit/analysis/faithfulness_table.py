"""The tables of what ``gvit.analysis.faithfulness`` measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gvit.analysis.faithfulness import CONTROLS, PATCHES, UNITS
from gvit.analysis.units import MODEL_FREE


def tables(content: Mapping[str, Any]) -> str:
    """Of every model a table for each measure and, where there are two models, their differences.

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
    head = ["", "insertion", "deletion", "insertion - deletion"]
    head += [f"against {control}" for control in CONTROLS]
    head += ["random weights", "seconds an image"] if taken == UNITS else []
    rows = []
    for name, method in methods.items():
        row = [name, *(_estimate(method[measure]) for measure in ("insertion", "deletion", "gap"))]
        row += [
            f"{_difference(method['against'][control])}" if control in method["against"] else "–"
            for control in CONTROLS
        ]
        if taken == UNITS:
            row += [_sanity(result, name), _seconds(result["seconds"].get(name))]
        rows.append(row)
    return markdown([head, *rows])


def _told(result: Mapping[str, Any], taken: str) -> list[str]:
    """In words: who beats both controls, and whether Gaussians order the pixels better than patches do."""
    measure = result["measures"][taken]
    by_verdict: dict[str, list[str]] = {}
    for name, method in measure["methods"].items():
        if name in CONTROLS:
            continue
        verdicts = {method["against"][control]["verdict"] for control in CONTROLS}
        if len(verdicts) == 1:
            by_verdict.setdefault(verdicts.pop(), []).append(name)
    lines = [
        f"{said} both {' and '.join(CONTROLS)}: {', '.join(by_verdict.get(verdict, [])) or 'none'}."
        for verdict, said in (("better", "Better than"), ("worse", "Worse than"))
    ]
    told = [" ".join(lines)]
    if "det" in measure["methods"]:
        against = measure["methods"]["det"]["against"]
        said = "; ".join(f"{control} {_difference(against[control])}" for control in CONTROLS)
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
