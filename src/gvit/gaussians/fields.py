"""Names and columns of the nine raw numbers."""

from torch import Tensor, stack

FIELDS = ("x", "y", "s1", "s2", "angle", "r", "g", "b", "opacity")
NUM_FIELDS = len(FIELDS)
CENTER, SCALE, ANGLE, COLOR, OPACITY = slice(0, 2), slice(2, 4), 4, slice(5, 8), 8
# the raw columns of each bounded property
COLUMNS = {
    "centers": CENTER,
    "scales": SCALE,
    "angles": slice(ANGLE, ANGLE + 1),
    "colors": COLOR,
    "opacities": slice(OPACITY, OPACITY + 1),
}

# A Gaussian of lower opacity draws nothing: the renderer skips every alpha below this.
VISIBLE_OPACITY = 1 / 255


def pair(first: int | float, second: int | float, like: Tensor) -> Tensor:
    """[2], in dtype and on the device of ``like``; made there, since a GPU would have to wait for a copy."""
    return stack((like.new_full((), first), like.new_full((), second)))
