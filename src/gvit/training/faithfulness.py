"""How far explanations of a trained model hold, on labelled images: what ``gvit faithfulness`` measures and writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvit.analysis.faithfulness import compare_models, measure_faithfulness, methods_of
from gvit.data.loading import EvaluationSamples
from gvit.errors import InputError, for_python, option
from gvit.models.pretrained import is_pretrained_name
from gvit.prediction import check_classifies
from gvit.provenance import provenance
from gvit.training.report import load_with_images


def assess_faithfulness(
    place: str | Path,
    data_dir: str | Path | None = None,
    dataset: str | None = None,
    *,
    against: str | Path | None = None,
    num_images: int = 200,
    batch_size: int = 64,
    device: str = "cpu",
    seed: int = 0,
    progress: Callable[[float, float, str], object] | None = None,
    methods: Sequence[str] | None = None,
    **measuring: Any,
) -> dict[str, Any]:
    """Insertion, deletion and the check with random weights for a model, and for another one on the same images.

    Args:
        place: run folder, weights file, or name of pretrained weights; as for ``gvit.training.report.assess``.
        data_dir: folder with the images; the run's own test images when neither this nor ``dataset`` is given.
        dataset: how they lie there, see ``gvit.data.labelled``.
        against: another model, with units of another kind for example.
        num_images: how many of the images, drawn by the seed; all of them where there are fewer.
        batch_size: images at a time.
        device: where it is computed.
        seed: of all that is random.
        progress: is told how much is done, of how much, and what goes on.
        methods: names; all when None. Of two models, each is measured by those that its units have.
        **measuring: ``steps``, ``draws``, ``samples``, ``pixels`` of ``measure_faithfulness``.

    Returns:
        For JSON: ``results``, one for each model (``Faithfulness.to_dict``, with its name, and its top-1 on these
        images), ``comparison`` of two models (``compare_models``), ``rows`` of the images in their data set, those that
        cannot be read (``broken``), ``settings`` and provenance.

    Raises:
        InputError: there is no model with classes, or there are no two images that can be read; the models have other
            test images; no model has a method of such a name.
    """
    places = [place] if against is None else [place, against]
    loaded = [load_with_images(one, data_dir, dataset) for one in places]
    for model, samples in loaded:
        check_classifies(model)
        if list(samples.source.keys) != list(loaded[0][1].source.keys):
            raise InputError(
                f"{against}: its test images are others than those of {place}; name images for both, by "
                f"{option('data_dir', 'FOLDER')} or {option('dataset', 'NAME')}"
            )
    chosen = methods_of([model for model, _ in loaded], methods)
    rows, broken = _readable_rows(loaded[0][1], num_images, seed)
    results: list[dict[str, Any]] = []
    each = zip(_names(places), loaded, chosen, strict=True)
    for number, (name, (model, samples), named) in enumerate(each):

        def tell(done: float, text: str, before: int = number * len(rows), name: str = name) -> None:
            if progress is not None:
                progress(before + done, len(rows) * len(places), f"{name}: {text}")

        batches = _batches(samples, rows, batch_size, device)
        found = measure_faithfulness(model.to(device), batches, named, seed=seed, progress=tell, **measuring)
        labels = torch.tensor([samples.source.labels[row] for row in rows])
        top1 = (found.classes == labels).double().mean().item()
        results.append({"model": name, "top1": top1} | found.to_dict())
    return {
        "results": results,
        "comparison": compare_models(*results) if len(results) > 1 else None,
        "rows": rows,
        "broken": broken,
        "settings": {"seed": seed, "num_images": num_images, "batch_size": batch_size, "methods": methods}
        | measuring,
        "provenance": provenance(),
    }


def _names(places: Sequence[str | Path]) -> list[str]:
    """What models are called in tables; with as many of their folders as tell them apart, and no more."""
    names = [_name(Path(place)) for place in places]
    for folders in range(1, max(len(Path(place).absolute().parts) for place in places)):
        if len({*names}) == len(names):
            break
        names = [_name(Path(place), folders) for place in places]
    return names


def _name(place: Path, folders: int = 0) -> str:
    """The end of its path; weights files are mostly called alike, so that their folder tells more."""
    if is_pretrained_name(place.as_posix()):
        return place.as_posix()
    place = Path(os.path.abspath(place))  # a run may be '.'; a link has a name of its own
    return "/".join(place.parts[1:][-1 - place.is_file() - folders :])


def _readable_rows(samples: EvaluationSamples, number: int, seed: int) -> tuple[list[int], list[str]]:
    """Rows to be looked at, in order, and what is wrong with those that were drawn and cannot be read."""
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))[:number]
    rows = sorted(drawn.tolist())
    broken = samples.errors(rows)
    rows = [row for row in rows if row not in {one.row for one in broken}]
    if len(rows) < 2:
        reason = f": {for_python(broken[0].error)}" if broken else ""
        raise InputError(f"an interval over images needs two of them at least, got {len(rows)}{reason}")
    return rows, [for_python(one.error) for one in broken]


def _batches(samples: EvaluationSamples, rows: Sequence[int], size: int, device: str) -> Iterator[Tensor]:
    for first in range(0, len(rows), size):
        yield torch.stack([samples[row][0] for row in rows[first : first + size]]).to(device)
