"""The representation: nine raw, unbounded numbers per Gaussian, and the one place where they get a meaning.

Raw numbers, in this order: ``x, y, s1, s2, angle, r, g, b, opacity`` (GViT paper, Section 2.1, with the bound on
the scales of Section 2.2). Bounded values:

=======  ==============================  ===========================================================================
field    bounded value                   unit
=======  ==============================  ===========================================================================
centre   ``tanh(raw) * extent``          canvas: the longer image side spans [-1, 1]; x points right, y down
scale    ``c * sigmoid(raw) * spacing``  standard deviation in canvas units; ``spacing = 2 sqrt(ex * ey / K0)`` is
                                         the distance between K0 Gaussians laid out evenly
angle    raw                             radians, from +x towards +y, of the first axis; has period pi
colour   ``sigmoid(raw)``                [0, 1], linear in the image's own values (no gamma)
opacity  ``sigmoid(raw)``                (0, 1)
=======  ==============================  ===========================================================================
"""

from gvit.gaussians.affine import transform_gaussians
from gvit.gaussians.batch import Gaussians
from gvit.gaussians.canonical import canonical_features, num_canonical_features, visibility
from gvit.gaussians.fields import FIELDS, NUM_FIELDS, VISIBLE_OPACITY
from gvit.gaussians.shapes import build_covariances

__all__ = [
    "FIELDS",
    "NUM_FIELDS",
    "VISIBLE_OPACITY",
    "Gaussians",
    "build_covariances",
    "canonical_features",
    "num_canonical_features",
    "transform_gaussians",
    "visibility",
]
