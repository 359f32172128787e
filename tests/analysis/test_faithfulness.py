"""Insertion and deletion where the truth is known, by hand and against scipy."""

import itertools
import math

import pytest
import scipy.stats
import torch

import gvit
from gvit.analysis.explanation import attribute
from gvit.analysis.faithfulness import (
    PATCHES,
    Estimate,
    compare_models,
    insertion_deletion,
    measure_faithfulness,
    methods_of,
    rank_correlations,
    with_random_weights,
)
from gvit.analysis.faithfulness_table import tables
from gvit.analysis.units import GaussianUnits, units_of
from gvit.errors import InputError
from gvit.models import registry
from gvit.models.tokens import TOKENIZERS, Tokenizer


def linear(weights):
    """The probability of what is there is the sum of its weights."""
    return lambda keep: (keep * weights).sum(1)


def test_areas_of_three_units_by_hand():
    weights = torch.tensor([[0.2, 0.5, 0.3]])
    curves = insertion_deletion(linear(weights), weights, steps=3)
    assert curves.fractions == pytest.approx((0, 1 / 3, 2 / 3, 1))
    torch.testing.assert_close(curves.insertion, torch.tensor([[0, 0.5, 0.8, 1]]))
    torch.testing.assert_close(curves.deletion, torch.tensor([[1, 0.5, 0.2, 0]]))
    areas = {name: value.item() for name, value in curves.areas.items()}
    assert areas == pytest.approx({"insertion": 0.6, "deletion": 0.4, "gap": 0.2}, abs=1e-6)
    # fewer steps than units: two of them at a time
    weights = torch.tensor([[0.2, 0.5, 0.2, 0.1]])
    assert insertion_deletion(linear(weights), weights, steps=2).fractions == pytest.approx((0, 1 / 2, 1))


def test_no_order_beats_the_true_one_and_chance_is_between():
    weights = torch.tensor([[0.4, 0.1, 0.3, 0.2]])
    gaps = {
        order: insertion_deletion(linear(weights), torch.tensor([order]).float()).areas["gap"].item()
        for order in itertools.permutations(range(4))
    }
    assert max(gaps, key=gaps.get) == (3, 0, 2, 1)
    assert min(gaps, key=gaps.get) == (0, 3, 1, 2)
    assert sum(gaps.values()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("count", "steps"), [(9, 8), (9, 6), (7, 2), (3, 2)])
def test_an_odd_number_of_units_in_random_order_has_no_gap(count, steps):
    """Whatever the order, where the probability depends on their number alone."""
    curves = insertion_deletion(lambda keep: keep.float().mean(1).pow(3), torch.zeros(1, count), steps)
    assert curves.areas["gap"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [16, 32, 64, 1024, 3072])
def test_an_even_number_of_units_goes_in_equal_parts(count):
    scores = torch.zeros(1, count)
    assert insertion_deletion(linear(scores), scores).fractions == tuple(k / 8 for k in range(9))


def test_equal_scores_are_chance():
    """And not the order in which units are counted, which is the best one here."""
    weights = torch.linspace(1, 0, 16).expand(400, -1) / 8
    chance = torch.Generator().manual_seed(0)
    gaps = insertion_deletion(linear(weights), torch.zeros(400, 16), 16, chance).areas["gap"]
    assert Estimate.of(gaps).verdict == "too small to tell"
    assert insertion_deletion(linear(weights), weights, 16).areas["gap"].min() > 5 * gaps.mean().abs()


def test_the_interval_is_scipys():
    values = torch.tensor([0.1, 0.5, 0.2, 0.9, math.nan])
    known = values[:4].double().numpy()
    low, high = scipy.stats.ttest_1samp(known, 0).confidence_interval(0.95)
    found = Estimate.of(values)
    assert (found.mean - found.margin, found.mean + found.margin) == pytest.approx((low, high))
    assert found.verdict == "too small to tell"
    assert Estimate.of(values + 1).verdict == "better"
    assert Estimate.of(-values - 1).verdict == "worse"
    assert Estimate.of(values * math.nan) == Estimate(None, None)  # JSON has no NaN
    assert (Estimate.of(values[:1]).margin, Estimate.of(values[:1]).verdict) == (None, "too small to tell")


@pytest.fixture(scope="module")
def digits():
    return gvit.load_model("digits")


@pytest.fixture(scope="module")
def images(digits):
    from gvit.data.inputs import eval_input
    from gvit.data.sources import load_source

    source = load_source("digits", "test")
    transform = eval_input(digits, source)
    return torch.stack([transform(source.load(row)) for row in range(12)])


@torch.no_grad()
def test_random_weights_are_those_of_the_whole_classifier_and_of_nothing_else(digits, images):
    fresh = with_random_weights(digits, 1)
    gaussians = digits.encode(images[:2])
    torch.testing.assert_close(fresh.encode(images[:2]).raw, gaussians.raw)
    ours, theirs = digits.classifier.state_dict(), fresh.classifier.state_dict()
    assert all(not torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("weight"))
    again = with_random_weights(digits, 1).classify(gaussians)
    torch.testing.assert_close(again, fresh.classify(gaussians))
    assert not torch.equal(again, with_random_weights(digits, 2).classify(gaussians))


def test_rank_correlations_are_scipys():
    one, other = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0)).double()
    other[2] = 0
    found = rank_correlations(one, other)
    expected = [scipy.stats.spearmanr(one[i], other[i]).statistic for i in range(2)]
    assert found[:2].tolist() == pytest.approx(expected)
    assert found[2].isnan()


@torch.no_grad()
def test_gaussians_are_taken_out_as_not_drawn(digits, images):
    units = units_of(digits.eval(), images[:3])
    keep = torch.rand(3, units.count, generator=torch.Generator().manual_seed(0)) > 0.5
    gaussians = digits.encode(images[:3])
    classes = digits(images[:3]).argmax(1)
    expected = digits.classify(gaussians.drop(~keep)).softmax(1)[torch.arange(3), classes]
    torch.testing.assert_close(units.probability(keep), expected)


def test_what_the_shipped_digits_rest_on(digits, images):
    told = []
    found = measure_faithfulness(
        digits,
        [images],
        ["opacity", "occlusion", "random"],
        steps=2,
        draws=2,
        progress=lambda done, text: told.append((done, text)),
    )
    content = found.to_dict()
    assert found.classes.tolist() == digits(images).argmax(1).tolist()
    units, pixels = (content["measures"][taken]["methods"] for taken in ("units", "pixels"))
    assert list(units) == ["opacity", "occlusion", "centre", "random"]
    assert list(pixels) == [*units, PATCHES]
    for taken in (units, pixels):
        for method in taken.values():
            insertion, deletion = method["curves"]["insertion"], method["curves"]["deletion"]
            # both have the whole image at one end, and nothing of it at the other
            assert (insertion[-1], insertion[0]) == (deletion[0], deletion[-1])
            assert insertion[-1] > 0.9
            areas = torch.tensor(method["images"]["insertion"])
            assert method["insertion"]["mean"] == pytest.approx(areas.mean().item(), abs=1e-4)
    # what the logit loses without a Gaussian is a better guide than chance
    assert units["occlusion"]["against"]["random"]["verdict"] == "better"
    assert abs(units["random"]["gap"]["mean"]) < 0.1
    gaps = {name: [i - d for i, d in zip(*units[name]["images"].values(), strict=True)] for name in units}
    paired = [a - b for a, b in zip(gaps["occlusion"], gaps["random"], strict=True)]
    assert units["occlusion"]["against"]["random"]["mean"] == pytest.approx(sum(paired) / 12, abs=1e-3)
    # opacity takes no notice of the classifier, so that there is nothing to check
    assert list(content["random_weights"]) == ["occlusion"]
    assert content["seconds"].keys() == {"opacity", "occlusion"}
    assert told == [(0, "opacity"), (4, "occlusion"), (8, "controls")]
    split = measure_faithfulness(digits, images.split(8), ["opacity"], steps=2, pixels=False).to_dict()
    assert list(split["measures"]) == ["units"]
    assert split["measures"]["units"]["methods"]["opacity"]["images"] == units["opacity"]["images"]


def test_with_random_weights_scores_are_others_and_with_the_same_they_are_the_same(digits, images):
    with torch.no_grad():
        gaussians = digits.encode(images)
        classes = digits.classify(gaussians).argmax(1)
    scores, again, others = (
        attribute(model, gaussians, "cdam", classes)
        for model in (digits, digits, with_random_weights(digits, 0))
    )
    assert rank_correlations(scores, again).min() == pytest.approx(1)
    assert rank_correlations(scores, others).mean().abs() < 0.3


def test_models_are_compared_image_by_image():
    def of(kind, **measures):
        images = {
            taken: {"methods": {"shap": {"images": {"insertion": i, "deletion": d}}}}
            for taken, (i, d) in measures.items()
        }
        return {"units": kind, "measures": images}

    ours = of("Gaussians", units=([0.9, 0.8, 0.7], [0.2, 0.2, 0.2]), pixels=([0.5] * 3, [0.5] * 3))
    theirs = of("patches", units=([0.6, 0.5, 0.3], [0.2, 0.2, 0.2]))
    found = compare_models(ours, theirs)
    assert list(found) == ["units", "pixels"]
    # differences of 0.3, 0.3 and 0.4
    assert found["units"]["shap"]["mean"] == pytest.approx(1 / 3)
    assert found["units"]["shap"]["margin"] == pytest.approx(4.3027 * 0.057735 / math.sqrt(3), rel=1e-4)
    assert found["units"]["shap"]["verdict"] == "better"
    # a model of patches is measured by pixels where it is by units
    assert found["pixels"]["shap"]["mean"] == pytest.approx(-0.8 / 3)
    assert list(compare_models(theirs, theirs)) == ["units"]
    # and one of Gaussians that were not measured by pixels is not compared by them
    assert list(compare_models(ours, theirs | {"units": "Gaussians"})) == ["units"]


def test_a_model_that_reads_gaussians_is_measured_by_them_alone():
    torch.manual_seed(0)
    model = gvit.create_model("gaussian_vit_tiny", num_classes=3, num_gaussians=6)
    raw = torch.randn(3, 6, 9)
    content = measure_faithfulness(model, [raw], ["det", "cdam"], steps=2).to_dict()
    assert list(content["measures"]) == ["units"]
    assert (content["units"], content["count"]) == (GaussianUnits.kind, 6)
    assert model.training


def test_by_pixels_chance_is_zero_and_random_gaussians_are_another_control():
    def method(gap, random, centre):
        against = {"random": random, "centre": centre}
        return {
            name: {"mean": mean, "margin": 0.05}
            for name, mean in {"insertion": 0.5, "deletion": 0.4, "gap": gap}.items()
        } | {
            "against": {
                control: {"mean": mean, "margin": 0.05, "verdict": "better" if mean > 0 else "worse"}
                for control, mean in against.items()
                if mean is not None
            }
        }

    methods = {
        "cdam": method(-0.02, -0.3, -0.4),
        "ixg": method(0.09, -0.2, -0.3),
        "shap": method(0.4, 0.1, 0.1),
        "random": method(0.3, None, -0.1),
    }
    result = {"model": "m", "units": "Gaussians", "measures": {"pixels": {"methods": methods}}}
    text = tables({"results": [result]})
    assert "| insertion - deletion, chance is 0 | against random Gaussians | against centre" in text
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("|")}
    assert "-0.020 ± 0.050, too small to tell | -0.300 ± 0.050, worse" in rows["cdam"]
    assert "+0.090 ± 0.050, better" in rows["ixg"]
    assert "+0.300 ± 0.050, better" in rows["random Gaussians"]
    assert "Better than both chance and centre: shap. Worse than both chance and centre: none." in text


def test_bad_input_is_named():
    model = gvit.create_model("vit_tiny_patch8", num_classes=3)
    images = torch.rand(1, 3, 32, 32)
    with pytest.raises(InputError, match="unknown method for patches 'det'"):
        measure_faithfulness(model, [images], ["det"])
    ours = gvit.create_model("gaussian_vit_tiny", num_classes=3, num_gaussians=6)
    assert methods_of([ours, model], ["det", "random", "ig"]) == [["det", "ig"], ["ig"]]
    with pytest.raises(InputError, match="unknown method for Gaussians or patches 'dett'; nearest: det"):
        methods_of([ours, model], ["dett"])
    with pytest.raises(InputError, match="no images"):
        measure_faithfulness(model, [])


class Rows(Tokenizer):
    kind = "rows_of_a_test"
    reads = "images"

    def __init__(self, img_size=32, embed_dim=48):
        super().__init__()
        self.num_patches = img_size
        self.proj = torch.nn.Linear(3 * img_size, embed_dim)

    def forward(self, inputs):
        return self.proj(inputs.transpose(1, 2).flatten(2))


def test_a_model_with_neither_gaussians_nor_patches_is_refused(monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    registry.register_model("vit_rows_of_a_test", "rows", Rows, depth=1, num_heads=2)
    try:
        model = gvit.create_model("vit_rows_of_a_test", num_classes=3)
        with pytest.raises(InputError, match="neither Gaussians nor patches"):
            measure_faithfulness(model, [torch.rand(1, 3, 32, 32)])
    finally:
        TOKENIZERS.pop(Rows.kind)
