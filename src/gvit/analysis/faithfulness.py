"""How far scores tell what a decision rests on: insertion, deletion, and what is left with random weights.

Insertion and deletion are of Petsiuk et al. 2018 ("RISE"), the weights that are made random of Adebayo et al. 2018
("Sanity Checks for Saliency Maps").
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gvit.analysis.explanation import METHODS
from gvit.analysis.units import (
    CENTER,
    MODEL_FREE,
    RANDOM,
    GaussianUnits,
    PatchUnits,
    Units,
    kind_of_units,
    pixel_nearness,
    pixel_probability,
    units_of,
)
from gvit.errors import InputError, unknown_name
from gvit.models.architecture import Architecture
from gvit.models.base import ImageClassifier, evaluating

CONTROLS = (RANDOM, CENTER)
PATCHES = "occlusion of patches"  # for a model of Gaussians
UNITS, PIXELS = "units", "pixels"  # what is taken out
_CHECKED = 0.25  # of the images, with random weights
_STEPS_OF_IG = 4  # for each order of shap
_RANDOM_WEIGHTS = 2**32  # added to the seed, so that these are no weights that a training began with


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Attributes:
        mean: None without images.
        margin: half of the 95 % interval around it, by Student's t over the images; None below two.
    """

    mean: float | None
    margin: float | None

    @classmethod
    def of(cls, values: Float[Tensor, " n"]) -> Estimate:
        """Of one value an image; those that are NaN are left out."""
        from scipy.stats import t  # comes with scikit-learn

        known = values[~values.isnan()].double()
        mean, count = known.mean().item() if len(known) else None, len(known)
        if count < 2:
            return cls(mean, None)
        return cls(mean, float(t.ppf(0.975, count - 1)) * known.std().item() / math.sqrt(count))

    @property
    def verdict(self) -> str:
        """Of a difference where more is better."""
        if self.mean is None or self.margin is None or abs(self.mean) <= self.margin:
            return "too small to tell"
        return "better" if self.mean > 0 else "worse"


@dataclass(frozen=True)
class Curves:
    """The probability of a class while units are put in or taken out.

    Attributes:
        fractions: of the units, from 0 to 1.
        insertion: [B, F], with so many of the most relevant ones alone.
        deletion: [B, F], without them.
    """

    fractions: tuple[float, ...]
    insertion: Tensor
    deletion: Tensor

    @property
    def areas(self) -> dict[str, Float[Tensor, " batch"]]:
        """Under each curve, by the trapezoidal rule, and ``gap``, insertion minus deletion: 0 for chance."""
        places = torch.tensor(self.fractions, dtype=torch.float64)
        insertion, deletion = (
            torch.trapezoid(curve.double(), places, dim=1) for curve in (self.insertion, self.deletion)
        )
        return {"insertion": insertion, "deletion": deletion, "gap": insertion - deletion}


def insertion_deletion(
    probability: Callable[[Bool[Tensor, "batch n"]], Float[Tensor, " batch"]],
    scores: Float[Tensor, "batch n"],
    steps: int = 8,
    generator: torch.Generator | None = None,
) -> Curves:
    """Put units in and take them out, the highest scores first.

    Args:
        probability: of each image's class, with the units alone for which the mask is True.
        scores: of N units.
        steps: the units come and go in so many parts of equal size, or one by one where there are fewer.
        generator: on the CPU; in what order equal scores come is drawn from it, so that a method without an opinion
            is chance.

    Returns:
        Curves on the CPU, at fractions k / ``steps``, rounded to whole units: with n of them also without n, as chance
        needs for a gap of 0.
    """
    count = scores.shape[1]
    shuffled = torch.rand(scores.shape, generator=generator).argsort(1).to(scores.device)
    order = shuffled.gather(1, scores.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    rank = order.argsort(1)
    half = {round(step * count / steps) for step in range(steps // 2 + 1)}
    numbers = sorted(half | {count - number for number in half})
    # a whole image and an empty one are the ends of both
    inserted = [probability(rank < number) for number in numbers]
    deleted = [probability(rank >= number) for number in numbers[1:-1]]
    return Curves(
        tuple(number / count for number in numbers),
        torch.stack(inserted, 1).cpu(),
        torch.stack([inserted[-1], *deleted, inserted[0]], 1).cpu(),
    )


def with_random_weights(model: ImageClassifier, seed: int) -> ImageClassifier:
    """The same encoder, if any, with a classifier that has learned nothing, from its first layer to its head.

    Raises:
        InputError: the model has a part that is not registered.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_RANDOM_WEIGHTS + seed)  # not a GPU's, which is not forked
        fresh = Architecture.of(model).build()
    if model.encoder is not None and fresh.encoder is not None:
        fresh.encoder.load_state_dict(model.encoder.state_dict())
    fresh.card = model.card
    parameter = next(model.parameters())
    return fresh.to(parameter.device, parameter.dtype).eval()


def rank_correlations(
    one: Float[Tensor, "batch n"], other: Float[Tensor, "batch n"]
) -> Float[Tensor, " batch"]:
    """Spearman's, of each image's scores; NaN where all scores of an image are equal."""
    from scipy.stats import spearmanr

    def correlation(x: Tensor, y: Tensor) -> float:
        if len(x) < 2 or x.min() == x.max() or y.min() == y.max():
            return math.nan
        return float(spearmanr(x.numpy(), y.numpy()).statistic)

    pairs = zip(one.cpu().double(), other.cpu().double(), strict=True)
    return torch.tensor([correlation(x, y) for x, y in pairs], dtype=torch.float64)


@dataclass(frozen=True)
class Faithfulness:
    """What was measured on images, of every method and of the controls.

    Attributes:
        units: what was scored: Gaussians or patches.
        count: units an image.
        classes: [N] that the scores are for, one an image, on the CPU.
        curves: by what was taken out (``units``, and ``pixels`` for a model that makes Gaussians of images), then by
            method.
        correlations: by method, of each image's scores with those of a classifier of random weights; not for methods
            that take no notice of the classifier.
        seconds: that a method took for an image.
    """

    units: str
    count: int
    classes: Tensor
    curves: dict[str, dict[str, Curves]]
    correlations: dict[str, Tensor]
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: means with their 95 % intervals, differences from the controls, and the areas of each image."""
        return {
            "units": self.units,
            "count": self.count,
            "num_images": len(self.classes),
            "measures": {taken: _summary(curves) for taken, curves in self.curves.items()},
            "random_weights": {name: vars(Estimate.of(values)) for name, values in self.correlations.items()},
            "seconds": self.seconds,
        }


def _summary(curves: dict[str, Curves]) -> dict[str, Any]:
    areas = {name: curve.areas for name, curve in curves.items()}
    methods = {}
    for name, curve in curves.items():
        against = {
            control: _difference(areas[name], areas[control]) for control in CONTROLS if control != name
        }
        methods[name] = {
            **{measure: vars(Estimate.of(values)) for measure, values in areas[name].items()},
            "against": against,
            "curves": {
                kind: [round(value, 4) for value in getattr(curve, kind).double().mean(0).tolist()]
                for kind in ("insertion", "deletion")
            },
            "images": {
                kind: [round(value, 4) for value in areas[name][kind].tolist()]
                for kind in ("insertion", "deletion")
            },
        }
    fractions = next(iter(curves.values())).fractions
    summary = {"fractions": list(fractions), "methods": methods}
    if PATCHES in areas and "occlusion" in areas:
        summary["gaussians_against_patches"] = _difference(areas["occlusion"], areas[PATCHES])
    return summary


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, Any]:
    """Of the gaps, paired over the images."""
    difference = Estimate.of(ours["gap"] - theirs["gap"])
    return vars(difference) | {"verdict": difference.verdict}


def compare_models(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By how much one model's gaps are above another's on the same images, for each method that both have.

    Args:
        one: of ``Faithfulness.to_dict``.
        other: the same, of the same images in the same order.

    Returns:
        By what was taken out, then by method, the difference with its margin and verdict. Where a model's units are
        patches, its measure by units is that by pixels; nothing by pixels where a model has no such measure.
    """
    found: dict[str, dict[str, Any]] = {}
    for taken in one["measures"].keys() | other["measures"].keys():
        ours, theirs = (_gaps(model, taken) for model in (one, other))
        found[taken] = {name: _difference(ours[name], theirs[name]) for name in ours if name in theirs}
    return {taken: found[taken] for taken in (UNITS, PIXELS) if found.get(taken)}


def _gaps(model: Mapping[str, Any], taken: str) -> dict[str, dict[str, Tensor]]:
    if model["units"] == PatchUnits.kind:
        taken = UNITS
    methods = model["measures"].get(taken, {}).get("methods", {})
    return {
        name: {"gap": torch.tensor(m["images"]["insertion"]) - torch.tensor(m["images"]["deletion"])}
        for name, m in methods.items()
    }


def measure_faithfulness(
    model: ImageClassifier,
    batches: Iterable[Tensor],
    methods: Sequence[str] | None = None,
    *,
    steps: int = 8,
    draws: int = 3,
    samples: int = 4,
    seed: int = 0,
    pixels: bool = True,
    progress: Callable[[float, str], object] | None = None,
) -> Faithfulness:
    """Insertion and deletion for each method, with random and centre as controls, and the check with random weights.

    The class is the one that the model finds most probable in the whole image. A Gaussian that is taken out is not
    drawn; a pixel that is has its image's mean colour, and the same model encodes the image anew. Pixels come in the
    order of the scores that the renderer draws there (``splat_scores``). Of methods whose zero says nothing (``signed``
    is False, and random) it draws ranks, from 1 / N to 1, so that a pixel without a Gaussian comes last. So random, by
    pixels, knows where there are Gaussians and is not chance, whose gap is 0. Beside the methods there is, by pixels,
    what patches instead of Gaussians would be as units: about as many squares as there are Gaussians, each scored by
    what the logit loses without it.

    Args:
        model: with classes.
        batches: on its device, what it reads: images [B, 3, H, W] in [0, 1], or raw Gaussians [B, K, 9].
        methods: names; all that the model's units have when None.
        steps: see ``insertion_deletion``.
        draws: of random scores, whose curves are averaged for each image.
        samples: orders of ``shap``; ``ig`` takes four times as many steps.
        seed: of all that is random.
        pixels: whether pixels are blanked, too, where the units are Gaussians of images. (Patches are pixels.)
        progress: is told how many images are done, and which method is at work.

    Raises:
        InputError: there are no images; the model has neither Gaussians nor patches; an unknown method.
    """
    (chosen,) = methods_of([model], methods)
    measured = _Measured(steps, draws, samples, seed, pixels)
    done, tell = 0, progress or (lambda done, text: None)
    with evaluating(model), torch.no_grad():
        for inputs in batches:
            units = units_of(model, inputs)
            # a check that is dear for what it tells: on a part of the images
            part = units_of(model, inputs[: math.ceil(len(inputs) * _CHECKED)])
            for number, name in enumerate(measured.add(units, part, chosen)):
                tell(done + len(inputs) * number / (len(chosen) + 1), name)
            done += len(inputs)
    if not done:
        raise InputError("there are no images to measure on")
    return measured.result(units)


def methods_of(models: Sequence[ImageClassifier], methods: Sequence[str] | None) -> list[list[str]]:
    """For each model those of the methods that its units have, without controls, which are always there.

    Args:
        models: with Gaussians or patches.
        methods: names; all when None.

    Raises:
        InputError: no model has a method of such a name.
    """
    kinds = [kind_of_units(model) for model in models]
    known = list(dict.fromkeys([*(name for kind in kinds for name in kind.methods), *CONTROLS]))
    wanted = known if methods is None else list(dict.fromkeys(methods))
    for name in wanted:
        if name not in known:
            what = " or ".join(dict.fromkeys(kind.kind for kind in kinds))
            raise unknown_name(f"method for {what}", name, known)
    return [[name for name in wanted if name in kind.methods] for kind in kinds]


class _Measured:
    """What is known so far."""

    def __init__(self, steps: int, draws: int, samples: int, seed: int, pixels: bool) -> None:
        self.steps, self.draws, self.samples, self.seed, self.pixels = steps, draws, samples, seed, pixels
        self.generator = torch.Generator().manual_seed(seed)
        self.classes: list[Tensor] = []
        self.curves: dict[str, dict[str, list[Curves]]] = defaultdict(lambda: defaultdict(list))
        self.correlations: dict[str, list[Tensor]] = defaultdict(list)
        self.seconds: dict[str, float] = defaultdict(float)

    def add(self, units: Units, part: Units, methods: Sequence[str]) -> Iterator[str]:
        """A batch of images, the first of which are ``part``; gives the name of each method before its turn."""
        # another one for each batch: one alone may happen to agree with what was learned
        random_model = with_random_weights(units.model, self.seed + len(self.classes))
        self.classes.append(units.classes.cpu())
        for name in methods:
            yield name
            start = time.perf_counter()
            samples = _STEPS_OF_IG * self.samples if name == "ig" else self.samples
            scores = units.scores(name, units.model, samples, self.seed)
            self.seconds[name] += time.perf_counter() - start
            self._take_out(units, name, scores)
            if name not in MODEL_FREE:
                others = part.scores(name, random_model, samples, self.seed)
                self.correlations[name].append(rank_correlations(scores[: len(others)], others))
        yield "controls"
        nearness = units.nearness()
        self._take_out(units, CENTER, nearness)
        drawn = torch.rand(len(nearness), self.draws, units.count, generator=self.generator)
        self._take_out(units, RANDOM, *drawn.to(nearness).unbind(1))
        if self._blanks(units) and units.images is not None:
            side = max(2, round(math.sqrt(units.count)))
            patches = PatchUnits(units.model, units.images, (side, side))
            scores = patches.scores("occlusion", units.model, self.samples, self.seed)
            self.curves[PIXELS][PATCHES].append(self._by_pixels(units, patches.score_map(scores)))

    def _blanks(self, units: Units) -> bool:
        return self.pixels and units.images is not None and units.kind == GaussianUnits.kind

    def _take_out(self, units: Units, name: str, *scores: Tensor) -> None:
        """By every measure; where units are taken out, the mean of the curves of several scores."""
        found = [insertion_deletion(units.probability, one, self.steps, self.generator) for one in scores]
        self.curves[UNITS][name].append(_mean(found))
        if not self._blanks(units):
            return
        # of random scores one draw: to encode the image anew is dear
        self.curves[PIXELS][name].append(self._by_pixels(units, self._map(units, name, scores[0])))

    def _map(self, units: Units, name: str, scores: Tensor) -> Tensor:
        assert units.images is not None
        if name == CENTER:
            near = pixel_nearness(*units.images.shape[-2:]).to(scores)
            return near.expand(len(scores), -1, -1)
        if name == RANDOM or not METHODS[name].signed:
            # equal scores rank as chance has it
            mixed = torch.rand(scores.shape, generator=torch.Generator().manual_seed(self.seed)).argsort(1)
            mixed = mixed.to(scores.device)
            order = mixed.gather(1, scores.gather(1, mixed).argsort(1))
            scores = (order.argsort(1) + 1).to(scores) / units.count
        return units.score_map(scores)

    def _by_pixels(self, units: Units, scores: Float[Tensor, "batch h w"]) -> Curves:
        def probability(keep: Tensor) -> Tensor:
            return pixel_probability(units, keep.unflatten(1, scores.shape[1:]))

        return insertion_deletion(probability, scores.flatten(1), self.steps, self.generator)

    def result(self, units: Units) -> Faithfulness:
        classes = torch.cat(self.classes)
        return Faithfulness(
            units.kind,
            units.count,
            classes,
            {taken: {name: _cat(c) for name, c in by.items()} for taken, by in self.curves.items()},
            {name: torch.cat(values) for name, values in self.correlations.items()},
            {name: value / len(classes) for name, value in self.seconds.items()},
        )


def _mean(curves: Sequence[Curves]) -> Curves:
    insertion, deletion = (
        torch.stack([getattr(c, kind) for c in curves]).mean(0) for kind in ("insertion", "deletion")
    )
    return Curves(curves[0].fractions, insertion, deletion)


def _cat(curves: Sequence[Curves]) -> Curves:
    insertion, deletion = (torch.cat([getattr(c, k) for c in curves]) for k in ("insertion", "deletion"))
    return Curves(curves[0].fractions, insertion, deletion)
