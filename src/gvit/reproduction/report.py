"""From finished jobs to CSV, JSON, a plot, and one page over all of them."""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvit.errors import InputError
from gvit.files import write_text
from gvit.models.complexity import Complexity, model_complexity
from gvit.models.formats import first_arguments
from gvit.models.registry import architecture, list_models
from gvit.provenance import describe
from gvit.reproduction.jobs import Training
from gvit.reproduction.targets import Claim, Target
from gvit.training.run import Run
from gvit.viewing.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEYS = {"target", "title", "recipe", "command", "axis", "paper_data", "claims", "measured", "rows"}
_COLUMNS = ("label", "seed", "x", "top1", "psnr", "ssim", "num_images", "moved", "epochs", "paper")
_NOTES_NAME = "notes.json"
_WIDTH = 110  # of a page's lines, tables aside
# What a null among the settings of a row stands for where no model is asked: the defaults when it was measured.
_NULLS = {"scale_factor": 1.0, "tokens": "canonical"}


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
    settings = json.loads(Run(job.folder).load_config().to_json())
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
    """Markdown: mean ± standard deviation over the seeds, the paper's number, and what the networks cost."""
    rows = content["rows"]
    data = content["paper_data"]
    has_paper, has_pictures = (any(row.get(key) is not None for row in rows) for key in ("paper", "psnr"))
    head = ["", "seeds", "top-1 %"]
    head += ["PSNR dB", "SSIM"] if has_pictures else []
    head += [f"paper, {data}, top-1 %"] if has_paper else []
    head += [f"{network}: parameters, multiply-adds" for network in ("encoder", "classifier")]
    lines = [f"| {' | '.join(head)} |", "| " + " | ".join("---" for _ in head) + " |"]
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [row for row in rows if row["label"] == label]
        cells = [label, str(len(mine)), spread([100 * row["top1"] for row in mine])]
        if has_pictures:
            cells += [spread([row.get("psnr") for row in mine]), spread([row.get("ssim") for row in mine], 3)]
        if has_paper:
            cells.append("–" if mine[0]["paper"] is None else f"{mine[0]['paper']:.1f}")
        lines.append(f"| {' | '.join([*cells, *_costs(mine[0], rows)])} |")
    return "\n".join(lines)


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
    if model["model"] is None:  # a transfer has the model that it starts from, whose run is named after it
        name = model["init"].partition("-seed")[0]
        trained = (other["settings"]["model"] for other in rows if other.get("settings"))
        model = next((other for other in trained if other["model"] == name), {"model": name})
    name, values = model["model"], {key: model[key] for key in model.keys() - {"model", "init"}}
    if name not in list_models():
        return None
    given = {key: value for key, value in values.items() if value is not None}
    if (
        values["img_size"] is None
    ):  # gvit's first version left to the named model of then what was not changed
        given = first_arguments(name) | given
    # a patch ViT's settings name Gaussians, too, without effect
    parts = architecture(name)
    kinds = {key: given[key] for key in ("encoder", "tokens") if key in given and parts.accepts(key, given[key])}
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
    """Three digits and a unit: 258,825 as ``259 k``."""
    scale, unit = next(pair for pair in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if number >= pair[0])
    return f"{number / scale:#.3g}".rstrip(".") + unit


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
    """The Markdown page beside the folder, from all JSON files in it: no number there is typed by hand.

    ``notes.json`` in the folder, where it is there, says of recipes by name what data they were measured on.

    Raises:
        InputError: a file is damaged or was written by something else.
    """
    folder = folder.absolute()
    page = folder.with_name(f"{folder.name}.md")
    parts = ["\n\n".join(map(_wrap, _PREFACE.split("\n\n"))) + "\n"]
    contents, notes = read_contents(folder, order), _read_notes(folder)
    recipes = sorted({content["recipe"] for content in contents}, key=lambda name: (name != "digits", name))
    for recipe in recipes:
        mine = [content for content in contents if content["recipe"] == recipe]
        said = [notes.get(recipe, ""), _conditions([row for content in mine for row in content["rows"]])]
        parts.append(f"\n## {recipe}\n")
        parts += [f"{_wrap(' '.join(filter(None, said)))}\n"] if any(said) else []
        parts += [_section(content, folder.name) for content in mine]
    write_text(page, "\n".join(parts))
    return page


def _read_notes(folder: Path) -> dict[str, str]:
    path = folder / _NOTES_NAME
    if not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error}); remove it") from None
    if not isinstance(notes, dict) or not all(isinstance(note, str) for note in notes.values()):
        raise InputError(f"{path}: must be an object with a text for each recipe's name")
    return notes


def _conditions(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where a recipe's runs differ from the paper's, in sentences, from the settings of its rows."""
    settings = [row["settings"] for row in rows if row.get("settings")]
    if not settings:
        return ""
    clipped = _common(s["optimizer"]["clip_grad"] for s in settings)
    scale, tokens = (_common(_model_value(s, name) for s in settings) for name in ("scale_factor", "tokens"))
    return (
        (
            "Gradients are not clipped. "
            if clipped is None
            else f"Gradients are clipped to a norm of {clipped:g}. "
        )
        + f"The scale factor is c = {scale:g} where a row names no other; the paper's is 1. "
        + f"Classifiers of Gaussians read {tokens} tokens where a row names no other."
    )


def _model_value(settings: Mapping[str, Any], name: str) -> Any:
    value = settings["model"].get(name)
    return _NULLS[name] if value is None else value


def _common(values: Iterable[Any]) -> Any:
    """The most frequent one."""
    return statistics.mode(values)


def _wrap(text: str) -> str:
    """A paragraph in lines of the page's width; commands, and numbers with their spread, stay in one piece."""
    whole = re.sub(r"`[^`]*`|\S+ ± \S+", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


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
    caption = f"`{content['command']}`: {epochs} epochs, {images} test images, seeds {seeds}; {'; '.join(machines)}."
    lines = [f"### {content['target']}: {content['title']}\n", _wrap(caption) + "\n"]
    transfer = _transfer_note(rows)
    lines += [_wrap(transfer) + "\n"] if transfer else []
    lines.append(table(content))
    if content["claims"]:
        verdicts = [judge(Claim(**claim), rows) for claim in content["claims"]]
        lines += ["\n| claim | difference here, points | |", "| --- | --- | --- |"]
        for verdict in verdicts:
            margin = "" if verdict.margin is None else f" ± {verdict.margin:.2f}"
            lines.append(f"| {verdict.claim} | {verdict.difference:+.2f}{margin} | {verdict.judgement} |")
    for number in content["measured"]:
        lines.append("\n" + _wrap(f"{number['text']}: {spread(number['values'])}."))
    lines.append(f"\n![{content['title']}]({folder}/{content['recipe']}/{content['target']}.png)\n")
    return "\n".join(lines)


def _transfer_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """With which settings runs go on from other runs, where a table has such."""
    settings = [row["settings"] for row in rows if row.get("settings")]
    first = [s for s in settings if s["model"]["init"] is None]
    frozen = [s for s in settings if s["model"]["init"] is not None and s["schedule"]["freeze_encoder"]]
    if not frozen:
        return ""
    same = all(
        s["optimizer"] == first[0]["optimizer"] and s["data"]["batch_size"] == first[0]["data"]["batch_size"]
        for s in frozen
    )
    how = (
        "The transfers keep the settings of the first training; those of the paper's Table A.1b are not used."
        if same
        else "The transfers have the settings of the paper's Table A.1b, not those of the first training."
    )
    return f"{how} The encoder stands still in them; a patch ViT, which has none, learns as a whole."


_PREFACE = """# Results

`gvit reproduce` writes this page from the JSON files beside it, which hold every setting.

**What is measured.** Top-1 accuracy on the test images after the last epoch, as mean ± standard deviation over
the seeds. There is no validation split, and no choice of the best epoch.

**What the rows of a table share.** They have the same data, batch size, learning rate, weight decay and epochs.
Their augmentation is drawn from the same distribution; with another number of Gaussians, or none, it is drawn
anew. The rows of table2 that transfer to other data are an exception, and say so.

**What the networks learn.** The patch ViT is GViT's classifier over patches of pixels. It learns to classify in
all epochs. GViT's classifier does so after the first two phases only, and stands still on guided steps.
Classifiers of frozen Gaussians (offline, leakage, table4) and of their pictures learn in all epochs, too; their
augmentation moves Gaussians. Canonical tokens are what is drawn of a Gaussian; the paper's classifiers read its
nine raw numbers instead. The paper clips no gradients.

**Names.** "No guidance" gives the guided phase's epochs to the phase before it. "Joint" lets the classifier's
gradient into the encoder in every step of both.

**Fits.** The Gaussians of offline and SGD rows are one set of fits for all seeds: the seeds differ in the
classifier alone, so the standard deviation of such a row leaves out what another set of fits would change.
Gaussians of an encoder are those of the seed's own training.

**What the networks cost.** Parameters, and multiply-adds of one image's forward pass in matrix products and
convolutions, both without the head. Renderers and fits are not counted. A dash stands for a network that a row
does not have, and for both networks where a classifier is only tested on other Gaussians.

**Claims.** Under each table stand the paper's claims about it. The difference is that of top-1 here, with its 95 %
interval: Student's t over the seeds, paired, with a variance of at least what so many test images give by chance.
It agrees with the claim, disagrees, or is too small to tell. The paper's numbers are of other data and other sizes:
only the order can be compared.
"""
