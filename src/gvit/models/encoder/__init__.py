"""Images to Gaussians: one file per kind of encoder."""

from gvit.models.encoder.base import Drawing, GaussianEncoder
from gvit.models.encoder.denoising import DenoisingEncoder
from gvit.models.encoder.queries import QueryEncoder
from gvit.models.encoder.refining import RefiningEncoder

ENCODERS: dict[str, type[GaussianEncoder]] = {
    cls.kind: cls for cls in (DenoisingEncoder, QueryEncoder, RefiningEncoder)
}

__all__ = ["ENCODERS", "DenoisingEncoder", "Drawing", "GaussianEncoder", "QueryEncoder", "RefiningEncoder"]
