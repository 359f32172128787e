"""Image files to files of results: what each is called, and which are there already."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from gvit.data.images import EXTENSIONS, find_images
from gvit.errors import InputError, option, wording
from gvit.files import check_writable, real_path, remove_partials, together, utf8_name
from gvit.gaussians import Gaussians
from gvit.gaussians.shards import MANIFEST_NAME, SHARD_FORMATS, Manifest, is_shard
from gvit.gaussians.storage import Origin, read_depths, read_origin
from gvit.viewing.figures import save_figure, save_picture
from gvit.viewing.replaceable import check_replaceable, is_drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Gaussians and their drawing; a fit has a figure, too
ENDINGS = (".safetensors", ".png")
_IMAGE = "image"  # in what is kept of a result's origin: the checksum of the image file


@dataclass(frozen=True)
class Target:
    """An image file and the files that its results are written to.

    Attributes:
        source: the image file.
        name: path without suffix, in the folder for results.
        endings: what the names of those files add to it.
        checksum: of the image file as it was read; None before that, or where it can't be read.
    """

    source: Path
    name: Path
    endings: tuple[str, ...] = ENDINGS
    checksum: str | None = None

    def now(self) -> Target:
        """The same with the checksum that the image has now, to be asked before it is read."""
        return replace(self, checksum=_checksum(self.source))

    @property
    def files(self) -> list[Path]:
        return [self._file(ending) for ending in self.endings]

    @property
    def gaussians_file(self) -> Path:
        return self._file(".safetensors")

    @property
    def picture_file(self) -> Path:
        return self._file(".png")

    @property
    def figure_file(self) -> Path:
        return self._file("-fit.png")

    def _file(self, ending: str) -> Path:
        return self.name.with_name(self.name.name + ending)


def plan_targets(
    sources: Sequence[str | Path],
    out: Path,
    endings: tuple[str, ...] = ENDINGS,
    extensions: frozenset[str] = EXTENSIONS,
    check: bool = True,
) -> list[Target]:
    """Image files named by files, folders and patterns, each with its own files in ``out``; see ``find_images``.

    Images of a folder keep their place in it: ``photos`` makes ``out/cat/1.png`` of ``photos/cat/1.jpg``.
    Where ``out`` lies in that folder, what is in it is left alone; of a pattern, the pictures that gvit drew there,
    unless it finds no others. Bytes of a name that are no UTF-8 are written out in those of its results: safetensors
    opens no other files.

    Args:
        sources: files, folders and patterns.
        out: folder for the results.
        endings: of the files of each image.
        extensions: of the files to look for in folders.
        check: see ``check_targets``; not where targets are made of these that have other files.

    Raises:
        InputError: nothing is found, results would replace each other, an image, or a file that gvit did not write,
            cannot be written, or read again, or would lie among the files of a set.
    """
    targets: dict[Path, Target] = {}
    for source in sources:
        folder = Path(source)
        inside = folder.is_dir()
        if inside and real_path(folder) == real_path(out):
            raise InputError(f"{out} holds the images; choose another {option('out')} folder for the results")
        files = find_images([source], extensions)
        if inside:
            files = [file for file in files if not _lies_in(file, out)]
        elif not os.path.exists(source):
            files = [file for file in files if not (_lies_in(file, out) and _is_result(file))] or files
        for file in files:
            place = file.relative_to(folder) if inside else Path(file.name)
            name = out / utf8_name(str(place.with_suffix("")))
            targets.setdefault(real_path(file), Target(file, name, endings))
    check_writable(out)
    if ".safetensors" in endings:
        if utf8_name(str(out)) != str(out):
            raise InputError(
                f"{out}: safetensors opens no file in a folder whose name is not UTF-8; choose another {option('out')}"
            )
        if _holds_set(out):
            raise InputError(
                f"{out} holds a set of Gaussians ({MANIFEST_NAME}); choose another {option('out')} folder for single "
                "images"
            )
    if check:
        check_targets(list(targets.values()))
    return list(targets.values())


def _lies_in(file: Path, folder: Path) -> bool:
    return real_path(folder) in real_path(file).parents


def _is_result(file: Path) -> bool:
    return file.suffix == ".png" and is_drawn(file)


def _holds_set(folder: Path) -> bool:
    """Whether a manifest is one of a set, or is damaged beside a shard."""
    if not (folder / MANIFEST_NAME).exists():
        return False
    try:
        Manifest.read(folder)
    except InputError:
        shards = (file for file in folder.glob("*-of-*") if file.suffix[1:] in SHARD_FORMATS)
        return any(map(is_shard, shards))
    return True


def remove_unfinished(targets: Sequence[Target]) -> None:
    """Remove what a process that was killed while it wrote results of ``targets`` has left, and nothing else."""
    names: dict[Path, set[str]] = defaultdict(set)
    for target in targets:
        names[target.name.parent].update(file.name for file in target.files)
    for folder, ours in names.items():
        remove_partials(folder, ours.__contains__)


def check_targets(targets: Sequence[Target]) -> None:
    """See to it that results replace neither each other, nor an image, nor a file that gvit did not write.

    Raises:
        InputError: they would.
    """
    owners: dict[Path, Path] = {}
    images = {real_path(target.source) for target in targets}
    for target in targets:
        for file in target.files:
            if file.is_dir():
                raise InputError(
                    f"{file} is a folder, where a result has to go; choose another {option('out')} folder"
                )
            if real_path(file) in images:
                raise InputError(
                    f"{file} is an image and would be replaced; choose another {option('out')} folder"
                )
            other = owners.setdefault(file, target.source)
            if other != target.source:
                raise InputError(
                    f"{other} and {target.source} would both be written to {file}; "
                    f"give them two {option('out')} folders"
                )
            check_replaceable(file)


def is_done(
    target: Target, num_gaussians: int, origin: Origin | None = None, bits: int | None = None
) -> bool:
    """Whether an image has its Gaussians already.

    Args:
        target: the image.
        num_gaussians: as many as it is to have.
        origin: what is to make them; a file that does not say what made it, a fit or an older one, passes.
        bits: what it is to be quantised to; None for not at all.

    Raises:
        InputError: with another number of Gaussians or of bits, made by something else or of another image, or what is
            there is damaged.
    """
    file = target.gaussians_file
    if not file.exists():
        return False
    again = f"{wording('overwrite=True', '--overwrite')} makes it again"
    try:
        count = len(Gaussians.load(file))
    except ValueError as error:
        raise InputError(f"{error}; {again}") from error
    if count != num_gaussians:
        raise InputError(
            f"{file} has {count} Gaussians, not {num_gaussians}: {option('num_gaussians', count)} goes on, "
            f"{again}, {option('out', 'FOLDER')} writes elsewhere"
        )
    depths = read_depths(file)
    if (None if depths is None else depths.scales) != bits:
        kept = None if depths is None else option("bits", depths.scales)
        found, goes_on = (
            ("is not quantised", f"no {option('bits')}") if kept is None else (f"has {kept}", kept)
        )
        raise InputError(
            f"{file} {found}: {goes_on} goes on, {again}, {option('out', 'FOLDER')} writes elsewhere"
        )
    made = dict(read_origin(file) or {})
    elsewhere = f"{again}, {option('out', 'FOLDER')} writes elsewhere"
    image, now = made.pop(_IMAGE, None), target.now().checksum
    if image != now and None not in (image, now):
        raise InputError(f"{file} was made of another image than {target.source} is now: {elsewhere}")
    if made and _compared(made) != _compared(origin):
        raise InputError(f"{file} was made by {_told(made)}, not by {_told(origin)}: {elsewhere}")
    return True


def _checksum(source: Path) -> str | None:
    """That of a file; None where it can't be read, or is a pipe, at which reading would wait."""
    try:
        state = source.stat()
        if not stat.S_ISREG(state.st_mode):
            return None
        return _digest(source, state.st_mtime_ns, state.st_size)
    except OSError:
        return None


@lru_cache(maxsize=1)  # one file for all frames of an animation
def _digest(source: Path, _written: int, _size: int) -> str:
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _compared(origin: Origin | None) -> dict[str, str | int | None] | None:
    """All but the name: the same weights may have another by now."""
    return None if origin is None else {name: value for name, value in origin.items() if name != "model"}


def _told(origin: Origin | None) -> str:
    if origin is None:
        return "a fit"
    settings = " ".join(str(option(name, origin.get(name))) for name in ("looks", "max_side"))
    return f"{origin.get('model')} ({origin.get('sha256')}) with {settings}"


def write_results(
    target: Target,
    gaussians: Gaussians,
    picture: Float[Tensor, "3 h w"],
    figure: Figure | None = None,
    origin: Origin | None = None,
    bits: int | None = None,
) -> None:
    """The files of one image: picture with values in [0, 1], figure if any, Gaussians, with what made them if known.

    With ``bits``, they are quantised to so many.

    Raises:
        InputError: they cannot be written; those that were there before stay.
    """
    try:
        target.name.parent.mkdir(parents=True, exist_ok=True)
        # former Gaussians beside a new picture would pass for its own
        with together(target.gaussians_file):
            save_picture(picture, target.picture_file)
            if figure is not None:
                save_figure(figure, target.figure_file)
            # the last one: where it is, the others are, too
            height, width = picture.shape[-2:]
            kept = dict(origin or {}) | {_IMAGE: target.checksum}
            gaussians.save(target.gaussians_file, kept, (height, width), bits)
    except OSError as error:
        raise InputError(f"{target.name.parent}: cannot write results here ({error.strerror})") from error
