"""What is said about numbers."""

import pytest

from gvit.reproduction.report import judge, spread, table
from gvit.reproduction.targets import Claim

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
