"""gvit fit: Gaussians of image files, without a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit.cli.devices import find_device
from gvit.cli.encoders import left_to_do, load_encoder, photograph
from gvit.cli.messages import print_error
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from gvit.fitting.optimise import Fit


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
        steps: of the optimisation.
        init: random, grid, kmeans, felzenszwalb, kanezaki or gradient.
        start: run, model.safetensors file or pretrained model whose encoder draws where the fit begins; not with init.
        adaptive: put half of the Gaussians where the error is largest.
        loss: mse, bce or psnr.
        ssim_weight: weight of 1 - SSIM in the loss.
        seed: of everything that is random.
        overwrite: fit again what is fitted already.
        batch_size: images of equal size at a time.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(default: a photograph)"),
    ] = ()
    out: Path = Path("fits")
    num_gaussians: int = 1000
    steps: int = 500
    init: str = "gradient"
    start: str | None = None
    adaptive: bool = True
    loss: str = "mse"
    ssim_weight: float = 0.0
    seed: int = 0
    overwrite: bool = False
    batch_size: int = 4
    device: str = "auto"


def run(args: list[str]) -> int:
    """Fit, write, and print a line per image; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit fit")
    at_least_one(num_gaussians=options.num_gaussians, steps=options.steps, batch_size=options.batch_size)

    import torch

    from gvit.fitting.image_files import FIT_ENDINGS, fit_files, write_fit
    from gvit.fitting.optimise import FIRST_SHARE, check_settings, fit
    from gvit.progress import ProgressBar
    from gvit.targets import plan_targets

    settings: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num_gaussians", "steps", "init", "loss", "ssim_weight", "seed")
    }
    check_settings(**settings)
    device, steps = find_device(options.device), options.steps
    if options.start is not None and options.init != Options.init:
        raise InputError(
            f"--init {options.init} and --start {options.start} are two places to begin; give one"
        )
    model = None if options.start is None else load_encoder(options.start, "--start").to(device)
    drawn = max(1, round(options.num_gaussians * (FIRST_SHARE if options.adaptive else 1)))
    targets = plan_targets(options.images or [photograph()], options.out, FIT_ENDINGS)
    waiting = targets if options.overwrite else left_to_do(targets, options.num_gaussians)

    def fit_images(images: "Tensor") -> "Fit":
        begin = {}
        if model is not None:
            with torch.no_grad():
                begin["init"] = model.encode(images, num_gaussians=drawn)
        with ProgressBar("fitting", steps) as bar:
            return fit(
                images,
                **settings | begin,
                adaptive=options.adaptive,
                progress=lambda done, psnr: bar.update(done, f"{done}/{steps} {psnr:.2f} dB"),
            )

    failed = False
    for answer in fit_files(waiting, fit_images, options.batch_size, device):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
        else:
            write_fit(answer)
            print(
                f"{answer.target.source}  {answer.psnr:.2f} dB  {answer.seconds:.1f} s"
                f"  {answer.target.gaussians_file}",
                flush=True,
            )
    return 2 if failed else 0
