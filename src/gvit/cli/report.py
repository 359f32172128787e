"""gvit report: what a model makes of images, as a page for the browser."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import parse
from gvit.errors import counted, printable


@dataclass(frozen=True)
class Options:
    """Write a page for the browser: what a model makes of images.

    One file that needs nothing else: originals, drawings, ellipses, scores of

    the Gaussians, predictions, and of a run its curves and confusion.

    Without IMAGE, some of the run's own test images, right and wrong ones.

    Example: gvit report runs/digits --out report.html

    Example: gvit report digits scans/ --method cdam shap

    Attributes:
        run: run folder, weights file (RUN/best.safetensors), or pretrained model.
        images: image files, folders (searched recursively) or quoted patterns.
        out: the file, replaced if it is there.
        method: how Gaussians are scored, see 'gvit explain'; cdam, occlusion and det when not given, and for an
            encoder alone det and opacity.
        num_images: shown at most.
        data_dir: labelled images to choose from, as in 'gvit evaluate'.
        dataset: how they lie there (parquet, gaussians, ...), or a data set that needs no folder (digits).
        background: what transparent pixels of images that are named lie over: a name (white) or code (#ff8800);
            black when not given.
        num_gaussians: another number of Gaussians of the images that are named.
        looks: how often an encoder that looks at its own picture does, for those.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[IMAGE...]")] = ()
    out: Path = Path("report.html")
    method: tuple[str, ...] = ()
    num_images: int = 12
    data_dir: Path | None = None
    dataset: str | None = None
    background: str | None = None
    num_gaussians: int | None = None
    looks: int | None = None
    device: str = "auto"


def run(args: list[str]) -> int:
    """Write the file; an image that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit report")

    from gvit.progress import ProgressBar
    from gvit.training.html_report import write_html_report

    warn_of_left_out([*options.images, *([] if options.data_dir is None else [options.data_dir])])
    with ProgressBar("report", 1.0) as bar:
        written = write_html_report(
            options.run,
            options.images,
            options.out,
            method=options.method,
            num_images=options.num_images,
            data_dir=options.data_dir,
            dataset=options.dataset,
            background=options.background,
            num_gaussians=options.num_gaussians,
            looks=options.looks,
            device=find_device(options.device),
            progress=lambda done, total: bar.update(done / total, f"image {done} of {total}"),
        )
    for error in written.unread:
        print_error(error)
    size = written.file.stat().st_size
    print(f"{printable(str(written.file))}  {counted(written.num_images, 'image')}, {size / 1e6:.2f} MB")
    return 2 if written.unread else 0
