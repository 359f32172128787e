"""gvit fit: Gaussians of image files, without a model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import print_error
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from gvit.fitting.files import FittedFile
    from gvit.fitting.optimise import Fit
    from gvit.gaussians import Gaussians


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
        adaptive: put half of the Gaussians where the error is largest.
        loss: mse or bce.
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

    from gvit.fitting.files import fit_files, plan_targets
    from gvit.fitting.optimise import check_settings, fit
    from gvit.fitting.progress import FitProgress

    settings: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num_gaussians", "steps", "init", "loss", "ssim_weight", "seed")
    }
    check_settings(**settings)
    device = find_device(options.device)
    targets = plan_targets(options.images or [_photograph()], options.out)
    waiting = []
    for target in targets:
        if target.gaussians_file.exists() and not options.overwrite:
            if (count := len(_load_fitted(target.gaussians_file))) != options.num_gaussians:
                raise InputError(
                    f"{target.gaussians_file} has {count} Gaussians, not {options.num_gaussians}: "
                    f"--num-gaussians {count} goes on, --overwrite fits it again, --out FOLDER writes elsewhere"
                )
            print(f"{target.source}  skipped: {target.gaussians_file} is there, --overwrite fits it again")
        else:
            waiting.append(target)

    def fit_images(images: "Tensor") -> "Fit":
        with FitProgress(options.steps) as bar:
            return fit(images, **settings, adaptive=options.adaptive, progress=bar.step)

    failed = False
    for answer in fit_files(waiting, fit_images, options.batch_size, device):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
        else:
            _write_fit(answer)
            print(
                f"{answer.target.source}  {answer.psnr:.2f} dB  {answer.seconds:.1f} s"
                f"  {answer.target.gaussians_file}",
                flush=True,
            )
    return 2 if failed else 0


def _load_fitted(file: Path) -> "Gaussians":
    from gvit.gaussians import Gaussians

    try:
        return Gaussians.load(file)
    except ValueError as error:
        raise InputError(f"{error}; --overwrite fits it again") from error


def _photograph() -> Path:
    """The one that comes with scikit-image: an astronaut, 512 x 512."""
    from skimage.data import data_dir

    return Path(data_dir) / "astronaut.png"


def _write_fit(fitted: "FittedFile") -> None:
    from gvit.rendering import render
    from gvit.viewing.figures import fit_figure, save_figure, save_picture

    target, gaussians = fitted.target, fitted.gaussians
    try:
        target.name.parent.mkdir(parents=True, exist_ok=True)
        save_picture(render(gaussians, *fitted.image.shape[-2:]), target.picture_file)
        save_figure(fit_figure(fitted.image, gaussians), target.figure_file)
        # the last one: where it is, the others are, too
        gaussians.save(target.gaussians_file)
    except OSError as error:
        raise InputError(f"{target.name.parent}: cannot write results here ({error.strerror})") from error
