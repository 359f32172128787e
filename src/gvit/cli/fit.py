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

    from gvit.fitting.files import fit_files, is_fitted, plan_targets, write_fit
    from gvit.fitting.optimise import check_settings, fit
    from gvit.progress import ProgressBar

    settings: dict[str, Any] = {
        name: getattr(options, name)
        for name in ("num_gaussians", "steps", "init", "loss", "ssim_weight", "seed")
    }
    check_settings(**settings)
    device, steps = find_device(options.device), options.steps
    targets = plan_targets(options.images or [_photograph()], options.out)
    waiting = []
    for target in targets:
        if not options.overwrite and is_fitted(target, options.num_gaussians):
            print(f"{target.source}  skipped: {target.gaussians_file} is there, --overwrite fits it again")
        else:
            waiting.append(target)

    def fit_images(images: "Tensor") -> "Fit":
        with ProgressBar("fitting", steps) as bar:
            return fit(
                images,
                **settings,
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


def _photograph() -> Path:
    """The one that comes with scikit-image: an astronaut, 512 x 512."""
    from skimage.data import data_dir

    return Path(data_dir) / "astronaut.png"
