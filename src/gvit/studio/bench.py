"""The models that the studio offers, the images that it has for each, and what a model says of Gaussians."""

from __future__ import annotations

import copy
import functools
import io
import math
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from gvit.analysis.explanation import METHODS, Method, attribute
from gvit.data.images import open_image
from gvit.data.sources import Source, digits
from gvit.encoding import PHOTOGRAPH_COUNT, PHOTOGRAPH_SIDE, ImageEncoder
from gvit.errors import InputError, unknown_name
from gvit.gaussians import Gaussians
from gvit.gaussians.storage import read_size
from gvit.losses import MOST_PSNR
from gvit.models.gvit import GViT
from gvit.models.pretrained import find_pretrained, is_pretrained_name, shipped
from gvit.models.weights import load_model
from gvit.prediction import class_names
from gvit.rendering import render
from gvit.studio.wire import MAX_GAUSSIANS, MAX_IMAGE_SIDE

_MOST_LOOKS = 48
# these ask the classifier about each Gaussian: work grows with the square of their number
_BY_REMOVAL = ("occlusion", "shap")
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")  # scikit-image's


@dataclass(frozen=True)
class Opened:
    """A file as Gaussians.

    Attributes:
        gaussians: raw [K, 9].
        size: height and width of the image, pixels.
        seen: the image as the encoder saw it, [3, h, w]; None for a file of Gaussians.
        psnr: of their picture, dB; None for a file of Gaussians.
    """

    gaussians: Gaussians
    size: tuple[int, int]
    seen: Float[Tensor, "3 h w"] | None
    psnr: float | None


class Bench:
    """One model at work.

    Args:
        name: run folder, weights file or name.
        device: where it computes.

    Raises:
        InputError: there is no such model, or it has no encoder.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        model: Any = load_model(name)
        if model.encoder is None:
            raise InputError(
                f"{name}: reads {model.reads} and has no encoder, so there is nothing to edit; "
                "models that make Gaussians of images are in 'gvit models'"
            )
        self.name = name
        self.model: GViT = model.to(device)
        self.classifies: bool = bool(model.num_classes) and not model.card.encoder_only
        # some methods hang hooks into a model: predictions go on beside them, undisturbed
        self._explained = copy.deepcopy(self.model)
        self._explaining = threading.Lock()

    @property
    def methods(self) -> dict[str, Method]:
        """The scores that mean something for it: of an encoder alone, those that ask no classifier."""
        return {
            name: method for name, method in METHODS.items() if self.classifies or not method.asks_classifier
        }

    @property
    def _own_count(self) -> int:
        return self.model.encoder.num_gaussians if self.classifies else PHOTOGRAPH_COUNT

    @property
    def most_gaussians(self) -> int:
        """That the page makes of an image."""
        return min(8 * self._own_count, MAX_GAUSSIANS)

    def most_scored(self, method: str) -> int:
        """Gaussians of which a method's scores take no more work than ``shap`` of ``most_gaussians``.

        Work is passes of the classifier times their tokens: about a minute for the digits on one core.
        """
        if method not in _BY_REMOVAL:
            return MAX_GAUSSIANS
        orders = METHODS[method].samples or 1
        return int(self.most_gaussians * math.sqrt(METHODS["shap"].samples / orders))

    def describe(self) -> dict[str, Any]:
        """What the page has to know."""
        encoder, names = self.model.encoder, class_names(self.model)
        return {
            "name": self.name,
            "classes": names if self.classifies else [],
            "any_number": encoder.any_number,
            "num_gaussians": self._own_count if encoder.any_number else encoder.num_gaussians,
            "most_gaussians": self.most_gaussians,
            "looks": getattr(encoder, "turns", None) if encoder.any_number else None,
            "most_looks": _MOST_LOOKS,
            "methods": [
                {"name": name, "about": method.about, "of_class": method.of_class}
                for name, method in self.methods.items()
            ],
            "examples": list(examples(self.classifies, names)),
        }

    @torch.inference_mode()
    def open(self, name: str, content: bytes, num_gaussians: int | None, looks: int | None) -> Opened:
        """The Gaussians of an image file, or those in a file of Gaussians.

        Args:
            name: of the file.
            content: its bytes.
            num_gaussians: see ``GViT.encode``.
            looks: see ``GViT.encode``.

        Raises:
            InputError: it is neither, is damaged or too large, or the encoder does not take these numbers.
        """
        if name.endswith(".safetensors"):
            return self._in_places(name, _read_gaussians(name, content))
        whole = not self.classifies and self.model.encoder.any_number
        if num_gaussians is None and whole:
            num_gaussians = PHOTOGRAPH_COUNT
        for what, value, most in (
            ("num_gaussians", num_gaussians, MAX_GAUSSIANS),
            ("looks", looks, _MOST_LOOKS),
        ):
            if value is not None and value > most:
                raise InputError(f"{what} must be at most {most:,}, got {value:,}")
        encoder = ImageEncoder(self.model, num_gaussians, looks, PHOTOGRAPH_SIDE if whole else None)
        image = open_image(name, content)
        if whole:  # nothing larger is drawn here
            image.thumbnail((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE), Image.Resampling.BICUBIC)
        seen = encoder.transform(image)
        (encoded,) = encoder([seen])
        height, width = encoded.picture.shape[-2:]
        return Opened(encoded.gaussians, (height, width), seen, min(encoded.psnr, MOST_PSNR))

    def _in_places(self, name: str, opened: Opened) -> Opened:
        """The same without slots, which the page does not know: what was removed is there and not drawn.

        That is how the classifier reads it, in Python as well.
        """
        slots = opened.gaussians.slots
        if slots is None or not self.classifies:
            return opened
        count = max(opened.gaussians.nominal_count, int(slots.max()) + 1)
        if count > MAX_GAUSSIANS:
            raise InputError(
                f"{name}: holds some of {count:,} Gaussians; there must be at most {MAX_GAUSSIANS:,}"
            )
        try:
            return replace(opened, gaussians=self.model.tokens.in_slots(opened.gaussians))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None

    @torch.inference_mode()
    def draw(self, gaussians: Gaussians, height: int, width: int) -> Float[Tensor, "3 h w"]:
        """As the renderer draws them, in [0, 1]."""
        device = next(self.model.parameters()).device
        return render(gaussians.to(device), height, width).clamp(0, 1).cpu()

    @torch.inference_mode()
    def classify(self, gaussians: Gaussians) -> Float[Tensor, " classes"] | None:
        """Logits; None of an encoder alone."""
        if not self.classifies:
            return None
        device = next(self.model.parameters()).device
        return self.model.classify(gaussians[None].to(device))[0].float().cpu()

    def score(self, gaussians: Gaussians, method: str, target: int | None) -> Float[Tensor, " k"]:
        """One number for each Gaussian; see ``gvit.analysis.explanation.attribute``.

        Args:
            gaussians: raw [K, 9].
            method: one of ``methods``.
            target: class index; None for the predicted one.

        Raises:
            InputError: no such method or class, or more Gaussians than ``most_scored``.
        """
        if method not in self.methods:
            raise unknown_name("method", method, self.methods)
        count, most = len(gaussians), self.most_scored(method)
        if count > most:
            raise InputError(
                f"{method} of {count:,} Gaussians takes too long: here, it scores at most {most:,}; "
                "cdam and ixg score any number"
            )
        device = next(self.model.parameters()).device
        with self._explaining:
            scores = attribute(self._explained, gaussians[None].to(device), method, target)
        return scores[0].float().cpu()


class Benches:
    """Models by name, each loaded when it is first asked for.

    Args:
        name: the one that the page begins with.
        device: where they compute.

    Raises:
        InputError: see ``Bench``.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        first = Bench(name, device)
        entry = find_pretrained(name) if is_pretrained_name(name) else None
        if entry is not None:  # called as in the list of those that are shipped
            first.name = entry.name
        self.device = device
        self._loaded = {first.name: first}
        others = [entry.name for entry in shipped().values() if entry.installed]
        self.names: list[str] = list(dict.fromkeys((first.name, *others)))
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Bench:
        if name not in self.names:  # before anything is read from a disk
            raise unknown_name("model", name, self.names)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = Bench(name, self.device)
            return self._loaded[name]


def examples(classifies: bool, names: list[str]) -> Mapping[str, Path | int]:
    """Images that come with gvit's own dependencies: files, or rows of the digits' test set, by what they are called.

    Args:
        classifies: whether the model has classes.
        names: of those.
    """
    if classifies and names == [str(digit) for digit in range(10)]:
        labels = _digits().labels
        return {f"digit {digit}.png": labels.index(digit) for digit in range(10)}
    from skimage.data import data_dir

    files = (Path(data_dir) / name for name in _PHOTOGRAPHS)
    return {file.name: file for file in files if file.is_file()}


@functools.cache
def _digits() -> Source:
    return digits.source("test")


def example(bench: Bench, name: str) -> bytes:
    """An example as a PNG file.

    Raises:
        KeyError: there is none of this name.
    """
    place = examples(bench.classifies, class_names(bench.model))[name]
    image = _digits().load(place) if isinstance(place, int) else open_image(place)
    assert isinstance(image, Image.Image)
    content = io.BytesIO()
    image.save(content, format="png")
    return content.getvalue()


def _read_gaussians(name: str, content: bytes) -> Opened:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "opened.safetensors"
        file.write_bytes(content)
        try:
            gaussians, size = Gaussians.load(file).to(torch.float32), read_size(file)
        except InputError as error:
            raise InputError(str(error).replace(str(file), name)) from None
    if gaussians.raw.ndim != 2:
        raise InputError(f"{name}: must hold the Gaussians of one image, raw [K, 9]")
    if not 1 <= len(gaussians) <= MAX_GAUSSIANS or not gaussians.raw.isfinite().all():
        raise InputError(f"{name}: must hold 1 to {MAX_GAUSSIANS:,} Gaussians of finite numbers")
    aspect = gaussians.aspect
    fallback = (max(1, round(512 * min(1.0, aspect))), max(1, round(512 * min(1.0, 1 / aspect))))
    found = size if size is not None and 1 <= min(size) <= max(size) <= MAX_IMAGE_SIDE else fallback
    return Opened(gaussians, found, None, None)
