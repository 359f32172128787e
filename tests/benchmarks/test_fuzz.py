"""Damaged files of every kind are read or refused in one line; ``benchmarks/fuzz.py`` goes on for longer."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gvit.data.sources import tars

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NAMES = (
    *("gaussians", "shards", "parquet shards", "manifests", "parquet images", "tars", "images"),
    *("configurations", "weights"),
)


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", BENCHMARKS / "fuzz.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def targets(fuzz, place):
    (place / "good").mkdir()
    found = fuzz.targets(place / "good")
    assert set(found) == set(NAMES)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_read_or_refused_in_one_line(fuzz, targets, place, name):
    folder = place / name
    folder.mkdir()
    outcomes = set()

    @settings(max_examples=40, deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**32))
    def search(seed):
        outcome, told = fuzz.attempt(targets[name], seed, folder)
        assert told is None, told
        outcomes.add(outcome)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tars, "user_cache_path", lambda *_, **__: place / "cache")
        search()
    assert "refused" in outcomes


def test_another_exception_is_a_finding(fuzz, targets, place):
    def broken(file):
        raise KeyError("x")

    images = targets["images"]
    outcome, told = fuzz.attempt(fuzz.Target(images.seeds, images.mutate, broken, "image"), 0, place)
    assert outcome == "KeyError"
    assert "in broken" in told
