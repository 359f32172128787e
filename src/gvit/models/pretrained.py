"""Pretrained weights by name: in the package, or on the Hugging Face Hub.

``MODEL.TAG`` as in timm: the architecture, and what its weights were trained on. ``TAG`` alone is that of
``gvit_tiny``, ``MODEL`` alone has its general encoder (``MODEL.photos``), and ``MODEL.TAG@SHA256`` (eight digits of it
or more) is that file or an error. ``hf-hub:OWNER/NAME`` or ``hf-hub:OWNER/NAME@REVISION`` is a repository on the Hub
that holds a ``model.safetensors``.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gvit.errors import InputError, first_line, unknown_name, wording

WEIGHTS_NAME = "model.safetensors"
FOLDER = Path(__file__).parents[1] / "pretrained"
INDEX_NAME = "index.json"
DEFAULT_MODEL, GENERAL_TAG = "gvit_tiny", "photos"
START_TAG = "cifar10"  # what other photographs are learned from
_HUB = re.compile(r"hf[-_]hub:", re.IGNORECASE)
_PINNED = re.compile(r"([\w-]+\.[\w-]+)@([0-9a-fA-F]{8,64})")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_PIN = 12  # digits of the checksum that a run writes down


@dataclass(frozen=True)
class Pretrained:
    """Weights that have a name.

    Attributes:
        name: ``MODEL.TAG``.
        about: what they are, in a line.
        file: its name, in the package or in the repository on the Hub.
        sha256: checksum of the file, 64 hexadecimal digits.
        bytes: size of the file.
        hub: ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` on the Hub, for a file that is not installed with gvit.
    """

    name: str
    about: str
    file: str
    sha256: str
    bytes: int
    hub: str | None = None

    @property
    def model(self) -> str:
        """The name without its tag."""
        return self.name.partition(".")[0]

    @property
    def pinned(self) -> str:
        """The name of this very file, which no later gvit can exchange unnoticed."""
        return f"{self.name}@{self.sha256[:_PIN]}"

    @property
    def installed(self) -> bool:
        """Whether it came with gvit."""
        return (FOLDER / self.file).is_file()

    def path(self) -> Path:
        """The file, its checksum verified; downloaded where it is neither installed nor in the Hub's cache.

        Raises:
            InputError: it is damaged, is another one, or can't be had.
        """
        file = FOLDER / self.file
        if not self.installed:
            if self.hub is None:
                raise InputError(
                    f"{self.name}: {self.file} is missing in this installation; install gvit again"
                )
            file = download(self.hub, self.file)
        found = _checksum(file)
        if found != self.sha256 and not self.installed and self.hub is not None:
            file = download(self.hub, self.file, force_download=True)  # what lies in the cache may be damaged
            found = _checksum(file)
        if found != self.sha256:
            again = "install gvit again" if self.hub is None else "the Hub has another file by now"
            raise InputError(
                f"{self.name}: {file} is damaged or has been exchanged (its SHA-256 begins with {found[:_PIN]}, not "
                f"{self.sha256[:_PIN]}); {again}"
            )
        return file


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def shipped() -> dict[str, Pretrained]:
    """All that have a name, by it."""
    return _read(FOLDER / INDEX_NAME)


@functools.cache
def _read(index: Path) -> dict[str, Pretrained]:
    try:
        return {name: Pretrained(name, **entry) for name, entry in json.loads(index.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: damaged ({first_line(error)}); install gvit again") from error


def list_pretrained(pattern: str = "*") -> list[str]:
    """Names that match a shell-style pattern, with their tag or without it."""
    return sorted(
        name for name, entry in shipped().items() if fnmatch(name, pattern) or fnmatch(entry.model, pattern)
    )


def general_start(model: str | None) -> Pretrained | None:
    """What comes with gvit for a named model to begin with on photographs of any classes; None where there is none.

    Raises:
        InputError: it should be installed, and its file is missing or damaged.
    """
    entry = shipped().get(f"{model}.{START_TAG}")
    if entry is None or (entry.hub is not None and not entry.installed):  # nothing is downloaded unasked
        return None
    entry.path()
    return entry


def is_on_hub(name: str) -> bool:
    """Whether a name is one of a repository on the Hub."""
    return _HUB.match(name) is not None


def on_hub(name: str) -> str:
    """The repository that a name on the Hub is of, without what marks it as one."""
    return _HUB.sub("", name, count=1)


def is_repository(name: str) -> bool:
    """Whether a name has the form ``OWNER/NAME``."""
    return _REPOSITORY.fullmatch(name) is not None


def find_pretrained(name: str) -> Pretrained | None:
    """What is known under a name, in each of its forms; None for nothing.

    Raises:
        InputError: the name has a checksum, and is another file's now.
    """
    known, pinned = shipped(), _PINNED.fullmatch(name)
    if pinned is None:
        base, at, _ = name.partition("@")
        if at and base in known:
            raise InputError(
                f"{name}: after @ stand 8 to 64 hexadecimal digits of the file's SHA-256, as in {known[base].pinned}"
            )
        forms = (name, f"{DEFAULT_MODEL}.{name}", f"{name}.{GENERAL_TAG}")
        return next((known[form] for form in forms if form in known), None)
    entry = known.get(pinned[1])
    if entry is None or not entry.sha256.startswith(pinned[2].lower()):
        today = "has no such weights any more" if entry is None else f"has {entry.pinned} instead"
        raise InputError(f"{name}: this version of gvit {today}")
    return entry


def is_pretrained_name(name: str) -> bool:
    """Whether a name, rather than a path, is meant: no run or weights file of this name lies here."""
    if _PINNED.fullmatch(name) or is_on_hub(name):
        return True
    return not holds_weights(Path(name)) and find_pretrained(name) is not None


def holds_weights(path: Path) -> bool:
    """Whether a path is a file, or the folder of a run that has weights."""
    return (path / WEIGHTS_NAME if path.is_dir() else path).is_file()


def weights_checksum(place: str | Path) -> str:
    """SHA-256 of the file that ``locate`` finds, 64 hexadecimal digits.

    Raises:
        InputError: as ``locate``.
    """
    return _checksum(locate(place))


def locate(place: str | Path) -> Path:
    """The weights file of a run folder, a path or a name.

    A run or file wins over a name that is written alike, but for one with a checksum.

    Raises:
        InputError: there is none, or it is damaged or can't be had.
    """
    path, name = Path(place), place if isinstance(place, str) else place.as_posix()
    if is_on_hub(name):
        return download(on_hub(name), WEIGHTS_NAME)
    if not _PINNED.fullmatch(name) and holds_weights(path):
        return path / WEIGHTS_NAME if path.is_dir() else path
    entry = find_pretrained(name)
    if entry is not None:
        return entry.path()
    missing = f"{place}: no run here ({WEIGHTS_NAME} not found)"
    names = {form for known in shipped() for form in (known, known.removeprefix(f"{DEFAULT_MODEL}."))}
    # a misspelt name may have been made an absolute path on its way here
    if path.exists() or not (
        path.name == name or (path.parent == Path.cwd() and difflib.get_close_matches(path.name, names))
    ):
        makes = wording("gvit.training.train.train", "'gvit train'")
        raise InputError(f"{missing}; {makes} makes one")
    raise InputError(f"{missing}, and {unknown_name('pretrained model', path.name, names).args[0]}")


def network_errors() -> tuple[type[Exception], ...]:
    """What the Hub's calls raise where it can't be reached: bases are those of the HTTP library, whichever it uses."""
    from huggingface_hub import errors

    bases: tuple[Any, ...] = errors.HfHubHTTPError.__bases__
    return OSError, *bases


def download(repository: str, file: str, **options: Any) -> Path:
    """A file of ``OWNER/NAME`` or ``OWNER/NAME@REVISION``, by way of the Hub's cache.

    ``options`` are those of ``huggingface_hub.hf_hub_download``.

    Raises:
        InputError: the repository or the file is not there, may not be read, or can't be reached.
    """
    import huggingface_hub
    from huggingface_hub import errors

    # the network in all its ways, a full disk; what is to be downloaded again and can't be is a ValueError
    failures: tuple[type[Exception], ...] = (*network_errors(), ValueError)
    name, _, revision = repository.partition("@")
    shown = f"hf-hub:{repository}"
    if not is_repository(name):
        raise InputError(f"{shown}: names on the Hub are OWNER/NAME or OWNER/NAME@REVISION")
    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision or None, **options))
    except errors.HFValidationError as error:
        raise InputError(f"{shown}: names on the Hub are OWNER/NAME ({first_line(error)})") from error
    except errors.GatedRepoError as error:
        raise InputError(
            f"{shown}: its terms have to be accepted on the Hub, and 'hf auth login' run"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{shown}: no such repository on the Hub, or not yours ('hf auth login')") from error
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{shown}: the repository has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{shown}: {file} is not in the cache, and the Hub can't be reached or is switched off (HF_HUB_OFFLINE)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise InputError(f"{shown}: has no {file}, so it is no model of gvit") from error
    except failures as error:
        raise InputError(f"{shown}: cannot be downloaded ({first_line(error)})") from error
