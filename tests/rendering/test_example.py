"""The example of the documentation does what it says."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("skimage") is None, reason="needs scikit-image")
def test_fits_a_photograph():
    ran = subprocess.run(
        [sys.executable, ROOT / "docs/examples/fit_photograph.py", "60"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    values = [float(value) for value in re.findall(r": (\S+) dB", ran.stdout)]
    assert values[-1] > values[0] + 5
