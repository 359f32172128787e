"""Image -> Gaussians: what all kinds of encoder have in common."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.models.part import Part


class Drawing(NamedTuple):
    """How far an encoder that draws in turns has come, and what it sees of its picture.

    Attributes:
        raw: Gaussians so far, [B, K, 9].
        mean: of the gradients so far, each in its Gaussian's own frame, [B, K, 9].
        moved: the last correction, [B, K, 9].
        error: picture minus image, [B, 3, H, W].
        gradient: of each image's mean squared error at its raw numbers, [B, K, 9].
    """

    raw: Tensor
    mean: Tensor
    moved: Tensor
    error: Tensor
    gradient: Tensor


class GaussianEncoder(Part, nn.Module):
    """Images [B, C, H, W] in [0, 1] to raw Gaussians [B, K, 9].

    A kind is a subclass whose constructor takes ``img_size``, ``in_chans``, ``num_gaussians``, ``scale_factor`` and
    what else it needs, with the name ``kind``, ``forward``, and modules ``blocks``, which can be sharded.

    Attributes:
        kind: the name in model files and settings.
        turns: optimizer steps that a training batch takes; a kind that draws in turns learns after each of them.
        any_number: it draws any number of Gaussians, and images of any size.
        noisy: noise decides what it draws in training; a kind without use for it says that it is not.
        num_gaussians: K; the usual one, where it can be any.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing (paper, Table 1a).
    """

    kind: ClassVar[str]
    turns: int = 1
    any_number: ClassVar[bool] = False
    noisy: ClassVar[bool] = True
    num_gaussians: int
    scale_factor: float

    @property
    def image_side(self) -> int:
        """Height and width of the images, pixels."""
        return self.arguments["img_size"]

    def forward(
        self, images: Tensor, noise: Tensor | None = None, state: Drawing | None = None
    ) -> Tensor | Drawing:
        """Raw Gaussians of images with values in [0, 1].

        Args:
            images: of the size that the encoder was built for, or any (``any_number``).
            noise: standard normal numbers, a draw per image (in training); None for a fixed prediction.
            state: where the turn before has come to, or ``begin``; then this is one turn, and the next state comes
                back instead. Gradients go through its ``raw`` alone. None for all turns.

        A kind of any number takes that, ``num_gaussians``, and how many ``turns``, by keyword; None for its usual ones.

        Raises:
            ValueError: images of another size or number of channels.
        """
        raise NotImplementedError

    def begin(self, images: Tensor, noise: Tensor | None = None, num_gaussians: int | None = None) -> Drawing:
        """The state before the first turn, of kinds that draw in turns; arguments as of ``forward``."""
        raise NotImplementedError

    def draw_noise(self) -> Float[Tensor, "k 9"]:
        """What ``forward`` takes as noise for one training image, from torch's global generator."""
        return torch.randn(self.num_gaussians, NUM_FIELDS)

    def geometry(self) -> list[nn.Module]:
        """Modules that compute with Gaussians as numbers: half precision has too few digits for them."""
        return []

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return set()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep less for the backward pass and compute it again, where that saves anything."""

    def example(self) -> Tensor:
        """An empty image."""
        return torch.empty(1, self.arguments["in_chans"], self.image_side, self.image_side)

    def gaussians(self, raw: Float[Tensor, "batch k 9"], aspect: float = 1.0) -> Gaussians:
        """The meaning of this encoder's raw numbers."""
        return Gaussians(raw, self.scale_factor, self.num_gaussians, aspect)
