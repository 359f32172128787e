"""From finished jobs to CSV, JSON, a plot, and one page over all of them."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvit.errors import InputError
from gvit.files import write_text
from gvit.provenance import describe
from gvit.reproduction.jobs import Training
from gvit.reproduction.targets import Claim, Target
from gvit.viewing.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEYS = {"target", "title", "recipe", "command", "axis", "paper_data", "claims", "measured", "rows"}
_COLUMNS = ("label", "seed", "x", "top1", "psnr", "ssim", "num_images", "moved", "epochs", "paper")


@dataclass(frozen=True)
class Verdict:
    """What the measurements say about a claim.

    Attributes:
        claim: in words.
        difference: in top-1, percentage points: the row that is claimed to be better minus the other.
        margin: half of the 95 % interval around it; None with one seed.
        judgement: agrees, disagrees, or too small to tell.
    """

    claim: str
    difference: float
    margin: float | None
    judgement: str


def judge(claim: Claim, rows: Sequence[Mapping[str, Any]]) -> Verdict:
    """By the differences of the seeds, paired: agrees or disagrees where their 95 % interval excludes 0.

    The interval is Student's t. For its variance the larger is taken of the differences' and of what so many test
    images would give by chance (binomial), so that three equal differences of one image don't count as certain.
    """
    one, other = (
        {r["seed"]: r for r in rows if r["label"] == label} for label in (claim.better, claim.worse)
    )
    seeds = sorted(one.keys() & other.keys())
    differences = [100 * (one[seed]["top1"] - other[seed]["top1"]) for seed in seeds]
    mean = statistics.mean(differences)
    if len(seeds) < 2:
        return Verdict(claim.text, mean, None, "too small to tell (one seed)")
    from scipy.stats import t

    chance = statistics.mean(
        sum(1e4 * r["top1"] * (1 - r["top1"]) / r["num_images"] for r in (one[seed], other[seed]))
        for seed in seeds
    )
    variance = max(statistics.variance(differences), chance)
    margin = float(t.ppf(0.975, len(seeds) - 1)) * math.sqrt(variance / len(seeds))
    if abs(mean) <= margin:
        return Verdict(claim.text, mean, margin, "too small to tell")
    return Verdict(claim.text, mean, margin, "agrees" if mean > 0 else "disagrees")


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
        "paper_data": target.paper_data,
        "claims": [asdict(claim) for claim in target.claims],
        "measured": [asdict(number) for number in measured],
        "rows": rows,
    }
    return content, picture or plot(content)


def _settings(job: Training) -> dict[str, Any]:
    """The run's configuration; where its data lie is nobody's business."""
    settings = json.loads(job.config.to_json())
    settings["data"]["data_dir"] = None
    if settings["model"]["init"] is not None:
        settings["model"]["init"] = Path(settings["model"]["init"]).name
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


def table(content: Mapping[str, Any]) -> str:
    """Markdown: mean ± standard deviation over the seeds, the paper's number beside it."""
    rows = content["rows"]
    data = content["paper_data"]
    has_paper, has_pictures = (any(row.get(key) is not None for row in rows) for key in ("paper", "psnr"))
    head = ["", "seeds", "top-1 %"]
    head += ["PSNR dB", "SSIM"] if has_pictures else []
    head += [f"paper, {data}, top-1 %"] if has_paper else []
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        cells = [label, str(len(mine)), spread([100 * row["top1"] for row in mine])]
        if has_pictures:
            cells += [spread([row.get("psnr") for row in mine]), spread([row.get("ssim") for row in mine], 3)]
        if has_paper:
            cells.append("–" if mine[0]["paper"] is None else f"{mine[0]['paper']:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float | None], digits: int = 2) -> str:
    """Mean ± standard deviation; a dash where there is nothing."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{statistics.mean(known):.{digits}f}"
    return mean if len(known) == 1 else f"{mean} ± {statistics.stdev(known):.{digits}f}"


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def plot(content: Mapping[str, Any]) -> Figure:
    """Top-1 by setting, with the standard deviation over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.6), layout="constrained", dpi=110)
    axes: Any = figure.subplots()
    rows = content["rows"]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["series"], row["label"]), []).append(row)
    points = [
        (series, label, mine[0]["x"], [100 * row["top1"] for row in mine])
        for (series, label), mine in groups.items()
    ]
    if content["axis"]:
        for series in dict.fromkeys(point[0] for point in points):
            mine = [point for point in points if point[0] == series]
            means = [statistics.mean(values) for *_, values in mine]
            if mine[0][2] is None:
                axes.axhline(means[0], linestyle="--", color="grey", label=series)
                continue
            errors = [_deviation(values) for *_, values in mine]
            xs = [x for _, _, x, _ in mine]
            axes.errorbar(xs, means, errors, marker="o", capsize=3, label=series or None)
        axes.set_xlabel(content["axis"])
        if len({point[0] for point in points}) > 1:
            axes.legend(fontsize=8)
    else:
        names = [label for _, label, _, _ in points]
        means = [statistics.mean(values) for *_, values in points]
        errors = [_deviation(values) for *_, values in points]
        axes.errorbar(means, range(len(names)), xerr=errors, fmt="o", capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
    (axes.set_ylabel if content["axis"] else axes.set_xlabel)("top-1 %")
    axes.set_title(f"{content['title']} ({content['recipe']})", fontsize=9)
    axes.grid(alpha=0.3)
    return figure


def write_page(folder: Path, order: Sequence[str]) -> Path:
    """The Markdown page beside the folder, from all JSON files in it: no number there is typed by hand."""
    folder = folder.absolute()
    page = folder.with_name(f"{folder.name}.md")
    parts = [_PREFACE]
    contents = read_contents(folder, order)
    recipes = sorted({content["recipe"] for content in contents}, key=lambda name: (name != "digits", name))
    for recipe in recipes:
        parts.append(f"\n## {recipe}\n")
        parts += [_section(content, folder.name) for content in contents if content["recipe"] == recipe]
    write_text(page, "\n".join(parts))
    return page


def read_contents(folder: Path, order: Sequence[str]) -> list[dict[str, Any]]:
    """What ``write_target`` wrote into the folder.

    Raises:
        InputError: a file is damaged or was written by something else.
    """
    contents = []
    for path in (path for name in order for path in sorted(folder.glob(f"*/{name}.json"))):
        try:
            content = json.loads(path.read_text())
            missing = _KEYS - content.keys()
        except (ValueError, AttributeError) as error:
            raise InputError(f"{path}: damaged ({error}); remove it") from None
        if missing:
            raise InputError(f"{path}: not a result of gvit reproduce, it has no {min(missing)!r}; remove it")
        contents.append(content)
    return contents


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _section(content: Mapping[str, Any], folder: str) -> str:
    rows = content["rows"]
    machines = list(dict.fromkeys(describe(row["provenance"]) for row in rows))
    seeds = ", ".join(str(seed) for seed in sorted({row["seed"] for row in rows}))
    epochs, images = (_range([row[key] for row in rows]) for key in ("epochs", "num_images"))
    lines = [
        f"### {content['target']}: {content['title']}\n",
        f"`{content['command']}`: {epochs} epochs, {images} test images, seeds {seeds}; "
        f"{'; '.join(machines)}.\n",
        table(content),
    ]
    if content["claims"]:
        verdicts = [judge(Claim(**claim), rows) for claim in content["claims"]]
        lines += ["\n| claim | difference here, points | |", "| --- | --- | --- |"]
        for verdict in verdicts:
            margin = "" if verdict.margin is None else f" ± {verdict.margin:.2f}"
            lines.append(f"| {verdict.claim} | {verdict.difference:+.2f}{margin} | {verdict.judgement} |")
    for number in content["measured"]:
        lines.append(f"\n{number['text']}: {spread(number['values'])}.")
    lines.append(f"\n![{content['title']}]({folder}/{content['recipe']}/{content['target']}.png)\n")
    return "\n".join(lines)


_PREFACE = """# Results

Written by `gvit reproduce` from the JSON files beside it, which hold every setting. Top-1 on the test images after the
last epoch (no validation split, no choice of the best epoch), mean ± standard deviation over seeds. All rows of a table
have the same data, augmentation (in distribution: with another number of Gaussians, or none, it is drawn anew), batch
size, learning rate, weight decay and epochs. The patch ViT is GViT's classifier
over patches of pixels; it learns to classify in all epochs, GViT's classifier in those after the first two phases only.
Classifiers of frozen Gaussians (offline, table4, leakage) and of their pictures learn in all epochs, too; their
augmentation is that of Gaussians. Transfers of table2 to other data sets have settings of their own.
"No guidance" gives the guided phase's epochs to the phase before it; "joint" lets the classifier's gradient into the
encoder in every step of both.

Under each table the paper's claims about it: the difference in top-1 here with its 95 % interval (Student's t over
the seeds, paired; its variance is at least what so many test images give by chance), and whether it agrees with the
claim, disagrees, or is too small to tell. The paper's numbers are of other data and other sizes: only the order can be
compared.
"""
