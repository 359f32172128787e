"""What is said about numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import gvit
from gvit.errors import InputError
from gvit.reproduction.answers import pack, unpack
from gvit.reproduction.page import judge, write_page
from gvit.reproduction.report import _short, spread, table
from gvit.reproduction.reproduce import TARGETS
from gvit.reproduction.study import Claim

DOCS = Path(__file__).parents[2] / "docs"

CLAIM = Claim("one beats two", "one", "two")


def rows(one, two, num_images=10_000) -> list[dict]:
    return [
        {"label": label, "seed": seed, "top1": top1, "num_images": num_images, "paper": None, "psnr": None}
        for label, values in (("one", one), ("two", two))
        for seed, top1 in enumerate(values)
    ]


def test_a_difference_beyond_its_spread_agrees_and_its_opposite_disagrees():
    high, low = (0.90, 0.91, 0.90), (0.80, 0.81, 0.81)
    assert judge(CLAIM, rows(high, low)).judgement == "agrees"
    assert judge(CLAIM, rows(low, high)).judgement == "disagrees"


def test_the_interval_is_students_t_of_the_paired_differences():
    # differences of 8, 10 and 12 points: standard deviation 2, t(0.975, 2) = 4.3027
    verdict = judge(CLAIM, rows((0.58, 0.60, 0.62), (0.50, 0.50, 0.50), num_images=10**9))
    assert verdict.difference == pytest.approx(10)
    assert verdict.margin == pytest.approx(4.3027 * 2 / 3**0.5, rel=1e-4)


def test_seeds_are_paired():
    # the seeds differ by far more than the rows, which differ alike in each of them
    verdict = judge(CLAIM, rows((0.31, 0.61, 0.91), (0.21, 0.51, 0.81), num_images=10**6))
    assert verdict.judgement == "agrees"


def test_one_image_more_with_every_seed_is_too_small_to_tell():
    verdict = judge(CLAIM, rows([359 / 360] * 3, [358 / 360] * 3, num_images=360))
    assert verdict.difference == pytest.approx(100 / 360)
    assert verdict.judgement == "too small to tell"


def test_many_seeds_on_the_same_images_are_no_other_images():
    # 5 of 360 images, all one way: McNemar's exact test gives p = 0.06
    verdict = judge(CLAIM, rows([0.9902] * 30, [0.9763] * 30, num_images=360))
    assert verdict.judgement == "too small to tell"
    # 1.96 standard deviations of what both differ by where chance alone decides about each image
    chance = (0.9902 * 0.0098 + 0.9763 * 0.0237) / 360
    assert verdict.margin == pytest.approx(196 * chance**0.5, rel=1e-3)


def test_where_rows_say_which_images_they_answered_right_only_those_that_they_differ_about_count():
    answers = np.random.default_rng(0)
    other = answers.random((3, 2000)) < 0.75
    one = other ^ (answers.random((3, 2000)) < 0.02)
    said = rows(one.mean(1), other.mean(1), num_images=2000)
    without = judge(CLAIM, said).margin
    for row, right in zip(said, [*one, *other], strict=True):
        row["right"] = pack(right)
    # images drawn with replacement, the seeds' answers to one of them together
    drawn = answers.integers(2000, size=(4000, 2000))
    by_images = 196 * (one.mean(0) - other.mean(0))[drawn].mean(1).std()
    by_seeds = 4.3027 * 100 * (one.mean(1) - other.mean(1)).std(ddof=1) / 3**0.5
    assert judge(CLAIM, said).margin == pytest.approx((by_images**2 + by_seeds**2) ** 0.5, rel=0.06)
    assert without > 2 * judge(CLAIM, said).margin


@pytest.mark.parametrize(
    ("gained", "judgement"), [(4, "too small to tell"), (5, "too small to tell"), (8, "agrees")]
)
def test_a_few_images_that_all_seeds_gain_are_judged_as_mcnemars_exact_test_does(gained, judgement):
    # p = 0.125, 0.063 and 0.008
    said = rows([(340 + gained) / 360] * 3, [340 / 360] * 3, num_images=360)
    for row in said:
        count = round(360 * row["top1"])
        row["right"] = pack([True] * count + [False] * (360 - count))
    assert judge(CLAIM, said).judgement == judgement


def test_answers_in_another_order_are_not_paired():
    said = rows([0.6] * 3, [0.5] * 3, num_images=100)
    for row in said:
        row |= {"right": pack([True] * round(100 * row["top1"]) + [False] * round(100 - 100 * row["top1"]))}
    paired = judge(CLAIM, said).margin
    frozen = [row | {"settings": settings(None, dataset="gaussians")} for row in said[:3]]
    images = [row | {"settings": settings(None)} for row in said[3:]]
    assert judge(CLAIM, frozen + images).margin > 1.5 * paired


@pytest.mark.parametrize("count", [1, 8, 10, 2000])
def test_answers_are_kept_bit_for_bit(count):
    right = (np.random.default_rng(count).random(count) < 0.5).tolist()
    assert unpack(pack(right), count).tolist() == right


def test_one_seed_tells_nothing():
    assert judge(CLAIM, rows([0.9], [0.1])).judgement.startswith("too small to tell")


def test_seeds_that_only_one_row_has_do_not_count():
    assert judge(CLAIM, rows((0.9, 0.9), (0.8,))).margin is None


def test_tables_give_mean_and_deviation():
    assert spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert spread([None, None]) == "–"
    text = table({"rows": rows((0.5, 0.6), (0.7, 0.7)), "paper_data": ""})
    assert "| one | 2 | 55.00 ± 7.07 |" in text
    assert "PSNR" not in text


def test_tables_give_what_moved_and_the_paired_differences_against_one_row():
    made = rows((0.58, 0.60, 0.62), (0.50, 0.50, 0.50), num_images=10**9) + [
        {"label": "three", "seed": seed, "top1": 0.5, "num_images": 10**9, "psnr": None, "paper": None}
        for seed in range(3)
    ]
    for row in made[:6]:
        row |= {"psnr": 20 + row["top1"] + row["seed"] % 2, "ssim": 0.5, "moved": 0.1 + row["seed"] / 100}
        row |= {"drift": 1.0, "decision_distance": 4.0}
    text = table({"rows": made, "paper_data": "", "against": "two"}).splitlines()
    found = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in text}
    places = [found[""].index(name) for name in ("moved %", "top-1 against two", "PSNR against two")]
    lengths = [found[""].index(name) for name in ("drift", "decision distance")]
    assert [found["one"][place] for place in lengths] == ["1.00 ± 0.00", "4.00 ± 0.00"]
    assert [found["one"][place] for place in places] == ["11.0 ± 1.0", "+10.00 ± 4.97", "+0.10 ± 0.05"]
    assert [found["two"][place] for place in places] == ["11.0 ± 1.0", "–", "–"]
    assert [found["three"][place] for place in places] == ["–", "+0.00 ± 0.00", "–"]


def settings(model: str | None, init: str | None = None, dataset: str = "digits", **values) -> dict:
    """Of a row, as older results have them: null where the named model's default holds."""
    sizes = dict.fromkeys(("img_size", "num_gaussians", "scale_factor", "encoder", "tokens", "pool"))
    return {
        "model": {"model": model, "init": init} | sizes | values,
        "data": {"dataset": dataset, "batch_size": 64},
        "schedule": {"freeze_encoder": init is not None},
        "optimizer": {"base_lr": 0.008, "clip_grad": 1.0},
    }


def cells(*trained: tuple[str, dict | None]) -> dict[str, list[str]]:
    """The last two columns, encoder and classifier, by label."""
    made = [
        row | {"label": label, "settings": own}
        for (label, own), row in zip(trained, rows((0.5,) * len(trained), ()), strict=True)
    ]
    lines = table({"rows": made, "paper_data": ""}).splitlines()
    assert lines[0].endswith("| encoder: parameters, multiply-adds | classifier: parameters, multiply-adds |")
    return {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[-2:] for line in lines[2:]}


def test_tables_give_what_both_networks_cost():
    found = cells(
        ("GViT", settings("gvit_tiny", num_gaussians=64)),
        ("patch ViT", settings("vit_tiny_patch8", num_gaussians=64, scale_factor=0.7)),
        ("frozen", settings("gaussian_vit_tiny", num_gaussians=32)),
        ("cross evaluation", None),
        ("a model from elsewhere", settings("nobody_knows_me")),
    )
    assert found["cross evaluation"] == found["a model from elsewhere"] == ["–", "–"]
    # counted by hand, K tokens and the class token through 3 blocks of width 96 and an MLP of 192, then the embedding
    for label, tokens, width in (("GViT", 64, 25), ("frozen", 32, 25), ("patch ViT", 16, 192)):
        one = 96 * (3 * 96) + 96 * 96 + 2 * 96 * 192  # a block's matrix products on one token
        macs = 3 * ((tokens + 1) * one + 2 * 96 * (tokens + 1) ** 2) + tokens * 96 * width
        assert found[label][1].split(", ")[1] == f"{macs / 1e6:#.3g} M", label
    model = gvit.create_model("gvit_tiny_denoising", num_gaussians=64, num_classes=0)
    count = sum(p.numel() for p in model.encoder.parameters())
    assert found["GViT"][0].split(", ")[0] == f"{count / 1e3:.0f} k"
    assert found["patch ViT"][0] == found["frozen"][0] == "–"


def test_a_named_model_is_the_one_of_when_it_was_trained():
    # of docs/results, from before gvit_tiny became the refining one; and one of today, resolved
    (old,) = [
        row["settings"]
        for row in json.loads((DOCS / "results/imagenette_paper/comparison.json").read_text())["rows"]
        if row["label"] == "GViT, guided"
    ]
    assert "looks" not in old["model"]
    assert (old["model"]["model"], old["model"]["img_size"]) == ("gvit_tiny", 128)
    today = {"img_size": 128, "num_gaussians": 128, "looks": None}
    found = cells(
        ("old", old),
        ("its name today", settings("gvit_tiny_denoising", **today)),
        ("its old name today", settings("gvit_tiny", **today)),
    )
    assert found["old"] == found["its name today"] != found["its old name today"]
    assert found["old"] == ["291 k, 176 M", "240 k, 38.4 M"]


def test_a_transfer_costs_what_it_starts_from():
    found = cells(
        ("first", settings("gvit_tiny", num_gaussians=64)),
        ("then", settings(None, init="gvit_tiny-seed0-0123456789ab")),
    )
    assert found["then"] == found["first"] != ["–", "–"]


def result(name: str, made: list[dict]) -> str:
    machine = {"commit": "0", "cpu": "c", "cores": 1, "gpu": None, "python": "3", "versions": {}}
    paper = {"paper_data": "", "claims": [], "measured": [], "axis": ""}
    each = [row | {"provenance": machine, "epochs": 1, "series": "", "x": None} for row in made]
    return json.dumps({"target": name, "title": "T", "recipe": "r", "command": "c", "rows": each} | paper)


def page_of(folder: Path, made: list[dict]) -> str:
    (folder / "r").mkdir(parents=True)
    (folder / "r" / "table2.json").write_text(result("table2", made))
    return write_page(folder, ["table2"]).read_text()


def test_the_page_says_how_the_runs_differ_from_the_papers(tmp_path):
    made = [row | {"settings": settings("gvit_tiny", scale_factor=0.7)} for row in rows((0.5,), (0.5,))]
    text = page_of(tmp_path / "clipped", made).replace("\n", " ")
    assert "Gradients are clipped to a norm of 1. The scale factor is c = 0.7 " in text
    assert "read canonical tokens" in text
    assert "transfers" not in text.split("## r")[1]
    for row in made:
        row["settings"] = settings("gvit_tiny", tokens="raw")
        row["settings"]["optimizer"]["clip_grad"] = None
    text = page_of(tmp_path / "free", made).replace("\n", " ")
    assert "Gradients are not clipped. The scale factor is c = 1 " in text
    assert "read raw tokens" in text


def test_what_the_page_says_of_gaussians_is_not_read_from_a_patch_vit(tmp_path):
    patches, gaussians = rows((0.5,), (0.5,))
    patches["settings"] = settings("vit_tiny_patch8", tokens="patches", scale_factor=None)
    gaussians["settings"] = settings("gvit_tiny", tokens="neighbours", scale_factor=3.0)
    text = page_of(tmp_path / "both", [patches, gaussians]).replace("\n", " ")
    assert "The scale factor is c = 3 " in text
    assert "read neighbours tokens" in text
    text = page_of(tmp_path / "patches", [patches]).split("## r")[1]
    assert "Gradients are clipped to a norm of 1.\n" in text
    assert "scale factor" not in text


def test_what_every_row_names_is_not_told_of_those_that_name_none(tmp_path):
    raw, canonical = rows((0.5,), (0.5,))
    raw["settings"] = settings("gvit_tiny", tokens="raw", scale_factor=3.0)
    canonical["settings"] = settings("gvit_tiny", tokens="canonical", scale_factor=3.0)
    text = page_of(tmp_path, [raw, canonical]).split("## r")[1]
    assert "The scale factor is c = 3 " in text
    assert "tokens where" not in text


def test_the_page_says_with_which_settings_transfers_are_trained(tmp_path):
    first, then = rows((0.5,), (0.5,))
    first["settings"] = settings("gvit_tiny")
    then["settings"] = settings(None, init="gvit_tiny-seed0-0", dataset="other")
    text = page_of(tmp_path / "same", [first, then]).replace("\n", " ")
    assert (
        "The transfers keep the settings of the first training; those of the paper's Table A.1b are" in text
    )
    then["settings"]["optimizer"]["base_lr"] = 1e-3
    text = page_of(tmp_path / "own", [first, then]).replace("\n", " ")
    assert "The transfers have the settings of the paper's Table A.1b" in text
    text = page_of(tmp_path / "alone", [then]).replace("\n", " ")  # of rows that were chosen
    assert "The encoder stands still in the transfers" in text
    assert "Table A.1b" not in text


def test_the_page_names_the_trained_networks_that_all_rows_start_from(tmp_path):
    made = rows((0.5,), (0.5,))
    for row in made:
        row["settings"] = settings("gvit_tiny", init="gvit_tiny.digits")
        row["settings"]["schedule"]["freeze_encoder"] = False
        row["settings"]["optimizer"] |= {"base_lr": 1e-3, "warmup_epochs": 0.5}
    text = page_of(tmp_path / "all", made).replace("\n", " ")
    assert "All rows start from gvit_tiny.digits, with a learning rate of 0.001 " in text
    assert "after 0.5 epochs of warm-up" in text
    made[0]["settings"]["model"]["init"] = None
    assert "start from gvit_tiny" not in page_of(tmp_path / "one", made)


def test_notes_on_data_stand_under_their_recipe_and_have_to_be_texts(tmp_path):
    (tmp_path / "results").mkdir()
    notes = tmp_path / "results" / "notes.json"
    notes.write_text(json.dumps({"r": "Seven photographs of one cat.", "other": "Not here."}))
    text = page_of(tmp_path / "results", [row | {"settings": None} for row in rows((0.5,), (0.5,))])
    assert "## r\n\nSeven photographs of one cat.\n" in text
    assert "Not here." not in text
    for damaged in ("{", '["r"]', '{"r": 7}'):
        notes.write_text(damaged)
        with pytest.raises(InputError, match=r"notes\.json: "):
            write_page(tmp_path / "results", ["table2"])


def test_explanations_stand_under_their_data_and_have_to_be_what_was_written(tmp_path):
    (tmp_path / "results" / "digits").mkdir(parents=True)
    file = tmp_path / "results" / "digits" / "faithfulness.json"
    shutil.copy(DOCS / "results" / "digits" / "faithfulness.json", file)
    text = write_page(tmp_path / "results", list(TARGETS)).read_text()
    assert "## digits\n\n### faithfulness" in text
    measured = json.loads(file.read_text())["results"][0]["measures"]["units"]["methods"]["det"]
    assert f"| {measured['insertion']['mean']:.3f} ± {measured['insertion']['margin']:.3f} |" in text
    for damaged in ("{", "[]", '{"results": []}'):
        file.write_text(damaged)
        with pytest.raises(
            InputError, match=r"faithfulness\.json: not what 'gvit faithfulness --out' writes"
        ):
            write_page(tmp_path / "results", list(TARGETS))


def test_answers_that_are_not_of_so_many_images_are_no_result(tmp_path):
    made = rows((0.5,), (0.5,), num_images=100)
    made[0]["right"] = pack([True] * 50)
    with pytest.raises(InputError, match=r"table2\.json: damaged \(.*100 images.*remove it"):
        page_of(tmp_path, made)


@pytest.mark.parametrize("part", ["rows", "claims", "measured"])
def test_a_result_that_lacks_a_part_of_a_row_is_named(part, tmp_path):
    content = json.loads(result("table2", rows((0.5,), (0.5,))))
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "table2.json").write_text(json.dumps(content | {part: [{"text": "", "label": ""}]}))
    with pytest.raises(InputError, match=r"table2\.json: not a result of gvit reproduce, it has no '"):
        write_page(tmp_path, ["table2"])


def test_the_committed_page_is_what_its_files_say(tmp_path):
    shutil.copytree(DOCS / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.png", "*.csv"))
    page = write_page(tmp_path / "results", list(TARGETS))
    assert page.read_text() == (DOCS / "results.md").read_text()


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (258_825, "259 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (4.46e7, "44.6 M"),
        (0.5, "0.500"),
        (100, "100"),
    ],
)
def test_large_numbers_have_three_digits_and_a_unit(number, shown):
    assert _short(number) == shown
