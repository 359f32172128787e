"""The example of the documentation does what it says."""

import importlib.util
import re
from pathlib import Path

import pytest

from forked import forked

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")
def test_fits_a_photograph():
    printed = forked(ROOT / "docs/examples/fit_photograph.py", 60)
    values = [float(value) for value in re.findall(r": (\S+) dB", printed)]
    assert values[-1] > values[0] + 5
