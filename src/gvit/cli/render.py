"""gvit render: pictures, SVG or tables of files of Gaussians."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gvit.cli.messages import print_error
from gvit.cli.parsing import parse
from gvit.errors import InputError, counted, printable

if TYPE_CHECKING:
    from gvit.data.collections import KeptImage

_UNKNOWN_SIDE = 512  # pixels, longer side, of images whose file does not tell
_MOST_SIDE = 10**9  # pixels


@dataclass(frozen=True)
class Options:
    """Draw files of Gaussians, at any size.

    Files are those of 'gvit fit' and 'gvit encode', one image each or sets.

    Example: gvit render encoded/ --out pictures --scale 2

    Attributes:
        files: files of Gaussians, folders (searched recursively) or quoted patterns.
        out: folder for the results.
        format: png; svg, ellipses with gradients, for programs that people draw with; json or csv, the numbers: pixels,
            degrees clockwise, colours and opacity from 0 to 1, front to back.
        size: pixels of the longer side, or WIDTHxHEIGHT; where not given, that of the image, or 512 where its file
            does not tell.
        scale: so many times the size of the image.
        background: colour below the Gaussians in pictures: a name or a code; that of 'gvit fit --background'. Black
            where not given.
    """

    files: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="FILE...", help_behavior_hint="(at least one)"),
    ]
    out: Path = Path("rendered")
    format: Literal["png", "svg", "json", "csv"] = "png"
    size: str | None = None
    scale: float | None = None
    background: str | None = None


def run(args: list[str]) -> int:
    """Draw each image; a file that cannot be read doesn't cost the others."""
    options = parse(Options, args, "gvit render")
    if not options.files:
        raise InputError("no files given; name files of Gaussians, folders or quoted patterns")
    if options.size is not None and options.scale is not None:
        raise InputError("--size and --scale: give one of them")
    if options.scale is not None and not 0 < options.scale < float("inf"):
        raise InputError(f"--scale must be above 0, got {options.scale:g}")
    if options.background is not None and options.format in ("json", "csv"):
        raise InputError("--background is for pictures: --format png or svg")
    sides = None if options.size is None else _read_size(options.size)

    from gvit.data.collections import find_kept
    from gvit.data.convert import parse_color
    from gvit.files import check_writable

    background = parse_color("black" if options.background is None else options.background)
    check_writable(options.out)
    failed, count, taken = False, 0, set[str]()
    for image in find_kept(options.files):
        try:
            if isinstance(image, InputError):
                raise image
            height, width = _choose_size(image, sides, options.scale)
        except InputError as error:
            failed = True
            print_error(error)
            continue
        file = options.out / _free_name(image.name, options.format, taken)
        _write(image, file, height, width, background)
        count += 1
        print(f"{printable(str(file))}  {width}x{height}  {len(image.gaussians)} Gaussians", flush=True)
    if count > 1:
        print(f"{counted(count, 'image')} in {printable(str(options.out))}")
    return 2 if failed else 0


def _read_size(text: str) -> tuple[int, ...]:
    """The longer side, or width and height."""
    try:
        sides = tuple(int(side) for side in text.lower().split("x"))
    except ValueError:
        sides = ()
    if len(sides) not in (1, 2) or min(sides) < 1 or max(sides) > _MOST_SIDE:
        raise InputError(
            f"--size takes pixels of the longer side, or WIDTHxHEIGHT, at most {_MOST_SIDE:,}, got {text!r}"
        )
    return sides


def _choose_size(image: "KeptImage", sides: tuple[int, ...] | None, scale: float | None) -> tuple[int, int]:
    """Height and width.

    Raises:
        InputError: the file does not tell them, or they would be too large.
    """
    if sides is not None and len(sides) == 2:
        return sides[1], sides[0]
    if image.size is None and scale is not None:
        raise InputError(f"{image.name}: does not tell the size of its image; give --size instead of --scale")
    height, width = image.size or (image.gaussians.aspect, 1.0)
    if scale is None:
        longer = sides[0] if sides else (_UNKNOWN_SIDE if image.size is None else max(image.size))
        scale = longer / max(height, width)
    if scale * max(height, width) > _MOST_SIDE:
        raise InputError(
            f"{image.name}: would be more than {_MOST_SIDE:,} pixels long; give a smaller --size or --scale"
        )
    return max(1, round(scale * height)), max(1, round(scale * width))


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    """A file below the folder for results that no other image of these has."""
    parts = [part for part in name.replace("\0", "").split("/") if part not in ("", ".", "..")]
    whole = Path(*(parts or ["image"]))
    for stem in _stems(whole):
        file = f"{stem}.{suffix}"
        if file not in taken:
            taken.add(file)
            return file
    raise AssertionError("there is always another number")


def _stems(whole: Path) -> Iterator[Path]:
    """``a`` of ``a.jpg``, else ``a.jpg``, else ``a-2``, ``a-3``, ..."""
    stem, number = whole.with_suffix(""), 1
    yield stem
    yield whole
    while True:
        number += 1
        yield stem.with_name(f"{stem.name}-{number}")


def _write(
    image: "KeptImage", file: Path, height: int, width: int, background: tuple[float, float, float]
) -> None:
    from gvit.files import write_text
    from gvit.viewing.replaceable import check_replaceable

    check_replaceable(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{file.parent}: cannot write results here ({error.strerror})") from error
    if file.suffix == ".png":
        import torch

        from gvit.rendering import render
        from gvit.viewing.figures import save_picture

        save_picture(render(image.gaussians, height, width, background=torch.tensor(background)), file)
    elif file.suffix == ".svg":
        from gvit.viewing.svg import to_svg

        write_text(file, to_svg(image.gaussians, height, width, background))
    else:
        write_text(file, _table(image, file.suffix == ".json", height, width))


def _table(image: "KeptImage", as_json: bool, height: int, width: int) -> str:
    from gvit.viewing.ellipses import COLUMNS, to_rows

    rows = to_rows(image.gaussians, height, width)
    if not as_json:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        return text.getvalue()
    named = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    told = {"name": image.name, "class": image.class_name, "width": width, "height": height}
    return json.dumps(told | {"gaussians": named}, indent=1) + "\n"
