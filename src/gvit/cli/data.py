"""gvit data: what is wrong with images, before a model is trained on them."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from gvit.cli.messages import warn_of_left_out
from gvit.cli.parsing import at_least_one, parse
from gvit.errors import InputError, for_command_line, printable, unknown_name

if TYPE_CHECKING:
    from gvit.data.checking import FolderCheck, ImageFile

_SHOWN = 20  # of each kind
_LOPSIDED = 10  # times as many images


@dataclass(frozen=True)
class Options:
    """Look for broken, duplicate, tiny and oversized images; count colour modes.

    Duplicates are files that show the same, in training and test, too.

    The exit code is 0 where nothing is to be put right, else 1.

    Example: gvit data check photos/

    Attributes:
        folder: class folders, with or without train/ and val/, or any other folder of images.
        min_side: pixels; images with a shorter side are tiny.
        max_side: pixels; images with a longer side are oversized.
        json: print JSON, with all names.
        workers: processes that read images; as many as there are cores when not given.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    min_side: int = 32
    max_side: int = 8192
    json: bool = False
    workers: int | None = None


def run(args: list[str]) -> int:
    """Print the report, or JSON."""
    if args[:1] and not args[0].startswith("-"):
        if args[0] != "check":
            raise unknown_name("command", f"data {args[0]}", ["data check"])
        args = args[1:]
    elif args not in (["--help"], ["-h"]):
        raise InputError("say what to do with the data: gvit data check DIR")
    options = parse(Options, args, "gvit data check")
    at_least_one(min_side=options.min_side, max_side=options.max_side)
    if options.min_side > options.max_side:
        raise InputError(f"--min-side {options.min_side} is above --max-side {options.max_side}")
    workers = os.cpu_count() or 1 if options.workers is None else options.workers
    at_least_one(workers=workers)

    from gvit.data.checking import check_folder
    from gvit.progress import ProgressBar

    warn_of_left_out([options.folder])
    with ProgressBar("checking", 1) as bar:
        check = check_folder(
            options.folder,
            options.min_side,
            options.max_side,
            workers,
            lambda done, total: bar.update(done / total, f"{done}/{total}"),
        )
    if options.json:
        print(json.dumps(check.to_dict(), indent=2))
    else:
        print(*map(printable, _report(options.folder, check)), sep="\n")
    return 0 if check.clean else 1


def _report(folder: Path, check: "FolderCheck") -> Iterator[str]:
    splits = {split: sum(one.split == split for one in check.files) for split in ("train", "test")}
    parts = f", {splits['train']} to train on and {splits['test']} to test with" if check.classes else ""
    yield f"{folder}: {len(check.files)} images{parts}"
    yield f"modes       {_counts(check.modes)}"
    if check.classes:
        yield f"classes     {_balance(check.classes)}"
    if check.ignored:
        yield f"ignored     {_counts(check.ignored)}"
    yield from _section("broken", [f"{one.file}: {one.error}" for one in check.broken])
    yield from _section("duplicates", [_same(group) for group in check.duplicates])
    for name, files, limit in (
        ("tiny", check.tiny, f"shorter side below {check.min_side}"),
        ("oversized", check.oversized, f"longer side above {check.max_side}"),
    ):
        sized = [f"{one.file}  {one.width}x{one.height}" for one in files]
        yield from _section(name, sized, f" ({limit} pixels)")
    if check.note:
        yield f"folders     {for_command_line(check.note)}"
    yield from (f"note        {note}" for note in check.notes)
    if check.clean:
        yield "nothing to put right"


def _section(name: str, lines: Sequence[str], about: str = "") -> Iterator[str]:
    if not lines:
        return
    yield f"{name:<12}{len(lines)}{about}"
    yield from (f"  {line}" for line in lines[:_SHOWN])
    if len(lines) > _SHOWN:
        yield f"  and {len(lines) - _SHOWN} more: --json names all"


def _same(group: Sequence["ImageFile"]) -> str:
    notes = []
    if len({one.split for one in group}) > 1:
        notes.append("in training and in the test")
    if len(names := sorted({one.class_name for one in group})) > 1:
        notes.append(f"in the classes {' and '.join(names)}")
    told = f"  ({', '.join(notes)})" if notes else ""
    return " = ".join(str(one.file) for one in group) + told


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _balance(classes: dict[str, dict[str, int]]) -> str:
    trained = {name: counts["train"] for name, counts in classes.items()}
    least, most = min(trained, key=trained.__getitem__), max(trained, key=trained.__getitem__)
    if trained[least] == trained[most]:
        return f"{len(classes)}, of {trained[most]} images to train on each"
    lopsided = f": more than {_LOPSIDED} times as many" if trained[most] > _LOPSIDED * trained[least] else ""
    return f"{len(classes)}, of {trained[least]} ({least}) to {trained[most]} ({most}) images to train on{lopsided}"
