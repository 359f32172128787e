"""How fast the renderer is, against the machine's own speed and the dense PyTorch reference.

    python benchmarks/render.py [--quick]
    python benchmarks/render.py --beside OTHER/src

Prints a table last and writes ``benchmarks/results/render.json``. Times are medians; the machine's float32
rate R is that of a 1536 x 1536 matrix product, measured between the renderings. P is the number of (pixel,
Gaussian) pairs inside the ellipses: ``fwd R/P`` is the time per pair in floating-point operations of the
machine (R/P), those that it could have done meanwhile. The ratios between numbers of Gaussians, below the
table and in the plot, are of such times. ``--quick`` leaves the dense reference out. ``--beside`` compares
with the package of another checkout, one thread each, in turns, and takes the least processor time of many:
so the comparison also holds while the machine does other things. It writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import gvit
from gvit.rendering import rasterize
from provenance import describe, provenance

SEED = 0
WARM_UP = 5  # turns
RESULTS = Path(__file__).parent / "results" / "render.json"

# name: batch, Gaussians, height, width, scales in pixels
CASES = {
    "classification": (16, 512, 224, 224, (2.0, 12.0)),
    "large Gaussians": (16, 512, 224, 224, (4.0, 30.0)),
    "small images": (64, 64, 32, 32, (1.0, 4.0)),
    "small images, K=32": (64, 32, 32, 32, (1.0, 5.0)),
    "looks, 32 px": (128, 64, 32, 32, (1.0, 4.0)),
    "looks, 128 px": (64, 128, 128, 128, (2.0, 12.0)),
    "high resolution": (16, 1024, 448, 448, (2.0, 12.0)),
    "image fitting": (1, 10_000, 512, 768, (1.0, 6.0)),
}
# At a fixed total area of the ellipses the scales shrink with the root of the count. Two families: Gaussians as
# classification has them, where a row of one is a few pixels, and larger ones.
COUNTS = (64, 128, 256, 512, 1024, 2048)
AREAS = {"small": (16, 224, (1.0, 6.0)), "large": (4, 448, (4.0, 30.0))}  # batch, size, scales at 2,048


def same_area(family: str, count: int) -> tuple:
    batch, size, scales = AREAS[family]
    low, high = (scale * math.sqrt(COUNTS[-1] / count) for scale in scales)
    return batch, count, size, size, (low, high)


def flatness(area: dict[str, dict], family: str, direction: str, largest: int) -> str:
    """How the time per pair, in operations of the machine (R/P), differs over the counts up to ``largest``.

    From its mean, and from fastest to slowest.
    """
    key = f"{direction}_in_operations"
    costs = [area[f"{family}, K={count}"][key] for count in COUNTS if count <= largest]
    mean = statistics.mean(costs)
    from_mean = f"{100 * (min(costs) / mean - 1):+.0f} to {100 * (max(costs) / mean - 1):+.0f} %"
    return f"{direction} {from_mean} (slowest over fastest {max(costs) / min(costs):.2f})"


def measure_fixed_area(rounds: int) -> dict[str, dict[str, float]]:
    """Every family and count, in turns, so that a machine that slows down for a while slows all; medians."""
    names = {f"{family}, K={count}": same_area(family, count) for family in AREAS for count in COUNTS}
    turns = [{name: measure(case, 9) for name, case in names.items()} for _ in range(rounds)]
    return {
        name: {key: statistics.median(turn[name][key] for turn in turns) for key in turns[0][name]}
        for name in names
    }


def scene(batch: int, count: int, height: int, width: int, scales: tuple[float, float]) -> list[Tensor]:
    """Uniform centres, standard deviations, angles and colours; opacities uniform in 0.1 to 0.9."""
    random = torch.Generator().manual_seed(SEED)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=random) * (high - low) + low

    inputs = [
        uniform(0, 1, batch, count, 2) * torch.tensor([width, height]),
        gvit.build_covariances(uniform(*scales, batch, count, 2), uniform(0, math.pi, batch, count)),
        uniform(0, 1, batch, count, 3),
        uniform(0.1, 0.9, batch, count),
    ]
    return [tensor.requires_grad_() for tensor in inputs]


def pairs(inputs: list[Tensor], height: int, width: int) -> int:
    """Pixels whose centre lies in the ellipse where alpha is at least 1/255, over all Gaussians."""
    centers, covariances, _, opacities = (tensor.detach().double() for tensor in inputs)
    xx, yy, xy = covariances[..., 0, 0] + 0.3, covariances[..., 1, 1] + 0.3, covariances[..., 0, 1]
    reach = 2 * (255 * opacities).log()
    total = 0
    for row in range(height):
        dy = row + 0.5 - centers[..., 1]
        half = ((reach - dy * dy / yy).clamp(min=0) * (xx - xy * xy / yy)).sqrt()
        middle = centers[..., 0] + xy / yy * dy - 0.5
        first, last = (middle - half).ceil().clamp(min=0), (middle + half).floor().clamp(max=width - 1)
        total += int(((last - first + 1).clamp(min=0) * (half > 0)).sum())
    return total


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(case: tuple, repeats: int) -> dict[str, float]:
    batch, count, height, width, scales = case
    inputs = scene(batch, count, height, width, scales)
    grad = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(SEED))
    matrix = torch.randn(1536, 1536)
    forward, backward, product = [], [], []
    for _ in range(WARM_UP + repeats):
        start = time.perf_counter()
        image, _ = rasterize(*inputs, height, width, backend="cpu")
        forward.append(time.perf_counter() - start)
        backward.append(timed(lambda image=image: torch.autograd.grad(image, inputs, grad)))
        product.append(timed(lambda: matrix @ matrix))
        # PyTorch's threads stay awake for a while after their work
        time.sleep(0.02)
    times = [statistics.median(series[WARM_UP:]) for series in (forward, backward, product)]
    number, rate = pairs(inputs, height, width), 2 * 1536**3 / times[2]
    return {
        "forward_ms_per_image": 1e3 * times[0] / batch,
        "backward_ms_per_image": 1e3 * times[1] / batch,
        "pairs_per_image": number / batch,
        "gflops": rate / 1e9,
        "forward_in_operations": times[0] * rate / number,
        "backward_in_operations": times[1] * rate / number,
    }


def measure_reference() -> float:
    """Seconds, forward and backward, of one image of the first case by dense PyTorch."""
    _, count, height, width, scales = CASES["classification"]
    inputs = scene(1, count, height, width, scales)

    def work() -> None:
        image, _ = rasterize(*inputs, height, width, backend="reference")
        image.sum().backward()

    return statistics.median(timed(work) for _ in range(3))


def measure_memory() -> float:
    """MB that one forward and backward pass adds to the largest size of a fresh process."""
    batch, count, height, width, scales = CASES["high resolution"]
    small = scene(1, 4, 64, 64, scales)
    rasterize(*small, 64, 64)[0].sum().backward()
    inputs = scene(batch, count, height, width, scales)
    # start the record of the largest size anew
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    image, _ = rasterize(*inputs, height, width)
    image.backward(torch.ones(()).expand_as(image))
    return peak_memory() - before


def peak_memory() -> float:
    """MB, of this process, since the record was cleared (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def in_fresh_process(code: str, **environment: str) -> tuple[str, float]:
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{code}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout, time.perf_counter() - start


def measure_compilation() -> float:
    """Seconds that the first picture on a machine takes longer than the first of a process."""
    draw = "import render; render.rasterize(*render.scene(1, 4, 8, 8, (1, 2)), 8, 8)[0].sum().backward()"
    with tempfile.TemporaryDirectory() as folder:
        first, second = (in_fresh_process(draw, NUMBA_CACHE_DIR=folder)[1] for _ in range(2))
    return first - second


def plot_fixed_area(measured: dict[str, dict[str, float]]) -> None:
    """Time per covered (pixel, Gaussian) pair over K, in units of its mean over K."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained", dpi=110)
    axes = figure.subplots()
    for family, color in zip(AREAS, ("tab:orange", "tab:blue"), strict=True):
        for direction, style in (("forward", "-"), ("backward", "--")):
            cost = [measured[f"{family}, K={k}"][f"{direction}_in_operations"] for k in COUNTS]
            mean = statistics.mean(cost)
            axes.plot(COUNTS, [c / mean for c in cost], style, color=color, label=f"{family}, {direction}")
    axes.axhspan(0.85, 1.15, color="0.92")
    axes.set_xscale("log", base=2)
    axes.set_xticks(COUNTS, [str(k) for k in COUNTS])
    axes.set(
        xlabel="Gaussians, same total area", ylabel="time per covered pixel\nrelative to mean", ylim=(0, 1.6)
    )
    axes.legend(fontsize=8, loc="lower right")
    figure.savefig(RESULTS.parents[2] / "docs" / "render_area.png")


def serve() -> None:
    """For each case on standard input, one per line: once forward, once backward; answers the processor times."""
    torch.set_num_threads(1)
    case, inputs = [], []
    for line in sys.stdin:
        if json.loads(line) != case:
            case = json.loads(line)
            inputs = scene(*case)
        height, width = case[2:4]
        grad = torch.ones(case[0], 3, height, width)
        # of the processor: what it does for others meanwhile does not count
        start = time.process_time()
        image, _ = rasterize(*inputs, height, width, backend="cpu")
        between = time.process_time()
        torch.autograd.grad(image, inputs, grad)
        forward, backward = between - start, time.process_time() - between
        print(json.dumps([forward, backward]), flush=True)


def beside(other: Path, turns: int = 60) -> None:
    """Print the fastest times of another checkout's package and of this one."""
    here = str(Path(__file__).parent)
    servers = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:0] = {[str(src), here]!r}; import render; render.serve()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for src in (other.resolve(), Path(here).parent / "src")
    ]
    print(
        f"{'case':22}{'forward, other':>16}{'this':>9}{'times':>7}{'backward, other':>18}{'this':>9}{'times':>7}  (ms)"
    )
    fixed = {f"{family}, K={k}": same_area(family, k) for family in AREAS for k in (COUNTS[0], COUNTS[-1])}
    for name, case in (CASES | fixed).items():
        fastest = [[math.inf, math.inf] for _ in servers]
        for _ in range(turns):
            for server, best in zip(servers, fastest, strict=True):
                server.stdin.write(json.dumps(case) + "\n")
                server.stdin.flush()
                best[:] = map(min, best, json.loads(server.stdout.readline()))
        (f_other, b_other), (f, b) = ([1e3 * seconds for seconds in best] for best in fastest)
        print(
            f"{name:22}{f_other:16.2f}{f:9.2f}{f_other / f:7.2f}{b_other:18.2f}{b:9.2f}{b_other / b:7.2f}",
            flush=True,
        )
    for server in servers:
        server.stdin.close()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the dense reference")
    parser.add_argument("--beside", type=Path, metavar="SRC", help="the src directory of another checkout")
    arguments = parser.parse_args()
    if arguments.beside:
        beside(arguments.beside)
        return
    quick = arguments.quick

    machine = provenance() | {"seed": SEED, "load_before": os.getloadavg()[0]}
    results: dict[str, object] = {"machine": machine}
    repeats = {"high resolution": 7, "small images": 101, "small images, K=32": 101}
    cases = {name: measure(case, repeats.get(name, 15)) for name, case in CASES.items()}
    area = measure_fixed_area(rounds=3)
    results |= {"cases": cases, "fixed_area": area}
    memory, _ = in_fresh_process("import render; print(render.measure_memory())")
    results["memory_mb"] = float(memory)
    results["compilation_s"] = measure_compilation()
    if not quick:
        results["reference_s_per_image"] = measure_reference()
        first = cases["classification"]
        results["times_faster_than_reference"] = (
            1e3
            * results["reference_s_per_image"]
            / (first["forward_ms_per_image"] + first["backward_ms_per_image"])
        )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")

    print(f"seed {SEED}, {describe(machine)}")
    header = ("case", "B", "K", "size", "fwd ms", "bwd ms", "pairs", "R GFLOP/s", "fwd R/P", "bwd R/P")
    rows = [header]
    plot_fixed_area(area)
    shapes = CASES | {f"{family}, K={k}": same_area(family, k) for family in AREAS for k in COUNTS}
    measured = cases | area
    for name, (batch, count, height, width, _) in shapes.items():
        m = measured[name]
        rows.append(
            (
                *(name, str(batch), str(count), f"{width}x{height}"),
                *(f"{m[key]:.3f}" for key in ("forward_ms_per_image", "backward_ms_per_image")),
                *(f"{m['pairs_per_image']:.0f}", f"{m['gflops']:.0f}"),
                *(f"{m[key]:.0f}" for key in ("forward_in_operations", "backward_in_operations")),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(size) for cell, size in zip(row, widths, strict=True)))
    for family in AREAS:
        for largest in COUNTS[-2:]:
            spread = ", ".join(flatness(area, family, way, largest) for way in ("forward", "backward"))
            what = "time per pair in operations of the machine (R/P)"
            print(f"{family}, K = {COUNTS[0]} to {largest}, {what}, from its mean: {spread}")
    print(f"peak extra memory, high resolution: {results['memory_mb']:.0f} MB")
    print(f"compilation, once per machine: {results['compilation_s']:.1f} s")
    if not quick:
        print(f"dense reference: {results['reference_s_per_image']:.2f} s per image of 'classification'")
        print(f"cpu backend: {results['times_faster_than_reference']:.0f} times faster")


if __name__ == "__main__":
    main()
