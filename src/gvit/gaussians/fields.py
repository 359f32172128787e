"""Names and columns of the nine raw numbers."""

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
