"""What the commands that make files of Gaussians have in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvit.errors import InputError, printable

if TYPE_CHECKING:
    from gvit.gaussians.storage import Origin
    from gvit.models.gvit import GViT
    from gvit.targets import Target


def left_to_do(
    targets: Sequence[Target], num_gaussians: int, origin: Origin | None = None, bits: int | None = None
) -> list[Target]:
    """Those without results; of the others a line tells that they are skipped.

    Raises:
        InputError: results of another number of Gaussians or bits, or of another origin are there, or damaged ones.
    """
    from gvit.targets import is_done

    waiting = []
    for target in targets:
        if is_done(target, num_gaussians, origin, bits):
            line = f"{target.source}  skipped: {target.gaussians_file} is there, --overwrite makes it again"
            print(printable(line))
        else:
            waiting.append(target)
    return waiting


def load_encoder(place: str, flag: str, any_number: bool = True, otherwise: str = "") -> GViT:
    """A model that draws any number of Gaussians of any image.

    Args:
        place: run folder, weights file or name.
        flag: what the user gave it to.
        any_number: one that draws its own number of images of its own size is refused.
        otherwise: how the command takes that one, too.

    Raises:
        InputError: there is none, or it draws one number only, or none at all.
    """
    from gvit.models.weights import load_model

    model: Any = load_model(place)
    right = "one that draws any number of any image comes of 'gvit train'"
    if model.encoder is None:
        found = "the model has no encoder"
    elif any_number and not model.encoder.any_number:
        side = model.encoder.image_side
        found = f"its encoder draws {model.encoder.num_gaussians} Gaussians of {side}x{side} pixels only"
        right += otherwise
    else:
        return model
    raise InputError(f"{flag} {place}: {found}; {right}")


def photograph() -> Path:
    """The one that comes with scikit-image: an astronaut, 512 x 512."""
    from skimage.data import data_dir

    return Path(data_dir) / "astronaut.png"
