"""Writing files whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from gvit.errors import InputError

_LONGEST = 255  # bytes that file systems let a name have
# of a file that is being written, what it is to become; an older gvit's had no number
_PARTIAL = re.compile(r"(.+?)(?:\.(\d+)-[0-9a-f]{8})?\.partial")
# what was written within ``together``, and the places it is to take
_waiting: ContextVar[list[tuple[Path, Path]] | None] = ContextVar("waiting", default=None)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; what was written takes the place of ``path`` when the block ends.

    Whatever ends the process or the machine meanwhile, ``path`` is what it was or what it was to become, whole. Where
    the block raises, ``path`` stays as it was and nothing is left beside it.

    Raises:
        InputError: the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        yield partial
        _to_disk(partial)
        waiting = _waiting.get()
        if waiting is None:
            _put(partial, path)
        else:
            waiting.append((partial, path))
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        cause = _of_the_system(error)
        if cause is not None:
            raise InputError(f"{path}: cannot be written ({cause.strerror or cause})") from error
        raise


@contextmanager
def together(mark: Path) -> Iterator[None]:
    """Files that ``replacing`` writes within the block take their places when it ends, in the order of writing.

    Where the block raises, a full disk included, all of them stay as they were. Where one cannot take its place in the
    end, only the mark is missing for sure.

    Args:
        mark: the file that is written last, whose presence says that the others are there, too; what was there before
            is removed before the first one is replaced.

    Raises:
        OSError: what was written cannot take its place.
    """
    waiting: list[tuple[Path, Path]] = []
    outer = _waiting.set(waiting)
    try:
        yield
        mark.unlink(missing_ok=True)
        for partial, path in waiting:
            _put(partial, path)
    finally:
        _waiting.reset(outer)
        for partial, _ in waiting:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _put(partial: Path, path: Path) -> None:
    os.replace(partial, path)
    with suppress(OSError):  # a file system may not have it
        _to_disk(path.parent)  # or the name could still be the old file's after a power failure


def real_path(path: str | Path) -> Path:
    """Without links; a loop of links, at which ``Path.resolve`` raises, stays one."""
    return Path(os.path.realpath(path))


def remove_partials(folder: Path, ours: Callable[[str], object]) -> None:
    """Remove what processes that were killed while they wrote files have left in a folder.

    Args:
        folder: need not be there.
        ours: whether what was to be a file of this name may be removed.
    """
    with suppress(OSError):
        for file in folder.iterdir():
            found = _PARTIAL.fullmatch(file.name)
            if found and ours(found[1]) and not _is_written(found[2]):
                with suppress(OSError):
                    file.unlink(missing_ok=True)


def _is_written(process: str | None) -> bool:
    """Whether another process of this machine has a number, and so may be writing still."""
    if process is None or int(process) == os.getpid() or os.name == "nt":
        return False
    try:
        with suppress(PermissionError):  # it is somebody else's
            os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _partial(path: Path) -> Path:
    """Of a name that no other process or thread writes to, or one would rename what another has half written."""
    name, ending = path.name, f".{os.getpid()}-{secrets.token_hex(4)}.partial"
    while len(os.fsencode(name + ending)) > _LONGEST:
        name = name[:-1]
    return path.with_name(name + ending)


def _to_disk(path: Path) -> None:
    """Wait until what was written is on the disk; a folder's is the names in it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    number = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _of_the_system(error: BaseException | None) -> OSError | None:
    """The operating system's error behind PyTorch's, which says of a full disk that a position was not expected."""
    while isinstance(error, RuntimeError):
        error = error.__context__
    return error if isinstance(error, OSError) else None


def write_text(path: str | Path, text: str) -> None:
    """Replace a text file in one go, in UTF-8 wherever it is; see ``replacing``."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def utf8_name(name: str) -> str:
    """A file's name, whatever its bytes, as text that every format can hold."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_writable(folder: Path) -> None:
    """Find out beforehand whether files could be written into a folder that may not be there yet.

    Raises:
        InputError: they could not.
    """
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(f"{folder}: cannot write results here ({nearest} is no folder that can be written)")
