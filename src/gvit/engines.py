"""Encoding and classifying as functions of batches, for engines that bring the images and the machines.

``EncodeBatches`` and ``PredictBatches`` are given to Ray Data's ``map_batches`` as they are, and their ``pandas`` to
Spark's ``mapInPandas``; docs/at_scale.md has both, complete. An object holds a name and a few numbers, so that it is
cheap to send; the model is loaded once in each process that works.

A batch holds images in one of these columns:

======================  ======================================================================================
``bytes``, ``content``  encoded image files, as Ray's ``read_binary_files`` and Spark's ``binaryFile`` give them
``image``               the same within ``{"bytes": ..., "path": ...}``, as Parquet in the Hugging Face convention
``path``                where the files are, for the workers to read; else, and as ``name``, what images are called
======================  ======================================================================================

An image that can't be read doesn't cost the others: its row tells what is wrong in ``error``, which is empty in all
others, and its numbers are NaN (or null, in Spark).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gvit.data.images import open_image
from gvit.data.transforms import eval_transform
from gvit.encoding import EncodedImage, ImageEncoder
from gvit.errors import InputError
from gvit.gaussians import NUM_FIELDS
from gvit.models.base import ImageClassifier
from gvit.models.weights import load_model
from gvit.prediction import check_classifies, predict

if TYPE_CHECKING:
    import pandas as pd

Columns = dict[str, Any]
_AT_ONCE = 64  # images through a model


@lru_cache(maxsize=2)
def _load(place: str, device: str) -> ImageClassifier:
    return load_model(place).to(device)


class _Batches:
    """What both have in common: images out of columns, results into columns.

    Args:
        keep: columns that are handed through, labels for example.
    """

    def __init__(self, keep: Sequence[str]) -> None:
        self.keep: tuple[str, ...] = tuple(keep)

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> Columns:
        """The columns of the results; see the class."""
        names, contents = _images_of(batch)
        answers: list[Any] = []
        for first in range(0, len(names), _AT_ONCE):
            rows = range(first, min(first + _AT_ONCE, len(names)))
            answers += self._answer([_open(names[row], contents[row], self._prepare) for row in rows])
        errors = [str(answer) if isinstance(answer, InputError) else "" for answer in answers]
        kept = {name: np.asarray(batch[name]) for name in self.keep}
        return kept | {"name": np.array(names)} | self._columns(answers) | {"error": np.array(errors)}

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

    Columns of the results: ``name``; ``raw`` [K, 9], the nine raw numbers (in Spark an array of K * 9); ``aspect``,
    ``height``, ``width``, ``psnr`` as in ``gvit.gaussians.shards``; ``error``.

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
        super().__init__(keep)
        self.model = model
        self.device = device
        self.settings: tuple[int | None, int | None, int | None] = (num_gaussians, looks, max_side)
        _ = self._encoder  # what is wrong shows before anything is sent anywhere

    @property
    def _encoder(self) -> ImageEncoder:
        model: Any = _load(self.model, self.device)
        if model.encoder is None:
            raise InputError(f"{self.model}: the model has no encoder")
        return ImageEncoder(model, *self.settings)

    def _prepare(self, image: Any) -> Tensor:
        return self._encoder.transform(image)

    def _answer(self, images: list[Tensor | InputError]) -> list[EncodedImage | InputError]:
        encoded = iter(self._encoder([image for image in images if isinstance(image, Tensor)]))
        return [next(encoded) if isinstance(image, Tensor) else image for image in images]

    def _columns(self, answers: list[Any]) -> Columns:
        encoder = self._encoder
        count = encoder.num_gaussians or encoder.model.encoder.num_gaussians
        raw = np.full((len(answers), count, NUM_FIELDS), np.nan, np.float32)
        numbers = np.full((len(answers), 2), np.nan)
        sizes = np.zeros((len(answers), 2), np.int32)
        for row, answer in enumerate(answers):
            if isinstance(answer, EncodedImage):
                raw[row] = answer.gaussians.raw.numpy()
                numbers[row] = answer.gaussians.aspect, answer.psnr
                sizes[row] = answer.picture.shape[-2:]
        return {
            "raw": raw,
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
        super().__init__(keep)
        self.model = model
        self.device = device
        loaded = _load(model, device)
        check_classifies(loaded)
        if loaded.reads != "images":
            raise InputError(f"{model}: reads Gaussians, not images")

    def _prepare(self, image: Any) -> Tensor:
        return eval_transform(_load(self.model, self.device).card.preprocessing)(image)

    def _answer(self, images: list[Tensor | InputError]) -> list[Any]:
        readable = [image for image in images if isinstance(image, Tensor)]
        guesses = iter(predict(_load(self.model, self.device), torch.stack(readable), 1) if readable else ())
        return [next(guesses)[0] if isinstance(image, Tensor) else image for image in images]

    def _columns(self, answers: list[Any]) -> Columns:
        good = [None if isinstance(answer, InputError) else answer for answer in answers]
        return {
            "class_name": np.array(["" if guess is None else guess.class_name for guess in good]),
            "probability": np.array([np.nan if guess is None else guess.probability for guess in good]),
        }


def _images_of(batch: Mapping[str, Sequence[Any]]) -> tuple[list[str], list[bytes | None]]:
    """What images are called, and their encoded files; None for those to be read from there."""
    names = next((list(map(str, batch[name])) for name in ("name", "path") if name in batch), None)
    for column in ("bytes", "content"):
        if column in batch:
            contents: list[bytes | None] = [bytes(content) for content in batch[column]]
            return names or [f"image {row}" for row in range(len(contents))], contents
    if "image" in batch:
        images = list(batch["image"])
        called = [str(image.get("path") or f"image {row}") for row, image in enumerate(images)]
        return names or called, [bytes(image["bytes"]) for image in images]
    if names is not None and "path" in batch:
        return list(map(str, batch["path"])), [None] * len(names)
    raise InputError(
        f"no images in the columns {', '.join(batch)}: there must be bytes, content, image or path"
    )


def _open(name: str, content: bytes | None, prepare: Any) -> Tensor | InputError:
    try:
        return prepare(open_image(name, content))
    except InputError as error:
        return error
