"""How long the studio takes from an edit to picture and prediction, for each model that comes with gvit.

    python benchmarks/studio_latency.py

Prints milliseconds of an answer at 512 x 512 pixels, browser and network aside: of a core, and of the clock.
"""

from __future__ import annotations

import json
import statistics
import time

from starlette.testclient import TestClient

from gvit.gaussians import Gaussians
from gvit.studio.app import create_app
from gvit.studio.bench import Benches, example

REPEATS = 60
EXAMPLES = {"digits": "digit 8.png", "cifar10": "chelsea.png", "photos": "astronaut.png"}


def message(model: str, gaussians: Gaussians, step: int) -> bytes:
    """One Gaussian, dragged."""
    header = {
        "model": model,
        "scale_factor": gaussians.scale_factor,
        "nominal_count": gaussians.nominal_count,
        "aspect": gaussians.aspect,
        "height": 512,
        "width": 512,
        "edits": [{"kind": "move", "chosen": [3], "dx": step, "dy": step}],
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(4, "little") + text + gaussians.raw.numpy().tobytes()


def main() -> None:
    benches = Benches("digits")
    with TestClient(create_app(benches, 80), "http://127.0.0.1") as client:
        for tag, image in EXAMPLES.items():
            name = f"gvit_tiny.{tag}"
            gaussians = benches[name].open(image, example(benches[name], image), None, None).gaussians
            core, clock = [], []
            for step in range(REPEATS):
                content = message(name, gaussians, step)
                begun = time.process_time(), time.perf_counter()
                answer = client.post(
                    "/api/state", content=content, headers={"content-type": "application/octet-stream"}
                )
                core.append(time.process_time() - begun[0])
                clock.append(time.perf_counter() - begun[1])
                answer.raise_for_status()
            told = ", ".join(
                f"{1000 * statistics.median(times):.0f} ms of {what}"
                for what, times in (("a core", core), ("the clock", clock))
            )
            print(f"{name}: {len(gaussians)} Gaussians, {told}")


if __name__ == "__main__":
    main()
