"""From finished jobs to CSV and JSON, and the table of a target: what was measured, and what the networks cost."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gvit.errors import InputError
from gvit.files import write_text
from gvit.models.complexity import Complexity, model_complexity
from gvit.models.formats import first_arguments
from gvit.models.registry import architecture, list_models
from gvit.reproduction.answers import unpack
from gvit.reproduction.jobs import Training, start_shown, unusual
from gvit.reproduction.plots import plot
from gvit.reproduction.study import Target
from gvit.training.run import Run
from gvit.viewing.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEYS = {"target", "title", "recipe", "command", "axis", "paper_data", "claims", "measured", "rows"}
_ROW_KEYS = {"label", "seed", "top1", "num_images", "epochs", "paper", "provenance"}
_PARTS = {"rows": _ROW_KEYS, "claims": {"text", "better", "worse"}, "measured": {"text", "values"}}
_COLUMNS = (
    "label",
    "seed",
    "x",
    "top1",
    "psnr",
    "ssim",
    "num_images",
    "moved",
    "drift",
    "decision_distance",
    "epochs",
    "paper",
)


def collect(target: Target, recipe: str, command: str, device: str) -> tuple[dict[str, Any], Figure]:
    """All that is known about a target whose jobs are done, and its plot or picture."""
    rows = []
    for row in target.rows:
        result = dict(row.job.result)
        machine = result.pop("provenance")
        entry = {"label": row.label, "seed": row.seed, "x": row.x, "series": row.series, "paper": row.paper}
        config = _settings(row.job) if isinstance(row.job, Training) else None
        rows.append(entry | result | {"settings": config, "provenance": machine})
    picture, measured = (None, []) if target.picture is None else target.picture(device)
    content = {
        "target": target.name,
        "title": target.title,
        "recipe": recipe,
        "command": command,
        "axis": target.axis,
        "against": target.against,
        "paper_data": target.paper_data,
        "claims": [asdict(claim) for claim in target.claims],
        "measured": [asdict(number) for number in measured],
        "rows": rows,
    }
    return content, picture or plot(content)


def _settings(job: Training) -> dict[str, Any]:
    """The run's configuration; where its data lie is nobody's business."""
    config = Run(job.folder).load_config()
    settings, init = json.loads(config.to_json()), config.model.init
    settings["data"]["data_dir"] = None
    if init is not None:  # a run of the store is known by its folder
        settings["model"]["init"] = init.name if job.needs else start_shown(init)
    return settings


def write_target(content: Mapping[str, Any], figure: Figure, folder: Path) -> Path:
    """``RECIPE/TARGET.json``, ``.csv`` and ``.png`` in the folder; gives the path without suffix."""
    name = folder / content["recipe"] / content["target"]
    name.parent.mkdir(parents=True, exist_ok=True)
    write_text(name.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(content["rows"])
    write_text(name.with_suffix(".csv"), text.getvalue())
    save_figure(figure, name.with_suffix(".png"))
    return name


def read_contents(folder: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """What ``write_target`` wrote into the folder.

    Raises:
        InputError: a file is damaged or was written by something else.
    """
    contents = []
    for path in (path for name in order for path in sorted(folder.glob(f"*/{name}.json"))):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            missing = _KEYS - content.keys()
            for name, keys in ({} if missing else _PARTS).items():
                missing |= {key for part in content[name] for key in keys - part.keys()}
            for row in () if missing else content["rows"]:
                unpack(row.get("right", ""), row["num_images"] if "right" in row else 0)
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it") from None
        if missing:
            raise InputError(f"{path}: not a result of gvit reproduce, it has no {min(missing)!r}; remove it")
        contents.append(content)
    return contents


def table(content: Mapping[str, Any]) -> str:
    """Markdown: mean ± standard deviation over the seeds, the paper's number, and what the networks cost.

    Where rows are compared with one of them, also how far Gaussians moved, and the paired differences.
    """
    rows, against = content["rows"], content.get("against")
    data = content["paper_data"]
    has_paper, has_pictures = (any(row.get(key) is not None for row in rows) for key in ("paper", "psnr"))
    head = ["", "seeds", "top-1 %"]
    head += ["PSNR dB", "SSIM"] if has_pictures else []
    head += ["moved %", "drift", "decision distance"] if against else []
    head += [f"top-1 against {against}", f"PSNR against {against}"] if against else []
    head += [f"paper, {data}, top-1 %"] if has_paper else []
    head += [f"{network}: parameters, multiply-adds" for network in ("encoder", "classifier")]
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        cells = [label, str(len(mine)), spread([100 * row["top1"] for row in mine])]
        if has_pictures:
            cells += [spread([row.get("psnr") for row in mine]), spread([row.get("ssim") for row in mine], 3)]
        if against:
            cells += [
                spread([_percent(row.get("moved")) for row in mine], 1),
                *(spread([row.get(name) for row in mine]) for name in ("drift", "decision_distance")),
                *_against(label, against, rows),
            ]
        if has_paper:
            cells.append("–" if mine[0]["paper"] is None else f"{mine[0]['paper']:.1f}")
        lines.append(f"| {' | '.join([*cells, *_costs(mine[0], rows)])} |")
    return "\n".join(lines)


def remarks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What did not go as planned in the trainings of a table, a sentence for each of these rows."""
    found = [(row["label"], row["seed"], said) for row in rows if (said := unusual(row))]
    return [f"{label}, seed {seed}: {'; '.join(said)}." for label, seed, said in found]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _against(label: str, against: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The differences of top-1 (points) and PSNR (dB), with their 95 % intervals; a dash where there is none."""
    cells = []
    for measure in ("top1", "psnr"):
        known = [row for row in rows if row["label"] in (label, against) and row.get(measure) is not None]
        if label == against or len({row["label"] for row in known}) < 2:
            cells.append("–")
            continue
        mean, margin = difference(label, against, known, measure)
        cells.append(f"{mean:+.2f}" if margin is None else f"{mean:+.2f} ± {margin:.2f}")
    return cells


def difference(
    better: str, worse: str, rows: Sequence[Mapping[str, Any]], measure: str = "top1"
) -> tuple[float, float | None]:
    """By how much one label's rows are above another's, paired over the seeds that both have.

    The interval is that of Student's t over the seeds, and for top-1 that of the test images beside it, as the root of
    the sum of both squared: three equal differences of one image don't count as certain, and more seeds on the same
    images don't make it narrower than these images allow.

    Returns:
        Mean, and half of the 95 % interval around it, in percentage points of top-1, or in the measure's own unit; the
        interval is None with one seed.
    """
    one, other = ({r["seed"]: r for r in rows if r["label"] == label} for label in (better, worse))
    seeds = sorted(one.keys() & other.keys())
    unit = 100 if measure == "top1" else 1
    differences = [unit * (one[seed][measure] - other[seed][measure]) for seed in seeds]
    mean = statistics.mean(differences)
    if len(seeds) < 2:
        return mean, None
    from scipy.stats import t

    by_seeds = float(t.ppf(0.975, len(seeds) - 1)) * statistics.stdev(differences) / math.sqrt(len(seeds))
    pairs = [(one[seed], other[seed]) for seed in seeds]
    by_images = 1.96 * 100 * math.sqrt(_variance_by_images(pairs)) if measure == "top1" else 0.0
    return mean, math.hypot(by_seeds, by_images)


def _variance_by_images(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> float:
    """The variance that another draw of as many test images gives to a difference of top-1, a mean over seeds.

    Of the images' own differences, where all rows say which they answered right, in the same order. Two images more,
    one for each side, keep it from being too small where few differ (Bonett and Price 2012). Else as if each row had
    images of its own (binomial): more, as rows mostly are right and wrong about the same ones.
    """
    rows = [row for pair in pairs for row in pair]
    alike = len({(row["num_images"], _order(row)) for row in rows}) == 1
    if alike and all("right" in row for row in rows):
        right = np.array([unpack(row["right"], row["num_images"]) for row in rows], dtype=float)
        differences = np.append((right[::2] - right[1::2]).mean(0), (1.0, -1.0))
        return float(differences.var()) / len(differences)
    return statistics.mean(sum(r["top1"] * (1 - r["top1"]) / r["num_images"] for r in pair) for pair in pairs)


def _order(row: Mapping[str, Any]) -> str:
    """Whose order a row's test images have: frozen Gaussians lie in class folders, in another one than their images."""
    settings = row.get("settings")  # none of a classifier that is only tested, on frozen Gaussians
    return "gaussians" if settings is None else settings["data"]["dataset"]


def _costs(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Encoder and classifier of a row; a dash for a network that it has not, or does not tell."""
    cost = _complexity(row, rows)
    if cost is None:
        return "–", "–"
    encoder = (cost.encoder_parameters, cost.encoder_gmacs)
    classifier = (cost.classifier_parameters, cost.classifier_gmacs)
    return tuple(f"{_short(n)}, {_short(1e9 * g)}" if n else "–" for n, g in (encoder, classifier))  # type: ignore[return-value]


def _complexity(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Complexity | None:
    """Of a row's model without its head; None for a row that trains none, or one of a model that is not known here."""
    if row.get("settings") is None:
        return None
    model = row["settings"]["model"]
    first = "looks" not in model  # older than the refining encoder: what is named then was another model
    if model["model"] is None:  # a transfer has the model that it starts from, whose run is named after it
        name = model["init"].partition("-seed")[0]
        trained = (other["settings"]["model"] for other in rows if other.get("settings"))
        model = next((other for other in trained if other["model"] == name), {"model": name})
    name, values = model["model"], {key: model[key] for key in model.keys() - {"model", "init"}}
    if name not in list_models():
        return None
    given = {key: value for key, value in values.items() if value is not None}
    if first:  # what was not changed is left to the named model of then
        given = first_arguments(name) | given
    # a patch ViT's settings name Gaussians, too, without effect
    parts = architecture(name)
    kinds = {
        key: given[key] for key in ("encoder", "tokens") if key in given and parts.accepts(key, given[key])
    }
    parts = parts.with_arguments(**kinds)
    given = {key: value for key, value in given.items() if parts.accepts(key, value)}
    return _counted(name, tuple(sorted(given.items())))


@functools.cache
def _counted(name: str, arguments: tuple[tuple[str, Any], ...]) -> Complexity | None:
    try:
        return model_complexity(name, **dict(arguments) | {"num_classes": 0})
    except InputError:
        return None


def _short(number: float) -> str:
    """Three digits and a unit: 258,825 as ``259 k``, and 999,500 as ``1.00 M``."""
    number = float(f"{number:.3g}")
    units = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
    scale, unit = next((pair for pair in units if number >= pair[0]), (1, ""))
    return f"{number / scale:#.3g}".rstrip(".") + unit


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation; a dash where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"
