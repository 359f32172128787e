"""The tiny models compute what they computed when ``record.py`` was last run."""

import json
import runpy
from pathlib import Path

import pytest

RECORD = runpy.run_path(str(Path(__file__).with_name("record.py")))
GOLDEN = json.loads(RECORD["FILE"].read_text())


def test_every_case_is_recorded():
    assert GOLDEN.keys() == RECORD["CASES"].keys()


@pytest.mark.parametrize("case", RECORD["CASES"])
def test_a_tiny_model_computes_what_it_did(case):
    found = RECORD["outputs"](case)
    assert found.keys() == GOLDEN[case].keys()
    for key, values in GOLDEN[case].items():
        assert found[key] == pytest.approx(values, rel=1e-4, abs=1e-4), key
