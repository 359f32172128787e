"""An encoder that draws, looks at its own picture, and corrects it: a learned optimiser."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from jaxtyping import Float
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from gvit.gaussians import NUM_FIELDS, Gaussians
from gvit.models.encoder.base import GaussianEncoder
from gvit.models.init import init_linear
from gvit.rendering import render

_FREQUENCIES = 4
_TAPS = 3  # a side of the grid of samples around a centre
_SPAN = 1.5  # from the centre to the outer samples, standard deviations
_MEMORY = 0.7  # how much of the mean gradient stays from look to look
# What g0 is beside its centres and colours: opaque, and as large as to meet its neighbours.
_START_SCALE, _START_OPACITY = 0.4, 2.5
# gradient at two scales, mean gradient at two, last move; raw shape, colour, opacity; position; samples
_WIDTH = 5 * NUM_FIELDS + 8 + 2 + 4 * _FREQUENCIES + 6 * _TAPS**2


def anchors(count: int, aspect: float = 1.0) -> Float[Tensor, "count 2"]:
    """Centres spread evenly over the canvas, in units of its half width and half height, row by row.

    As many rows as make the distances along and between them most alike; where ``count`` has no such factors, some
    rows have one more.

    Args:
        count: how many.
        aspect: height divided by width.
    """
    rows = max(1, min(count, round(math.sqrt(count * aspect))))
    ends = [count * row // rows for row in range(rows + 1)]
    places = [
        ((2 * i + 1) / (end - start) - 1, (2 * row + 1) / rows - 1)
        for row, (start, end) in enumerate(pairwise(ends))
        for i in range(end - start)
    ]
    return torch.tensor(places)


class _Block(nn.Module):
    """A residual MLP: what a Gaussian needs to know of others is in the picture."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(self.norm(x))))


class RefiningEncoder(GaussianEncoder):
    """g0 on a grid, in the colours of the image; then look by look a correction, by the same small network.

    A look draws the Gaussians so far and takes the gradient of the squared error at their raw numbers (first order: it
    is a number, not differentiated through). The network reads, for each Gaussian on its own, that gradient and its
    mean over the looks so far in the Gaussian's own frame, the last correction, the Gaussian, its place, and samples
    of the error and of the image around its centre. It never sees a label. In training each look is a turn, with a
    step of the optimizer after it.

    Args:
        img_size: height and width of the images, pixels.
        in_chans: image channels; 3, as Gaussians have.
        num_gaussians: K.
        scale_factor: c, the bound on the standard deviations in units of the Gaussians' spacing.
        embed_dim: width of the network.
        depth: its residual blocks.
        mlp_ratio: hidden width of a block, in units of embed_dim.
        looks: how many.
    """

    kind = "refining"
    places: Tensor

    def __init__(
        self,
        img_size: int = 224,
        in_chans: int = 3,
        num_gaussians: int = 512,
        scale_factor: float = 1.0,
        embed_dim: int = 96,
        depth: int = 2,
        mlp_ratio: float = 2.0,
        looks: int = 12,
    ) -> None:
        super().__init__()
        if in_chans != 3 or looks < 1:
            raise ValueError(f"in_chans must be 3 and looks at least 1, got {in_chans} and {looks}")
        self.num_gaussians, self.scale_factor, self.turns = num_gaussians, scale_factor, looks
        self.grad_checkpointing = False
        self.register_buffer("places", anchors(num_gaussians), persistent=False)
        self.embed = nn.Linear(_WIDTH, embed_dim)
        self.blocks = nn.Sequential(*(_Block(embed_dim, int(mlp_ratio * embed_dim)) for _ in range(depth)))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, NUM_FIELDS)
        self.apply(init_linear)
        nn.init.zeros_(self.head.weight)  # training starts from g = g0

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of the last look's blocks again in the backward pass."""
        self.grad_checkpointing = enable

    def geometry(self) -> list[nn.Module]:
        return [self.embed, self.head]

    def forward(
        self,
        images: Float[Tensor, "batch c h w"],
        noise: Float[Tensor, "batch k 9"] | None = None,
        state: Float[Tensor, "batch k 27"] | None = None,
    ) -> Float[Tensor, "batch k numbers"]:
        """See ``GaussianEncoder``; ``noise`` has no use here. Gradients go through the last look only."""
        self._check(images)
        if state is not None:
            return self._look(images, state)
        state = self.begin(images)
        for look in range(self.turns):
            with torch.set_grad_enabled(torch.is_grad_enabled() and look == self.turns - 1):
                state = self._look(images, state)
        return state[..., :NUM_FIELDS]

    @torch.no_grad()
    def begin(
        self, images: Float[Tensor, "batch c h w"], noise: Float[Tensor, "batch k 9"] | None = None
    ) -> Float[Tensor, "batch k 27"]:
        """g0, no gradient, no move: the raw numbers, the mean gradient and the last correction side by side."""
        self._check(images)
        places = self.places.to(images)
        state = images.new_zeros(len(images), self.num_gaussians, 3 * NUM_FIELDS)
        state[..., :2] = places.atanh()
        state[..., 2:4] = _START_SCALE
        # the mean over about as many pixels as a Gaussian has to draw
        size = max(1, round(self.image_side / math.sqrt(self.num_gaussians)))
        smooth = F.avg_pool2d(images, size, 1, size // 2, count_include_pad=False)
        state[..., 5:8] = _sample(smooth, places.expand(len(images), 1, -1, -1)).clamp(0.02, 0.98).logit()
        state[..., 8] = _START_OPACITY
        return state

    def _check(self, images: Tensor) -> None:
        expected = (3, self.image_side, self.image_side)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ValueError(
                f"images must have shape [B, {', '.join(map(str, expected))}], got {list(images.shape)}"
            )

    def _look(
        self, images: Float[Tensor, "batch 3 h w"], state: Float[Tensor, "batch k 27"]
    ) -> Float[Tensor, "batch k 27"]:
        raw, mean, moved = state.split(NUM_FIELDS, -1)
        with torch.no_grad(), _in_full_precision(images.device):
            raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
            error, gradient = self._error(images.to(raw.dtype), raw)
            frame = _Frame(self.gaussians(raw))
            gradient = frame.own(gradient)
            mean = _MEMORY * mean + (1 - _MEMORY) * gradient
            seen = self._seen(images.to(raw.dtype), raw, error, frame, (gradient, mean, moved))
        tokens = self.embed(seen)
        tokens = checkpoint_seq(self.blocks, tokens) if self.grad_checkpointing else self.blocks(tokens)
        correction = self.head(self.norm(tokens))
        return torch.cat((raw + frame.raw(correction), mean, correction.detach()), -1)

    def _error(
        self, images: Float[Tensor, "batch 3 h w"], raw: Float[Tensor, "batch k 9"]
    ) -> tuple[Float[Tensor, "batch 3 h w"], Float[Tensor, "batch k 9"]]:
        """The picture minus the image, and the gradient of the squared error, in units of a Gaussian's share of it."""
        # also where nothing is to be recorded, as in prediction
        with torch.inference_mode(False), torch.enable_grad():
            leaf = raw.clone().requires_grad_()
            drawn = render(self.gaussians(leaf), *images.shape[-2:])
            error = drawn.detach() - images
            (gradient,) = torch.autograd.grad(drawn, leaf, error.clone())
        return error, gradient * (self.num_gaussians / images[0, 0].numel())

    def _seen(
        self,
        images: Float[Tensor, "batch 3 h w"],
        raw: Float[Tensor, "batch k 9"],
        error: Float[Tensor, "batch 3 h w"],
        frame: _Frame,
        gradients: tuple[Tensor, Tensor, Tensor],
    ) -> Float[Tensor, "batch k width"]:
        gradient, mean, moved = gradients
        place = raw[..., :2].tanh()
        octaves = 0.5 * math.pi * 2.0 ** torch.arange(_FREQUENCIES, dtype=raw.dtype, device=raw.device)
        phases = (place.unsqueeze(-1) * octaves).flatten(-2)
        doubled = 2 * raw[..., 4:5]
        samples = _sample(torch.cat((error, images - 0.5), 1), frame.around(place)).flatten(-2)
        parts = (
            *(gradient.asinh(), (30 * gradient).asinh(), mean.asinh(), (30 * mean).asinh()),
            (4 * moved).clamp(-3, 3),
            *(raw[..., 2:4].clamp(-6, 6) / 2, doubled.cos(), doubled.sin(), raw[..., 5:9].clamp(-6, 6) / 2),
            *(place, phases.sin(), phases.cos()),
            2 * samples,
        )
        return torch.cat(parts, -1)


def _in_full_precision(device: torch.device) -> AbstractContextManager:
    if not torch.amp.is_autocast_available(device.type):  # where only shapes are computed
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _sample(picture: Float[Tensor, "batch c h w"], places: Float[Tensor, "batch m k 2"]) -> Tensor:
    """Bilinear samples at places in units of the half canvas: [B, K, C], or [B, K, C, M] where there are several."""
    found = F.grid_sample(picture, places, align_corners=False, padding_mode="border")  # [B, C, M, K]
    return found.permute(0, 3, 1, 2).squeeze(-1)


class _Frame:
    """Each Gaussian's own axes: lengths in its standard deviations, directions from its first axis."""

    def __init__(self, gaussians: Gaussians) -> None:
        self.scales = gaussians.scales
        angles = gaussians.angles.unsqueeze(-1)
        self.cos, self.sin = angles.cos(), angles.sin()
        self.extent = self.scales.new_tensor(gaussians.extent)
        place = gaussians.raw[..., :2].tanh()
        self.slope = 1 - place.square()  # of tanh

    def own(self, gradient: Float[Tensor, "batch k 9"]) -> Float[Tensor, "batch k 9"]:
        """The gradient at the raw centre as one along the axes, per standard deviation; the others as they are."""
        x, y = (gradient[..., :2] / (self.extent * self.slope + 1e-3)).split(1, -1)
        turned = torch.cat((x * self.cos + y * self.sin, y * self.cos - x * self.sin), -1)
        return torch.cat((turned * self.scales, gradient[..., 2:]), -1)

    def raw(self, correction: Float[Tensor, "batch k 9"]) -> Float[Tensor, "batch k 9"]:
        """A move along the axes, in standard deviations, as one of the raw centre; the others as they are."""
        along, across = (correction[..., :2] * self.scales).split(1, -1)
        move = torch.cat((along * self.cos - across * self.sin, along * self.sin + across * self.cos), -1)
        return torch.cat((move / (self.extent * (self.slope + 0.02)), correction[..., 2:]), -1)

    def around(self, place: Float[Tensor, "batch k 2"]) -> Float[Tensor, "batch m k 2"]:
        """A grid of places along the axes, the centre in its middle, in units of the half canvas."""
        steps = torch.linspace(-_SPAN, _SPAN, _TAPS, dtype=place.dtype, device=place.device)
        across, along = torch.meshgrid(steps, steps, indexing="ij")
        first, second = (
            self.scales[..., i : i + 1] * t.flatten() for i, t in ((0, along), (1, across))
        )  # [B, K, M]
        x, y = first * self.cos - second * self.sin, first * self.sin + second * self.cos
        offsets = torch.stack((x, y), -1) / self.extent
        return (place.unsqueeze(-2) + offsets).transpose(1, 2)
