"""gvit encode: Gaussians of image files, or of a whole data set, by a trained encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gvit.cli.devices import find_device
from gvit.cli.encoders import left_to_do, load_encoder
from gvit.cli.messages import print_error, warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError, counted, printable

if TYPE_CHECKING:
    from gvit.encoding import EncodedFile, ImageEncoder
    from gvit.gaussians.storage import Origin

DEFAULT_MODEL = "gvit_tiny.photos"


@dataclass(frozen=True)
class Options:
    """Draw images as Gaussians by a trained encoder, without training.

    Writes NAME.safetensors (the Gaussians) and NAME.png (the drawing).

    After a RUN: a whole data set in a few large files, with names and labels.

    Its SOURCE: a folder for each class, any images, or the name of a data set.

    What is encoded already is skipped: after an interruption, it goes on.

    What another model or other settings have encoded is refused.

    Example: gvit encode photos/ 'more/*.png' --out encoded

    Example: gvit encode runs/digits digits --out encoded

    Attributes:
        sources: a RUN or none, then image files, folders (searched recursively), quoted patterns or a data set.
        out: folder for the results.
        model: pretrained model, run folder, or model.safetensors file; another way to name the RUN. gvit_tiny.photos
            where neither is given.
        format: files: one of each image and its drawing; safetensors or parquet: a whole set. After a RUN,
            safetensors where not given.
        half: 16 bits for each number of a set.
        view: crop: as in the model's evaluation; whole: as it is, cut by nothing. Of a set by a model with a
            classifier, crop where not given, else whole.
        num_gaussians: per image; where not given, 1000 of whole images, and the model's own number of others.
        looks: how often the encoder looks at its own picture; as often as in training when not given.
        max_side: whole images with a longer side are reduced to it for the encoder, 768 pixels where not given; they
            are drawn at their own size.
        dataset: what SOURCE is, where that cannot be told: a data set that 'gvit train' knows, or images, without
            classes.
        data_dir: folder of a data set that is named.
        shard_size: images a file of a set; 1000 where not given.
        batch_size: images of a set at a time; 64 where not given.
        workers: processes that load the images of a set; none where not given.
        overwrite: encode again what is encoded already.
        device: cpu, cuda, or auto: cuda where there is one.
    """

    sources: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="[RUN] SOURCE...", help_behavior_hint="(at least one)"),
    ]
    out: Path = Path("encoded")
    model: str | None = None
    format: Literal["files", "safetensors", "parquet"] | None = None
    half: bool = False
    view: Literal["crop", "whole"] | None = None
    num_gaussians: int | None = None
    looks: int | None = None
    max_side: int | None = None
    dataset: str | None = None
    data_dir: Path | None = None
    shard_size: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    overwrite: bool = False
    device: str = "auto"


def run(args: list[str]) -> int:
    """Encode, write, and tell how good it is; an image that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit encode")
    for name in ("num_gaussians", "looks", "max_side", "shard_size", "batch_size"):
        value = getattr(options, name)
        if value is not None:
            at_least_one(**{name: value})
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers must be at least 0, got {options.workers}")

    place, sources, whole_set = _tell_apart(options)
    if not sources and options.data_dir is None:
        raise InputError("no images given; name image files, folders or quoted patterns")
    for name in ("half", "dataset", "data_dir", "shard_size", "batch_size", "workers"):
        if not whole_set and getattr(options, name) not in (None, False):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(f"{flag} is for a set: --format safetensors or parquet")

    from gvit.encoding import PHOTOGRAPH_COUNT, PHOTOGRAPH_SIDE, ImageEncoder, encoder_origin

    device = find_device(options.device)
    view = options.view or ("whole" if not whole_set else None)
    crop = "; --view crop encodes squares with this one"
    model = load_encoder(place, "--model", any_number=view == "whole", otherwise=crop)
    if view is None:
        view = "whole" if model.card.encoder_only else "crop"
    whole = view == "whole"
    number = options.num_gaussians or (PHOTOGRAPH_COUNT if whole else None)
    if options.max_side is not None and not whole:
        raise InputError("--max-side is for whole images: --view whole")
    max_side = (options.max_side or PHOTOGRAPH_SIDE) if whole else None
    encoder = ImageEncoder(model, number, options.looks, max_side, options.half)
    origin = encoder_origin(place, model, options.looks, max_side)
    if not whole_set:
        encoder.model.to(device)
        return _encode_files(encoder, sources, place, origin, options)

    from gvit.cli.sets import SetOptions, encode_whole_set, find_parts

    set_options = SetOptions(
        options.out,
        "parquet" if options.format == "parquet" else "safetensors",
        options.shard_size or 1000,
        options.batch_size or 64,
        options.workers or 0,
        options.overwrite,
    )
    parts = find_parts(sources, options.dataset, options.data_dir, set_options)
    return encode_whole_set(
        encoder, parts, place, origin, set_options, device, sources or (str(options.data_dir),)
    )


def _tell_apart(options: Options) -> tuple[str, tuple[str, ...], bool]:
    """The model, the sources without it, and whether they are to be a set."""
    from gvit.cli.sets import is_data_set
    from gvit.models.pretrained import WEIGHTS_NAME, is_pretrained_name

    place, sources = options.model or DEFAULT_MODEL, options.sources
    first = Path(sources[0]) if sources else Path()
    weights = (first / WEIGHTS_NAME).is_file() or (first.is_file() and first.suffix == ".safetensors")
    # a folder of images wins over a name that is written alike
    more = len(sources) > 1 or options.data_dir is not None
    run = weights or (more and not first.exists() and is_pretrained_name(sources[0]))
    if run and options.model is not None:
        raise InputError(f"{sources[0]} and --model {options.model} are two models; name one")
    if run:
        place, sources = sources[0], sources[1:]
    named = options.dataset is not None or options.data_dir is not None or is_data_set(sources)
    return (
        place,
        sources,
        options.format in ("safetensors", "parquet") or (options.format is None and (run or named)),
    )


def _encode_files(
    encoder: "ImageEncoder", sources: tuple[str, ...], place: str, origin: "Origin", options: Options
) -> int:
    from gvit.encoding import encode_files
    from gvit.targets import plan_targets, remove_unfinished, write_results

    warn_of_left_out(sources)
    targets = plan_targets(sources, options.out)
    number = encoder.num_gaussians or encoder.model.encoder.num_gaussians
    waiting = targets if options.overwrite else left_to_do(targets, number, origin)
    remove_unfinished(targets)
    failed, done = False, list[float]()
    for answer in encode_files(encoder, waiting):
        if isinstance(answer, InputError):
            failed = True
            print_error(answer)
            continue
        write_results(answer.target, answer.image.gaussians, answer.image.picture, origin=origin)
        done.append(answer.image.psnr)
        print(printable(_line(answer)), flush=True)
    if done:
        mean, least, most = sum(done) / len(done), min(done), max(done)
        of = f"{counted(len(done), 'image')} by {place}, {number} Gaussians each"
        print(printable(f"{of}: mean {mean:.2f} dB ({least:.2f} to {most:.2f})"))
    return 2 if failed else 0


def _line(encoded: "EncodedFile") -> str:
    image = encoded.image
    height, width = image.picture.shape[-2:]
    size, seen = f"{width}x{height}", f"{image.encoded_size[1]}x{image.encoded_size[0]}"
    how = size if seen == size else f"{size}, encoded at {seen}"
    psnr, seconds = f"{image.psnr:.2f} dB", f"{encoded.seconds:.1f} s"
    return f"{encoded.target.source}  {psnr}  {seconds}  {how}  {encoded.target.gaussians_file}"
