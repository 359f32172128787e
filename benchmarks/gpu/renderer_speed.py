"""How long the Triton renderer takes on a GPU, beside dense PyTorch and gsplat's batched 2D Gaussian splatting.

    PYTHONPATH=src python benchmarks/gpu/renderer_speed.py

Hardware: one GPU. Expected time: about a minute; where gsplat is there, some minutes more, in which it compiles its
kernels (estimates, not measured). gsplat comes last, so that a time-out in its compilation loses nothing else.
Aim, for 256 images of 224 px with 512 Gaussians: under 2 ms forward, under 5 ms backward, 10 times gsplat 1.5.3, and
the same bits every time.

``kernels`` in the JSON are microseconds by kernel, of one turn under PyTorch's profiler.

Medians over turns after a warm-up, by CUDA events: from the first kernel's turn to the last one's end, so that waiting
for the CPU counts, too. The scenes are those of ``benchmarks/render.py``. gsplat draws the same Gaussians as surfels
that face a camera at distance 1, each a little behind the one before, so that its order is ours; it has no
blur but a lower bound on what a pixel sees, so its picture differs a little: by how much, stands beside it; and it
always draws normals, too. Dense PyTorch has room for few images: its time per image is what compares.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from importlib.metadata import version

import torch
from session import Results, arguments, begin, forget_peak, markdown, milliseconds, peak_gib
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from gvit.errors import first_line
from gvit.rendering import rasterize
from render import SEED, pairs, scene

Draw = Callable[..., Tensor]
SCALES = (2.0, 12.0)  # pixels
FOCAL = 1000.0  # pixels; of the camera that gsplat looks through
AIM = {"forward": 2.0, "backward": 5.0}  # milliseconds
TIMES_GSPLAT = 10

# name: batch, Gaussians, side; the first is the one with the aim
CASES = {"aim": (256, 512, 224), "many": (64, 1024, 448), "tiny": (512, 64, 32), "looks": (64, 128, 128)}
TOY_CASES = {"aim": (1, 3, 8), "tiny": (1, 3, 8)}


def by_backend(backend: str, size: int) -> Draw:
    return lambda *inputs: rasterize(*inputs, size, size, backend=backend)[0]


def by_gsplat(size: int) -> Draw:
    """gsplat's ``rasterization_2dgs`` for what ``rasterize`` takes.

    Raises:
        ImportError: it is not installed, or can't be built.
    """
    from gsplat import rasterization_2dgs

    def draw(centers: Tensor, surfels: Tensor, colors: Tensor, opacities: Tensor) -> Tensor:
        batch, count, _ = centers.shape
        depth = 1 + 1e-5 * torch.arange(count, device=centers.device).expand(batch, count)
        means = torch.cat(((centers - size / 2) / FOCAL, torch.ones_like(depth)[..., None]), -1)
        scales = torch.cat((surfels[..., :2], torch.ones_like(depth)[..., None]), -1) / FOCAL
        half = surfels[..., 2] / 2  # a rotation about the line of sight
        zero = torch.zeros_like(half)
        camera = torch.tensor([[FOCAL, 0, size / 2], [0, FOCAL, size / 2], [0, 0, 1]], device=centers.device)
        image = rasterization_2dgs(
            means * depth[..., None],
            torch.stack((half.cos(), zero, zero, half.sin()), -1),
            scales * depth[..., None],
            opacities,
            colors[:, None],
            torch.eye(4, device=centers.device).repeat(batch, 1, 1, 1),
            camera.repeat(batch, 1, 1, 1),
            size,
            size,
        )[0]
        return image[:, 0].permute(0, 3, 1, 2)

    return draw


def as_surfels(covariances: Tensor) -> Tensor:
    """Standard deviations and angle [..., 3] of the same ellipses: what gsplat takes."""
    xx, yy, xy = (covariances.detach()[..., i, j] for i, j in ((0, 0), (1, 1), (0, 1)))
    middle, half = (xx + yy) / 2, torch.hypot((xx - yy) / 2, xy)
    # in a difference, the width of a thin one would drown
    variances = (middle + half, (xx * yy - xy * xy) / (middle + half))
    angle = torch.atan2(2 * xy, xx - yy) / 2
    return torch.stack((*(variance.sqrt() for variance in variances), angle), -1).requires_grad_()


def measure(draw: Draw, inputs: list[Tensor], repeats: int, device: str) -> dict:
    """Milliseconds of the batch, peak memory, and whether two calls give the same bits."""
    shape = draw(*inputs).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(SEED)).to(device)
    times: dict[str, list[float]] = {"forward": [], "backward": []}
    results: list[list[Tensor]] = []

    def forward() -> None:
        results.append([draw(*inputs)])

    def backward() -> None:
        results[-1].extend(torch.autograd.grad(results[-1][0], inputs, grad))

    forget_peak(device)
    warm_up = repeats // 4 + 1
    for turn in range(warm_up + repeats):
        results.clear()
        taken = {"forward": milliseconds(device, forward), "backward": milliseconds(device, backward)}
        if turn >= warm_up:
            for way, time in taken.items():
                times[way].append(time)
    row: dict = {f"{way}_ms": statistics.median(series) for way, series in times.items()}
    row |= {f"{way}_worst_ms": max(series) for way, series in times.items()}
    row["peak_gib"] = peak_gib(device)
    forward()
    backward()
    row |= {"repeats": all(map(torch.equal, *results))}
    if device == "cuda":
        row["kernels"] = kernels(lambda: (forward(), backward()))
    return row


def kernels(work: Callable[[], object]) -> dict[str, float]:
    """Microseconds on the GPU by kernel, the longest first."""
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        work()
        torch.cuda.synchronize()
    times = {event.key: event.device_time_total for event in record.key_averages()}
    return dict(sorted(times.items(), key=lambda item: -item[1])[:20])


def contest(name: str, case: tuple[int, int, int], who: str, repeats: int, device: str) -> dict:
    """One row: a renderer on a case; says why where it can't."""
    batch, count, size = case
    row = {"case": name, "who": who, "batch": batch, "count": count, "size": size}
    inputs = [x.detach().to(device).requires_grad_() for x in scene(batch, count, size, size, SCALES)]
    try:
        if who == "gsplat":
            draw = by_gsplat(size)
            with torch.no_grad():
                ours = by_backend("cuda", size)(*inputs)
            inputs[1] = as_surfels(inputs[1])
            row |= {"who": f"gsplat {version('gsplat')}"}
            row |= {"difference": (draw(*inputs).detach() - ours).abs().mean().item()}
        else:
            draw = by_backend(who, size)
            row |= {"pairs": pairs([x.cpu() for x in inputs], size, size)}
        return row | measure(draw, inputs, repeats, device)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "gsplat"
        return row | {"problem": "not installed" if missing else f"cannot be imported: {error}"}
    except (
        RuntimeError,
        TypeError,
        AssertionError,
        AttributeError,
    ) as error:  # no room, or gsplat's own reasons
        return row | {"problem": f"{type(error).__name__}: {first_line(error)}"}


def table(rows: list[dict]) -> str:
    header = [
        "case",
        "by",
        "B",
        "K",
        "px",
        "forward ms",
        "backward ms",
        "us an image",
        "peak GiB",
        "same bits",
    ]
    lines = []
    for row in rows:
        known = [row["case"], row["who"], row["batch"], row["count"], row["size"]]
        if "problem" in row:
            lines.append([*known, row["problem"], None, None, None, None])
            continue
        times = [row["forward_ms"], row["backward_ms"]]
        lines.append([*known, *times, 1e3 * sum(times) / row["batch"], row["peak_gib"], row["repeats"]])
    return markdown(header, lines)


def verdict(rows: list[dict]) -> str:
    """The aims beside what was measured."""
    timed = {row["who"].split()[0]: row for row in rows if row["case"] == "aim" and "problem" not in row}
    lines = []
    ours = timed.get("cuda")
    if ours is not None:
        lines += [f"{way}: {ours[f'{way}_ms']:.2f} ms, aim under {aim:g} ms" for way, aim in AIM.items()]
        lines.append(f"same bits: {'yes' if ours['repeats'] else 'no'}, aim yes")
        if "gsplat" in timed:
            theirs = timed["gsplat"]
            ratio = sum(theirs[f"{way}_ms"] for way in AIM) / sum(ours[f"{way}_ms"] for way in AIM)
            lines.append(
                f"gsplat: {ratio:.1f} times our time, aim {TIMES_GSPLAT}; mean difference of the pictures "
                f"{theirs['difference']:.1e}"
            )
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=100, help="turns that are timed")
    options = parser.parse_args()
    device = begin(options)
    repeats = 2 if options.dry_run else options.repeats
    cases = TOY_CASES if options.dry_run else CASES
    results = Results("renderer_speed", options, scene_seed=SEED, scales=SCALES, timed=repeats)
    for name, case in cases.items():
        results.add(contest(name, case, "cuda", repeats, device))
    few = (min(cases["aim"][0], 4), *cases["aim"][1:])
    results.add(contest("aim", few, "reference", min(repeats, 10), device))
    for name, case in cases.items():
        results.add(contest(name, case, "gsplat", repeats, device))
    results.finish(f"{table(results.rows)}\n\n{verdict(results.rows)}")


if __name__ == "__main__":
    main()
