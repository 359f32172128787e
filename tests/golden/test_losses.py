"""The losses of the seeded debug recipe, so that a refactoring can prove itself neutral.

    python tests/golden/test_losses.py

records them anew, which a change of the mathematics needs, and nothing else does.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gvit.recipes import debug
from gvit.training.setup import set_up

RECORD = Path(__file__).with_name("debug_losses.json")


def losses() -> list[dict]:
    """Every measure of every step, in double precision with the reference renderer."""
    config = debug()
    setup = set_up(replace(config, compute=replace(config.compute, precision="float64")))
    setup.task.model.train()
    steps = []
    for step, parts in enumerate(setup.feed.batches(0, setup.schedule.total, workers=0)):
        plan = setup.schedule.plan(step)
        measures = setup.task.step(step, parts, plan, setup.rates(step))
        steps.append({"phase": plan.phase, "guided": plan.guided} | measures)
    return steps


def test_the_debug_recipe_descends_as_it_did():
    recorded = json.loads(RECORD.read_text())
    for step, (found, expected) in enumerate(zip(losses(), recorded, strict=True)):
        assert found.keys() == expected.keys(), step
        for name, value in expected.items():
            assert found[name] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), (
                f"{name} at step {step}"
            )


if __name__ == "__main__":
    rounded = [
        {name: round(value, 10) if isinstance(value, float) else value for name, value in step.items()}
        for step in losses()
    ]
    RECORD.write_text(json.dumps(rounded, indent=1) + "\n")
