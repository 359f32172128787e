"""One page over all targets: their tables, what the paper claims about them, and how the runs differ from its own."""

from __future__ import annotations

import json
import os
import re
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvit.analysis.faithfulness_table import tables
from gvit.errors import InputError, first_line, option
from gvit.files import write_text
from gvit.provenance import describe
from gvit.reproduction.report import difference, read_contents, remarks, spread, table
from gvit.reproduction.study import Claim

_NOTES_NAME = "notes.json"
_FAITHFULNESS_NAME = "faithfulness.json"  # which `gvit faithfulness` writes
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
    """By the differences of the seeds, paired: agrees or disagrees where their 95 % interval excludes 0."""
    mean, margin = difference(claim.better, claim.worse, rows)
    if margin is None:
        return Verdict(claim.text, mean, None, "too small to tell (one seed)")
    if abs(mean) <= margin:
        return Verdict(claim.text, mean, margin, "too small to tell")
    return Verdict(claim.text, mean, margin, "agrees" if mean > 0 else "disagrees")


@dataclass(frozen=True)
class Material:
    """What a page is made of, and the page.

    Attributes:
        page: its file.
        contents: of the targets' JSON files.
        notes: by recipe, what data it was measured on.
        explained: by recipe, the section of ``faithfulness.json``.
    """

    page: Path
    contents: list[dict[str, Any]]
    notes: dict[str, str]
    explained: dict[str, str]


def read_material(folder: Path, order: Sequence[str]) -> Material:
    """All that is in the folder for its page, which lies beside it.

    Raises:
        InputError: a file is damaged or was written by something else, the page among them; or the folder is none that
            a page can be beside.
    """
    folder = Path(os.path.abspath(folder))  # without "..", and a link by its own name
    if not folder.name:
        raise InputError(f"{option('out', folder)}: the page gets the folder's name, and this one has none")
    page = folder.with_name(f"{folder.name}.md")
    ours = page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(_BEGINNING)
    if page.exists() and not ours:
        raise InputError(
            f"{page}: is no page of gvit reproduce, which would replace it; write elsewhere with "
            f"{option('out', 'FOLDER')}"
        )
    explained = {
        path.parent.name: _explanations(path) for path in sorted(folder.glob(f"*/{_FAITHFULNESS_NAME}"))
    }
    return Material(page, read_contents(folder, order), _read_notes(folder), explained)


def write_page(folder: Path, order: Sequence[str]) -> Path:
    """The Markdown page beside the folder, from all JSON files in it: no number there is typed by hand.

    ``notes.json`` in the folder, where it is there, says of recipes by name what data they were measured on. A
    ``faithfulness.json`` in a recipe's folder is what ``gvit faithfulness --out`` wrote of its models.

    Raises:
        InputError: as ``read_material``.
    """
    material = read_material(folder, order)
    contents, notes, explained = material.contents, material.notes, material.explained
    parts = ["\n\n".join(map(_wrap, _PREFACE.split("\n\n"))) + "\n"]
    recipes = sorted(
        {content["recipe"] for content in contents} | explained.keys(),
        key=lambda name: (name.removesuffix("_paper") != "digits", name),
    )
    for recipe in recipes:
        mine = [content for content in contents if content["recipe"] == recipe]
        said = [notes.get(recipe, ""), _conditions([row for content in mine for row in content["rows"]])]
        parts.append(f"\n## {recipe}\n")
        parts += [f"{_wrap(' '.join(filter(None, said)))}\n"] if any(said) else []
        parts += [_section(content, material.page.stem) for content in mine]
        parts += [explained[recipe]] if recipe in explained else []
    write_text(material.page, "\n".join(parts))
    return material.page


def _read_notes(folder: Path) -> dict[str, str]:
    path = folder / _NOTES_NAME
    if not path.exists():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
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
    how = "not clipped" if clipped is None else f"clipped to a norm of {clipped:g}"
    said = f"Gradients are {how}."
    reading = [s for s in settings if s["model"].get("tokens") != "patches"]
    if not reading:
        return said
    sentences = {
        "scale_factor": "The scale factor is c = {:g} where a row names no other; the paper's is 1.",
        "tokens": "Classifiers of Gaussians read {} tokens where a row names no other.",
    }
    for name, sentence in sentences.items():
        usual = statistics.multimode(_model_value(s, name) for s in reading)
        if len(usual) == 1:  # else none is
            said += " " + sentence.format(*usual)
    return said


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
    lines += [_wrap(note) + "\n" for note in (_transfer_note(rows), _start_note(rows)) if note]
    lines.append(table(content))
    lines += ["\n" + _wrap(remark) for remark in remarks(rows)]
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


def _explanations(path: Path) -> str:
    """The section of what was measured of explanations.

    Raises:
        InputError: the file is damaged or was written by something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        models = [f"{result['model']}: top-1 {100 * result['top1']:.1f} %" for result in content["results"]]
        images = f"{len(content['rows'])} test images ({', '.join(models)})"
        caption = f"`{content['command']}`: {images}; {describe(content['provenance'])}."
        body = tables(content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: not what 'gvit faithfulness --out' writes ({reason}); remove it") from None
    body = "\n\n".join(part if part.startswith("|") else _wrap(part) for part in body.split("\n\n"))
    return f"### faithfulness: what explains the decisions\n\n{_wrap(caption)}\n\n{body}\n"


def _transfer_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """With which settings runs go on from other runs, where a table has such."""
    settings = [row["settings"] for row in rows if row.get("settings")]
    first = [s for s in settings if s["model"]["init"] is None]
    frozen = [s for s in settings if s["model"]["init"] is not None and s["schedule"]["freeze_encoder"]]
    if not frozen:
        return ""
    still = "The encoder stands still in the transfers; a patch ViT, which has none, learns as a whole."
    if not first:  # the rows that were chosen are transfers alone
        return still
    same = all(
        s["optimizer"] == first[0]["optimizer"] and s["data"]["batch_size"] == first[0]["data"]["batch_size"]
        for s in frozen
    )
    how = (
        "The transfers keep the settings of the first training; those of the paper's Table A.1b are not used."
        if same
        else "The transfers have the settings of the paper's Table A.1b, not those of the first training."
    )
    return f"{how} {still}"


def _start_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where all rows of a table go on from the same trained networks."""
    settings = [row["settings"] for row in rows if row.get("settings")]
    starts = {(s["model"]["init"], s["schedule"]["freeze_encoder"]) for s in settings}
    if len(settings) < len(rows) or len(starts) != 1:
        return ""
    (start, frozen) = starts.pop()
    if start is None or frozen:
        return ""
    rate, warmup = settings[0]["optimizer"]["base_lr"], settings[0]["optimizer"]["warmup_epochs"]
    return (
        f"All rows start from {start}, with a learning rate of {rate:g} for a batch of 256, "
        f"after {warmup:.2g} epochs of warm-up. The seeds share this start and differ in what comes after it."
    )


_BEGINNING = "# Results\n\n`gvit reproduce` writes this page"
_PREFACE = f"""{_BEGINNING} from the JSON files beside it, which hold every setting. What the renderer and
single steps take on a GPU stands in [gpu](gpu.md), and trials outside of these tables in
[experiments](experiments.md).

**What is measured.** Top-1 accuracy on the test images after the last epoch, as mean ± standard deviation over
the seeds. There is no validation split, and no choice of the best epoch.

**What the rows of a table share.** They have the same data, batch size, learning rate, weight decay and epochs.
Those of one seed see the same images, augmented in the same way; where a commit is older than 55d84f8, not those with
another number of Gaussians, or none. The rows of table2 that transfer to other data are an exception, and say so.

**What the networks learn.** The patch ViT is GViT's classifier over patches of pixels. It learns to classify in
all epochs. GViT's classifier does so after the first two phases only, and stands still on guided steps.
Classifiers of frozen Gaussians (offline, leakage, table4) and of their pictures learn in all epochs, too; their
augmentation moves Gaussians. Canonical tokens are what is drawn of a Gaussian; the paper's classifiers read its
nine raw numbers instead. The paper clips no gradients.

**Names.** "No guidance" spends the guided phase's epochs without guided steps. "Joint" lets the classifier's
gradient into the encoder in every step of the last two phases; into an encoder that looks several times, in the last
look of each.

**Fits.** The Gaussians of offline and SGD rows are one set of fits for all seeds: the seeds differ in the
classifier alone, so the standard deviation of such a row leaves out what another set of fits would change.
Gaussians of an encoder are those of the seed's own training.

**What the networks cost.** Parameters, and multiply-adds of one image's forward pass in matrix products and
convolutions, both without the head. Renderers and fits are not counted. A dash stands for a network that a row
does not have, and for both networks where a classifier is only tested on other Gaussians.

**Claims.** Under each table stand the paper's claims about it; those of guidance and tokens, and that
guidance beats the joint gradient, are this project's. The difference is that of top-1 here, with its 95 %
interval. That is Student's t over the seeds, paired, and beside it, as the root of the sum of both squared,
what another draw of so many test images would change. All seeds have the same test images, so that this part
does not shrink with their number. It comes from the images about which two rows differ. Where results do not
say which images were answered right (those of commits before 8eb8eae), or have them in different orders
(frozen Gaussians beside images), it comes from both accuracies as if each row had images of its own, which
makes it wider. The difference agrees with the claim, disagrees, or is too small to tell. The paper's numbers
are of other data and other sizes: only the order can be compared.

**Explanations.** Tables called faithfulness tell, for the class that the model finds most probable, how soon its
probability comes with the most relevant units alone (insertion), and how long it stays without them (deletion):
areas under the curves, with their 95 % interval, Student's t over the images. Their difference is near 0 for units
in random order, and 0 on average for pixels in random order. What the tables' columns and rows are tells
[faithfulness](faithfulness.md).
"""
