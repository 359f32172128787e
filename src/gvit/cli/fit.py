"""gvit fit: Gaussians of image files, without a model."""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit.cli.devices import find_device
from gvit.cli.encoders import left_to_do, load_encoder, photograph
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError, printable

if TYPE_CHECKING:
    from torch import Tensor

    from gvit.fitting.image_files import FittedFile
    from gvit.fitting.optimise import Fit
    from gvit.gaussians import Gaussians
    from gvit.targets import Target


@dataclass(frozen=True)
class Options:
    """Fit Gaussians to image files by optimisation.

    When no image is named, to a photograph of an astronaut.

    Writes NAME.safetensors (the Gaussians), NAME.png (the drawing) and

    NAME-fit.png (image, drawing and ellipses side by side).

    What is fitted already is skipped: after an interruption, it goes on.

    Example: gvit fit photos/ 'more/*.png' --num-gaussians 5000 --out fits

    Attributes:
        images: image files, folders (searched recursively) or quoted patterns.
        out: folder for the results.
        num_gaussians: per image.
        bits: quantise to so many bits for each colour and scale, 2 to 12, others to match; all bits when not given.
        steps: of the optimisation.
        overwrite: fit again what is fitted already.
        background: what transparent pixels lie over, and the Gaussians: a name (white) or code (#ff8800).
        frames: every frame of animated files, each from the one before: NAME-frames/00000 and so on.
        sequence: the images are frames of one video, by the numbers in their names: each from the one before.
        start: run, model.safetensors file or pretrained model whose encoder draws where the fit begins; not with init.
        init: random, grid, kmeans, felzenszwalb, kanezaki or gradient; gradient where not given.
        adaptive: put half of the Gaussians where the error is largest.
        loss: mse, bce or psnr.
        ssim_weight: weight of 1 - SSIM in the loss.
        seed: of everything that is random.
        batch_size: images of equal size at a time.
        json: print a line of JSON for each image.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(default: a photograph)"),
    ] = ()
    out: Path = Path("fits")
    num_gaussians: int = 1000
    bits: int | None = None
    steps: int = 500
    overwrite: bool = False
    background: str = "black"
    frames: bool = False
    sequence: bool = False
    start: str | None = None
    init: str | None = None
    adaptive: bool = True
    loss: str = "mse"
    ssim_weight: float = 0.0
    seed: int = 0
    batch_size: int = 4
    json: bool = False
    device: str = "auto"


def run(args: list[str]) -> int:
    """Fit, write, and print a line per image; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit fit")
    at_least_one(num_gaussians=options.num_gaussians, steps=options.steps, batch_size=options.batch_size)

    import torch

    from gvit.data.convert import composite, parse_color
    from gvit.fitting.frames import in_order
    from gvit.fitting.image_files import FIT_ENDINGS, fit_files, write_fit
    from gvit.fitting.optimise import FIRST_SHARE, check_settings, fit
    from gvit.progress import ProgressBar
    from gvit.targets import check_targets, plan_targets, remove_unfinished

    settings: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num_gaussians", "steps", "loss", "ssim_weight", "seed", "bits")
    }
    settings["init"] = "gradient" if options.init is None else options.init
    check_settings(**settings)
    parse_color(options.background)
    device, steps = find_device(options.device), options.steps
    if options.start is not None and options.init is not None:
        raise InputError(
            f"--init {options.init} and --start {options.start} are two places to begin; give one"
        )
    model = None if options.start is None else load_encoder(options.start, "--start").to(device)
    drawn = max(1, round(options.num_gaussians * (FIRST_SHARE if options.adaptive else 1)))
    warn_of_left_out(options.images)
    targets = plan_targets(options.images or [photograph()], options.out, FIT_ENDINGS, check=False)
    if options.frames and options.sequence:
        raise InputError("--frames and --sequence: give one of them")
    targets, animations = ([], [in_order(targets)]) if options.sequence else _split(targets, options.frames)
    every = [*targets, *chain.from_iterable(animations)]
    check_targets(every)  # not before: an animation's frames have other files than itself
    waiting = _left(targets, options)
    remove_unfinished(every)
    settings |= {"adaptive": options.adaptive, "background": options.background}

    def start(images: "Tensor") -> "dict[str, Gaussians]":
        if model is None:
            return {}
        with torch.no_grad():
            return {"init": model.encode(composite(images, options.background), num_gaussians=drawn)}

    def fit_images(images: "Tensor") -> "Fit":
        with ProgressBar("fitting", steps) as bar:
            return fit(
                images,
                **settings | start(images),
                progress=lambda done, psnr: bar.update(done, f"{done}/{steps} {psnr:.2f} dB"),
            )

    failed = False
    answers = [fit_files(waiting, fit_images, options.batch_size, device, options.background)]
    answers += [_fit_animation(frames, options, device, settings, start) for frames in animations]
    for answer in chain.from_iterable(answers):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
        else:
            measured = write_fit(answer, options.background, options.bits)
            print(measured.to_json() if options.json else printable(str(measured)), flush=True)
    return 2 if failed else 0


def _left(targets: "list[Target]", options: Options) -> "list[Target]":
    if options.overwrite:
        return targets
    # what is skipped is said, but among lines of JSON there is none for it
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        return left_to_do(targets, options.num_gaussians, bits=options.bits)


def _split(targets: "list[Target]", frames: bool) -> "tuple[list[Target], list[list[Target]]]":
    """Those with one frame, and those of each frame of the others."""
    from gvit.fitting.frames import count_frames, frame_targets

    counts = [count_frames(target.source) if frames else 1 for target in targets]
    still = [target for target, count in zip(targets, counts, strict=True) if count == 1]
    moving = [frame_targets(t, count) for t, count in zip(targets, counts, strict=True) if count > 1]
    return still, moving


def _fit_animation(
    targets: "list[Target]",
    options: Options,
    device: str,
    settings: dict[str, Any],
    start: "Callable[[Tensor], dict[str, Gaussians]]",
) -> "Iterator[FittedFile | InputError]":
    """Those frames that are not done, from the last one that is."""
    from gvit.fitting.frames import fit_animation, open_frames
    from gvit.fitting.image_files import diverged
    from gvit.fitting.optimise import stack_pixels
    from gvit.targets import is_done

    try:
        there = [
            not options.overwrite and is_done(target, options.num_gaussians, bits=options.bits)
            for target in targets
        ]
        # what comes after the first that is missing may have come from another one
        done = [*there, False].index(False)
        _left(targets[:done], options)
        if done < len(targets):
            first = {} if done else start(stack_pixels(next(open_frames(targets[0].source))).to(device))
            yield from fit_animation(targets, done, device, overwrite=options.overwrite, **settings | first)
    except InputError as error:
        yield error
    except ValueError as error:  # of where the encoder begins
        yield diverged(targets[0], error)
