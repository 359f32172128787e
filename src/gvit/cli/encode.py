"""gvit encode: Gaussians of image files by a trained encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gvit.cli.devices import find_device
from gvit.cli.encoders import left_to_do, load_encoder
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError

if TYPE_CHECKING:
    from gvit.encoding import EncodedFile


@dataclass(frozen=True)
class Options:
    """Draw image files as Gaussians by a trained encoder, without training.

    Writes NAME.safetensors (the Gaussians) and NAME.png (the drawing).

    What is encoded already is skipped: after an interruption, it goes on.

    What another model or other settings have encoded is refused.

    Example: gvit encode photos/ 'more/*.png' --out encoded

    Attributes:
        images: image files, folders (searched recursively) or quoted patterns.
        out: folder for the results.
        model: pretrained model, run folder, or model.safetensors file.
        num_gaussians: per image.
        looks: how often the encoder looks at its own picture; as often as in training when not given.
        max_side: images with a longer side are reduced to it for the encoder; they are drawn at their own size.
        overwrite: encode again what is encoded already.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    images: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="IMAGE...", help_behavior_hint="(at least one)"),
    ]
    out: Path = Path("encoded")
    model: str = "gvit_tiny.photos"
    num_gaussians: int = 1000
    looks: int | None = None
    max_side: int = 768
    overwrite: bool = False
    device: str = "auto"


def run(args: list[str]) -> int:
    """Encode, write, and print a line per image and one for all; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit encode")
    at_least_one(num_gaussians=options.num_gaussians, max_side=options.max_side)
    if options.looks is not None:
        at_least_one(looks=options.looks)
    if not options.images:
        raise InputError("no images given; name image files, folders or quoted patterns")

    from gvit.encoding import encode_files, encoder_origin
    from gvit.targets import plan_targets, write_results

    device = find_device(options.device)
    model = load_encoder(options.model, "--model").to(device)
    warn_of_left_out(options.images)
    targets = plan_targets(options.images, options.out)
    origin = encoder_origin(options.model, model, options.looks, options.max_side)
    waiting = targets if options.overwrite else left_to_do(targets, options.num_gaussians, origin)
    failed, done = False, list[float]()
    for answer in encode_files(model, waiting, options.num_gaussians, options.looks, options.max_side):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
            continue
        write_results(answer.target, answer.gaussians, answer.picture, origin=origin)
        done.append(answer.psnr)
        print(_line(answer), flush=True)
    if done:
        mean, least, most = sum(done) / len(done), min(done), max(done)
        images = f"{len(done)} image{'s' * (len(done) > 1)}"
        print(
            f"{images} by {options.model}, {options.num_gaussians} Gaussians each: "
            f"mean {mean:.2f} dB ({least:.2f} to {most:.2f})"
        )
    return 2 if failed else 0


def _line(encoded: "EncodedFile") -> str:
    height, width = encoded.picture.shape[-2:]
    size, seen = f"{width}x{height}", f"{encoded.encoded_size[1]}x{encoded.encoded_size[0]}"
    how = size if seen == size else f"{size}, encoded at {seen}"
    psnr, seconds = f"{encoded.psnr:.2f} dB", f"{encoded.seconds:.1f} s"
    return f"{encoded.target.source}  {psnr}  {seconds}  {how}  {encoded.target.gaussians_file}"
