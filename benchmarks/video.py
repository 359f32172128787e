"""What beginning with the frame before buys: a camera that moves and zooms over a photograph.

    python benchmarks/video.py IMAGE [--num-gaussians 1000] [--frames 6]

Frames of 192x128 pixels, each 3 pixels further to the right and 1 % nearer. Every frame but the first is fitted twice
in the same number of steps: from the one before, as ``gvit fit --sequence`` does, and alone. Prints the mean PSNR of
the later frames and writes ``benchmarks/results/video.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it

import torch
from PIL import Image

import gvit
from gvit.fitting.frames import LATER_SHARE, fit_frames
from provenance import describe, provenance, write_results


def camera(image: Image.Image, frames: int, height: int = 128, width: int = 192) -> list[Image.Image]:
    """What a camera sees that takes two pixels of the photograph for one of a frame, at first."""
    seen = []
    for number in range(frames):
        zoom = 2 * 0.99**number
        left, top = 60 + 6 * number, 60
        box = (left, top, left + zoom * width, top + zoom * height)
        seen.append(image.resize((width, height), Image.Resampling.LANCZOS, box))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image")
    parser.add_argument("--num-gaussians", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=6)
    options = parser.parse_args()
    frames = camera(Image.open(options.image).convert("RGB"), options.frames)
    rows = []
    for steps in (10, 25, 50, 100, 250):
        # the first frame always has 500 steps: only the later ones differ
        first = gvit.fit(frames[0], options.num_gaussians, 500).gaussians
        later = fit_frames(frames[1:], steps=round(steps / LATER_SHARE), previous=first)
        before = statistics.mean(found.psnr.item() for found in later)
        alone = statistics.mean(
            gvit.fit(frame, options.num_gaussians, steps).psnr.item() for frame in frames[1:]
        )
        rows.append({"steps": steps, "from_the_frame_before": before, "alone": alone})
        print(f"| {steps} | {before:.2f} | {alone:.2f} |", flush=True)
    settings = {"num_gaussians": options.num_gaussians, "frames": options.frames, "seed": 0}
    write_results("video", settings | {"threads": torch.get_num_threads()}, rows)
    print(describe(provenance()))


if __name__ == "__main__":
    main()
