"""WebDataset tars, as sets of images in any order.

A tar is no stream here: where each of its members begins and ends is read once, from their headers, and kept in the
user's cache. Then an image is one read at a known place, so that tars are like any other data: every epoch is a new
permutation of all images instead of a buffer's, processes share each batch to the image whatever the number of shards,
and a run that was cut goes on with the very next image. A stream could do none of it without reading again what came
before. The price is a pass over the headers before the first training, and that the tars are files in a folder,
uncompressed: an address or a pipe cannot be read at a place.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from platformdirs import user_cache_path

from gvit.data.images import EXTENSIONS, open_image
from gvit.data.sources.base import Keys, Source, Split, existing_folder, split_off
from gvit.data.sources.classes import index_classes
from gvit.errors import InputError, counted, first_line, printable
from gvit.files import replacing
from gvit.progress import ProgressBar

_WORDS = {
    "train": {"train", "training", "trainval"},
    "test": {"test", "testing"},
    "validation": {"validation", "val", "valid"},
}
_NAMES = ("classes.txt", "classnames.txt", "classes.json")
_LABELS = ("cls", "cls.txt", "json")  # members with a sample's label
_LARGEST_LABEL = 2**20  # bytes of such a member
_VERSION = 2  # of what is kept


def source(split: Split, data_dir: Path | None = None) -> Source:
    """WebDataset tars in a folder: ``train-000.tar``, ... and ``val-000.tar``, ... (or ``test``, ``validation``).

    The word is anywhere in the file's name, between ``-``, ``_`` and ``.``, or else in that of a folder ``train/``.
    Where there are tars of ``test``, those of ``validation`` are not used. Without any of both, or of ``train``, a
    fifth of each class, always the same images, is kept for the test.

    A sample is an image, ``KEY.jpg`` or another of the usual endings, and what has the same key: ``KEY.cls`` with its
    class, a number or a name; ``KEY.json`` with that as ``label``. Where no such file has its key, it is as in the tar
    of class folders: every image is a sample, of the folder that it lies in; ``KEY.seg.png`` beside ``KEY.png`` is
    none. Names of numbered classes are the lines of ``classes.txt`` or ``classnames.txt``, or what ``classes.json``
    lists, beside the tars; else the numbers.

    Raises:
        InputError: no folder is given, it has no tars, one of them is damaged, compressed, or called after two splits,
            or an image has no class; also on loading an image that can't be read.
    """
    root = existing_folder(data_dir, "wds")
    tars = sorted(path for path in root.rglob("*.tar") if path.is_file())
    if not tars:
        raise InputError(f"{root}: no .tar files here, nor in folders within")
    of: dict[str | None, list[Path]] = {}
    for tar in tars:
        of.setdefault(_split_of(tar, root), []).append(tar)
    held_out = next((part for part in ("test", "validation") if part in of), None)
    own = "train" in of and held_out is not None
    training = _indices(of["train"] if own else tars)
    classes, names, place = _class_names(root)
    read = _indices(of[held_out]) if own and split == "test" else training
    paths = of["train" if split == "train" else held_out] if own else tars
    unused = [tar for part in of if own and part not in ("train", held_out) for tar in of[part]]
    values, known = ([label for shard in shards for label in shard.labels] for shards in (read, training))
    try:
        labels, found = index_classes(values, known, classes)
    except InputError as error:
        raise InputError(f"{place or root}: {error.args[0]}") from None
    keys = Keys(
        f"{tar.relative_to(root).as_posix()}/{key}"
        for tar, shard in zip(paths, read, strict=True)
        for key in shard.keys
    )
    shards = np.repeat(np.arange(len(read)), [len(shard.sizes) for shard in read])
    offsets, sizes = (
        np.concatenate([getattr(shard, name) for shard in read]) for name in ("offsets", "sizes")
    )

    members = _Members(f"{root}{os.sep}", keys, list(map(str, paths)), shards, offsets, sizes)
    notes = (f"{counted(len(unused), 'tar')} not used, the first of them {unused[0]}",) if unused else ()
    whole = Source(members.load, labels, names or found, keys=keys, notes=notes)
    return whole if own else split_off(whole, split)


@dataclass(frozen=True)
class _Shard:
    """What is in a tar.

    Attributes:
        keys: member with the image of each sample.
        labels: its class, as it stands there.
        offsets: where the image begins, bytes.
        sizes: how long it is.
    """

    keys: list[str]
    labels: list[int | str]
    offsets: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True)
class _Members:
    """Images of many tars: what each is called, below where, and in which tar it begins where, and how long it is."""

    begin: str
    keys: Sequence[str]
    files: Sequence[str]
    shards: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def load(self, row: int) -> Image.Image:
        name = self.begin + self.keys[row]
        try:
            with open(self.files[self.shards[row]], "rb") as file:
                file.seek(self.offsets[row])
                content = file.read(self.sizes[row])
        except OSError as error:
            raise InputError(f"{name}: cannot be read ({error.strerror or error})") from error
        return open_image(name, content)


def _split_of(tar: Path, root: Path) -> str | None:
    """What a tar's name says, or else that of the folder closest to it; None where none of them says anything."""
    for name in reversed(tar.relative_to(root).parts):
        words = set(re.split(r"[-_.]", name.lower()))
        found = [part for part, of in _WORDS.items() if words & of]
        if len(found) > 1:
            raise InputError(
                f"{tar}: is called after {' and '.join(found)}, which are different splits; rename it, to "
                "trainval-... where all of it is for training"
            )
        if found:
            return found[0]
    return None


def _class_names(root: Path) -> tuple[list[str] | None, list[str] | None, Path | None]:
    """Classes by what their samples say, what they are called, and the file that tells."""
    file = next((root / name for name in _NAMES if (root / name).is_file()), None)
    if file is None:
        return None, None, None
    try:
        text = file.read_text()
        content = json.loads(text) if file.suffix == ".json" else text.splitlines()
        if isinstance(content, dict) and content.keys() == {str(label) for label in range(len(content))}:
            content = [content[str(label)] for label in range(len(content))]
        classes = [str(name).strip() for name in content if str(name).strip()]
        return classes, list(map(str, content.values())) if isinstance(content, dict) else classes, file
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: not a list of class names ({first_line(error)})") from error


def _indices(tars: Sequence[Path]) -> list[_Shard]:
    found: list[_Shard] = []
    with ProgressBar("tars", len(tars)) as bar:
        for tar in tars:
            bar.update(len(found), printable(tar.name))
            found.append(_index(tar))
    return found


def _index(tar: Path) -> _Shard:
    """What is in a tar, as it was kept, or read from it and kept."""
    try:
        state = tar.stat()
    except OSError as error:
        raise InputError(f"{tar}: cannot be read ({error.strerror})") from error
    known = f"{_VERSION} {tar.absolute()} {state.st_size} {state.st_mtime_ns}"
    name = hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    kept = user_cache_path("gvit", appauthor=False) / "tars" / f"{name}.npz"
    # whatever is there that isn't one is written anew
    with suppress(OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile), np.load(kept) as arrays:
        keys, labels = (json.loads(bytes(arrays[name])) for name in ("keys", "labels"))
        return _Shard(keys, labels, arrays["offsets"], arrays["sizes"])
    shard = _read_headers(tar)
    with suppress(OSError, InputError):  # a folder that can't be written costs time only
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept) as partial, partial.open("wb") as file:
            keys, labels = (
                np.frombuffer(json.dumps(of).encode(), np.uint8) for of in (shard.keys, shard.labels)
            )
            np.savez(file, keys=keys, labels=labels, offsets=shard.offsets, sizes=shard.sizes)
    return shard


def _read_headers(tar: Path) -> _Shard:
    """Every sample with an image.

    Raises:
        InputError: the file is no tar, is cut off or compressed, or an image has no class.
    """
    keys, labels, places = [], [], []
    try:
        with tarfile.open(tar, "r:") as file:
            for key, members in _samples(file):
                for member in _images(members):
                    keys.append(member.name)
                    labels.append(_label(file, members, tar, key))
                    places.append((member.offset_data, member.size))
            file.fileobj.seek(file.offset)
            if any(file.fileobj.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"what is at byte {file.offset} is no header")
    except InputError:
        raise
    except (
        *(tarfile.TarError, OSError, EOFError),
        # at headers that were made to harm
        *(ValueError, IndexError, OverflowError, RecursionError, MemoryError),
    ) as error:
        raise InputError(
            f"{tar}: not a whole, uncompressed tar file ({first_line(error)}); what is compressed as a whole has to "
            "be unpacked with gunzip first"
        ) from error
    offsets, sizes = np.array(places, np.int64).reshape(-1, 2).T
    if len(places) and offsets[-1] + sizes[-1] > tar.stat().st_size:
        raise InputError(f"{tar}: cut off: it ends within {keys[-1]}")
    return _Shard(keys, labels, offsets, sizes)


def _samples(file: tarfile.TarFile) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Keys, each with its members by what comes after the first dot of their names, in small letters."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in file:
        file.members = []  # type: ignore[attr-defined]  # it would remember a million of them
        # the next header would be this one or one before it; what is sparse is not at one place
        if member.size < 0 or member.issparse():
            raise tarfile.ReadError(
                f"{member.name} is {'sparse' if member.issparse() else 'of negative size'}"
            )
        if not member.isfile():
            continue
        path = PurePosixPath(member.name)
        base, _, ending = path.name.partition(".")
        if not base:  # hidden, or what a Mac's archives add
            continue
        found = str(path.with_name(base))
        if found != key:
            if members:
                yield key, members
            key, members = found, {}
        members[ending.lower()] = member
    if members:
        yield key, members


def _images(members: dict[str, tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """The image of a sample that says its class; else all that may be one."""
    plain = [member for end, member in members.items() if f".{end}" in EXTENSIONS]
    if any(name in members for name in _LABELS):
        return plain[:1]
    # a.seg.png beside a.png belongs to it; without that, the dot is one of a name
    return plain or [m for m in members.values() if PurePosixPath(m.name).suffix.lower() in EXTENSIONS]


def _label(file: tarfile.TarFile, members: dict[str, tarfile.TarInfo], tar: Path, key: str) -> int | str:
    member = next((members[name] for name in _LABELS if name in members), None)
    if member is None:
        folder = PurePosixPath(key).parent.name
        if folder:
            return folder
        raise InputError(f"{tar}: {key} has no class: no member {key}.cls or {key}.json, and no folder")
    if member.size > _LARGEST_LABEL:
        raise InputError(f"{tar}: {member.name} has no label, but {member.size:,} bytes")
    stream = file.extractfile(member)
    assert stream is not None
    text = stream.read().decode("utf-8", "replace").strip()
    try:
        if not member.name.endswith(".json"):
            return int(text) if text.isdecimal() else text
        label = json.loads(text)["label"]
        if label is None:
            raise ValueError("it is null")
        return label if isinstance(label, int) else str(label)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{tar}: {member.name} has no label ({first_line(error)})") from error
