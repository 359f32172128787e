"""Encoding and classifying as functions of batches, for engines that bring the images and the machines.

``EncodeBatches`` and ``PredictBatches`` are given to Ray Data's ``map_batches`` as they are, and their ``pandas`` to
Spark's ``mapInPandas``; docs/at_scale.md has both, complete. An object holds a name and a few numbers, so that it is
cheap to send; the model is loaded once in each process that works.

A batch holds images in one of these columns:

======================  ======================================================================================
``bytes``, ``content``  encoded image files, as Ray's ``read_binary_files`` and Spark's ``binaryFile`` give them
``image``               the same within ``{"bytes": ..., "path": ...}``, as Parquet in the Hugging Face convention
``path``                where the files are, for the workers to read
``name``, ``path``      what images are called, the first of them that there is
======================  ======================================================================================

Where bytes are null and there is a path, the file is read there.

An image that can't be read, or is null, doesn't cost the others: its row tells what is wrong in ``error``, which is
empty in all others, its numbers are NaN, its height and width 0 (all of them null, in Spark).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gvit.data.images import open_image
from gvit.data.transforms import eval_transform
from gvit.encoding import EncodedRow, ImageEncoder
from gvit.errors import InputError
from gvit.gaussians import NUM_FIELDS
from gvit.models.base import ImageClassifier
from gvit.models.pretrained import locate
from gvit.models.weights import load_model
from gvit.prediction import check_classifies, predict

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Any]
_AT_ONCE = 64  # images through a model


@lru_cache(maxsize=2)
def _load(place: str, device: str, written: int) -> ImageClassifier:
    """The model of a place; ``written`` tells weights from those that took their place since."""
    return load_model(place).to(device)


class _Batches:
    """What both have in common: images out of columns, results into columns.

    Args:
        model: run folder, weights file or name.
        device: of the workers.
        keep: columns that are handed through, labels for example.
    """

    def __init__(self, model: str, device: str, keep: Sequence[str]) -> None:
        self.model = model
        self.device = device
        self.keep: tuple[str, ...] = tuple(keep)
        taken = {"error", *self._results} & set(self.keep)
        if taken:
            raise InputError(f"the column {min(taken)!r} cannot be kept: a result has this name")
        self._written: int = locate(model).stat().st_mtime_ns

    @property
    def _loaded(self) -> Any:
        return _load(self.model, self.device, self._written)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> Columns:
        """The columns of the results; see the class."""
        missing = [name for name in self.keep if name not in batch]
        if missing:
            raise InputError(f"no column {missing[0]!r} to keep; there are {', '.join(map(repr, batch))}")
        images = _images_of(batch)
        answers: list[Any] = []
        for first in range(0, len(images), _AT_ONCE):
            answers += self._answer([_open(i, self._prepare) for i in images[first : first + _AT_ONCE]])
        errors = [str(answer) if isinstance(answer, InputError) else "" for answer in answers]
        names = [image.name for image in images]
        kept = {name: np.asarray(batch[name]) for name in self.keep}
        return kept | {"name": _texts(names)} | self._columns(answers) | {"error": _texts(errors)}

    def pandas(self, frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        """The same for data frames, as Spark's ``mapInPandas`` wants it, with ``schema``; missing values are null."""
        import pandas as pd

        for frame in frames:
            columns = self({name: frame[name].tolist() for name in frame.columns})
            failed = columns["error"] != ""
            rows = {name: list(values) for name, values in columns.items()}
            for name in self._results:
                rows[name] = [
                    None if bad else np.ravel(value) if isinstance(value, np.ndarray) else value
                    for value, bad in zip(rows[name], failed, strict=True)
                ]
            yield pd.DataFrame(rows, dtype=object)

    @property
    def schema(self) -> str:
        """The types of the columns in Spark's words, but for those that ``keep`` hands through."""
        results = ", ".join(f"{name} {kind}" for name, kind in self._results.items())
        return f"name string, {results}, error string"

    _results: Mapping[str, str]

    def _prepare(self, image: Any) -> Tensor:
        raise NotImplementedError

    def _answer(self, images: list[Tensor | InputError]) -> list[Any]:
        raise NotImplementedError

    def _columns(self, answers: list[Any]) -> Columns:
        raise NotImplementedError


class EncodeBatches(_Batches):
    """Images to Gaussians.

    Columns of the results: ``name``; ``raw`` [K, 9], the nine raw numbers (in Spark an array of K * 9);
    ``scale_factor``, ``nominal_count`` and ``aspect``, which ``gvit.Gaussians`` wants beside them; ``height``,
    ``width``, ``psnr`` as in ``gvit.gaussians.shards``; ``error``.

    Args:
        model: run folder, weights file or name; a path that the workers see, too.
        num_gaussians: see ``gvit.encoding.ImageEncoder``.
        looks: see there.
        max_side: see there; None for squares as in the model's evaluation.
        device: of the workers.
        keep: columns that are handed through, labels for example.

    Raises:
        InputError: there is no such model, it has no encoder, or it does not take these numbers.
    """

    _results: Mapping[str, str] = {
        "raw": "array<float>",
        "scale_factor": "double",
        "nominal_count": "int",
        "aspect": "double",
        "height": "int",
        "width": "int",
        "psnr": "double",
    }

    def __init__(
        self,
        model: str = "gvit_tiny.photos",
        num_gaussians: int | None = None,
        looks: int | None = None,
        max_side: int | None = None,
        device: str = "cpu",
        keep: Sequence[str] = (),
    ) -> None:
        super().__init__(model, device, keep)
        self.settings: tuple[int | None, int | None, int | None] = (num_gaussians, looks, max_side)
        _ = self._encoder  # what is wrong shows before anything is sent anywhere

    @property
    def _encoder(self) -> ImageEncoder:
        model = self._loaded
        if model.encoder is None:
            raise InputError(f"{self.model}: the model has no encoder")
        return ImageEncoder(model, *self.settings)

    def _prepare(self, image: Any) -> Tensor:
        return self._encoder.compact_transform(image)

    def _answer(self, images: list[Tensor | InputError]) -> list[EncodedRow | InputError]:
        return self._encoder.rows(images)

    def _columns(self, answers: list[Any]) -> Columns:
        none = self._encoder.no_gaussians
        raw = np.full((len(answers), len(none), NUM_FIELDS), np.nan, np.float32)
        numbers = np.full((len(answers), 2), np.nan)
        sizes = np.zeros((len(answers), 2), np.int32)
        for row, answer in enumerate(answers):
            if isinstance(answer, EncodedRow):
                raw[row] = answer.gaussians.raw.numpy()
                numbers[row] = answer.gaussians.aspect, answer.psnr
                sizes[row] = answer.size
        return {
            "raw": raw,
            "scale_factor": np.full(len(answers), none.scale_factor, np.float64),
            "nominal_count": np.full(len(answers), none.nominal_count, np.int32),
            "aspect": numbers[:, 0],
            "height": sizes[:, 0],
            "width": sizes[:, 1],
            "psnr": numbers[:, 1],
        }


class PredictBatches(_Batches):
    """Images to their most probable class.

    Columns of the results: ``name``; ``class_name``; ``probability``; ``error``.

    Args:
        model: run folder, weights file or name; a path that the workers see, too.
        device: of the workers.
        keep: columns that are handed through, labels for example.

    Raises:
        InputError: there is no such model, or it classifies no images.
    """

    _results: Mapping[str, str] = {"class_name": "string", "probability": "double"}

    def __init__(self, model: str, device: str = "cpu", keep: Sequence[str] = ()) -> None:
        super().__init__(model, device, keep)
        loaded = self._loaded
        check_classifies(loaded)
        if loaded.reads != "images":
            raise InputError(f"{model}: reads Gaussians, not images")

    def _prepare(self, image: Any) -> Tensor:
        return eval_transform(self._loaded.card.preprocessing)(image)

    def _answer(self, images: list[Tensor | InputError]) -> list[Any]:
        readable = [image for image in images if isinstance(image, Tensor)]
        guesses = iter(predict(self._loaded, torch.stack(readable), 1) if readable else ())
        return [next(guesses)[0] if isinstance(image, Tensor) else image for image in images]

    def _columns(self, answers: list[Any]) -> Columns:
        good = [None if isinstance(answer, InputError) else answer for answer in answers]
        return {
            "class_name": _texts(["" if guess is None else guess.class_name for guess in good]),
            "probability": np.array(
                [np.nan if guess is None else guess.probability for guess in good], np.float64
            ),
        }


class _Image(NamedTuple):
    """What an image is called, and its encoded file, or where that is; neither where it is null."""

    name: str
    content: bytes | None
    path: str | None


def _images_of(batch: Mapping[str, Sequence[Any]]) -> list[_Image]:
    paths = list(map(_text, batch["path"])) if "path" in batch else None
    for column in ("bytes", "content"):
        if column in batch:
            contents = list(map(_bytes, batch[column]))
            return _called(batch, contents, paths or [None] * len(contents))
    if "image" in batch:
        images = [image if isinstance(image, Mapping) else {} for image in batch["image"]]
        contents = [_bytes(image.get("bytes")) for image in images]
        return _called(batch, contents, [_text(image.get("path")) for image in images])
    if paths is not None:
        return _called(batch, [None] * len(paths), paths)
    raise InputError(
        f"no images in the columns {', '.join(batch)}: there must be bytes, content, image or path"
    )


def _called(
    batch: Mapping[str, Sequence[Any]], contents: Sequence[bytes | None], paths: Sequence[str | None]
) -> list[_Image]:
    """The images with their names: of a column, else their paths, else their rows."""
    column = next((batch[name] for name in ("name", "path") if name in batch), paths)
    rows = enumerate(zip(column, contents, paths, strict=True))
    return [_Image(_text(name) or f"image {row}", content, path) for row, (name, content, path) in rows]


def _bytes(content: Any) -> bytes | None:
    """None for what is null, which pandas may have made a NaN."""
    return None if content is None or isinstance(content, float) else bytes(content)


def _text(value: Any) -> str | None:
    return None if value is None or isinstance(value, float) else str(value)


def _texts(values: Sequence[str]) -> np.ndarray:
    return np.array(values, str)  # also where there are none


def _open(image: _Image, prepare: Any) -> Tensor | InputError:
    try:
        if image.content is not None:
            return prepare(open_image(image.name, image.content))
        if image.path is not None:
            return prepare(open_image(image.path))
        raise InputError(f"{image.name}: null, neither bytes nor a path")
    except InputError as error:
        return error
