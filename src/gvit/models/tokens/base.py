"""What a transformer can read: the interface between images or Gaussians on the one side and tokens on the other."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from gvit.errors import InputError
from gvit.gaussians import Gaussians
from gvit.models.part import Part

Reads = Literal["images", "gaussians"]


class Tokenizer(Part, nn.Module):
    """Images [B, C, H, W] in [0, 1], or raw Gaussians [B, K, 9], as tokens [B, N, D].

    A new kind is a subclass whose constructor takes ``img_size``, ``embed_dim`` and what else it needs, with the
    attributes below; ``gvit.models.registry.register_model`` makes a named model of it. For what reads Gaussians,
    ``GaussianTokens`` is a base that has most of them: it lacks ``kind``, ``width`` and ``features``.

    Attributes:
        kind: the name in model files and settings.
        reads: ``images`` or ``gaussians``.
        starts_with_vit: its linear layers get their first weights with those of the transformer that it is given to;
            others keep what they have.
        any_number: tokens tell their own places, so that there can be any number of them; otherwise the transformer
            learns a position embedding for each index.
        num_patches: N, the usual one where it can be any; the name is timm's.
        grid_size: rows and columns, of tokens that lie on a grid.
        embed_dim: D.
        bounds: a property that what reads Gaussians has to give: ``scale_factor`` and ``nominal_count``, by which raw
            numbers are read.
    """

    kind: ClassVar[str]
    reads: ClassVar[Reads]
    starts_with_vit: ClassVar[bool] = False
    any_number: ClassVar[bool] = False
    num_patches: int
    grid_size: tuple[int, int] | None = None

    @property
    def embed_dim(self) -> int:
        return self.arguments["embed_dim"]

    @property
    def image_side(self) -> int:
        """Height and width, pixels, of the images, or of those that the Gaussians stand for."""
        return self.arguments["img_size"]

    @property
    def bounds(self) -> dict[str, Any]:
        """Scale factor and nominal count that raw Gaussians are read in; nothing where images are read."""
        return {}

    def bounds_of(self, gaussians: Gaussians) -> dict[str, Any]:
        """Those that these Gaussians would be read in: where there can be any number, the nominal count is theirs."""
        return self.bounds | ({"nominal_count": len(gaussians)} if self.any_number else {})

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens.

        Raises:
            ValueError: inputs of another shape.
        """
        raise NotImplementedError

    def example(self) -> Tensor:
        """An empty input for one image, by which costs are counted."""
        raise NotImplementedError(f"{type(self).__name__} has no example()")

    def conform(self, gaussians: Gaussians) -> Any:
        """What ``forward`` takes: the same picture in the bounds that raw Gaussians are read in, each in its slot.

        Another canvas is stretched onto the square one, as ``render`` does. A Gaussian that has been removed
        (``gaussians[:, keep]``) is read as one that is not drawn; where any number is read, see ``in_slots``.

        Raises:
            InputError: images are read, or there are more Gaussians than tokens.
        """
        if self.reads != "gaussians":
            raise InputError(f"the model reads {self.reads}, not Gaussians")
        self.check_number(len(gaussians))
        return self.in_slots(gaussians.with_bounds(**self.bounds, aspect=1.0)).raw

    def check_number(self, count: int) -> None:
        """Raise ``InputError`` where there are more Gaussians than tokens."""
        if not self.any_number and count > self.num_patches:
            raise InputError(f"there are {count} Gaussians, but the model reads at most {self.num_patches}")

    def in_slots(self, gaussians: Gaussians) -> Gaussians:
        """As many as are read, each in its slot.

        Where there can be any number, ``gaussians[:, keep]`` comes back as long as ``gaussians.drop(~keep)`` if the
        nominal count is the number that there once was: that number itself is not kept. After ``Gaussians.cat``, or
        under another nominal count, there may be other numbers of Gaussians that are not drawn, and so other logits.
        """
        if not self.any_number:
            return gaussians.in_slots(self.num_patches)
        slots = gaussians.slots
        if slots is None:
            return gaussians
        return gaussians.in_slots(max(gaussians.nominal_count, int(slots.max()) + 1 if slots.numel() else 0))

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return set()

    def geometry(self) -> list[nn.Module]:
        """Modules that compute with Gaussians as numbers: half precision has too few digits for them."""
        return []
