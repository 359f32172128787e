"""The oldest versions that CI tries are those that pyproject.toml names."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def test_pins_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = [Requirement(r) for r in project["dependencies"] + extras["test"]]
    named += [
        Requirement(r) for own in named if own.name == "gvit" for extra in own.extras for r in extras[extra]
    ]
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {name.replace("_", "-"): version for name, version in pins.items()}
    for wanted in named:
        if wanted.name == "gvit":
            continue
        assert wanted.specifier, f"{wanted.name} has no lower bound"
        pin = pins[wanted.name.lower().replace("_", "-")]
        (bound,) = (s.version for s in wanted.specifier if s.operator == ">=")
        # 1.4 is 1.4.0, the first that there is
        assert f"{pin}.".startswith(f"{bound}."), f"{wanted}: {pin}"
